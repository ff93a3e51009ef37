/**
 * One client of xenstore over a stream of bytes: requests in, answers and watch events out. What carries the bytes
 * (ring.ts, a socket, a test) pushes what arrived and takes what waits to leave.
 *
 * Memory is bounded whatever the client does. While more than CONGESTED_BYTES wait to leave, `congested` asks the
 * carrier to stop reading; a client that does not read its answers cannot make new ones. Events caused by others do
 * not stop for that, so an event that is waiting already is not queued twice (the client has yet to look, XSA-326),
 * and beyond MAX_EVENT_BYTES events are dropped and counted: such a client has stopped listening.
 *
 * Quirk: after a payload length above the limit the stream cannot be trusted; the connection closes for good.
 */
import type { Session, XenstoreServer } from './server';
import { encodeMessage, encodeWatchEvent, MessageParser, type XsMessage } from './wire';

export const CONGESTED_BYTES = 64 * 1024;
export const MAX_EVENT_BYTES = 1024 * 1024;

interface Pending {
  readonly bytes: Uint8Array;
  /** Set for watch events: what makes two of them the same. */
  readonly event?: string;
}

export class XenstoreConnection {
  readonly session: Session;
  /** Called when bytes begin to wait, from whatever caused them: do no work there, schedule it. */
  onOutput: (() => void) | undefined;
  /** Watch events that were dropped because the client does not read. */
  droppedEvents = 0;

  private readonly parser = new MessageParser();
  private queue: Pending[] = [];
  private head = 0;
  private sent = 0;
  private waiting = 0;
  private readonly pendingEvents = new Set<string>();

  constructor(
    private readonly server: XenstoreServer,
    readonly domid: number,
  ) {
    this.session = server.open(domid, (path, token) => this.queueEvent(path, token));
  }

  /** True after a protocol violation or close(). */
  get closed(): boolean {
    return this.session.closed;
  }

  /** True if the client broke the protocol. */
  get violated(): boolean {
    return this.parser.broken;
  }

  /** Bytes that wait to leave. */
  get outputBytes(): number {
    return this.waiting;
  }

  /** True while the carrier should not read on. */
  get congested(): boolean {
    return this.waiting > CONGESTED_BYTES;
  }

  /** Takes bytes from the client and serves the requests that they complete. Never throws for what they contain. */
  receive(chunk: Uint8Array): void {
    if (this.closed) return;
    this.parser.push(chunk, (message) => this.serve(message));
    if (this.parser.broken) this.close();
  }

  /** Takes up to `max` bytes to be sent. */
  take(max: number): Uint8Array {
    const out = new Uint8Array(Math.min(max, this.waiting));
    let at = 0;
    while (at < out.length) {
      const { bytes, event } = this.queue[this.head]!;
      if (event !== undefined && this.sent === 0) this.pendingEvents.delete(event);
      const part = bytes.subarray(this.sent, this.sent + out.length - at);
      out.set(part, at);
      at += part.length;
      this.sent += part.length;
      if (this.sent < bytes.length) break;
      this.sent = 0;
      this.head++;
    }
    this.waiting -= out.length;
    if (this.head === this.queue.length || this.head > 1024) {
      this.queue = this.queue.slice(this.head);
      this.head = 0;
    }
    return out;
  }

  /** Ends the session. What waits to leave is dropped. */
  close(): void {
    this.server.close(this.session);
    this.queue = [];
    this.head = 0;
    this.sent = 0;
    this.waiting = 0;
    this.pendingEvents.clear();
  }

  private serve(message: XsMessage): void {
    const { type, reqId, txId, payload } = message;
    this.server.handle(this.session, type, txId, payload, (answer, bytes) => {
      this.enqueue({ bytes: encodeMessage({ type: answer, reqId, txId, payload: bytes }) });
    });
  }

  private queueEvent(path: string, token: string): void {
    const event = `${path}\0${token}`;
    if (this.pendingEvents.has(event)) return;
    if (this.waiting > MAX_EVENT_BYTES) {
      this.droppedEvents++;
      return;
    }
    this.pendingEvents.add(event);
    this.enqueue({ bytes: encodeWatchEvent(path, token), event });
  }

  private enqueue(pending: Pending): void {
    if (this.closed) return;
    this.queue.push(pending);
    this.waiting += pending.bytes.length;
    if (this.waiting === pending.bytes.length) this.onOutput?.();
  }
}
