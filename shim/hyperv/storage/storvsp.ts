/**
 * The storage VSP: a synthetic SCSI controller that is offered over VMBus. Implements hyperv-abi 6.1, 9.7 and 10.2 (42, 43).
 *
 * Initialization is a sequence that is enforced: BEGIN, QUERY_PROTOCOL_VERSION until a version is accepted,
 * QUERY_PROPERTIES, perhaps CREATE_SUB_CHANNELS, END. Anything out of order, I/O above all, is answered with
 * STATUS_INVALID_DEVICE_STATE. After it come SRBs and resets; the VSP itself sends ENUMERATE_BUS when devices come and go.
 *
 * - Every packet that asks for a completion gets exactly one, as long as the packet was (48 bytes of protocols before
 *   5.1, else 64: Windows checks that). Packets that ask for none are dropped: nothing could say what became of them.
 * - A reset cannot take back what a disk has begun, so it is answered when all that came before it has ended.
 * - Whoever keeps more than MAX_OUTSTANDING commands under way on a channel is told BUSY.
 *
 * Quirks: Linux turns a failed INQUIRY into a successful one with whatever the buffer holds, so that a LUN that is not there
 * must answer INQUIRY, with "not present". REPORT LUNS is answered for a target whose LUN 0 is missing, too. Which
 * operation a packet carries decides, not the VMBus packet type that carried it.
 */
import {
  SCSI_INTERFACE_TYPE,
  SRB_STATUS,
  VMSTOR_PROTO_VERSION,
  VmscsiRequest,
  VmstorageChannelProperties,
  VmstorageProtocolVersion,
  VSTOR,
  VSTOR_OPERATION,
  VSTOR_STATUS,
  VstorPacket,
} from '../../../abi/hyperv/storvsp';
import {
  CDB_FLAGS,
  InquiryCdb,
  LunListHeader,
  ReportLunsCdb,
  SAM_STAT,
  SCSI_OPCODE,
  ScsiLunField,
} from '../../../abi/scsi';
import type { ChannelHandler, ChannelOffer, VmbusChannel, VmbusPacket, Vsp } from '../vmbus/channel';
import { absentInquiry } from './inquiry';
import { MAX_TRANSFER_BYTES } from './scsi-device';
import { SENSE } from './sense';
import { completePacket, SrbTask, type TaskOwner } from './srb-task';
import type { ScsiLun } from './task';

/** Commands and resets under way on one channel, beyond which new ones are answered BUSY. */
export const MAX_OUTSTANDING = 2048;

export interface ScsiAddress {
  /** 0 to 255. */
  readonly target: number;
  /** 0 to 255. */
  readonly lun: number;
}

export interface StorageVspOptions {
  /** GUID of this controller, different from those of the others of a partition. */
  readonly instanceId: string;
  readonly luns?: Iterable<ScsiAddress & { readonly device: ScsiLun }>;
  /** OFFER_* flags; default none. */
  readonly offerFlags?: number;
  /** Sub-channels that a guest may ask for: StorageVsp.subChannel() makes them. Default none. */
  readonly maxSubChannels?: number;
  /** The guest wants this many of them, which are to be offered. */
  readonly onSubChannels?: (count: number) => void;
}

const OPERATION = VstorPacket.offsetOf('operation');
const SRB = VstorPacket.offsetOf('vm_srb');
const PATH = SRB + VmscsiRequest.offsetOf('path_id');
const TARGET = SRB + VmscsiRequest.offsetOf('target_id');
const LUN = SRB + VmscsiRequest.offsetOf('lun');
const VERSION = VstorPacket.offsetOf('version') + VmstorageProtocolVersion.offsetOf('major_minor');
const REVISION = VstorPacket.offsetOf('version') + VmstorageProtocolVersion.offsetOf('revision');
const PROPERTIES = VstorPacket.offsetOf('storage_channel_properties');
const SUB_CHANNEL_COUNT = VstorPacket.offsetOf('sub_channel_count');
const OP = VSTOR_OPERATION;

/** How far initialization has got: what is waited for next. */
type Phase = 'begin' | 'version' | 'properties' | 'end' | 'ready';

/** A device at an address, and what is under way on it. */
interface Attachment {
  readonly device: ScsiLun;
  active: number;
  onIdle: (() => void) | undefined;
}

/** What all channels of a controller share. */
class Controller {
  phase: Phase = 'begin';
  version = 0;
  readonly attached = new Map<number, Attachment>();
  readonly channels = new Set<StorageChannel>();

  constructor(
    readonly maxSubChannels: number,
    readonly onSubChannels: ((count: number) => void) | undefined,
  ) {}

  find(target: number, lun: number): Attachment | undefined {
    return this.attached.get(target * 256 + lun);
  }

  /** The LUNs of a target, in ascending order. */
  luns(target: number): number[] {
    const luns: number[] = [];
    for (const key of this.attached.keys()) if (key >>> 8 === target) luns.push(key & 0xff);
    return luns.sort((a, b) => a - b);
  }
}

export class StorageVsp implements Vsp {
  readonly offer: ChannelOffer;
  private readonly controller: Controller;

  /** RangeError for a bad address, or one that is given twice. */
  constructor(options: StorageVspOptions) {
    const { instanceId, offerFlags = 0, maxSubChannels = 0 } = options;
    this.offer = { interfaceType: SCSI_INTERFACE_TYPE, instanceId, flags: offerFlags, subChannelIndex: 0 };
    this.controller = new Controller(maxSubChannels, options.onSubChannels);
    for (const { target, lun, device } of options.luns ?? []) this.attach(target, lun, device);
  }

  /** The VSP of a sub-channel, `index` from 1 to maxSubChannels. */
  subChannel(index: number): Vsp {
    if (!Number.isInteger(index) || index < 1 || index > this.controller.maxSubChannels)
      throw new RangeError(`sub-channel ${index}: not from 1 to ${this.controller.maxSubChannels}`);
    const { controller, offer } = this;
    return {
      offer: { ...offer, subChannelIndex: index },
      open: (channel) => new StorageChannel(controller, channel, false),
    };
  }

  /** Connects a device, and tells the guest to look. RangeError if the address is bad or in use. */
  attach(target: number, lun: number, device: ScsiLun): void {
    for (const number of [target, lun])
      if (!Number.isInteger(number) || number < 0 || number > 255)
        throw new RangeError(`SCSI address ${target}:${lun}: not from 0 to 255`);
    const key = target * 256 + lun;
    if (this.controller.attached.has(key)) throw new RangeError(`SCSI address ${target}:${lun} is in use`);
    this.controller.attached.set(key, { device, active: 0, onIdle: undefined });
    this.announce();
  }

  /**
   * Disconnects the device, and tells the guest to look; new commands find nothing there. Resolves when nothing is under way
   * on the device any more: its disk may be closed then. RangeError if there is none.
   */
  async detach(target: number, lun: number): Promise<void> {
    const attachment = this.controller.find(target, lun);
    if (attachment === undefined) throw new RangeError(`SCSI address ${target}:${lun} is not in use`);
    this.controller.attached.delete(target * 256 + lun);
    this.announce();
    if (attachment.active === 0) return;
    await new Promise<void>((resolve) => {
      attachment.onIdle = resolve;
    });
  }

  open(channel: VmbusChannel): ChannelHandler {
    // Who opens a channel anew begins anew.
    this.controller.phase = 'begin';
    return new StorageChannel(this.controller, channel, true);
  }

  private announce(): void {
    for (const channel of this.controller.channels) channel.enumerateBus();
  }
}

/** What came between two resets, and the resets that wait for it to end. */
interface Generation {
  active: number;
  readonly resets: { readonly packet: Buffer; readonly transactionId: bigint }[];
}

/** A task, and what has to be counted down when it ends. */
class ChannelTask extends SrbTask {
  attachment: Attachment | undefined;
  generation: Generation | undefined;
}

class StorageChannel implements ChannelHandler, TaskOwner {
  private outstanding = 0;
  private unpin: (() => void) | undefined;
  /** In the order of their resets; the last one is the current one, and has none. */
  private generations: Generation[] = [{ active: 0, resets: [] }];
  private closed = false;
  private onIdle: (() => void) | undefined;

  constructor(
    private readonly controller: Controller,
    private readonly channel: VmbusChannel,
    private readonly primary: boolean,
  ) {
    controller.channels.add(this);
  }

  onPacket({ payload, transactionId, completionRequested, ranges }: VmbusPacket): void {
    if (!completionRequested || this.closed) return;
    if (payload.length < VSTOR.VSTOR_PACKET_SIZE_V1) {
      // Answered at the length that it should have had.
      this.answer(Buffer.alloc(VstorPacket.size), transactionId, VSTOR_STATUS.STATUS_INVALID_PARAMETER);
      return;
    }
    const packet = payload.length > VstorPacket.size ? payload.subarray(0, VstorPacket.size) : payload;
    const operation = packet.readUInt32LE(OPERATION);
    if (operation === OP.VSTOR_OPERATION_EXECUTE_SRB) {
      if (this.controller.phase === 'ready') this.executeSrb(packet, transactionId, ranges);
      else this.answer(packet, transactionId, VSTOR_STATUS.STATUS_INVALID_DEVICE_STATE);
      return;
    }
    const isReset =
      operation === OP.VSTOR_OPERATION_RESET_BUS ||
      operation === OP.VSTOR_OPERATION_RESET_ADAPTER ||
      operation === OP.VSTOR_OPERATION_RESET_LUN;
    if (isReset && this.controller.phase === 'ready') this.reset(packet, transactionId);
    else
      this.answer(
        packet,
        transactionId,
        isReset ? VSTOR_STATUS.STATUS_INVALID_DEVICE_STATE : this.control(operation, packet),
      );
  }

  async close(): Promise<void> {
    this.closed = true;
    this.controller.channels.delete(this);
    if (this.primary) this.controller.phase = 'begin';
    if (this.outstanding === 0) return;
    await new Promise<void>((resolve) => {
      this.onIdle = resolve;
    });
  }

  /** Devices have come or gone. */
  enumerateBus(): void {
    if (!this.primary || this.controller.phase !== 'ready') return;
    const packet = Buffer.alloc(
      this.controller.version < VMSTOR_PROTO_VERSION.VMSTOR_PROTO_VERSION_WIN8
        ? VSTOR.VSTOR_PACKET_SIZE_V1
        : VstorPacket.size,
    );
    packet.writeUInt32LE(OP.VSTOR_OPERATION_ENUMERATE_BUS, OPERATION);
    this.channel.send(packet, 0n, false);
  }

  /** A task has ended: its completion is sent, and whoever waits for it goes on. */
  ended(task: ChannelTask): void {
    if (!this.closed) this.channel.complete(task.transactionId, task.packet);
    const { attachment, generation } = task;
    if (attachment !== undefined && --attachment.active === 0) attachment.onIdle?.();
    if (generation !== undefined && --generation.active === 0) this.finishResets();
    this.release();
  }

  private answer(packet: Buffer, transactionId: bigint, status: number): void {
    completePacket(packet, status);
    this.channel.complete(transactionId, packet);
  }

  /** Everything but SRBs and resets: changes the phase, writes the answer's body, returns its status. */
  private control(operation: number, packet: Buffer): number {
    const { controller } = this;
    const { phase } = controller;
    // Sub-channels are for SRBs only.
    if (!this.primary) return VSTOR_STATUS.STATUS_INVALID_DEVICE_STATE;
    switch (operation) {
      case OP.VSTOR_OPERATION_BEGIN_INITIALIZATION:
        if (phase !== 'begin') break;
        controller.phase = 'version';
        return VSTOR_STATUS.STATUS_SUCCESS;
      case OP.VSTOR_OPERATION_QUERY_PROTOCOL_VERSION:
        if (phase !== 'version') break;
        return this.negotiate(packet);
      case OP.VSTOR_OPERATION_QUERY_PROPERTIES:
        if (phase !== 'properties') break;
        this.writeProperties(packet);
        controller.phase = 'end';
        return VSTOR_STATUS.STATUS_SUCCESS;
      case OP.VSTOR_OPERATION_CREATE_SUB_CHANNELS:
        if (phase !== 'end' && phase !== 'ready') break;
        return this.createSubChannels(packet.readUInt16LE(SUB_CHANNEL_COUNT));
      case OP.VSTOR_OPERATION_END_INITIALIZATION:
        if (phase !== 'end') break;
        controller.phase = 'ready';
        return VSTOR_STATUS.STATUS_SUCCESS;
      default:
        return VSTOR_STATUS.STATUS_INVALID_DEVICE_REQUEST;
    }
    return VSTOR_STATUS.STATUS_INVALID_DEVICE_STATE;
  }

  private negotiate(packet: Buffer): number {
    const version = packet.readUInt16LE(VERSION);
    packet.writeUInt16LE(0, REVISION);
    if (!VERSIONS.has(version)) return VSTOR_STATUS.STATUS_REVISION_MISMATCH;
    this.controller.version = version;
    this.controller.phase = 'properties';
    return VSTOR_STATUS.STATUS_SUCCESS;
  }

  private multiChannel(): boolean {
    return this.controller.version >= VMSTOR_PROTO_VERSION.VMSTOR_PROTO_VERSION_WIN8;
  }

  private writeProperties(packet: Buffer): void {
    const at = VmstorageChannelProperties.offsetOf;
    packet.fill(0, PROPERTIES);
    packet.writeUInt32LE(MAX_TRANSFER_BYTES, PROPERTIES + at('max_transfer_bytes'));
    if (!this.multiChannel() || this.controller.maxSubChannels === 0) return;
    packet.writeUInt16LE(this.controller.maxSubChannels, PROPERTIES + at('max_channel_count'));
    packet.writeUInt32LE(VSTOR.STORAGE_CHANNEL_SUPPORTS_MULTI_CHANNEL, PROPERTIES + at('flags'));
  }

  private createSubChannels(count: number): number {
    const { maxSubChannels, onSubChannels } = this.controller;
    if (!this.multiChannel() || count > maxSubChannels) return VSTOR_STATUS.STATUS_INVALID_PARAMETER;
    onSubChannels?.(count);
    return VSTOR_STATUS.STATUS_SUCCESS;
  }

  private executeSrb(packet: Buffer, transactionId: bigint, ranges: VmbusPacket['ranges']): void {
    const task = new ChannelTask(packet, transactionId, ranges, this.channel.memory, this);
    if (!this.hold()) {
      this.outstanding++;
      task.fail(SRB_STATUS.SRB_STATUS_BUSY, SAM_STAT.SAM_STAT_TASK_SET_FULL, VSTOR_STATUS.STATUS_DEVICE_BUSY);
      return;
    }
    const generation = this.generations[this.generations.length - 1];
    task.generation = generation;
    generation.active++;
    if (task.cdbLength === 0 || task.cdbLength > VSTOR.STORVSC_MAX_CMD_LEN || task.dataLength > MAX_TRANSFER_BYTES) {
      task.invalid();
      return;
    }
    const target = packet[TARGET];
    const attachment = packet[PATH] === 0 ? this.controller.find(target, packet[LUN]) : undefined;
    try {
      if (task.cdb[0] === SCSI_OPCODE.REPORT_LUNS) this.reportLuns(task, packet[PATH] === 0 ? target : -1);
      else if (attachment === undefined) absent(task);
      else {
        task.attachment = attachment;
        attachment.active++;
        attachment.device.execute(task);
      }
    } catch {
      // A device must not throw; if one does, this command fails and nothing else.
      task.check(SENSE.internalFailure);
    }
  }

  private reportLuns(task: ChannelTask, target: number): void {
    const { cdb } = task;
    const select = cdb[ReportLunsCdb.offsetOf('select_report')];
    if (task.cdbLength < ReportLunsCdb.size || select > CDB_FLAGS.SELECT_REPORT_ALL) {
      task.check(SENSE.invalidField);
      return;
    }
    const luns = select === CDB_FLAGS.SELECT_REPORT_WELL_KNOWN ? [] : this.controller.luns(target);
    const data = Buffer.alloc(LunListHeader.size + luns.length * ScsiLunField.size);
    data.writeUInt32BE(luns.length * ScsiLunField.size, LunListHeader.offsetOf('lun_list_length'));
    // Peripheral device addressing: bus 0, and the LUN in the second byte.
    luns.forEach((lun, i) => {
      data[LunListHeader.size + i * ScsiLunField.size + 1] = lun;
    });
    task.reply(data, cdb.readUInt32BE(ReportLunsCdb.offsetOf('allocation_length')));
  }

  private reset(packet: Buffer, transactionId: bigint): void {
    if (this.outstanding >= MAX_OUTSTANDING) {
      this.answer(packet, transactionId, VSTOR_STATUS.STATUS_DEVICE_BUSY);
      return;
    }
    this.outstanding++;
    this.generations[this.generations.length - 1].resets.push({ packet, transactionId });
    this.generations.push({ active: 0, resets: [] });
    this.finishResets();
  }

  /** Answers the resets before which nothing is under way any more. */
  private finishResets(): void {
    while (this.generations.length > 1 && this.generations[0].active === 0) {
      const [{ resets }] = this.generations.splice(0, 1);
      for (const { packet, transactionId } of resets) {
        if (!this.closed) this.answer(packet, transactionId, VSTOR_STATUS.STATUS_SUCCESS);
        this.release();
      }
    }
  }

  /** Takes a place for a command, and with the first one a pin of the memory. False if there is none. */
  private hold(): boolean {
    if (this.outstanding >= MAX_OUTSTANDING) return false;
    if (this.unpin === undefined) {
      try {
        this.unpin = this.channel.memory.pin();
      } catch {
        // The memory was released: the partition ends, and with it this channel.
        return false;
      }
    }
    this.outstanding++;
    return true;
  }

  private release(): void {
    if (--this.outstanding > 0) return;
    this.unpin?.();
    this.unpin = undefined;
    this.onIdle?.();
  }
}

const VERSIONS: ReadonlySet<number> = new Set(Object.values(VMSTOR_PROTO_VERSION));

/** Answers for a LUN that is not there. */
function absent(task: SrbTask): void {
  const { cdb } = task;
  const data = absentInquiry();
  const standard = cdb[InquiryCdb.offsetOf('flags')] === 0 && cdb[InquiryCdb.offsetOf('page_code')] === 0;
  if (cdb[0] === SCSI_OPCODE.INQUIRY && task.cdbLength >= InquiryCdb.size && standard) {
    task.reply(data, cdb.readUInt16BE(InquiryCdb.offsetOf('allocation_length')));
    return;
  }
  task.fail(
    SRB_STATUS.SRB_STATUS_INVALID_LUN,
    SAM_STAT.SAM_STAT_CHECK_CONDITION,
    VSTOR_STATUS.STATUS_DEVICE_DOES_NOT_EXIST,
  );
}
