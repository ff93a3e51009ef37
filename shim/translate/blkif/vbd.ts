/**
 * A Xen virtual block device (vbd) whose other end is a storage VSP: what is offered to the guest's blkfront, and what
 * its answers in xenstore turn into. Implements Xen public/io/blkif.h (the nodes) and xen-pv-abi 10.5, 10.6; the states
 * are shim/xen/xenbus's, the requests queue.ts's.
 *
 * Offered: rings of up to 16 pages, one queue for each vCPU, indirect segments, flush, discard where the image can give
 * space back. Not offered: barriers (answered as unsupported), persistent grants unless asked for: the front end would copy every byte
 * to save us a map that we do not make.
 *
 * Quirk: with persistent grants the front end may use any page again at any time; the grants that it has used are still
 * taken and given back for each request here, which is right, only not what they are for.
 */
import { BLKIF, BlkifRequest } from '../../../abi/xen/blkif';
import { PAGE_SIZE } from '../../xen/domain-memory';
import type { BackendChannel } from '../../xen/evtchn/event-channels';
import type { AcquiredGrant } from '../../xen/grant/grant-table';
import { SharedRing } from '../../xen/shared-ring';
import type { XenDomain } from '../../xen/xen-domain';
import type { BackendDevice } from '../../xen/xenbus/backend';
import type { XenstoreClient, XenstoreView } from '../../xen/xenstore/client';
import { BLKIF_SECTOR, BlkifQueue, type BlkifQueueOptions, type BlockTarget, MAX_INDIRECT_SEGMENTS } from './queue';

/** log2 of the pages of a ring. */
const MAX_RING_ORDER = 4;

/** What the guest is told of the disk beside its size. */
export interface VbdTarget extends BlockTarget {
  readonly physicalBlockSize: number;
  readonly cdrom: boolean;
  readonly removable: boolean;
  /** In bytes; undefined: no discard. */
  readonly discard: { readonly granularity: number; readonly alignment: number } | undefined;
  readonly canFlush: boolean;
}

export interface VbdOptions {
  readonly xen: XenDomain;
  readonly store: XenstoreClient;
  readonly target: VbdTarget;
  readonly persistentGrants?: boolean;
  /** The guest made a ring unusable; its front end is not served any more. */
  readonly onBroken: () => void;
  /** A queue has no work under way any more. */
  readonly onIdle: () => void;
  readonly counts?: BlkifQueueOptions['counts'];
  readonly afterRead?: BlkifQueueOptions['afterRead'];
  readonly trace?: BlkifQueueOptions['trace'];
}

/** A front end that asked for something impossible. */
export class FrontendError extends Error {
  override readonly name = 'FrontendError';
}

interface Connection {
  readonly queue: BlkifQueue;
  readonly channel: BackendChannel;
  readonly grants: readonly AcquiredGrant[];
}

export class Vbd implements BackendDevice {
  private connections: Connection[] = [];
  private held = false;

  constructor(private readonly o: VbdOptions) {}

  /** Requests that are with the VSP. */
  get pending(): number {
    return this.connections.reduce((sum, { queue }) => sum + queue.pending, 0);
  }

  hold(): void {
    this.held = true;
    for (const { queue } of this.connections) queue.hold();
  }

  release(): void {
    this.held = false;
    for (const { queue } of this.connections) queue.release();
  }

  offer(view: XenstoreView, back: string): void {
    const { target, xen } = this.o;
    const put = (name: string, value: number): void => view.write(`${back}/${name}`, String(value));
    put('feature-barrier', 0);
    put('feature-flush-cache', target.canFlush && !target.readOnly ? 1 : 0);
    put('feature-persistent', this.o.persistentGrants === true ? 1 : 0);
    put('feature-max-indirect-segments', Math.min(MAX_INDIRECT_SEGMENTS, Math.floor(target.maxTransfer / PAGE_SIZE)));
    put('max-ring-page-order', MAX_RING_ORDER);
    put('multi-queue-max-queues', xen.nrVcpus);
    if (target.discard !== undefined && target.canUnmap && !target.readOnly) {
      put('feature-discard', 1);
      put('discard-granularity', target.discard.granularity);
      put('discard-alignment', target.discard.alignment);
      put('discard-secure', 0);
    }
  }

  async connect(front: string, back: string): Promise<void> {
    const { store, target } = this.o;
    const protocol = store.read(`${front}/protocol`);
    if (protocol !== undefined && protocol !== 'x86_64-abi')
      throw new FrontendError(`protocol ${JSON.stringify(protocol.slice(0, 40))}, wanted x86_64-abi`);
    const asked = store.read(`${front}/multi-queue-num-queues`);
    const queues = asked === undefined ? 1 : Number(asked);
    if (!Number.isInteger(queues) || queues < 1 || queues > this.o.xen.nrVcpus)
      throw new FrontendError(`${asked?.slice(0, 20)} queues, wanted 1 to ${this.o.xen.nrVcpus}`);
    try {
      for (let q = 0; q < queues; q++)
        this.connections.push(this.connectQueue(front, queues === 1 ? front : `${front}/queue-${q}`));
    } catch (error) {
      await this.disconnect();
      throw error;
    }
    store.transaction((tx) => {
      const put = (name: string, value: number): void => tx.write(`${back}/${name}`, String(value));
      put('sectors', (target.blocks * target.blockSize) / BLKIF_SECTOR);
      put('sector-size', target.blockSize);
      put('physical-sector-size', target.physicalBlockSize);
      put(
        'info',
        (target.cdrom ? BLKIF.VDISK_CDROM : 0) |
          (target.removable ? BLKIF.VDISK_REMOVABLE : 0) |
          (target.readOnly ? BLKIF.VDISK_READONLY : 0),
      );
    });
    for (const { queue } of this.connections) queue.service();
  }

  /** `front` holds what concerns all queues, `node` what concerns this one. */
  private connectQueue(front: string, node: string): Connection {
    const { xen, store, target } = this.o;
    const text = store.read(`${front}/ring-page-order`);
    const order = text === undefined ? 0 : Number(text);
    if (!Number.isInteger(order) || order < 0 || order > MAX_RING_ORDER)
      throw new FrontendError(`ring-page-order ${text?.slice(0, 20)}, wanted 0 to ${MAX_RING_ORDER}`);
    const port = store.readNumber(`${node}/event-channel`);
    if (port === undefined) throw new FrontendError(`no ${node}/event-channel`);
    const grants: AcquiredGrant[] = [];
    const giveBack = (): void => {
      for (const grant of grants) grant.release();
    };
    try {
      for (let page = 0; page < 2 ** order; page++) {
        const name = text === undefined || order === 0 ? 'ring-ref' : `ring-ref${page}`;
        // Some front ends count with an order of 0 as well.
        const ref =
          store.readNumber(`${node}/${name}`) ?? (order === 0 ? store.readNumber(`${node}/ring-ref0`) : undefined);
        if (ref === undefined) throw new FrontendError(`no ${node}/${name}`);
        const grant = xen.grants.acquire(ref, true);
        if (typeof grant === 'number') throw new FrontendError(`${name} ${ref}: grant refused (${grant})`);
        grants.push(grant);
        if (grant.offset !== 0 || grant.length !== PAGE_SIZE)
          throw new FrontendError(`${name} ${ref}: not a whole page`);
      }
      const ring = new SharedRing({
        memory: xen.memory,
        pages: grants.map(({ mfn }) => mfn * PAGE_SIZE),
        entrySize: BlkifRequest.size,
      });
      let notify = (): void => undefined;
      const queue = new BlkifQueue({
        ring,
        memory: xen.memory,
        grants: xen.grants,
        target,
        notify: () => notify(),
        onBroken: this.o.onBroken,
        onIdle: this.o.onIdle,
        ...(this.o.counts === undefined ? {} : { counts: this.o.counts }),
        ...(this.o.afterRead === undefined ? {} : { afterRead: this.o.afterRead }),
        ...(this.o.trace === undefined ? {} : { trace: this.o.trace }),
      });
      const channel = xen.evtchn.connectBackend(port, queue.service);
      if (channel === undefined) throw new FrontendError(`event-channel ${port} does not wait for domain 0`);
      notify = () => channel.notify();
      if (this.held) queue.hold();
      return { queue, channel, grants };
    } catch (error) {
      giveBack();
      throw error;
    }
  }

  async disconnect(): Promise<void> {
    const connections = this.connections;
    for (const { channel } of connections) channel.close();
    await Promise.all(connections.map(({ queue }) => queue.close()));
    this.connections = [];
    for (const { grants } of connections) for (const grant of grants) grant.release();
  }
}
