/**
 * Mode parameter headers and pages. Implements SPC-4 7.5, SBC-3 6.4, MMC-3 annex for page 2Ah.
 */
import { constants, struct } from '../layout';

export const ModeHeader6 = struct('mode_header_6', 'SPC-4 7.5.5: mode parameter header(6)', 4, {
  mode_data_length: { type: 'u8', offset: 0, doc: 'bytes that follow this field' },
  medium_type: { type: 'u8', offset: 1 },
  device_specific: { type: 'u8', offset: 2 },
  block_descriptor_length: { type: 'u8', offset: 3 },
});

export const ModeHeader10 = struct('mode_page_header', 'SPC-4 7.5.5: mode parameter header(10)', 8, {
  mode_data_length: { type: 'u8', offset: 0, count: 2, doc: 'bytes that follow this field' },
  medium_type: { type: 'u8', offset: 2 },
  reserved1: { type: 'u8', offset: 3, doc: 'device-specific parameter' },
  reserved2: { type: 'u8', offset: 4 },
  reserved3: { type: 'u8', offset: 5 },
  desc_length: { type: 'u8', offset: 6, count: 2 },
});

export const ModePageHeader = struct('mode_page', 'SPC-4 7.5.7: mode page', 2, {
  page_code: { type: 'u8', offset: 0 },
  page_length: { type: 'u8', offset: 1, doc: 'bytes that follow this field' },
});

export const CachingPage = struct('mode_page_caching', 'SBC-3 6.4.5: caching mode page', 20, {
  header: { type: ModePageHeader, offset: 0 },
  flags: { type: 'u8', offset: 2 },
});

export const ControlPage = struct('mode_page_control', 'SPC-4 7.5.8: control mode page', 12, {
  header: { type: ModePageHeader, offset: 0 },
  flags2: { type: 'u8', offset: 2 },
  flags3: { type: 'u8', offset: 3, doc: 'queue algorithm modifier in the four high bits' },
});

export const CapabilitiesPage = struct('mode_page_capabilities', 'MMC-3: C/DVD capabilities page', 20, {
  header: { type: ModePageHeader, offset: 0 },
  read: { type: 'u8', offset: 2 },
  write: { type: 'u8', offset: 3 },
  play: { type: 'u8', offset: 4 },
  cdda: { type: 'u8', offset: 5 },
  mechanism: { type: 'u8', offset: 6 },
  audio: { type: 'u8', offset: 7 },
  maximum_speed: { type: 'u8', offset: 8, count: 2, doc: 'kB/s' },
  volume_levels: { type: 'u8', offset: 10, count: 2 },
  buffer_size: { type: 'u8', offset: 12, count: 2, doc: 'KiB' },
  current_speed: { type: 'u8', offset: 14, count: 2, doc: 'kB/s' },
});

export const MODE = constants('SPC-4 7.5, SBC-3 6.4: mode pages', {
  GPMODE_WCACHING_PAGE: 0x08,
  MODE_CONTROL_PAGE: 0x0a,
  GPMODE_CAPABILITIES_PAGE: 0x2a,
  GPMODE_ALL_PAGES: 0x3f,
  MODE_ALL_SUBPAGES: 0xff,
  MODE_PAGE_MASK: 0x3f,
  /** Page control, in byte 2 of MODE SENSE. */
  MODE_PC_MASK: 0xc0,
  MODE_PC_CHANGEABLE: 0x40,
  MODE_PC_SAVED: 0xc0,
  /** Device-specific parameter of block devices. */
  MODE_WP: 0x80,
  MODE_DPOFUA: 0x10,
  CACHING_WCE: 0x04,
  CONTROL_UNRESTRICTED_REORDERING: 0x10,
  /** Byte 2 of the capabilities page. */
  CAPABILITIES_READ_CD_R: 0x01,
  CAPABILITIES_READ_CD_RW: 0x02,
  CAPABILITIES_READ_DVD_ROM: 0x08,
  /** Byte 4. */
  CAPABILITIES_MULTI_SESSION: 0x40,
  /** Byte 6. */
  CAPABILITIES_LOCK: 0x01,
  CAPABILITIES_EJECT: 0x08,
  CAPABILITIES_TRAY: 0x20,
});
