/**
 * What a disk and a CD-ROM drive have in common: checks of the CDB's length, unit attentions, INQUIRY, REQUEST SENSE, and
 * reads and writes of blocks with their errors. Implements SPC-4 5 and 6, SBC-3 4.5 and 5.
 *
 * A transfer goes from the CDB to one call of the disk on pieces of guest memory; everything on that way is on the hot path.
 *
 * Quirks: there is one initiator, so a unit attention is told once, and a new device has none. Addresses of 64 bits become
 * numbers: they are exact below 2^53, and what is above is out of range of every disk anyway.
 */
import {
  CDB_FLAGS,
  CDB_LENGTHS,
  Cdb6,
  Cdb10,
  Cdb12,
  Cdb16,
  InquiryCdb,
  SCSI_OPCODE,
  SenseFixed,
} from '../../../abi/scsi';
import { type Disk, DiskError, type DiskErrorKind } from '../../image/disk';
import { diskErrorSense, SENSE, writeSense } from './sense';
import type { ScsiLun, ScsiTask, Sense } from './task';

/**
 * Largest transfer of one command, in bytes: what QUERY_PROPERTIES and the block limits page say. Hyper-V and OpenVMM have
 * 256 KiB to 8 MiB; a transfer here is one vectored call without a copy, so nothing speaks for less.
 */
export const MAX_TRANSFER_BYTES = 8 * 1024 * 1024;

/** Called once for each kind of error of a device: the user is told, the guest has its sense data. */
export type OnDiskError = (error: Error) => void;

const LBA_6 = Cdb6.offsetOf('logical_block_address');
const COUNT_6 = Cdb6.offsetOf('transfer_length');
const FLAGS = Cdb10.offsetOf('flags');
const LBA_10 = Cdb10.offsetOf('logical_block_address');
const COUNT_10 = Cdb10.offsetOf('transfer_length');
const COUNT_12 = Cdb12.offsetOf('transfer_length');
const LBA_16 = Cdb16.offsetOf('logical_block_address');
const COUNT_16 = Cdb16.offsetOf('transfer_length');
const TWO_32 = 2 ** 32;

/** A 64-bit number at `offset`: exact below 2^53. */
export function readBig(bytes: Buffer, offset: number): number {
  return bytes.readUInt32BE(offset) * TWO_32 + bytes.readUInt32BE(offset + 4);
}

/** First block of a command that has the typical layout of its length. */
export function firstBlock(cdb: Buffer): number {
  switch (cdb[0] >>> 5) {
    case 0:
      return cdb.readUIntBE(LBA_6, 3) & ((CDB_FLAGS.CDB_LBA_HIGH_6_MASK << 16) | 0xffff);
    case 4:
      return readBig(cdb, LBA_16);
    default:
      return cdb.readUInt32BE(LBA_10);
  }
}

/** Number of blocks of such a command. */
export function blockCount(cdb: Buffer): number {
  switch (cdb[0] >>> 5) {
    case 0:
      return cdb[COUNT_6] === 0 ? 256 : cdb[COUNT_6];
    case 4:
      return cdb.readUInt32BE(COUNT_16);
    case 5:
      return cdb.readUInt32BE(COUNT_12);
    default:
      return cdb.readUInt16BE(COUNT_10);
  }
}

export abstract class ScsiDevice implements ScsiLun {
  private attention: Sense | undefined;
  private readonly told = new Set<DiskErrorKind | 'other'>();

  constructor(
    protected readonly inquiryData: Buffer,
    protected readonly vitalPages: ReadonlyMap<number, Buffer>,
    private readonly onDiskError: OnDiskError | undefined,
  ) {}

  execute(task: ScsiTask): void {
    const opcode = task.cdb[0];
    if (task.cdbLength < CDB_LENGTHS[opcode >>> 5]) {
      task.check(SENSE.invalidField);
      return;
    }
    if (this.attention !== undefined && this.tellAttention(task, opcode)) return;
    this.command(opcode, task);
  }

  /** Does one command; unknown ones go to common(). */
  protected abstract command(opcode: number, task: ScsiTask): void;

  /** The next command, INQUIRY and the like apart, is answered with this instead of being done. */
  protected raise(attention: Sense): void {
    this.attention = attention;
  }

  /** Commands that every device does in the same way, and the refusal of all others. */
  protected common(opcode: number, task: ScsiTask): void {
    switch (opcode) {
      case SCSI_OPCODE.INQUIRY:
        this.inquiry(task);
        return;
      case SCSI_OPCODE.REQUEST_SENSE:
        this.requestSense(task, SENSE.none);
        return;
      default:
        task.check(SENSE.invalidOpcode);
        return;
    }
  }

  /** Reads or writes blocks of `disk`; the caller has checked flags. `blockSize` is at least the disk's sector. */
  protected transfer(task: ScsiTask, disk: Disk, blockSize: number, writing: boolean, flush: boolean): void {
    const lba = firstBlock(task.cdb);
    const count = blockCount(task.cdb);
    if (!this.inRange(task, disk, blockSize, lba, count)) return;
    if (count === 0) {
      task.good(0);
      return;
    }
    const length = count * blockSize;
    const fits = task.direction === (writing ? 'write' : 'read');
    const pieces = fits ? task.pieces(length) : undefined;
    if (pieces === undefined) {
      task.badBuffer(fits ? length : 0);
      return;
    }
    const offset = lba * blockSize;
    if (!writing) {
      disk.read(offset, pieces).then(
        () => task.good(length),
        (error: unknown) => this.failed(task, error, true),
      );
      return;
    }
    const written = disk.write(offset, pieces);
    (flush ? written.then(() => disk.flush()) : written).then(
      () => task.good(length),
      (error: unknown) => this.failed(task, error, false),
    );
  }

  /** Checks a range of blocks; ends the task and says false if it is not inside the disk or too long for one command. */
  protected inRange(task: ScsiTask, disk: Disk, blockSize: number, lba: number, count: number): boolean {
    if (lba + count > Math.floor(disk.size / blockSize)) task.check(SENSE.outOfRange);
    else if (count * blockSize > MAX_TRANSFER_BYTES) task.check(SENSE.invalidField);
    else return true;
    return false;
  }

  /** Ends a task whose disk request failed. */
  protected failed(task: ScsiTask, error: unknown, reading: boolean): void {
    const kind = error instanceof DiskError ? error.kind : 'other';
    task.check(kind === 'other' ? SENSE.internalFailure : diskErrorSense(kind, reading));
    if (this.told.has(kind)) return;
    this.told.add(kind);
    this.onDiskError?.(error instanceof Error ? error : new Error(String(error)));
  }

  protected hasProtection(cdb: Buffer): boolean {
    return (cdb[FLAGS] & CDB_FLAGS.CDB_PROTECT_MASK) !== 0;
  }

  private tellAttention(task: ScsiTask, opcode: number): boolean {
    // SPC-4 5.14: these are done in spite of a unit attention.
    if (opcode === SCSI_OPCODE.INQUIRY || opcode === SCSI_OPCODE.GET_EVENT_STATUS_NOTIFICATION) return false;
    const attention = this.attention as Sense;
    this.attention = undefined;
    if (opcode === SCSI_OPCODE.REQUEST_SENSE) this.requestSense(task, attention);
    else task.check(attention);
    return true;
  }

  private requestSense(task: ScsiTask, sense: Sense): void {
    if ((task.cdb[FLAGS] & CDB_FLAGS.REQUEST_SENSE_DESC) !== 0) {
      task.check(SENSE.invalidField);
      return;
    }
    const data = Buffer.alloc(SenseFixed.size);
    writeSense(data, 0, sense);
    task.reply(data, task.cdb[COUNT_6]);
  }

  private inquiry(task: ScsiTask): void {
    const { cdb } = task;
    const flags = cdb[InquiryCdb.offsetOf('flags')];
    const code = cdb[InquiryCdb.offsetOf('page_code')];
    const allocation = cdb.readUInt16BE(InquiryCdb.offsetOf('allocation_length'));
    const vital = (flags & CDB_FLAGS.INQUIRY_EVPD) !== 0;
    const data = vital ? this.vitalPages.get(code) : code === 0 ? this.inquiryData : undefined;
    if (data === undefined || (flags & ~CDB_FLAGS.INQUIRY_EVPD) !== 0) task.check(SENSE.invalidField);
    else task.reply(data, allocation);
  }
}
