/**
 * A domain's console: ties the ring (ring.ts) and CONSOLEIO_write to streams, for instance stdin and stdout, and
 * remembers the end of what was said. Beside the one sink and the one source of whoever runs the domain there may be any
 * number of viewers, who see the same and may type as well.
 *
 * Back-pressure: while more than SINK_HIGH_WATER bytes wait in the sink, the ring is not read, so that a slow reader
 * slows the guest's console down and nothing else. CONSOLEIO_write has no way to wait: beyond SINK_LIMIT such bytes are
 * left out of the sink (not of the history) and counted. Viewers never hold the guest up: what they cannot take is their
 * own business. While the guest does not read its input, the source and the viewers' inputs are paused.
 *
 * Quirk: when the sink fails or is closed (a broken pipe), output goes to the history only and the guest runs on.
 */
import type { Readable, Writable } from 'node:stream';
import type { RingPage } from '../ring-page';
import { ConsoleHistory } from './history';
import { ConsoleRing, INPUT_HIGH_WATER } from './ring';

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

/** Someone who watches beside the sink, and types with GuestConsole.type(). */
export interface ConsoleViewer {
  /** Bytes of output; they may be kept, and must not be changed. */
  show(bytes: Uint8Array): void;
  /** Whether typing has to wait. */
  pauseInput(pause: boolean): void;
}

export class GuestConsole {
  readonly history = new ConsoleHistory();
  /** Bytes of CONSOLEIO_write that the sink did not get. */
  droppedBytes = 0;
  private readonly ring: ConsoleRing;
  private sink: Writable | undefined;
  private source: Readable | undefined;
  private readonly viewers = new Set<ConsoleViewer>();

  constructor(options: GuestConsoleOptions) {
    this.ring = new ConsoleRing({
      page: options.page,
      notify: options.notify,
      onOutput: (bytes) => this.fromGuest(bytes),
      onInputDrained: () => this.pauseInputs(false),
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
    this.show(bytes.slice());
    if (this.sink === undefined) return;
    if (this.sink.writableLength + bytes.length > SINK_LIMIT) this.droppedBytes += bytes.length;
    else this.sink.write(bytes.slice());
  }

  /** Types to the guest. False: more should wait until less is queued; viewers are told by pauseInput(). */
  type(bytes: Uint8Array): boolean {
    const more = this.ring.pushInput(bytes);
    if (!more) this.pauseInputs(true);
    return more;
  }

  /** Adds a viewer. What was said before is in the history, which holds nothing that the viewer will be shown. */
  addViewer(viewer: ConsoleViewer): void {
    this.viewers.add(viewer);
    if (this.ring.queuedInput >= INPUT_HIGH_WATER) viewer.pauseInput(true);
  }

  removeViewer(viewer: ConsoleViewer): void {
    this.viewers.delete(viewer);
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
    this.viewers.clear();
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
    this.type(bytes);
  };

  private readonly onSourceEnd = (): void => this.detachInput();

  /** False when the ring should wait for the sink. */
  private fromGuest(bytes: Uint8Array): boolean {
    this.show(bytes);
    if (this.sink === undefined) return true;
    this.sink.write(bytes);
    return !(this.sink.writableNeedDrain && this.sink.writableLength > SINK_HIGH_WATER);
  }

  private show(bytes: Uint8Array): void {
    this.history.push(bytes);
    for (const viewer of this.viewers) viewer.show(bytes);
  }

  /** All at once: what one of them types may fill the queue for the others. */
  private pauseInputs(pause: boolean): void {
    if (pause) this.source?.pause();
    else this.source?.resume();
    for (const viewer of this.viewers) viewer.pauseInput(pause);
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
