/**
 * A SCSI direct-access block device on a Disk. Implements SBC-3 (and SPC-4 through scsi-device.ts): what Linux's sd and a
 * Xen front end behind shim/translate need, thin provisioning included. SUPPORT.md lists the commands.
 *
 * - The write cache is real (WCE=1): a completed write may be lost in a power cut until SYNCHRONIZE CACHE has completed.
 *   FUA is a write and a flush. SYNCHRONIZE CACHE flushes the whole disk, and answers when that is done also with IMMED.
 * - UNMAP is there if the disk can discard. Blocks that were unmapped read as anything (LBPRZ=0).
 * - VERIFY without a comparison really reads; with one (BYTCHK) it is refused. WRITE SAME, reservations, MODE SELECT do not
 *   exist: INVALID COMMAND OPERATION CODE.
 */
import {
  BLOCK,
  CDB_FLAGS,
  Cdb10,
  INQUIRY_VALUES,
  MODE,
  ReadCapacity10Data,
  ReadCapacity16Cdb,
  ReadCapacity16Data,
  SCSI_OPCODE,
  SCSI_SERVICE_ACTION,
  StartStopCdb,
  UnmapDescriptor,
  UnmapHeader,
} from '../../../abi/scsi';
import type { Disk } from '../../image/disk';
import { type DeviceIdentity, standardInquiry, vitalProductData } from './inquiry';
import { cachingPage, controlPage, modeSense } from './mode';
import { blockCount, firstBlock, MAX_TRANSFER_BYTES, type OnDiskError, readBig, ScsiDevice } from './scsi-device';
import { SENSE } from './sense';
import type { ScsiTask } from './task';

/** Most descriptors in one UNMAP, and most bytes that they may be about together. */
const MAX_UNMAP_DESCRIPTORS = 256;
const MAX_UNMAP_BYTES = 2 ** 30;
/** Pieces in which VERIFY reads. */
const VERIFY_BYTES = 256 * 1024;

export interface ScsiDiskOptions {
  /** Printable ASCII, different for each disk of a guest. */
  readonly serial: string;
  readonly onDiskError?: OnDiskError;
}

function identityOf(serial: string): DeviceIdentity {
  return {
    type: INQUIRY_VALUES.TYPE_DISK,
    removable: false,
    product: 'VIRTUAL DISK',
    serial,
    standard: INQUIRY_VALUES.SCSI_VERSION_DESCRIPTOR_SBC3,
  };
}

export class ScsiDisk extends ScsiDevice {
  private readonly blockSize: number;
  private readonly modePages = [cachingPage(), controlPage()];
  private scratch: Buffer | undefined;

  constructor(
    private readonly disk: Disk,
    { serial, onDiskError }: ScsiDiskOptions,
  ) {
    const identity = identityOf(serial);
    const logicalBlock = disk.logicalSectorSize;
    const discard = disk.discardLimits;
    const pages = vitalProductData(identity, {
      logicalBlock,
      physicalBlock: disk.physicalSectorSize,
      maxTransfer: MAX_TRANSFER_BYTES,
      discard: discard && {
        ...discard,
        maxBlocks: MAX_UNMAP_BYTES / logicalBlock,
        maxDescriptors: MAX_UNMAP_DESCRIPTORS,
      },
    });
    super(standardInquiry(identity), pages, onDiskError);
    this.blockSize = logicalBlock;
  }

  /** The disk's size has changed: the guest's next command is answered with UNIT ATTENTION, upon which it asks again. */
  capacityChanged(): void {
    this.raise(SENSE.capacityChanged);
  }

  protected override command(opcode: number, task: ScsiTask): void {
    switch (opcode) {
      case SCSI_OPCODE.READ_10:
      case SCSI_OPCODE.READ_16:
      case SCSI_OPCODE.READ_12:
        if (this.hasProtection(task.cdb)) {
          task.check(SENSE.invalidField);
          return;
        }
        this.transfer(task, this.disk, this.blockSize, false, false);
        return;
      case SCSI_OPCODE.WRITE_10:
      case SCSI_OPCODE.WRITE_16:
      case SCSI_OPCODE.WRITE_12: {
        if (this.hasProtection(task.cdb)) {
          task.check(SENSE.invalidField);
          return;
        }
        this.write(task, (task.cdb[Cdb10.offsetOf('flags')] & CDB_FLAGS.CDB_FUA) !== 0);
        return;
      }
      case SCSI_OPCODE.READ_6:
        this.transfer(task, this.disk, this.blockSize, false, false);
        return;
      case SCSI_OPCODE.WRITE_6:
        this.write(task, false);
        return;
      case SCSI_OPCODE.SYNCHRONIZE_CACHE:
      case SCSI_OPCODE.SYNCHRONIZE_CACHE_16:
        this.synchronize(task);
        return;
      case SCSI_OPCODE.UNMAP:
        this.unmap(task);
        return;
      case SCSI_OPCODE.VERIFY:
      case SCSI_OPCODE.VERIFY_12:
      case SCSI_OPCODE.VERIFY_16:
        this.verify(task);
        return;
      case SCSI_OPCODE.TEST_UNIT_READY:
        task.good(0);
        return;
      case SCSI_OPCODE.READ_CAPACITY:
        this.readCapacity10(task);
        return;
      case SCSI_OPCODE.SERVICE_ACTION_IN_16:
        this.readCapacity16(task);
        return;
      case SCSI_OPCODE.MODE_SENSE:
      case SCSI_OPCODE.MODE_SENSE_10: {
        const flags = MODE.MODE_DPOFUA | (this.disk.readOnly ? MODE.MODE_WP : 0);
        modeSense(task, opcode === SCSI_OPCODE.MODE_SENSE_10, this.modePages, flags);
        return;
      }
      case SCSI_OPCODE.START_STOP:
        this.startStop(task);
        return;
      default:
        this.common(opcode, task);
        return;
    }
  }

  private write(task: ScsiTask, flush: boolean): void {
    if (this.disk.readOnly) task.check(SENSE.writeProtected);
    else this.transfer(task, this.disk, this.blockSize, true, flush);
  }

  private flush(task: ScsiTask): void {
    // What cannot be written has nothing to flush.
    if (this.disk.readOnly) {
      task.good(0);
      return;
    }
    this.disk.flush().then(
      () => task.good(0),
      (error: unknown) => this.failed(task, error, false),
    );
  }

  private synchronize(task: ScsiTask): void {
    // A count of 0 means "to the end"; the range is only checked.
    const blocks = Math.floor(this.disk.size / this.blockSize);
    if (firstBlock(task.cdb) + blockCount(task.cdb) > blocks) task.check(SENSE.outOfRange);
    else this.flush(task);
  }

  private startStop(task: ScsiTask): void {
    const bits = task.cdb[StartStopCdb.offsetOf('power_condition')];
    if ((bits & (CDB_FLAGS.START_STOP_LOEJ | CDB_FLAGS.START_STOP_POWER_MASK)) !== 0) task.check(SENSE.invalidField);
    else if ((bits & CDB_FLAGS.START_STOP_START) !== 0) task.good(0);
    else this.flush(task);
  }

  private readCapacity10(task: ScsiTask): void {
    if (task.cdb.readUInt32BE(Cdb10.offsetOf('logical_block_address')) !== 0) {
      task.check(SENSE.invalidField);
      return;
    }
    const last = Math.floor(this.disk.size / this.blockSize) - 1;
    const data = Buffer.alloc(ReadCapacity10Data.size);
    data.writeUInt32BE(Math.min(Math.max(last, 0), BLOCK.CAPACITY_10_MAX), ReadCapacity10Data.offsetOf('last_lba'));
    data.writeUInt32BE(this.blockSize, ReadCapacity10Data.offsetOf('block_length'));
    task.reply(data, data.length);
  }

  private readCapacity16(task: ScsiTask): void {
    const { disk } = this;
    const { cdb } = task;
    const action = cdb[ReadCapacity16Cdb.offsetOf('service_action')] & CDB_FLAGS.SERVICE_ACTION_MASK;
    if (action !== SCSI_SERVICE_ACTION.SAI_READ_CAPACITY_16) {
      task.check(SENSE.invalidField);
      return;
    }
    if (readBig(cdb, ReadCapacity16Cdb.offsetOf('logical_block_address')) !== 0) {
      task.check(SENSE.invalidField);
      return;
    }
    const last = Math.max(Math.floor(disk.size / this.blockSize) - 1, 0);
    const data = Buffer.alloc(ReadCapacity16Data.size);
    data.writeBigUInt64BE(BigInt(last), ReadCapacity16Data.offsetOf('last_lba'));
    data.writeUInt32BE(this.blockSize, ReadCapacity16Data.offsetOf('block_length'));
    data[ReadCapacity16Data.offsetOf('exponent')] = Math.log2(disk.physicalSectorSize / this.blockSize);
    if (disk.discardLimits !== undefined) data[ReadCapacity16Data.offsetOf('provisioning')] = BLOCK.LBPME;
    task.reply(data, cdb.readUInt32BE(ReadCapacity16Cdb.offsetOf('allocation_length')));
  }

  private verify(task: ScsiTask): void {
    const { cdb } = task;
    const flags = cdb[Cdb10.offsetOf('flags')];
    if ((flags & (CDB_FLAGS.CDB_PROTECT_MASK | CDB_FLAGS.CDB_BYTCHK_MASK)) !== 0) {
      task.check(SENSE.invalidField);
      return;
    }
    const lba = firstBlock(cdb);
    const count = blockCount(cdb);
    if (!this.inRange(task, this.disk, this.blockSize, lba, count)) return;
    this.readAway(lba * this.blockSize, count * this.blockSize).then(
      () => task.good(0),
      (error: unknown) => this.failed(task, error, true),
    );
  }

  private async readAway(offset: number, length: number): Promise<void> {
    // One buffer for all that run: nobody looks at what is read.
    this.scratch ??= Buffer.alloc(VERIFY_BYTES);
    const buffer = this.scratch;
    for (let done = 0; done < length; ) {
      const piece = Math.min(length - done, buffer.length);
      await this.disk.read(offset + done, [buffer.subarray(0, piece)]);
      done += piece;
    }
  }

  private unmap(task: ScsiTask): void {
    const { disk } = this;
    if (disk.discardLimits === undefined) {
      task.check(SENSE.invalidOpcode);
      return;
    }
    if (disk.readOnly) {
      task.check(SENSE.writeProtected);
      return;
    }
    if ((task.cdb[Cdb10.offsetOf('flags')] & CDB_FLAGS.UNMAP_ANCHOR) !== 0) {
      task.check(SENSE.invalidField);
      return;
    }
    const length = task.cdb.readUInt16BE(Cdb10.offsetOf('transfer_length'));
    if (length === 0) {
      task.good(0);
      return;
    }
    const list = task.received(length);
    if (list === undefined) {
      task.badBuffer();
      return;
    }
    if (length < UnmapHeader.size) {
      task.check(SENSE.parameterListLength);
      return;
    }
    const said = list.readUInt16BE(UnmapHeader.offsetOf('descriptor_data_length'));
    // The standard lets an incomplete descriptor at the end be ignored, and the list be shorter than it says.
    const bytes = Math.min(said, length - UnmapHeader.size);
    const count = Math.floor(bytes / UnmapDescriptor.size);
    if (count > MAX_UNMAP_DESCRIPTORS) {
      task.check(SENSE.invalidParameter);
      return;
    }
    const ranges: { offset: number; length: number }[] = [];
    const blocks = Math.floor(disk.size / this.blockSize);
    let total = 0;
    for (let i = 0; i < count; i++) {
      const at = UnmapHeader.size + i * UnmapDescriptor.size;
      const lba = readBig(list, at + UnmapDescriptor.offsetOf('logical_block_address'));
      const n = list.readUInt32BE(at + UnmapDescriptor.offsetOf('block_count'));
      if (lba + n > blocks) {
        task.check(SENSE.outOfRange);
        return;
      }
      total += n * this.blockSize;
      if (n > 0) ranges.push({ offset: lba * this.blockSize, length: n * this.blockSize });
    }
    if (total > MAX_UNMAP_BYTES) {
      task.check(SENSE.invalidParameter);
      return;
    }
    this.discardAll(ranges).then(
      () => task.good(length),
      (error: unknown) => this.failed(task, error, false),
    );
  }

  /** One after the other: a guest's list must not become hundreds of requests at once. */
  private async discardAll(ranges: readonly { offset: number; length: number }[]): Promise<void> {
    for (const { offset, length } of ranges) await this.disk.discard(offset, length);
  }
}
