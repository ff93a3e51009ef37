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
            snapshot: snapshot && !spec.readOnly,
          });
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

/** Opens all, or none. */
export async function openGuestDisks(specs: readonly DiskSpec[], snapshot: boolean, log: Logger): Promise<GuestDisk[]> {
  const open: GuestDisk[] = [];
  try {
    for (const spec of specs) open.push(await GuestDisk.open(spec, snapshot, log));
    return open;
  } catch (error) {
    await Promise.all(open.map((disk) => disk.close().catch(() => undefined)));
    throw error;
  }
}
