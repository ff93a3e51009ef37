/**
 * The block devices of one domain: each guest disk's way from xenstore to its storage VSP. Attaching creates the
 * device's nodes, and the guest's own driver does the rest; detaching asks the guest to let go. Implements what xl's
 * block-attach, block-detach and block-list do.
 *
 * Quirk: Linux looks at a device's directory when it is told of a change there. A directory that is removed and made again
 * before it has looked is no change to it, and the new device would never be noticed. So a number is free again when
 * the guest has been seen to look for the directory that is gone, or after NOTICE_MS.
 */
import type { Logger } from 'pino';
import type { GpaRange } from '../../hyperv/vmbus/channel';
import type { CodeRenewal, WrittenRange } from '../../partition/code-renewal';
import type { GuestMemory } from '../../partition/guest-memory';
import type { RequestTimes } from '../../translate/blkif/queue';
import { Storvsc } from '../../translate/blkif/storvsc';
import { Vbd } from '../../translate/blkif/vbd';
import {
  BLKIF_OPERATIONS,
  type BlkifCounts,
  type BlkifOperationName,
  noBlkifCounts,
} from '../../translate/device-table';
import type { DeviceCounts } from '../../translate/stats';
import { PAGE_SIZE } from '../../xen/domain-memory';
import type { XenDomain } from '../../xen/xen-domain';
import { XenbusBackend } from '../../xen/xenbus/backend';
import type { XenstoreClient } from '../../xen/xenstore/client';
import type { XenstoreServer } from '../../xen/xenstore/server';
import {
  createDeviceNodes,
  type DevicePaths,
  devicePaths,
  removeDeviceNodes,
} from '../../xen/xenstore/toolstack-nodes';
import type { GuestDisk } from './guest-disk';
import type { ScratchPages } from './scratch-pages';
import { parseVdev, type Vdev } from './vdev';

/** A request of the user's that this domain cannot fulfil now. */
export class BlockDeviceError extends Error {
  override readonly name = 'BlockDeviceError';
  constructor(
    message: string,
    /** The guest was asked and has not done it in time. */
    readonly late = false,
  ) {
    super(message);
  }
}

/** A line of block-list. */
export interface BlockInfo {
  /** The virtual-device number. */
  readonly id: number;
  readonly vdev: string;
  /** Xenbus state of the back end. */
  readonly state: number;
  readonly eventChannel: number;
  readonly ringRef: number;
  readonly backPath: string;
  readonly file: string;
  readonly format: string;
  readonly readOnly: boolean;
}

interface Device {
  readonly disk: GuestDisk;
  readonly storvsc: Storvsc;
  readonly vbd: Vbd;
  readonly backend: XenbusBackend;
  readonly paths: DevicePaths;
  readonly scratch: number;
  /** Resolves when the device has gone, one way or another. */
  readonly gone: Promise<void>;
  tellGone(): void;
  /** It has gone because the guest let go of it. */
  letGo: boolean;
  detaching: boolean;
  /** Whoever wanted it detached has been told that the guest does not let go. */
  late: boolean;
  removed: Promise<void> | undefined;
}

const TYPE = 'vbd';
/** How long a guest has to let go of a disk. */
const DETACH_MS = 30_000;
/** How long a guest gets to notice that a device has gone, before its number is used again. */
const NOTICE_MS = 3000;

export interface BlockDevicesOptions {
  readonly xen: XenDomain;
  readonly server: XenstoreServer;
  readonly store: XenstoreClient;
  readonly memory: GuestMemory;
  readonly scratch: ScratchPages;
  readonly log: Logger;
  /** `pending` has become 0. */
  readonly onIdle: () => void;
  /** The guest has let go of a disk after detach() had given up. */
  readonly onLateDetach?: (disk: GuestDisk) => void;
  /** For engines that emulate. */
  readonly renewal?: CodeRenewal | undefined;
  /** Gets the times of requests, by the disk's name, while a trace is written. */
  readonly trace?: () => ((disk: string, times: RequestTimes) => void) | undefined;
}

export class BlockDevices {
  private readonly devices = new Map<number, Device>();
  /** By number: disks on their way. */
  private readonly attaching = new Map<number, Promise<void>>();
  /** Numbers whose directories have gone, by the directory; resolved when the guest has noticed. */
  private readonly vanished = new Map<string, { readonly noticed: Promise<void>; notice(): void }>();
  private readonly counted = new Map<string, BlkifCounts>();
  private held = false;
  private ended = false;

  constructor(private readonly o: BlockDevicesOptions) {
    o.server.onDirectory = (_, path) => this.vanished.get(path)?.notice();
  }

  /** Requests that are with VSPs. */
  get pending(): number {
    let sum = 0;
    for (const { vbd } of this.devices.values()) sum += vbd.pending;
    return sum;
  }

  /** Offers a disk to the guest. Rejects with BlockDeviceError when its number is taken or there is no room. */
  async attach(disk: GuestDisk): Promise<void> {
    const { vdev } = disk.spec;
    this.checkRuns();
    this.checkFree(vdev);
    const work = this.offer(disk);
    this.attaching.set(vdev.id, work);
    try {
      await work;
    } finally {
      this.attaching.delete(vdev.id);
    }
  }

  private checkRuns(): void {
    if (this.ended) throw new BlockDeviceError('the domain is ending');
  }

  /** The channel to the disk. */
  private async open(disk: GuestDisk, scratch: number): Promise<Storvsc> {
    try {
      const storvsc = await Storvsc.open(disk.vsp, this.o.memory, scratch);
      if (!this.ended) return storvsc;
      await storvsc.close();
      this.checkRuns();
      return storvsc;
    } catch (error) {
      this.o.scratch.give(scratch);
      throw error;
    }
  }

  private async offer(disk: GuestDisk): Promise<void> {
    const { xen, store, log } = this.o;
    const { vdev, cdrom, readOnly } = disk.spec;
    await this.vanished.get(devicePaths(xen.domid, TYPE, vdev.id).front)?.noticed;
    this.checkRuns();
    const scratch = this.o.scratch.take();
    if (scratch === undefined) throw new BlockDeviceError(`too many disks: ${this.o.scratch.blocks} at most`);
    const storvsc = await this.open(disk, scratch);
    if (disk.spec.discard === false) storvsc.canUnmap = false;
    const complain = (error: unknown, what: string): void =>
      xen.complain({ disk: vdev.name, why: error instanceof Error ? error.message : String(error) }, what);
    const counts = this.counted.get(vdev.name) ?? noBlkifCounts();
    this.counted.set(vdev.name, counts);
    const vbd = new Vbd({
      xen,
      store,
      target: storvsc,
      persistentGrants: disk.spec.persistentGrants,
      onIdle: this.o.onIdle,
      counts,
      ...(this.o.renewal === undefined ? {} : { afterRead: this.renew }),
      trace: () => {
        const trace = this.o.trace?.();
        return trace === undefined ? undefined : (times) => trace(vdev.name, times);
      },
      onBroken: () => complain('its indexes are impossible', 'the guest broke a ring of a disk'),
    });
    if (this.held) vbd.hold();
    const paths = createDeviceNodes(store, {
      domid: xen.domid,
      type: TYPE,
      id: vdev.id,
      front: { 'virtual-device': vdev.id, 'device-type': cdrom ? 'cdrom' : 'disk' },
      back: {
        removable: storvsc.removable ? 1 : 0,
        bootable: 1,
        dev: vdev.name,
        type: 'phy',
        mode: readOnly ? 'r' : 'w',
        'device-type': cdrom ? 'cdrom' : 'disk',
        'discard-enable': storvsc.canUnmap ? 1 : 0,
      },
    });
    let tell = (): void => undefined;
    const gone = new Promise<void>((resolve) => {
      tell = resolve;
    });
    const letGo = (): void => {
      device.letGo = true;
      tell();
    };
    const backend = new XenbusBackend(store, paths, vbd, { gone: letGo, complain });
    const device: Device = {
      disk,
      storvsc,
      vbd,
      backend,
      paths,
      scratch,
      gone,
      tellGone: () => tell(),
      letGo: false,
      detaching: false,
      late: false,
      removed: undefined,
    };
    this.devices.set(vdev.id, device);
    void gone
      .then(() => this.remove(device))
      .then(() => {
        if (device.late && device.letGo) this.o.onLateDetach?.(disk);
      })
      .catch((error: unknown) => log.error({ err: error }, 'removing a disk'));
  }

  /** BlockDeviceError when the number is taken. */
  checkFree(vdev: Vdev): void {
    if (this.devices.has(vdev.id)) throw new BlockDeviceError(`${vdev.name} is attached already`);
    if (this.attaching.has(vdev.id)) throw new BlockDeviceError(`${vdev.name} is being attached already`);
  }

  /** The number of the disk with this name, or this number. BlockDeviceError when there is none. */
  find(device: string): number {
    const id = /^\d{1,10}$/.test(device) ? Number(device) : parseVdev(device)?.id;
    if (id !== undefined && this.devices.has(id)) return id;
    const names = [...this.devices.values()].map(({ disk }) => disk.spec.vdev.name);
    throw new BlockDeviceError(`no disk ${device}: the guest has ${names.length === 0 ? 'none' : names.join(', ')}`);
  }

  /**
   * Takes a disk away. Resolves with it when the guest has let go (`force`: at once). BlockDeviceError when there is no
   * such disk, or the guest does not let go.
   */
  async detach(id: number, force = false): Promise<GuestDisk> {
    const device = this.devices.get(id);
    if (device === undefined) throw new BlockDeviceError('no such disk');
    if (!force) {
      if (!device.detaching) device.backend.close();
      device.detaching = true;
      let timer: NodeJS.Timeout | undefined;
      const late = new Promise<boolean>((resolve) => {
        timer = setTimeout(() => resolve(true), DETACH_MS);
      });
      const timeout = await Promise.race([device.gone.then(() => false), late]);
      clearTimeout(timer);
      if (timeout) {
        device.late = true;
        throw new BlockDeviceError(
          `the guest has not let go of ${device.disk.spec.vdev.name} within ${DETACH_MS / 1000} s: it may be mounted`,
          true,
        );
      }
      if (!device.letGo) this.checkRuns();
    }
    await this.remove(device);
    return device.disk;
  }

  /** Of pages that have been executable, the emulator must forget what was in them. */
  private readonly renew = (ranges: readonly GpaRange[], done: () => void): void => {
    const renewal = this.o.renewal as CodeRenewal;
    const executable: WrittenRange[] = [];
    for (const { byteOffset, byteCount, pfns } of ranges) {
      let within = byteOffset;
      let left = byteCount;
      for (const pfn of pfns) {
        const bytes = Math.min(PAGE_SIZE - within, left);
        if (renewal.isNeeded(pfn)) executable.push({ gpa: pfn * PAGE_SIZE + within, bytes });
        left -= bytes;
        within = 0;
      }
    }
    renewal.renew(executable, done);
  };

  private remove(device: Device): Promise<void> {
    device.removed ??= this.takeDown(device);
    return device.removed;
  }

  private async takeDown(device: Device): Promise<void> {
    const { id } = device.disk.spec.vdev;
    await device.backend.end();
    await device.vbd.disconnect();
    await device.storvsc.close();
    this.o.scratch.give(device.scratch);
    this.devices.delete(id);
    device.tellGone();
    if (this.ended) return;
    removeDeviceNodes(this.o.store, this.o.xen.domid, TYPE, id);
    this.awaitNotice(device.paths.front);
  }

  private awaitNotice(directory: string): void {
    let tell = (): void => undefined;
    const noticed = new Promise<void>((resolve) => {
      tell = resolve;
    });
    const notice = (): void => {
      clearTimeout(timer);
      this.vanished.delete(directory);
      tell();
    };
    const timer = setTimeout(notice, NOTICE_MS);
    timer.unref();
    this.vanished.set(directory, { noticed, notice });
  }

  list(): BlockInfo[] {
    const { store } = this.o;
    return [...this.devices.values()].map(({ disk, backend, paths }) => ({
      id: disk.spec.vdev.id,
      vdev: disk.spec.vdev.name,
      state: backend.state,
      eventChannel: store.readNumber(`${paths.front}/event-channel`) ?? -1,
      ringRef: store.readNumber(`${paths.front}/ring-ref`) ?? -1,
      backPath: paths.back,
      file: disk.spec.path ?? '',
      format: disk.image?.format ?? 'none',
      readOnly: disk.spec.readOnly,
    }));
  }

  /** What became of the requests of each disk that there is or has been. */
  counts(): readonly DeviceCounts[] {
    return [...this.counted].map(([device, counts]) => ({
      device,
      operations: Object.entries(counts).map(([name, count]) => ({
        ...BLKIF_OPERATIONS[name as BlkifOperationName],
        ...count,
      })),
    }));
  }

  /** The guest's memory is left alone once `pending` is 0, until release(). */
  hold(): void {
    this.held = true;
    for (const { vbd } of this.devices.values()) vbd.hold();
  }

  release(): void {
    this.held = false;
    for (const { vbd } of this.devices.values()) vbd.release();
  }

  /** The domain ends: resolves when no VSP touches its memory any more. The disks stay open. */
  async end(): Promise<void> {
    this.ended = true;
    for (const { notice } of [...this.vanished.values()]) notice();
    await Promise.allSettled(this.attaching.values());
    await Promise.all([...this.devices.values()].map((device) => this.remove(device)));
  }
}
