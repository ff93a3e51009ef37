/**
 * A disk of a guest from the host's side: the open image and the storage VSP in front of it. It outlives the domain: a
 * guest that reboots gets a new domain and the same disk.
 */
import { randomUUID } from 'node:crypto';
import type { Logger } from 'pino';
import { ScsiCdrom } from '../../hyperv/storage/scsi-cdrom';
import { ScsiDisk } from '../../hyperv/storage/scsi-disk';
import { StorageVsp } from '../../hyperv/storage/storvsp';
import type { Disk } from '../../image/disk';
import { openDisk } from '../../image/open';
import type { DiskSpec } from './disk-spec';

export class GuestDisk {
  private constructor(
    readonly spec: DiskSpec,
    /** Undefined: an empty CD-ROM drive. */
    readonly image: Disk | undefined,
    readonly vsp: StorageVsp,
  ) {}

  /** Opens the image. UsageError for what is wrong with it. `snapshot`: nothing is written to it. */
  static async open(spec: DiskSpec, snapshot: boolean, log: Logger): Promise<GuestDisk> {
    const image =
      spec.path === undefined
        ? undefined
        : await openDisk({
            path: spec.path,
            format: spec.format,
            readOnly: spec.readOnly,
            logicalSectorSize: spec.sectorSize,
            snapshot: snapshot && !spec.readOnly,
          });
    for (const warning of image?.warnings ?? []) log.warn({ disk: spec.vdev.name, file: spec.path }, warning);
    const told = new Set<string>();
    const onDiskError = (error: Error): void => {
      // What the guest provokes must not fill a disk: each cause once.
      if (told.has(error.message) || told.size > 100) return;
      told.add(error.message);
      log.error({ disk: spec.vdev.name, file: spec.path }, error.message);
    };
    const serial = `xenlighten-${spec.vdev.name}`;
    const device = spec.cdrom
      ? new ScsiCdrom(image, { serial, onDiskError })
      : new ScsiDisk(image as Disk, { serial, onDiskError });
    return new GuestDisk(
      spec,
      image,
      new StorageVsp({ instanceId: randomUUID(), luns: [{ target: 0, lun: 0, device }] }),
    );
  }

  /** Flushes and closes the image. Rejects with DiskError. */
  async close(): Promise<void> {
    await this.image?.close();
  }
}

/** The disks that a guest has, over all its lives: what was attached while it ran is there after a reboot, too. */
export class GuestDisks {
  private readonly disks: GuestDisk[] = [];
  /** Of disks that are no longer in the list. */
  private readonly closing = new Set<Promise<void>>();

  private constructor(
    private readonly snapshot: boolean,
    private readonly log: Logger,
  ) {}

  /** Opens all, or none. UsageError for what is wrong with one. */
  static async open(specs: readonly DiskSpec[], snapshot: boolean, log: Logger): Promise<GuestDisks> {
    const all = new GuestDisks(snapshot, log);
    try {
      for (const spec of specs) await all.add(spec);
      return all;
    } catch (error) {
      await all.close();
      throw error;
    }
  }

  list(): readonly GuestDisk[] {
    return this.disks;
  }

  /** Opens one more. UsageError for what is wrong with it. */
  async add(spec: DiskSpec): Promise<GuestDisk> {
    const disk = await GuestDisk.open(spec, this.snapshot, this.log);
    this.disks.push(disk);
    return disk;
  }

  /** Closes one that no domain uses any more. Rejects with DiskError when it could not be flushed; it is gone anyway. */
  async remove(disk: GuestDisk): Promise<void> {
    const at = this.disks.indexOf(disk);
    if (at >= 0) this.disks.splice(at, 1);
    const closed = disk.close();
    this.closing.add(closed);
    try {
      await closed;
    } finally {
      this.closing.delete(closed);
    }
  }

  /** Closes all, and waits for those that are being removed; what goes wrong is logged. */
  async close(): Promise<void> {
    await Promise.allSettled(this.closing);
    for (const disk of this.disks.splice(0))
      await disk.close().catch((err: unknown) => this.log.error({ err, disk: disk.spec.vdev.name }, 'closing a disk'));
  }
}
