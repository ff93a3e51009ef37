/**
 * A connection of the control socket that has become a console (method `console`): what the guest says goes to it, after
 * what it said before; what comes from it is typed to the guest. It outlives the domain if that starts again.
 *
 * The guest never waits for a viewer. A viewer that does not read keeps at most VIEWER_LIMIT bytes in this process; what
 * comes then is left out, and a line says how much once it reads on. Whoever needs every byte must read.
 */
import type { Socket } from 'node:net';
import type { ConsoleViewer, GuestConsole } from '../xen/console/console';

export const VIEWER_LIMIT = 1024 * 1024;

/** What is used of a GuestConsole. */
export type StreamedConsole = Pick<GuestConsole, 'addViewer' | 'removeViewer' | 'type'> & {
  readonly history: { bytes(): Uint8Array };
};

export class ConsoleStream implements ConsoleViewer {
  private console: StreamedConsole | undefined;
  private skipped = 0;

  /** The socket, which is paused, is this object's from now on. `typed` has been read from it already. */
  constructor(
    private readonly socket: Socket,
    console: StreamedConsole | undefined,
    history: boolean,
    typed: Uint8Array,
  ) {
    if (typed.length > 0) socket.unshift(typed);
    socket.on('data', (bytes: Buffer) => this.console?.type(bytes));
    socket.on('drain', () => this.caughtUp());
    socket.on('close', () => this.attach(undefined));
    if (history && console !== undefined) this.show(console.history.bytes());
    this.attach(console);
  }

  /** The console of the domain that runs now; between two of them nothing is read. */
  attach(console: StreamedConsole | undefined): void {
    if (this.console === console) return;
    this.console?.removeViewer(this);
    this.console = console;
    this.pauseInput(console === undefined);
    console?.addViewer(this);
  }

  show(bytes: Uint8Array): void {
    if (!this.socket.writable || bytes.length === 0) return;
    if (this.skipped > 0 || this.socket.writableLength + bytes.length > VIEWER_LIMIT) this.skipped += bytes.length;
    else this.socket.write(bytes);
  }

  pauseInput(pause: boolean): void {
    if (pause) this.socket.pause();
    else this.socket.resume();
  }

  private caughtUp(): void {
    if (this.skipped === 0) return;
    const notice = `\r\n[xenlighten: ${this.skipped} bytes of output left out]\r\n`;
    this.skipped = 0;
    this.show(Buffer.from(notice));
  }
}
