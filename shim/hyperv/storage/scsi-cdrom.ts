/**
 * A drive for CDs and DVDs with an image in it, or none: read-only, removable, blocks of 2048 bytes. Implements MMC-6 as far
 * as Linux's sr and cdrom, udev's cdrom_id and a Xen CD-ROM behind shim/translate ask.
 *
 * The disc has one session with one data track. Its profile is CD-ROM, or DVD-ROM when it is larger than any CD.
 *
 * Quirks: bytes of the image beyond the last whole block are not shown. Insertion is told by UNIT ATTENTION and by a media
 * event; what the guest ejects is given back through `onEject`.
 */
import {
  CDB_FLAGS,
  Cdb10,
  DiscInformation,
  EventHeader,
  EventStatusCdb,
  FeatureDescriptor,
  FeatureHeader,
  GetConfigurationCdb,
  INQUIRY_VALUES,
  MediaEvent,
  MMC,
  MODE,
  ReadCapacity10Data,
  ReadTocCdb,
  SCSI_OPCODE,
  StartStopCdb,
  TocHeader,
  TocTrack,
} from '../../../abi/scsi';
import type { Disk } from '../../image/disk';
import { standardInquiry, vitalProductData } from './inquiry';
import { capabilitiesPage, modeSense } from './mode';
import { type OnDiskError, ScsiDevice } from './scsi-device';
import { SENSE } from './sense';
import type { ScsiTask } from './task';

const BLOCK_SIZE = MMC.CD_FRAMESIZE;
/** Blocks of the largest CD: 80 minutes. */
const LARGEST_CD = 80 * MMC.CD_SECS * MMC.CD_FRAMES;

export interface ScsiCdromOptions {
  /** Printable ASCII. */
  readonly serial: string;
  readonly onDiskError?: OnDiskError;
  /** The guest has ejected this medium; the drive does not use it any more, but for reads that are still under way. */
  readonly onEject?: (medium: Disk) => void;
}

interface Feature {
  readonly code: number;
  readonly version: number;
  readonly persistent: boolean;
  readonly current: boolean;
  readonly data: Uint8Array;
}

export class ScsiCdrom extends ScsiDevice {
  private readonly modePages = [capabilitiesPage()];
  private readonly onEject: ((medium: Disk) => void) | undefined;
  private medium: Disk | undefined;
  private prevented = false;
  private trayOpen = false;
  private event: number = MMC.MEDIA_EVENT_NONE;

  constructor(medium: Disk | undefined, { serial, onDiskError, onEject }: ScsiCdromOptions) {
    const identity = {
      type: INQUIRY_VALUES.TYPE_ROM,
      removable: true,
      product: 'VIRTUAL CD-ROM',
      serial,
      standard: INQUIRY_VALUES.SCSI_VERSION_DESCRIPTOR_MMC6,
    };
    super(standardInquiry(identity), vitalProductData(identity), onDiskError);
    this.medium = medium && checked(medium);
    this.onEject = onEject;
  }

  /** Puts a medium in (RangeError if its sectors are larger than a CD's); returns the one that was there. The tray is closed. */
  insert(medium: Disk): Disk | undefined {
    const old = this.medium;
    this.medium = checked(medium);
    this.trayOpen = false;
    this.event = MMC.MEDIA_EVENT_NEW;
    this.raise(SENSE.mediumChanged);
    return old;
  }

  /** Takes the medium out, whether the guest has locked the tray or not; returns it. */
  remove(): Disk | undefined {
    const old = this.medium;
    if (old === undefined) return undefined;
    this.medium = undefined;
    this.trayOpen = true;
    this.event = MMC.MEDIA_EVENT_REMOVAL;
    return old;
  }

  protected override command(opcode: number, task: ScsiTask): void {
    switch (opcode) {
      case SCSI_OPCODE.ALLOW_MEDIUM_REMOVAL:
        this.prevented = (task.cdb[4] & CDB_FLAGS.PREVENT_MEDIUM_REMOVAL) !== 0;
        task.good(0);
        return;
      case SCSI_OPCODE.START_STOP:
        this.startStop(task);
        return;
      case SCSI_OPCODE.GET_EVENT_STATUS_NOTIFICATION:
        this.eventStatus(task);
        return;
      case SCSI_OPCODE.GPCMD_GET_CONFIGURATION:
        this.configuration(task);
        return;
      case SCSI_OPCODE.MODE_SENSE:
      case SCSI_OPCODE.MODE_SENSE_10:
        modeSense(task, opcode === SCSI_OPCODE.MODE_SENSE_10, this.modePages, 0);
        return;
      case SCSI_OPCODE.READ_10:
      case SCSI_OPCODE.READ_12:
      case SCSI_OPCODE.READ_CAPACITY:
      case SCSI_OPCODE.READ_TOC:
      case SCSI_OPCODE.GPCMD_READ_DISC_INFO:
      case SCSI_OPCODE.TEST_UNIT_READY:
        if (this.medium === undefined) {
          task.check(SENSE.noMedium);
          return;
        }
        this.mediumCommand(opcode, task, this.medium);
        return;
      default:
        this.common(opcode, task);
        return;
    }
  }

  private mediumCommand(opcode: number, task: ScsiTask, medium: Disk): void {
    const blocks = Math.floor(medium.size / BLOCK_SIZE);
    switch (opcode) {
      case SCSI_OPCODE.READ_CAPACITY: {
        const data = Buffer.alloc(ReadCapacity10Data.size);
        data.writeUInt32BE(Math.max(blocks - 1, 0), ReadCapacity10Data.offsetOf('last_lba'));
        data.writeUInt32BE(BLOCK_SIZE, ReadCapacity10Data.offsetOf('block_length'));
        task.reply(data, data.length);
        return;
      }
      case SCSI_OPCODE.READ_TOC:
        this.tableOfContents(task, blocks);
        return;
      case SCSI_OPCODE.GPCMD_READ_DISC_INFO:
        this.discInformation(task);
        return;
      case SCSI_OPCODE.TEST_UNIT_READY:
        task.good(0);
        return;
      default:
        if (this.hasProtection(task.cdb)) {
          task.check(SENSE.invalidField);
          return;
        }
        this.transfer(task, medium, BLOCK_SIZE, false, false);
        return;
    }
  }

  private startStop(task: ScsiTask): void {
    const bits = task.cdb[StartStopCdb.offsetOf('power_condition')];
    if ((bits & CDB_FLAGS.START_STOP_POWER_MASK) !== 0) {
      task.check(SENSE.invalidField);
      return;
    }
    const start = (bits & CDB_FLAGS.START_STOP_START) !== 0;
    if ((bits & CDB_FLAGS.START_STOP_LOEJ) !== 0) {
      if (start) this.trayOpen = false;
      else if (this.prevented) {
        task.check(SENSE.removalPrevented);
        return;
      } else {
        const medium = this.remove();
        this.trayOpen = true;
        task.good(0);
        if (medium !== undefined) this.onEject?.(medium);
        return;
      }
    }
    if (start && this.medium === undefined) task.check(SENSE.noMedium);
    else task.good(0);
  }

  private eventStatus(task: ScsiTask): void {
    const { cdb } = task;
    // Without POLLED the drive would have to wait for an event, which MMC leaves to drives that queue.
    if ((cdb[EventStatusCdb.offsetOf('flags')] & CDB_FLAGS.EVENT_STATUS_POLLED) === 0) {
      task.check(SENSE.invalidField);
      return;
    }
    const media = (cdb[EventStatusCdb.offsetOf('notification_class_request')] & (1 << MMC.EVENT_CLASS_MEDIA)) !== 0;
    const allocation = cdb.readUInt16BE(EventStatusCdb.offsetOf('allocation_length'));
    const data = Buffer.alloc(media ? EventHeader.size + MediaEvent.size : EventHeader.size);
    data.writeUInt16BE(data.length - 2, EventHeader.offsetOf('data_len'));
    data[EventHeader.offsetOf('notification')] = media ? MMC.EVENT_CLASS_MEDIA : MMC.EVENT_NEA;
    data[EventHeader.offsetOf('supp_event_class')] = 1 << MMC.EVENT_CLASS_MEDIA;
    if (media) {
      data[EventHeader.size + MediaEvent.offsetOf('event')] = this.event;
      data[EventHeader.size + MediaEvent.offsetOf('status')] =
        (this.medium === undefined ? 0 : MMC.MEDIA_STATUS_PRESENT) | (this.trayOpen ? MMC.MEDIA_STATUS_TRAY_OPEN : 0);
      // An event is told once, to whoever took more than the header.
      if (allocation > EventHeader.size) this.event = MMC.MEDIA_EVENT_NONE;
    }
    task.reply(data, allocation);
  }

  private tableOfContents(task: ScsiTask, blocks: number): void {
    const { cdb } = task;
    const msf = (cdb[ReadTocCdb.offsetOf('flags')] & CDB_FLAGS.READ_TOC_MSF) !== 0;
    const start = cdb[ReadTocCdb.offsetOf('track_session_number')];
    // Before MMC-2 the format was in the two high bits of the control byte; Linux still sends it there for sessions.
    const format =
      cdb[ReadTocCdb.offsetOf('format')] & CDB_FLAGS.READ_TOC_FORMAT_MASK || cdb[ReadTocCdb.offsetOf('control')] >>> 6;
    const track = (number: number, lba: number): Buffer => {
      const entry = Buffer.alloc(TocTrack.size);
      entry[TocTrack.offsetOf('adr_control')] = MMC.TOC_ADR_DATA_TRACK;
      entry[TocTrack.offsetOf('track_number')] = number;
      entry.writeUInt32BE(msf ? minutes(lba) : lba, TocTrack.offsetOf('start_address'));
      return entry;
    };
    let entries: Buffer[];
    if (format === MMC.TOC_FORMAT_TOC) {
      if (start > 1 && start !== MMC.CDROM_LEADOUT) {
        task.check(SENSE.invalidField);
        return;
      }
      entries = start <= 1 ? [track(1, 0)] : [];
      entries.push(track(MMC.CDROM_LEADOUT, blocks));
    } else if (format === MMC.TOC_FORMAT_SESSION) {
      entries = [track(1, 0)];
    } else {
      task.check(SENSE.invalidField);
      return;
    }
    const header = Buffer.alloc(TocHeader.size);
    header.writeUInt16BE(header.length - 2 + entries.length * TocTrack.size, TocHeader.offsetOf('data_length'));
    header[TocHeader.offsetOf('first_track')] = 1;
    header[TocHeader.offsetOf('last_track')] = 1;
    task.reply(Buffer.concat([header, ...entries]), cdb.readUInt16BE(ReadTocCdb.offsetOf('allocation_length')));
  }

  private discInformation(task: ScsiTask): void {
    const data = Buffer.alloc(DiscInformation.size);
    const at = DiscInformation.offsetOf;
    data.writeUInt16BE(data.length - 2, at('disc_information_length'));
    data[at('status')] = MMC.DISC_STATUS_COMPLETE;
    for (const one of ['n_first_track', 'n_sessions_lsb', 'first_track_lsb', 'last_track_lsb'] as const)
      data[at(one)] = 1;
    task.reply(data, task.cdb.readUInt16BE(Cdb10.offsetOf('transfer_length')));
  }

  private profile(): number {
    if (this.medium === undefined) return MMC.PROFILE_NONE;
    return this.medium.size / BLOCK_SIZE > LARGEST_CD ? MMC.PROFILE_DVD_ROM : MMC.PROFILE_CD_ROM;
  }

  private features(): readonly Feature[] {
    const profile = this.profile();
    const present = profile !== MMC.PROFILE_NONE;
    const mechanism = MODE.CAPABILITIES_TRAY | MODE.CAPABILITIES_EJECT | MODE.CAPABILITIES_LOCK;
    const of = (code: number): number[] => [code >>> 8, code & 0xff, profile === code ? 1 : 0, 0];
    const feature = (
      code: number,
      version: number,
      persistent: boolean,
      current: boolean,
      data: number[],
    ): Feature => ({
      code,
      version,
      persistent,
      current,
      data: Uint8Array.from(data),
    });
    return [
      feature(MMC.FEATURE_PROFILE_LIST, 0, true, true, [...of(MMC.PROFILE_DVD_ROM), ...of(MMC.PROFILE_CD_ROM)]),
      // Physical interface: SCSI family; DBE: the block of events that we have.
      feature(MMC.FEATURE_CORE, 2, true, true, [0, 0, 0, 1, 1, 0, 0, 0]),
      // The bits of the capabilities page, in the same places.
      feature(MMC.FEATURE_REMOVABLE_MEDIUM, 0, true, true, [mechanism, 0, 0, 0]),
      feature(MMC.FEATURE_RANDOM_READABLE, 0, false, present, [0, 0, BLOCK_SIZE >>> 8, 0, 0, 1, 0, 0]),
      feature(MMC.FEATURE_CD_READ, 2, false, profile === MMC.PROFILE_CD_ROM, [0, 0, 0, 0]),
      feature(MMC.FEATURE_DVD_READ, 0, false, profile === MMC.PROFILE_DVD_ROM, []),
    ];
  }

  private configuration(task: ScsiTask): void {
    const { cdb } = task;
    const type = cdb[GetConfigurationCdb.offsetOf('requested_type')] & CDB_FLAGS.GET_CONFIGURATION_RT_MASK;
    const start = cdb.readUInt16BE(GetConfigurationCdb.offsetOf('starting_feature'));
    if (type > CDB_FLAGS.GET_CONFIGURATION_RT_ONE) {
      task.check(SENSE.invalidField);
      return;
    }
    const wanted = this.features().filter((f) => {
      if (type === CDB_FLAGS.GET_CONFIGURATION_RT_ONE) return f.code === start;
      return f.code >= start && (type === CDB_FLAGS.GET_CONFIGURATION_RT_ALL || f.current);
    });
    const descriptors = wanted.map((f) => {
      const data = Buffer.alloc(FeatureDescriptor.size + f.data.length);
      data.writeUInt16BE(f.code, FeatureDescriptor.offsetOf('feature_code'));
      data[FeatureDescriptor.offsetOf('flags')] =
        (f.version << MMC.FEATURE_VERSION_SHIFT) |
        (f.persistent ? MMC.FEATURE_FLAG_PERSISTENT : 0) |
        (f.current ? MMC.FEATURE_FLAG_CURRENT : 0);
      data[FeatureDescriptor.offsetOf('add_len')] = f.data.length;
      data.set(f.data, FeatureDescriptor.size);
      return data;
    });
    const data = Buffer.concat([Buffer.alloc(FeatureHeader.size), ...descriptors]);
    data.writeUInt32BE(data.length - 4, FeatureHeader.offsetOf('data_len'));
    data.writeUInt16BE(this.profile(), FeatureHeader.offsetOf('curr_profile'));
    task.reply(data, cdb.readUInt16BE(GetConfigurationCdb.offsetOf('allocation_length')));
  }
}

function checked(medium: Disk): Disk {
  if (medium.logicalSectorSize > BLOCK_SIZE)
    throw new RangeError(`${medium.path}: sectors of ${medium.logicalSectorSize} bytes on a CD-ROM`);
  return medium;
}

/** An address as 0, minute, second, frame. */
function minutes(lba: number): number {
  const frames = lba + MMC.CD_MSF_OFFSET;
  const seconds = Math.floor(frames / MMC.CD_FRAMES);
  // A DVD has more minutes than a byte holds; drives say the largest.
  const minute = Math.min(Math.floor(seconds / MMC.CD_SECS), 255);
  return (minute << 16) | ((seconds % MMC.CD_SECS) << 8) | (frames % MMC.CD_FRAMES);
}
