/**
 * The initiator that Xen's block devices have in place of a Hyper-V driver: opens a storage VSP's channel in this
 * process, asks what the disk is, and turns reads, writes, flushes and discards into SCSI requests in vstor packets.
 * Implements hyperv-abi 6.1 (the guest's side), SPC-4, SBC-3.
 *
 * The same bytes go over the channel that a guest's storvsc would send: one request is one EXECUTE_SRB packet with at
 * most one GPA-direct range without gaps. What is more than the VSP takes at a time waits here; how much that can be is
 * limited by the queues.
 *
 * Data of the commands that are not the guest's (INQUIRY, the list of an UNMAP) needs memory of the partition that is
 * not the guest's: two scratch pages. A guest in ring 1 could write there; what it can do so is to lie about its own
 * disk, or to discard its own sectors, which it may anyway.
 *
 * Quirks: a request that the VSP never answers is never given up: its pages may still be written. Once a flush has failed
 * nothing is written any more: Linux's blkfront does not flush again then, and would report as safe what may be lost.
 */
import {
  SRB_FLAGS,
  SRB_STATUS,
  STORVSC_DATA,
  VMSTOR_PROTO_VERSION,
  VmscsiRequest,
  VmstorageChannelProperties,
  VmstorageProtocolVersion,
  VSTOR,
  VSTOR_OPERATION,
  VSTOR_STATUS,
  VstorPacket,
} from '../../../abi/hyperv/storvsp';
import { VM_PKT } from '../../../abi/hyperv/vmbus';
import {
  BLOCK,
  CachingPage,
  CDB_FLAGS,
  INQUIRY_VALUES,
  InquiryData,
  MODE,
  ModeHeader6,
  ReadCapacity10Data,
  ReadCapacity16Data,
  SCSI_OPCODE,
  SCSI_SERVICE_ACTION,
  VPD_PAGE,
  VPD_VALUES,
  VpdBlockLimits,
  VpdProvisioning,
} from '../../../abi/scsi';
import { MAX_OUTSTANDING } from '../../hyperv/storage/storvsp';
import type { GpaRange, LoopbackClient, Vsp } from '../../hyperv/vmbus/channel';
import { openLoopback } from '../../hyperv/vmbus/loopback';
import type { GuestMemory } from '../../partition/guest-memory';
import { PAGE_SIZE } from '../../xen/domain-memory';
import type { VbdTarget } from './vbd';

/** Pages of the partition that one initiator needs. */
export const STORVSC_SCRATCH_PAGES = 2;

/** The storage VSP answered otherwise than a working one does. */
export class StorageError extends Error {
  override readonly name = 'StorageError';
}

const SRB = VstorPacket.offsetOf('vm_srb');
const CDB = SRB + VmscsiRequest.offsetOf('cdb');
const PACKET_SIZE = VstorPacket.size;
/** Status without "sense is valid" and "queue is frozen". */
const SRB_STATUS_MASK = 0x3f;
const TIMEOUT_S = 60;
/** Reasons why a unit may not be ready at first (it was reset, its medium is new). */
const READY_TRIES = 4;
const UNMAP_SLOT = 32;
const UNMAP_BYTES = 24;
const UNMAP_SLOTS = PAGE_SIZE / UNMAP_SLOT;

interface Answer {
  readonly ok: boolean;
  readonly payload: Buffer | undefined;
}

type Done = (ok: boolean, payload: Buffer | undefined) => void;

function be16(view: DataView, at: number): number {
  return view.getUint16(at);
}
function be32(view: DataView, at: number): number {
  return view.getUint32(at);
}
function be64(view: DataView, at: number): number {
  return view.getUint32(at) * 2 ** 32 + view.getUint32(at + 4);
}

export class Storvsc implements VbdTarget {
  blockSize = 512;
  physicalBlockSize = 512;
  blocks = 0;
  readOnly = false;
  cdrom = false;
  removable = false;
  canFlush = true;
  canUnmap = false;
  discard: { granularity: number; alignment: number } | undefined;
  maxTransfer = PAGE_SIZE;
  private maxUnmapBlocks = 0;
  private flushFailed = false;
  private client!: LoopbackClient;
  private readonly waiting: (Done | undefined)[] = [];
  private readonly expected: number[] = [];
  private readonly ids: bigint[] = [];
  private readonly free: number[] = [];
  private readonly packet = Buffer.alloc(PACKET_SIZE);
  private readonly view = new DataView(this.packet.buffer, this.packet.byteOffset, PACKET_SIZE);
  private readonly freeUnmaps: number[] = Array.from({ length: UNMAP_SLOTS }, (_, i) => i);
  private readonly unmapQueue: (() => void)[] = [];
  /** What waits until the VSP has answered something. */
  private backlog: { readonly packet: Buffer; range: GpaRange | undefined; bytes: number; done: Done }[] = [];
  private backlogFrom = 0;

  private constructor(
    private readonly memory: GuestMemory,
    private readonly scratch: number,
  ) {}

  /**
   * Opens the VSP's channel and learns what the disk is. `scratch`: guest-physical address of STORVSC_SCRATCH_PAGES pages
   * that are nobody else's. Rejects with StorageError.
   */
  static async open(vsp: Vsp, memory: GuestMemory, scratch: number): Promise<Storvsc> {
    const storvsc = new Storvsc(memory, scratch);
    storvsc.client = openLoopback(vsp, memory, {
      onCompletion: (id, payload) => storvsc.completed(id, payload),
    });
    try {
      await storvsc.initialize();
      await storvsc.ask();
    } catch (error) {
      await storvsc.client.close();
      throw error;
    }
    return storvsc;
  }

  /** Resolves when the VSP touches no memory any more. Requests that are under way are not answered. */
  close(): Promise<void> {
    return this.client.close();
  }

  read(block: number, count: number, range: GpaRange, done: (ok: boolean) => void): void {
    this.transfer(false, block, count, range, done);
  }

  write(block: number, count: number, range: GpaRange, done: (ok: boolean) => void): void {
    if (this.flushFailed) done(false);
    else this.transfer(true, block, count, range, done);
  }

  flush(done: (ok: boolean) => void): void {
    this.srb(STORVSC_DATA.UNKNOWN_TYPE, 0, 10);
    this.packet[CDB] = SCSI_OPCODE.SYNCHRONIZE_CACHE;
    this.send(undefined, 0, (ok) => {
      if (!ok) this.flushFailed = true;
      done(ok);
    });
  }

  unmap(block: number, count: number, done: (ok: boolean) => void): void {
    if (count > this.maxUnmapBlocks) {
      this.unmap(block, this.maxUnmapBlocks, (ok) => {
        if (ok) this.unmap(block + this.maxUnmapBlocks, count - this.maxUnmapBlocks, done);
        else done(false);
      });
      return;
    }
    const slot = this.freeUnmaps.pop();
    if (slot === undefined) {
      this.unmapQueue.push(() => this.unmap(block, count, done));
      return;
    }
    const at = this.scratch + PAGE_SIZE + slot * UNMAP_SLOT;
    const list = Buffer.alloc(UNMAP_BYTES);
    list.writeUInt16BE(UNMAP_BYTES - 2, 0);
    list.writeUInt16BE(UNMAP_BYTES - 8, 2);
    list.writeBigUInt64BE(BigInt(block), 8);
    list.writeUInt32BE(count, 16);
    this.memory.copyIn(at, list);
    this.srb(STORVSC_DATA.WRITE_TYPE, UNMAP_BYTES, 10);
    this.packet[CDB] = SCSI_OPCODE.UNMAP;
    this.packet.writeUInt16BE(UNMAP_BYTES, CDB + 7);
    const range = { byteOffset: at % PAGE_SIZE, byteCount: UNMAP_BYTES, pfns: [Math.floor(at / PAGE_SIZE)] };
    this.send(range, UNMAP_BYTES, (ok) => {
      this.freeUnmaps.push(slot);
      this.unmapQueue.shift()?.();
      done(ok);
    });
  }

  private transfer(writes: boolean, block: number, count: number, range: GpaRange, done: (ok: boolean) => void): void {
    const { packet } = this;
    const small = block + count <= BLOCK.CAPACITY_10_MAX && count <= 0xffff;
    this.srb(writes ? STORVSC_DATA.WRITE_TYPE : STORVSC_DATA.READ_TYPE, range.byteCount, small ? 10 : 16);
    if (small) {
      packet[CDB] = writes ? SCSI_OPCODE.WRITE_10 : SCSI_OPCODE.READ_10;
      this.view.setUint32(CDB + 2, block);
      this.view.setUint16(CDB + 7, count);
    } else {
      packet[CDB] = writes ? SCSI_OPCODE.WRITE_16 : SCSI_OPCODE.READ_16;
      this.view.setUint32(CDB + 2, Math.floor(block / 2 ** 32));
      this.view.setUint32(CDB + 6, block >>> 0);
      this.view.setUint32(CDB + 10, count);
    }
    this.send(range, range.byteCount, done);
  }

  /** Begins an EXECUTE_SRB packet in `packet`; its CDB is zeroed. */
  private srb(direction: number, bytes: number, cdbLength: number): void {
    const { packet, view } = this;
    packet.fill(0);
    VstorPacket.set.operation(view, 0, VSTOR_OPERATION.VSTOR_OPERATION_EXECUTE_SRB);
    VstorPacket.set.flags(view, 0, VSTOR.REQUEST_COMPLETION_FLAG);
    const { set } = VmscsiRequest;
    set.length(view, SRB, VmscsiRequest.size);
    set.cdb_length(view, SRB, cdbLength);
    set.sense_info_length(view, SRB, VSTOR.STORVSC_SENSE_BUFFER_SIZE);
    set.data_in(view, SRB, direction);
    set.data_transfer_length(view, SRB, bytes);
    set.time_out_value(view, SRB, TIMEOUT_S);
    set.srb_flags(
      view,
      SRB,
      SRB_FLAGS.SRB_FLAGS_DISABLE_SYNCH_TRANSFER |
        SRB_FLAGS.SRB_FLAGS_NO_QUEUE_FREEZE |
        (direction === STORVSC_DATA.READ_TYPE
          ? SRB_FLAGS.SRB_FLAGS_DATA_IN
          : direction === STORVSC_DATA.WRITE_TYPE
            ? SRB_FLAGS.SRB_FLAGS_DATA_OUT
            : 0),
    );
  }

  /** Sends `packet`, now or when the VSP can take it. `bytes`: what must have been moved; -1: whatever is. */
  private send(range: GpaRange | undefined, bytes: number, done: Done): void {
    if (this.ids.length - this.free.length >= MAX_OUTSTANDING)
      this.backlog.push({ packet: Buffer.from(this.packet), range, bytes, done });
    else this.sendNow(this.packet, range, bytes, done);
  }

  private sendNow(packet: Buffer, range: GpaRange | undefined, bytes: number, done: Done): void {
    let slot = this.free.pop();
    if (slot === undefined) {
      slot = this.ids.length;
      this.ids.push(BigInt(slot + 1));
    }
    this.waiting[slot] = done;
    this.expected[slot] = bytes;
    this.client.send({
      type: range === undefined ? VM_PKT.VM_PKT_DATA_INBAND : VM_PKT.VM_PKT_DATA_USING_GPA_DIRECT,
      transactionId: this.ids[slot] as bigint,
      completionRequested: true,
      payload: packet,
      ...(range === undefined ? {} : { ranges: [range] }),
    });
  }

  private completed(id: bigint, payload: Buffer): void {
    const slot = Number(id) - 1;
    const done = this.waiting[slot];
    if (done === undefined) return;
    const bytes = this.expected[slot] as number;
    this.waiting[slot] = undefined;
    this.free.push(slot);
    const next = this.backlog[this.backlogFrom];
    if (next !== undefined) {
      if (++this.backlogFrom === this.backlog.length) {
        this.backlog = [];
        this.backlogFrom = 0;
      }
      this.sendNow(next.packet, next.range, next.bytes, next.done);
    }
    done(succeeded(payload, bytes), payload);
  }

  // --- what the disk is ---------------------------------------------------------------------------------------------

  private control(operation: number, fill?: (view: DataView) => void): Promise<Buffer> {
    this.packet.fill(0);
    VstorPacket.set.operation(this.view, 0, operation);
    VstorPacket.set.flags(this.view, 0, VSTOR.REQUEST_COMPLETION_FLAG);
    fill?.(this.view);
    return new Promise((resolve, reject) => {
      this.send(undefined, -1, (_, payload) => {
        const status = payload === undefined || payload.length < 12 ? undefined : payload.readUInt32LE(8);
        if (status === VSTOR_STATUS.STATUS_SUCCESS) resolve(payload as Buffer);
        else reject(new StorageError(`vstor operation ${operation}: status 0x${status?.toString(16)}`));
      });
    });
  }

  private async initialize(): Promise<void> {
    await this.control(VSTOR_OPERATION.VSTOR_OPERATION_BEGIN_INITIALIZATION);
    await this.control(VSTOR_OPERATION.VSTOR_OPERATION_QUERY_PROTOCOL_VERSION, (view) =>
      VmstorageProtocolVersion.set.major_minor(view, SRB, VMSTOR_PROTO_VERSION.VMSTOR_PROTO_VERSION_WIN10),
    );
    const properties = await this.control(VSTOR_OPERATION.VSTOR_OPERATION_QUERY_PROPERTIES);
    const view = new DataView(properties.buffer, properties.byteOffset, properties.length);
    const max = VmstorageChannelProperties.get.max_transfer_bytes(view, SRB);
    this.maxTransfer = Math.max(PAGE_SIZE, max - (max % PAGE_SIZE));
    await this.control(VSTOR_OPERATION.VSTOR_OPERATION_END_INITIALIZATION);
  }

  /** A command with data for us; undefined if it fails. */
  private async query(cdb: readonly number[], bytes: number): Promise<DataView | undefined> {
    const answer = await this.execute(cdb, bytes);
    if (!answer.ok) return undefined;
    const data = this.memory.copyOut(this.scratch, bytes);
    return new DataView(data.buffer, data.byteOffset, data.length);
  }

  private execute(cdb: readonly number[], bytes: number): Promise<Answer> {
    if (bytes > 0) this.memory.fill(this.scratch, bytes);
    this.srb(bytes > 0 ? STORVSC_DATA.READ_TYPE : STORVSC_DATA.UNKNOWN_TYPE, bytes, cdb.length);
    this.packet.set(cdb, CDB);
    const range = bytes > 0 ? { byteOffset: 0, byteCount: bytes, pfns: [this.scratch / PAGE_SIZE] } : undefined;
    return new Promise((resolve) => this.send(range, -1, (ok, payload) => resolve({ ok, payload })));
  }

  private async ask(): Promise<void> {
    const inquiry = await this.query([SCSI_OPCODE.INQUIRY, 0, 0, 0, InquiryData.size, 0], InquiryData.size);
    if (inquiry === undefined) throw new StorageError('INQUIRY failed');
    const type = InquiryData.get.peripheral(inquiry, 0);
    if (type !== INQUIRY_VALUES.TYPE_DISK && type !== INQUIRY_VALUES.TYPE_ROM)
      throw new StorageError(`a device of type 0x${type.toString(16)}, wanted a disk or a CD-ROM drive`);
    this.cdrom = type === INQUIRY_VALUES.TYPE_ROM;
    this.removable = (InquiryData.get.rmb(inquiry, 0) & INQUIRY_VALUES.INQUIRY_RMB) !== 0;
    this.readOnly = this.cdrom;
    let ready = false;
    for (let i = 0; i < READY_TRIES && !ready; i++)
      ready = (await this.execute([SCSI_OPCODE.TEST_UNIT_READY, 0, 0, 0, 0, 0], 0)).ok;
    // An empty drive.
    if (!ready && this.cdrom) {
      this.blockSize = this.physicalBlockSize = 2048;
      return;
    }
    if (!ready) throw new StorageError('the disk does not become ready');
    await this.askCapacity();
    if (!this.cdrom) await this.askDisk();
  }

  private async askCapacity(): Promise<void> {
    if (this.cdrom) {
      const data = await this.query([SCSI_OPCODE.READ_CAPACITY, ...zeros(9)], ReadCapacity10Data.size);
      if (data === undefined) throw new StorageError('READ CAPACITY(10) failed');
      this.blocks = be32(data, ReadCapacity10Data.offsetOf('last_lba')) + 1;
      this.blockSize = this.physicalBlockSize = be32(data, ReadCapacity10Data.offsetOf('block_length'));
    } else {
      const cdb = [
        SCSI_OPCODE.SERVICE_ACTION_IN_16,
        SCSI_SERVICE_ACTION.SAI_READ_CAPACITY_16,
        ...zeros(11),
        ReadCapacity16Data.size,
        0,
        0,
      ];
      const data = await this.query(cdb, ReadCapacity16Data.size);
      if (data === undefined) throw new StorageError('READ CAPACITY(16) failed');
      this.blocks = be64(data, ReadCapacity16Data.offsetOf('last_lba')) + 1;
      this.blockSize = be32(data, ReadCapacity16Data.offsetOf('block_length'));
      this.physicalBlockSize = this.blockSize * 2 ** (ReadCapacity16Data.get.exponent(data, 0) & 0xf);
    }
    const { blockSize, blocks } = this;
    if (![512, 1024, 2048, 4096].includes(blockSize) || !Number.isSafeInteger(blocks * blockSize))
      throw new StorageError(`${blocks} blocks of ${blockSize} bytes`);
  }

  private async askDisk(): Promise<void> {
    // Without block descriptors: the page comes behind the header.
    const bytes = ModeHeader6.size + CachingPage.size;
    const mode = await this.query(
      [SCSI_OPCODE.MODE_SENSE, CDB_FLAGS.MODE_SENSE_DBD, MODE.GPMODE_WCACHING_PAGE, 0, bytes, 0],
      bytes,
    );
    if (mode !== undefined) {
      this.readOnly = (ModeHeader6.get.device_specific(mode, 0) & MODE.MODE_WP) !== 0;
      this.canFlush = (CachingPage.get.flags(mode, ModeHeader6.size) & MODE.CACHING_WCE) !== 0;
    }
    const supported = await this.vpd(VPD_PAGE.VPD_SUPPORTED_PAGES, 64);
    const pages =
      supported === undefined
        ? []
        : Array.from({ length: Math.min(be16(supported, 2), 60) }, (_, i) => supported.getUint8(4 + i));
    if (!pages.includes(VPD_PAGE.VPD_BLOCK_LIMITS) || !pages.includes(VPD_PAGE.VPD_LOGICAL_BLOCK_PROVISIONING)) return;
    const provisioning = await this.vpd(VPD_PAGE.VPD_LOGICAL_BLOCK_PROVISIONING, VpdProvisioning.size);
    const limits = await this.vpd(VPD_PAGE.VPD_BLOCK_LIMITS, VpdBlockLimits.size);
    if (provisioning === undefined || limits === undefined) return;
    this.maxUnmapBlocks = be32(limits, VpdBlockLimits.offsetOf('maximum_unmap_lba_count'));
    const lists = be32(limits, VpdBlockLimits.offsetOf('maximum_unmap_block_descriptor_count'));
    this.canUnmap =
      (VpdProvisioning.get.flags(provisioning, 0) & VPD_VALUES.LBPU) !== 0 && lists > 0 && this.maxUnmapBlocks > 0;
    if (!this.canUnmap) return;
    const granularity = be32(limits, VpdBlockLimits.offsetOf('optimal_unmap_granularity'));
    const alignment = be32(limits, VpdBlockLimits.offsetOf('unmap_granularity_alignment'));
    this.discard = {
      granularity: Math.max(1, granularity) * this.blockSize,
      alignment: (alignment & VPD_VALUES.UGAVALID) === 0 ? 0 : (alignment & 0x7fff_ffff) * this.blockSize,
    };
  }

  private vpd(page: number, bytes: number): Promise<DataView | undefined> {
    return this.query([SCSI_OPCODE.INQUIRY, CDB_FLAGS.INQUIRY_EVPD, page, 0, bytes, 0], bytes);
  }
}

function zeros(count: number): number[] {
  return new Array<number>(count).fill(0);
}

/** Did the request do what it should? `bytes` must have been moved, unless negative. */
function succeeded(payload: Buffer, bytes: number): boolean {
  if (payload.length < PACKET_SIZE) return false;
  return (
    payload.readUInt32LE(0) === VSTOR_OPERATION.VSTOR_OPERATION_COMPLETE_IO &&
    payload.readUInt32LE(8) === VSTOR_STATUS.STATUS_SUCCESS &&
    ((payload[SRB + 2] as number) & SRB_STATUS_MASK) === SRB_STATUS.SRB_STATUS_SUCCESS &&
    payload[SRB + 3] === 0 &&
    (bytes < 0 || payload.readUInt32LE(SRB + 12) === bytes)
  );
}
