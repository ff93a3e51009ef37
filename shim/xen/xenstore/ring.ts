/**
 * Xenstore over the ring page that it shares with a guest: struct xenstore_domain_interface, Xen public/io/xs_wire.h.
 *
 * Requests are taken off the ring byte by byte as they come, never left until a message is complete: Linux writes the
 * header and the payload separately and does not notify again while the header still lies there, so a server that
 * waited for the whole message would wait for ever. The peer is notified whenever one of our indices advanced.
 *
 * While too much waits to leave, requests stay on the ring (XenstoreConnection.congested); the guest has to read
 * first. One turn moves a bounded number of bytes and then lets the event loop run.
 *
 * Quirks: indices further apart than the ring, or a payload length above the limit, end the connection for good, as in
 * xenstored; the reason is left in the page's `error` field, which `server_features` announces. Nothing throws.
 */
import { XENSTORE, XenstoreDomainInterface } from '../../../abi/xen/xenstore';
import { RingConsumer, type RingPage, RingProducer } from '../ring-page';
import type { XenstoreConnection } from './connection';

const { XENSTORE_RING_SIZE } = XENSTORE;
const { fields } = XenstoreDomainInterface;
/** Ringfuls moved in one turn, each way. */
const ROUNDS_PER_TURN = 8;

export interface XenstoreRingOptions {
  readonly page: RingPage;
  readonly connection: XenstoreConnection;
  /** Sends the event to the guest's store port. */
  readonly notify: () => void;
  /** The ring stopped working because of what the guest did; called once. */
  readonly onBroken?: (reason: 'index' | 'protocol') => void;
}

export class XenstoreRing {
  private readonly requests: RingConsumer;
  private readonly responses: RingProducer;
  private immediate: NodeJS.Immediate | undefined;
  private serving = false;
  private stopped = false;
  private held = false;
  private unsent: Uint8Array = new Uint8Array(0);

  /** Attaches to the page: announces the features and the connected state. Call service() at each event. */
  constructor(private readonly options: XenstoreRingOptions) {
    const { page, connection } = options;
    this.requests = new RingConsumer(page, {
      data: fields.req.offset,
      size: XENSTORE_RING_SIZE,
      prod: fields.req_prod.offset,
      cons: fields.req_cons.offset,
    });
    this.responses = new RingProducer(page, {
      data: fields.rsp.offset,
      size: XENSTORE_RING_SIZE,
      prod: fields.rsp_prod.offset,
      cons: fields.rsp_cons.offset,
    });
    page.setU32(fields.server_features.offset, XENSTORE.XENSTORE_SERVER_FEATURE_ERROR);
    page.setU32(fields.error.offset, XENSTORE.XENSTORE_ERROR_NONE);
    page.setU32(fields.connection.offset, XENSTORE.XENSTORE_CONNECTED);
    connection.onOutput = () => this.schedule();
  }

  /** True when the ring no longer works, for whatever reason. */
  get broken(): boolean {
    return this.stopped;
  }

  /** Moves what there is to move. To be called when the guest signals the store port; harmless at other times. */
  service(): void {
    if (this.stopped || this.serving || this.held) return;
    this.serving = true;
    const { connection, notify } = this.options;
    let advanced = false;
    let again = true;
    for (let round = 0; again && round < ROUNDS_PER_TURN; round++) {
      again = this.flush();
      if (!connection.congested) {
        const chunk = this.requests.consume(XENSTORE_RING_SIZE);
        if (chunk.length > 0) {
          again = true;
          connection.receive(chunk);
        }
      }
      if (this.requests.broken || this.responses.broken) again = this.fail('index');
      else if (connection.closed) again = connection.violated ? this.fail('protocol') : this.stop();
      else if (this.flush()) again = true;
      advanced ||= again;
    }
    this.serving = false;
    if (this.stopped) return;
    if (advanced) notify();
    if (again) this.schedule();
  }

  /** The domain is paused: the page is left alone until release(). What the guest watches is told then. */
  hold(): void {
    this.held = true;
  }

  release(): void {
    this.held = false;
    this.service();
  }

  /** Detaches. The connection is closed too. */
  close(): void {
    this.stop();
    this.options.connection.close();
  }

  /** Moves answers and events to the response ring; true if anything moved. */
  private flush(): boolean {
    const { connection } = this.options;
    let moved = false;
    for (;;) {
      if (this.unsent.length === 0) {
        const space = this.responses.space();
        if (space === 0 || connection.outputBytes === 0) return moved;
        this.unsent = connection.take(space);
      }
      const n = this.responses.produce(this.unsent);
      if (n === 0) return moved;
      moved = true;
      this.unsent = this.unsent.subarray(n);
    }
  }

  private schedule(): void {
    if (this.stopped || this.serving || this.immediate !== undefined) return;
    this.immediate = setImmediate(() => {
      this.immediate = undefined;
      this.service();
    });
  }

  private fail(reason: 'index' | 'protocol'): false {
    const { page, connection, notify, onBroken } = this.options;
    const error = reason === 'index' ? XENSTORE.XENSTORE_ERROR_RINGIDX : XENSTORE.XENSTORE_ERROR_PROTO;
    page.setU32(fields.error.offset, error);
    this.stop();
    connection.close();
    notify();
    onBroken?.(reason);
    return false;
  }

  private stop(): false {
    this.stopped = true;
    if (this.immediate !== undefined) clearImmediate(this.immediate);
    this.immediate = undefined;
    this.options.connection.onOutput = undefined;
    return false;
  }
}
