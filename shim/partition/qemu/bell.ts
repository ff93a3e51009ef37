/**
 * Our end of the serial port that is doorbell and kick: one stream socket, whose bytes mean nothing.
 *
 * Reading goes through Node's event loop with one small buffer that is used again and again; sending is one system call,
 * because a kick is on the path of every cold hypercall and a stream's write() costs several times as much.
 */
import { type OnReadOpts, Socket, type SocketConstructorOpts } from 'node:net';
import { sendByte } from '../host';

/** Calls of `ring` in a millisecond, beyond which nothing is read for one: a guest that only rings gets no more. */
const BELLS_PER_MS = 32;

export class Bell {
  private readonly socket: Socket;
  private open = true;
  private millisecond = 0;
  private calls = 0;

  /** Takes over the descriptor. `ring` is called once for all bytes that have arrived. */
  constructor(
    private readonly fd: number,
    ring: () => void,
  ) {
    // The constructor takes `onread` as connect() does, though its declared type does not say so.
    const options: SocketConstructorOpts & { onread: OnReadOpts } = {
      fd,
      readable: true,
      writable: true,
      onread: {
        buffer: new Uint8Array(4096),
        callback: () => {
          if (!this.open) return true;
          ring();
          return this.mayGoOn();
        },
      },
    };
    this.socket = new Socket(options);
    // The partition's end shows as its process's exit; the socket only has to be put away then.
    this.socket.on('error', () => this.close());
    this.socket.on('end', () => this.close());
    this.socket.resume();
  }

  /** False pauses reading. What arrives meanwhile stays in the socket, so that no ring is lost. */
  private mayGoOn(): boolean {
    const now = Math.floor(performance.now());
    if (now !== this.millisecond) {
      this.millisecond = now;
      this.calls = 0;
    }
    if (++this.calls <= BELLS_PER_MS) return true;
    setTimeout(() => {
      if (this.open) this.socket.resume();
    }, 1);
    return false;
  }

  /** A full buffer means that kicks are waiting to be taken: one more would say nothing new. */
  kick(): void {
    if (this.open) sendByte(this.fd);
  }

  close(): void {
    if (!this.open) return;
    this.open = false;
    this.socket.destroy();
  }
}
