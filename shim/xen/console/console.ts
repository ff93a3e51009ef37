/**
 * A domain's console: ties the ring (ring.ts) and CONSOLEIO_write to streams, for instance stdin and stdout, and
 * remembers the end of what was said.
 *
 * Back-pressure: while more than SINK_HIGH_WATER bytes wait in the sink, the ring is not read, so that a slow reader
 * slows the guest's console down and nothing else. CONSOLEIO_write has no way to wait: beyond SINK_LIMIT such bytes are
 * left out of the sink (not of the history) and counted. While the guest does not read its input, the source is paused.
 *
 * Quirk: when the sink fails or is closed (a broken pipe), output goes to the history only and the guest runs on.
 */
import type { Readable, Writable } from 'node:stream';
import type { RingPage } from '../ring-page';
import { ConsoleHistory } from './history';
import { ConsoleRing } from './ring';

export const SINK_HIGH_WATER = 64 * 1024;
export const SINK_LIMIT = 1024 * 1024;

export interface GuestConsoleOptions {
  readonly page: RingPage;
  /** Sends the event to the guest's console port. */
  readonly notify: () => void;
  readonly output?: Writable;
  readonly input?: Readable;
  /** The guest made its ring unusable. */
  readonly onBroken?: (direction: 'in' | 'out') => void;
}

export class GuestConsole {
  readonly history = new ConsoleHistory();
  /** Bytes of CONSOLEIO_write that the sink did not get. */
  droppedBytes = 0;
  private readonly ring: ConsoleRing;
  private sink: Writable | undefined;
  private source: Readable | undefined;

  constructor(options: GuestConsoleOptions) {
    this.ring = new ConsoleRing({
      page: options.page,
      notify: options.notify,
      onOutput: (bytes) => this.fromGuest(bytes),
      onInputDrained: () => this.source?.resume(),
      ...(options.onBroken === undefined ? {} : { onBroken: options.onBroken }),
    });
    if (options.output !== undefined) this.attachOutput(options.output);
    if (options.input !== undefined) this.attachInput(options.input);
  }

  /** The guest signalled its console port. */
  service(): void {
    this.ring.service();
  }

  /** The domain is paused: its ring is left alone until release(). What is typed meanwhile comes then. */
  hold(): void {
    this.ring.hold();
  }

  release(): void {
    this.ring.release();
  }

  /** Output by another way than the ring: CONSOLEIO_write. */
  write(bytes: Uint8Array): void {
    this.history.push(bytes);
    if (this.sink === undefined) return;
    if (this.sink.writableLength + bytes.length > SINK_LIMIT) this.droppedBytes += bytes.length;
    else this.sink.write(bytes.slice());
  }

  /** Types to the guest. False: more should wait until less is queued. */
  type(bytes: Uint8Array): boolean {
    return this.ring.pushInput(bytes);
  }

  /** Sends output to `sink`, instead of where it went before. */
  attachOutput(sink: Writable): void {
    this.detachOutput();
    this.sink = sink;
    sink.on('drain', this.onDrain);
    sink.on('error', this.onSinkEnd);
    sink.on('close', this.onSinkEnd);
    this.ring.resumeOutput();
  }

  /** Takes input from `source`, instead of where it came from before. */
  attachInput(source: Readable): void {
    this.detachInput();
    this.source = source;
    source.on('data', this.onData);
    source.on('error', this.onSourceEnd);
  }

  /** Takes the guest's last words off the ring, then lets go of ring and streams. The streams stay open. */
  close(): void {
    this.ring.drain();
    this.ring.close();
    this.detachInput();
    this.detachOutput();
  }

  private readonly onDrain = (): void => this.ring.resumeOutput();

  private readonly onSinkEnd = (): void => {
    this.detachOutput();
    this.ring.resumeOutput();
  };

  private readonly onData = (chunk: Buffer | string): void => {
    const bytes = typeof chunk === 'string' ? Buffer.from(chunk) : chunk;
    if (!this.ring.pushInput(bytes)) this.source?.pause();
  };

  private readonly onSourceEnd = (): void => this.detachInput();

  /** False when the ring should wait for the sink. */
  private fromGuest(bytes: Uint8Array): boolean {
    this.history.push(bytes);
    if (this.sink === undefined) return true;
    this.sink.write(bytes);
    return !(this.sink.writableNeedDrain && this.sink.writableLength > SINK_HIGH_WATER);
  }

  private detachOutput(): void {
    const { sink } = this;
    if (sink === undefined) return;
    this.sink = undefined;
    sink.off('drain', this.onDrain);
    sink.off('close', this.onSinkEnd);
    sink.off('error', this.onSinkEnd);
    // A write under way may still fail later; nobody is left to whom that matters.
    sink.on('error', ignore);
  }

  private detachInput(): void {
    const { source } = this;
    if (source === undefined) return;
    this.source = undefined;
    source.off('data', this.onData);
    source.off('error', this.onSourceEnd);
    source.on('error', ignore);
    source.pause();
  }
}

function ignore(): void {}
