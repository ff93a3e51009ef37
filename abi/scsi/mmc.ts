/**
 * CD and DVD drives: table of contents, features and profiles, disc information, events. Implements MMC-6 5.3, 6.5, 6.6,
 * 6.21, 6.26.
 *
 * Quirk: addresses in minutes, seconds and frames begin 150 frames before LBA 0.
 */
import { constants, struct } from '../layout';

export const TocHeader = struct('toc_header', 'MMC-6 6.26.3: READ TOC response', 4, {
  data_length: { type: 'u8', offset: 0, count: 2, doc: 'bytes that follow this field' },
  first_track: { type: 'u8', offset: 2 },
  last_track: { type: 'u8', offset: 3 },
});

export const TocTrack = struct('toc_track', 'MMC-6 6.26.3.2: TOC track descriptor', 8, {
  adr_control: { type: 'u8', offset: 1 },
  track_number: { type: 'u8', offset: 2 },
  start_address: { type: 'u8', offset: 4, count: 4, doc: 'LBA, or 0, minute, second, frame' },
});

export const FeatureHeader = struct('feature_header', 'MMC-6 6.5.2: GET CONFIGURATION response', 8, {
  data_len: { type: 'u8', offset: 0, count: 4, doc: 'bytes that follow this field' },
  reserved1: { type: 'u8', offset: 4 },
  reserved2: { type: 'u8', offset: 5 },
  curr_profile: { type: 'u8', offset: 6, count: 2 },
});

export const FeatureDescriptor = struct('feature_descriptor', 'MMC-6 5.2.2: feature descriptor', 4, {
  feature_code: { type: 'u8', offset: 0, count: 2 },
  flags: { type: 'u8', offset: 2, doc: 'version << 2, persistent, current' },
  add_len: { type: 'u8', offset: 3 },
});

export const DiscInformation = struct('disc_information', 'MMC-6 6.21.3: standard disc information', 34, {
  disc_information_length: { type: 'u8', offset: 0, count: 2, doc: 'bytes that follow this field' },
  status: { type: 'u8', offset: 2, doc: 'erasable, state of last session, disc status' },
  n_first_track: { type: 'u8', offset: 3 },
  n_sessions_lsb: { type: 'u8', offset: 4 },
  first_track_lsb: { type: 'u8', offset: 5 },
  last_track_lsb: { type: 'u8', offset: 6 },
  validity: { type: 'u8', offset: 7 },
  disc_type: { type: 'u8', offset: 8 },
});

export const EventHeader = struct('event_header', 'MMC-6 6.6.2: event header', 4, {
  data_len: { type: 'u8', offset: 0, count: 2, doc: 'bytes that follow this field' },
  notification: { type: 'u8', offset: 2, doc: 'NEA, and the class' },
  supp_event_class: { type: 'u8', offset: 3 },
});

export const MediaEvent = struct('media_event_desc', 'MMC-6 6.6.2.5: media event', 4, {
  event: { type: 'u8', offset: 0 },
  status: { type: 'u8', offset: 1 },
  start_slot: { type: 'u8', offset: 2 },
  end_slot: { type: 'u8', offset: 3 },
});

export const MMC = constants('MMC-6: values', {
  CD_FRAMESIZE: 2048,
  CD_MSF_OFFSET: 150,
  CD_FRAMES: 75,
  CD_SECS: 60,
  CDROM_LEADOUT: 0xaa,
  /** Q sub-channel has the position; data track. */
  TOC_ADR_DATA_TRACK: 0x14,
  TOC_FORMAT_TOC: 0,
  TOC_FORMAT_SESSION: 1,
  PROFILE_NONE: 0x0000,
  PROFILE_CD_ROM: 0x0008,
  PROFILE_DVD_ROM: 0x0010,
  FEATURE_PROFILE_LIST: 0x0000,
  FEATURE_CORE: 0x0001,
  FEATURE_REMOVABLE_MEDIUM: 0x0003,
  FEATURE_RANDOM_READABLE: 0x0010,
  FEATURE_CD_READ: 0x001e,
  FEATURE_DVD_READ: 0x001f,
  FEATURE_FLAG_CURRENT: 0x01,
  FEATURE_FLAG_PERSISTENT: 0x02,
  FEATURE_VERSION_SHIFT: 2,
  /** Last session complete, disc complete. */
  DISC_STATUS_COMPLETE: 0x0e,
  EVENT_NEA: 0x80,
  EVENT_CLASS_MEDIA: 4,
  MEDIA_EVENT_NONE: 0,
  MEDIA_EVENT_EJECT_REQUEST: 1,
  MEDIA_EVENT_NEW: 2,
  MEDIA_EVENT_REMOVAL: 3,
  MEDIA_STATUS_TRAY_OPEN: 0x01,
  MEDIA_STATUS_PRESENT: 0x02,
});
