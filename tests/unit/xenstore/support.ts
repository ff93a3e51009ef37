/** Helpers for the xenstore and console tests: a shared page in plain memory, a client that speaks the wire format. */
import { XS } from '../../../abi/xen/xenstore';
import type { RingPage } from '../../../shim/xen/ring-page';
import { XenstoreConnection } from '../../../shim/xen/xenstore/connection';
import type { XenstoreServer } from '../../../shim/xen/xenstore/server';
import { decodeText, encodeMessage, encodeText, MessageParser, type XsMessage } from '../../../shim/xen/xenstore/wire';

/** One page of memory. Offsets are checked: code that strays out of the page fails the test. */
export class TestPage implements RingPage {
  readonly bytes = new Uint8Array(4096);
  readonly view = new DataView(this.bytes.buffer);

  getU32(offset: number): number {
    return this.view.getUint32(offset, true);
  }

  setU32(offset: number, value: number): void {
    this.view.setUint32(offset, value, true);
  }

  copyOut(offset: number, length: number): Uint8Array {
    if (offset < 0 || length < 0 || offset + length > this.bytes.length) throw new RangeError('outside the page');
    return this.bytes.slice(offset, offset + length);
  }

  copyIn(offset: number, bytes: Uint8Array): void {
    this.bytes.set(bytes, offset);
  }
}

/** A message as readable text: "READ value", "ERROR ENOENT", "EVENT path token"; NUL shown as |. */
export function show(message: XsMessage): string {
  const text = decodeText(message.payload).replaceAll('\0', '|');
  if (message.type === XS.XS_ERROR) return `ERROR ${text.slice(0, -1)}`;
  if (message.type === XS.XS_WATCH_EVENT) return `EVENT ${text}`;
  return `${message.type} ${text}`;
}

/** A wire client wired straight to a connection. */
export class WireClient {
  readonly connection: XenstoreConnection;
  private readonly parser = new MessageParser();

  constructor(server: XenstoreServer, domid: number) {
    this.connection = new XenstoreConnection(server, domid);
  }

  /** Sends a request ('|' in `payload` stands for NUL) and returns everything that came back, as show() gives it. */
  ask(type: number, payload: string, txId = 0): string[] {
    this.send(type, payload, txId);
    return this.received();
  }

  send(type: number, payload: string, txId = 0): void {
    const bytes = encodeText(payload.replaceAll('|', '\0'));
    this.connection.receive(encodeMessage({ type, reqId: 7, txId, payload: bytes }));
  }

  /** As ask(), without watch events. */
  answer(type: number, payload: string, txId = 0): string {
    const answers = this.ask(type, payload, txId).filter((text) => !text.startsWith('EVENT'));
    expect(answers).toHaveLength(1);
    return answers[0]!;
  }

  received(): string[] {
    return this.messages().map(show);
  }

  messages(): XsMessage[] {
    const out: XsMessage[] = [];
    this.parser.push(this.connection.take(Number.POSITIVE_INFINITY), (message) => out.push(message));
    return out;
  }
}
