/**
 * One device's back end in xenstore: the handshake of states that every Xen device goes through. Implements Xen
 * public/io/xenbus.h and xen-pv-abi 10.5; what a device says in its other nodes is its own (blkif/, ...).
 *
 * The guest's front end writes its `state`; we follow:
 *
 *   front                 back
 *   1 Initialising        2 InitWait: the features are offered (also after an earlier front end has closed)
 *   3 Initialised,
 *   4 Connected           connect(), then 4 Connected; on failure 5 Closing
 *   5 Closing             5 Closing; it may still use the device, see below
 *   6 Closed              disconnect(), 6 Closed; if the device is on its way out (online = 0): gone()
 *   directory removed     disconnect(), gone()
 *
 * Quirks: Linux before 5.14, asked to let go of a disk that is mounted, says Closing and goes on using it until it is
 * unmounted, so that only Closed means that it does not. A state that is no number, or makes no sense now, is ignored. Work that takes time (connect, disconnect) is
 * done one after the other; the state is looked at again afterwards, so that a guest that changes its mind meanwhile
 * ends where it wants to be.
 */
import { XENBUS } from '../../../abi/xen/xenbus';
import type { Unwatch, XenstoreClient, XenstoreView } from '../xenstore/client';
import type { DevicePaths } from '../xenstore/toolstack-nodes';

/** What a kind of device does. */
export interface BackendDevice {
  /** Writes what is offered, before InitWait. */
  offer(view: XenstoreView, back: string): void;
  /** The front end has said what it wants: serve it, and write what it needs to know. Rejects if it cannot be served. */
  connect(front: string, back: string): Promise<void>;
  /** Resolves when nothing of the guest is used any more. */
  disconnect(): Promise<void>;
}

export interface BackendHooks {
  /** The device has gone, by itself or because close() was asked for; its nodes may be removed. */
  gone(): void;
  /** Something that the person who runs the guest should know. */
  complain(error: unknown, what: string): void;
}

export class XenbusBackend {
  private unwatch: Unwatch;
  private connected = false;
  private busy = false;
  private again = false;
  private ended = false;

  /** The device's nodes exist (createDeviceNodes). */
  constructor(
    private readonly store: XenstoreClient,
    private readonly paths: DevicePaths,
    private readonly device: BackendDevice,
    private readonly hooks: BackendHooks,
  ) {
    this.unwatch = store.watch(`${paths.front}/state`, () => this.look());
  }

  /** Our state as it was written last. */
  get state(): number {
    return this.store.readNumber(`${this.paths.back}/state`) ?? XENBUS.XenbusStateUnknown;
  }

  /** Asks the guest to let go of the device: hooks.gone() tells when it has. */
  close(): void {
    if (this.ended) return;
    this.store.transaction((tx) => {
      tx.write(`${this.paths.back}/online`, '0');
      tx.write(`${this.paths.back}/state`, String(XENBUS.XenbusStateClosing));
    });
    this.look();
  }

  /** Lets go at once, whatever the guest thinks. */
  async end(): Promise<void> {
    if (this.ended) return;
    this.ended = true;
    this.unwatch();
    if (this.connected) {
      this.connected = false;
      await this.device.disconnect();
    }
  }

  private setState(state: number): void {
    if (this.state !== state) this.store.write(`${this.paths.back}/state`, String(state));
  }

  private look(): void {
    this.again = true;
    if (this.busy) return;
    this.busy = true;
    void this.follow();
  }

  private async follow(): Promise<void> {
    while (this.again && !this.ended) {
      this.again = false;
      try {
        await this.step();
      } catch (error) {
        this.hooks.complain(error, 'the front end cannot be served');
        await this.letGo();
        if (!this.ended && this.store.exists(this.paths.back)) this.setState(XENBUS.XenbusStateClosing);
      }
    }
    // In the same step as the last look at `again`: a change must not fall in between.
    this.busy = false;
  }

  private async step(): Promise<void> {
    const { store, paths } = this;
    const wanted = store.exists(paths.front) ? (store.readNumber(`${paths.front}/state`) ?? -1) : undefined;
    const online = store.readNumber(`${paths.back}/online`) === 1;
    switch (wanted) {
      case XENBUS.XenbusStateInitialising:
        if (!online) return this.goOut();
        if (this.connected) await this.letGo();
        if (this.state !== XENBUS.XenbusStateInitWait) {
          store.transaction((tx) => this.device.offer(tx, paths.back));
          this.setState(XENBUS.XenbusStateInitWait);
        }
        return;
      case XENBUS.XenbusStateInitialised:
      case XENBUS.XenbusStateConnected:
        if (this.connected || this.state !== XENBUS.XenbusStateInitWait) return;
        this.connected = true;
        await this.device.connect(paths.front, paths.back);
        if (!this.ended && store.readNumber(`${paths.back}/online`) === 1) this.setState(XENBUS.XenbusStateConnected);
        return;
      case XENBUS.XenbusStateClosing:
        this.setState(XENBUS.XenbusStateClosing);
        return;
      case XENBUS.XenbusStateClosed:
        await this.letGo();
        this.setState(XENBUS.XenbusStateClosed);
        if (!online) this.goOut();
        return;
      case undefined:
        await this.letGo();
        this.goOut();
        return;
      default:
        return;
    }
  }

  private async letGo(): Promise<void> {
    if (!this.connected) return;
    this.connected = false;
    await this.device.disconnect();
  }

  private goOut(): void {
    if (this.ended) return;
    this.ended = true;
    this.unwatch();
    if (this.store.exists(this.paths.back)) this.setState(XENBUS.XenbusStateClosed);
    this.hooks.gone();
  }
}
