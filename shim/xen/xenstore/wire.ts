/**
 * The wire format of xenstore: struct xsd_sockmsg and its payload (Xen public/io/xs_wire.h), cut out of a stream of
 * bytes that arrives in chunks of any size, and put together again.
 *
 * Quirks: strings in payloads are bytes ended by NUL, without an encoding; they are held as Latin-1 strings, one
 * character per byte, so that any bytes survive. A length above XENSTORE_PAYLOAD_MAX is a protocol violation: the
 * stream cannot be trusted any more and the parser takes nothing further. The parser never holds more than one message.
 */
import { XENSTORE, XS, XsdSockmsg } from '../../../abi/xen/xenstore';

const HEADER_SIZE = XsdSockmsg.size;
const { XENSTORE_PAYLOAD_MAX } = XENSTORE;

export interface XsMessage {
  readonly type: number;
  readonly reqId: number;
  readonly txId: number;
  /** At most XENSTORE_PAYLOAD_MAX bytes. */
  readonly payload: Uint8Array;
}

/** One message as bytes. RangeError if the payload is too long: that is the caller's mistake. */
export function encodeMessage(message: XsMessage): Uint8Array {
  const { type, reqId, txId, payload } = message;
  if (payload.length > XENSTORE_PAYLOAD_MAX) throw new RangeError(`payload of ${payload.length} bytes`);
  const bytes = new Uint8Array(HEADER_SIZE + payload.length);
  const view = new DataView(bytes.buffer);
  XsdSockmsg.set.type(view, 0, type);
  XsdSockmsg.set.req_id(view, 0, reqId);
  XsdSockmsg.set.tx_id(view, 0, txId);
  XsdSockmsg.set.len(view, 0, payload.length);
  bytes.set(payload, HEADER_SIZE);
  return bytes;
}

/** A WATCH_EVENT: the only message that is not an answer. */
export function encodeWatchEvent(path: string, token: string): Uint8Array {
  return encodeMessage({ type: XS.XS_WATCH_EVENT, reqId: 0, txId: 0, payload: encodeStrings([path, token]) });
}

/** Cuts messages out of a stream. */
export class MessageParser {
  private readonly header = new Uint8Array(HEADER_SIZE);
  private readonly view = new DataView(this.header.buffer);
  private have = 0;
  private payload: Uint8Array | undefined;
  private filled = 0;
  private violated = false;

  /** True once a length above the limit was seen; from then on push() does nothing. */
  get broken(): boolean {
    return this.violated;
  }

  /** True between messages. */
  get idle(): boolean {
    return this.have === 0;
  }

  /** Takes a chunk and hands over each message that it completes. The payloads are fresh copies. */
  push(chunk: Uint8Array, onMessage: (message: XsMessage) => void): void {
    let at = 0;
    while (!this.violated && at < chunk.length) {
      if (this.have < HEADER_SIZE) {
        const n = Math.min(HEADER_SIZE - this.have, chunk.length - at);
        this.header.set(chunk.subarray(at, at + n), this.have);
        this.have += n;
        at += n;
        if (this.have < HEADER_SIZE) return;
        const length = XsdSockmsg.get.len(this.view, 0);
        if (length > XENSTORE_PAYLOAD_MAX) {
          this.violated = true;
          return;
        }
        this.payload = new Uint8Array(length);
        this.filled = 0;
      }
      const payload = this.payload!;
      const n = Math.min(payload.length - this.filled, chunk.length - at);
      payload.set(chunk.subarray(at, at + n), this.filled);
      this.filled += n;
      at += n;
      if (this.filled < payload.length) return;
      this.have = 0;
      this.payload = undefined;
      onMessage({
        type: XsdSockmsg.get.type(this.view, 0),
        reqId: XsdSockmsg.get.req_id(this.view, 0),
        txId: XsdSockmsg.get.tx_id(this.view, 0),
        payload,
      });
    }
  }
}

/** Bytes of a Latin-1 string, without a NUL. */
export function encodeText(text: string): Uint8Array {
  return new Uint8Array(Buffer.from(text, 'latin1'));
}

export function decodeText(bytes: Uint8Array): string {
  return Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength).toString('latin1');
}

/** Strings, each followed by a NUL. */
export function encodeStrings(strings: readonly string[]): Uint8Array {
  return encodeText(strings.map((s) => `${s}\0`).join(''));
}

/** The NUL-ended strings of a payload, and what follows the last NUL. `max` limits the number of strings taken. */
export function decodeStrings(
  payload: Uint8Array,
  max = Number.POSITIVE_INFINITY,
): { strings: string[]; rest: number } {
  const strings: string[] = [];
  let at = 0;
  while (strings.length < max) {
    const nul = payload.indexOf(0, at);
    if (nul < 0) break;
    strings.push(decodeText(payload.subarray(at, nul)));
    at = nul + 1;
  }
  return { strings, rest: at };
}
