/**
 * One SCSI command that came as EXECUTE_SRB: decodes the SRB where it lies, hands its buffer out as pieces of guest memory,
 * and makes the completion in the same 64 bytes. Implements hyperv-abi 6.1 (SRB) and 10.2 (42, 43).
 *
 * Quirks: sense data lies over the CDB, so the CDB is gone once the task has ended. Autosense is always given. A buffer may be
 * any number of ranges, where real hosts want one; less data than the buffer holds is success with a smaller length.
 */
import {
  SRB_STATUS,
  STORVSC_DATA,
  VmscsiRequest,
  VSTOR,
  VSTOR_OPERATION,
  VSTOR_STATUS,
  VstorPacket,
} from '../../../abi/hyperv/storvsp';
import { SAM_STAT, SenseFixed } from '../../../abi/scsi';
import type { GuestMemory } from '../../partition/guest-memory';
import type { GpaRange } from '../vmbus/channel';
import { guestPieces } from './guest-pieces';
import { SENSE, writeSense } from './sense';
import type { DataDirection, ScsiTask, Sense } from './task';

const SRB = VstorPacket.offsetOf('vm_srb');
const OPERATION = VstorPacket.offsetOf('operation');
const FLAGS = VstorPacket.offsetOf('flags');
const STATUS = VstorPacket.offsetOf('status');
const SRB_STATUS_AT = SRB + VmscsiRequest.offsetOf('srb_status');
const SCSI_STATUS = SRB + VmscsiRequest.offsetOf('scsi_status');
const CDB_LENGTH = SRB + VmscsiRequest.offsetOf('cdb_length');
const SENSE_LENGTH = SRB + VmscsiRequest.offsetOf('sense_info_length');
const DATA_IN = SRB + VmscsiRequest.offsetOf('data_in');
const DATA_LENGTH = SRB + VmscsiRequest.offsetOf('data_transfer_length');
const CDB = SRB + VmscsiRequest.offsetOf('cdb');
const SENSE_DATA = SRB + VmscsiRequest.offsetOf('sense_data');
const SENSE_SIZE = VSTOR.STORVSC_SENSE_BUFFER_SIZE;

const { SRB_STATUS_SUCCESS, SRB_STATUS_ERROR, SRB_STATUS_AUTOSENSE_VALID, SRB_STATUS_INVALID_REQUEST } = SRB_STATUS;

/** Who is told that a task has ended, and sends the packet. */
export interface TaskOwner {
  ended(task: SrbTask): void;
}

/** Makes a completion out of the packet that asked. */
export function completePacket(packet: Buffer, status: number): void {
  packet.writeUInt32LE(VSTOR_OPERATION.VSTOR_OPERATION_COMPLETE_IO, OPERATION);
  packet.writeUInt32LE(0, FLAGS);
  packet.writeUInt32LE(status, STATUS);
}

export class SrbTask implements ScsiTask {
  readonly cdb: Buffer;
  readonly cdbLength: number;
  readonly direction: DataDirection;
  readonly dataLength: number;
  private over = false;

  /** `packet` is a whole vstor packet, which becomes the completion. */
  constructor(
    readonly packet: Buffer,
    readonly transactionId: bigint,
    private readonly ranges: readonly GpaRange[],
    private readonly memory: GuestMemory,
    private readonly owner: TaskOwner,
  ) {
    this.cdb = packet.subarray(CDB, CDB + VSTOR.STORVSC_MAX_CMD_LEN);
    this.cdbLength = packet[CDB_LENGTH];
    const direction = packet[DATA_IN];
    this.dataLength = packet.readUInt32LE(DATA_LENGTH);
    this.direction =
      direction === STORVSC_DATA.READ_TYPE ? 'read' : direction === STORVSC_DATA.WRITE_TYPE ? 'write' : 'none';
  }

  pieces(length: number): Uint8Array[] | undefined {
    if (length > this.dataLength) return undefined;
    return guestPieces(this.memory, this.ranges, length);
  }

  received(length: number): Buffer | undefined {
    const pieces = this.direction === 'write' ? this.pieces(length) : undefined;
    return pieces && Buffer.concat(pieces);
  }

  good(moved: number): void {
    this.end(SRB_STATUS_SUCCESS, SAM_STAT.SAM_STAT_GOOD, VSTOR_STATUS.STATUS_SUCCESS, moved);
  }

  reply(data: Uint8Array, allocationLength: number): void {
    const length = Math.min(data.length, allocationLength, this.direction === 'read' ? this.dataLength : 0);
    const pieces = this.pieces(length);
    // Nothing to put data into is no error for a command that has nothing to say, and for no other.
    if (pieces === undefined || (length === 0 && allocationLength > 0)) {
      this.badBuffer();
      return;
    }
    let done = 0;
    for (const piece of pieces) {
      piece.set(data.subarray(done, done + piece.length));
      done += piece.length;
    }
    this.good(length);
  }

  check(sense: Sense): void {
    this.refuse(SRB_STATUS_ERROR, VSTOR_STATUS.STATUS_IO_DEVICE_ERROR, sense);
  }

  badBuffer(needed = 0): void {
    if (needed <= this.dataLength || this.direction === 'none') this.invalid();
    else this.refuse(SRB_STATUS.SRB_STATUS_DATA_OVERRUN, VSTOR_STATUS.STATUS_BUFFER_OVERFLOW, SENSE.invalidField);
  }

  /** The SRB itself makes no sense. */
  invalid(): void {
    this.refuse(SRB_STATUS_INVALID_REQUEST, VSTOR_STATUS.STATUS_IO_DEVICE_ERROR, SENSE.invalidField);
  }

  /** Not begun, for a reason that is not the device's: without sense data. */
  fail(srbStatus: number, scsiStatus: number, status: number): void {
    this.end(srbStatus, scsiStatus, status, 0);
  }

  private refuse(srbStatus: number, status: number, sense: Sense): void {
    if (this.over) return;
    const { packet } = this;
    packet.fill(0, SENSE_DATA, SENSE_DATA + SENSE_SIZE);
    writeSense(packet, SENSE_DATA, sense);
    this.end(srbStatus | SRB_STATUS_AUTOSENSE_VALID, SAM_STAT.SAM_STAT_CHECK_CONDITION, status, 0, SenseFixed.size);
  }

  private end(srbStatus: number, scsiStatus: number, status: number, moved: number, senseLength = 0): void {
    if (this.over) return;
    this.over = true;
    const { packet } = this;
    completePacket(packet, status);
    packet[SRB_STATUS_AT] = srbStatus;
    packet[SCSI_STATUS] = scsiStatus;
    packet[SENSE_LENGTH] = senseLength;
    packet.writeUInt32LE(moved, DATA_LENGTH);
    this.owner.ended(this);
  }
}
