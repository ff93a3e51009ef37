/**
 * Command descriptor blocks: the four shapes that read, write and verify blocks share, and the fields of the others.
 * Implements SPC-4 4.2.5, SBC-3 5, MMC-6 6.
 *
 * Quirk: the address of a 6-byte command is 21 bits; the three high bits of its first byte are not part of it.
 */
import { constants, struct } from '../layout';

export const Cdb6 = struct('cdb_6', 'SPC-4: typical 6-byte CDB', 6, {
  operation_code: { type: 'u8', offset: 0 },
  logical_block_address: { type: 'u8', offset: 1, count: 3 },
  transfer_length: { type: 'u8', offset: 4, doc: '0 means 256 in READ(6) and WRITE(6)' },
  control: { type: 'u8', offset: 5 },
});

export const Cdb10 = struct('cdb_10', 'SPC-4: typical 10-byte CDB', 10, {
  operation_code: { type: 'u8', offset: 0 },
  flags: { type: 'u8', offset: 1 },
  logical_block_address: { type: 'u8', offset: 2, count: 4 },
  group_number: { type: 'u8', offset: 6 },
  transfer_length: { type: 'u8', offset: 7, count: 2 },
  control: { type: 'u8', offset: 9 },
});

export const Cdb12 = struct('cdb_12', 'SPC-4: typical 12-byte CDB', 12, {
  operation_code: { type: 'u8', offset: 0 },
  flags: { type: 'u8', offset: 1 },
  logical_block_address: { type: 'u8', offset: 2, count: 4 },
  transfer_length: { type: 'u8', offset: 6, count: 4 },
  group_number: { type: 'u8', offset: 10 },
  control: { type: 'u8', offset: 11 },
});

export const Cdb16 = struct('cdb_16', 'SPC-4: typical 16-byte CDB', 16, {
  operation_code: { type: 'u8', offset: 0 },
  flags: { type: 'u8', offset: 1 },
  logical_block_address: { type: 'u8', offset: 2, count: 8 },
  transfer_length: { type: 'u8', offset: 10, count: 4 },
  group_number: { type: 'u8', offset: 14 },
  control: { type: 'u8', offset: 15 },
});

export const InquiryCdb = struct('inquiry_cdb', 'SPC-4 6.6: INQUIRY', 6, {
  operation_code: { type: 'u8', offset: 0 },
  flags: { type: 'u8', offset: 1 },
  page_code: { type: 'u8', offset: 2 },
  allocation_length: { type: 'u8', offset: 3, count: 2 },
  control: { type: 'u8', offset: 5 },
});

export const ModeSense6Cdb = struct('mode_sense_6_cdb', 'SPC-4 6.11: MODE SENSE(6)', 6, {
  operation_code: { type: 'u8', offset: 0 },
  flags: { type: 'u8', offset: 1 },
  page_code: { type: 'u8', offset: 2, doc: 'page control in the two high bits' },
  subpage_code: { type: 'u8', offset: 3 },
  allocation_length: { type: 'u8', offset: 4 },
  control: { type: 'u8', offset: 5 },
});

export const ModeSense10Cdb = struct('mode_sense_10_cdb', 'SPC-4 6.12: MODE SENSE(10)', 10, {
  operation_code: { type: 'u8', offset: 0 },
  flags: { type: 'u8', offset: 1 },
  page_code: { type: 'u8', offset: 2, doc: 'page control in the two high bits' },
  subpage_code: { type: 'u8', offset: 3 },
  allocation_length: { type: 'u8', offset: 7, count: 2 },
  control: { type: 'u8', offset: 9 },
});

export const ReportLunsCdb = struct('report_luns_cdb', 'SPC-4 6.33: REPORT LUNS', 12, {
  operation_code: { type: 'u8', offset: 0 },
  select_report: { type: 'u8', offset: 2 },
  allocation_length: { type: 'u8', offset: 6, count: 4 },
  control: { type: 'u8', offset: 11 },
});

export const ReadCapacity16Cdb = struct('read_capacity_16_cdb', 'SBC-3 5.16: READ CAPACITY(16)', 16, {
  operation_code: { type: 'u8', offset: 0 },
  service_action: { type: 'u8', offset: 1, doc: 'five low bits' },
  logical_block_address: { type: 'u8', offset: 2, count: 8 },
  allocation_length: { type: 'u8', offset: 10, count: 4 },
  control: { type: 'u8', offset: 15 },
});

export const StartStopCdb = struct('start_stop_cdb', 'SBC-3 5.26: START STOP UNIT', 6, {
  operation_code: { type: 'u8', offset: 0 },
  flags: { type: 'u8', offset: 1 },
  power_condition: { type: 'u8', offset: 4, doc: 'in the four high bits; LOEJ and START in the low ones' },
  control: { type: 'u8', offset: 5 },
});

export const ReadTocCdb = struct('read_toc_cdb', 'MMC-6 6.26: READ TOC/PMA/ATIP', 10, {
  operation_code: { type: 'u8', offset: 0 },
  flags: { type: 'u8', offset: 1 },
  format: { type: 'u8', offset: 2, doc: 'four low bits' },
  track_session_number: { type: 'u8', offset: 6 },
  allocation_length: { type: 'u8', offset: 7, count: 2 },
  control: { type: 'u8', offset: 9, doc: 'the two high bits were the format once' },
});

export const GetConfigurationCdb = struct('get_configuration_cdb', 'MMC-6 6.5: GET CONFIGURATION', 10, {
  operation_code: { type: 'u8', offset: 0 },
  requested_type: { type: 'u8', offset: 1, doc: 'two low bits' },
  starting_feature: { type: 'u8', offset: 2, count: 2 },
  allocation_length: { type: 'u8', offset: 7, count: 2 },
  control: { type: 'u8', offset: 9 },
});

export const EventStatusCdb = struct('event_status_cdb', 'MMC-6 6.6: GET EVENT STATUS NOTIFICATION', 10, {
  operation_code: { type: 'u8', offset: 0 },
  flags: { type: 'u8', offset: 1 },
  notification_class_request: { type: 'u8', offset: 4 },
  allocation_length: { type: 'u8', offset: 7, count: 2 },
  control: { type: 'u8', offset: 9 },
});

export const CDB_FLAGS = constants('SPC-4, SBC-3, MMC-6: bits of CDBs', {
  /** RDPROTECT, WRPROTECT, VRPROTECT. */
  CDB_PROTECT_MASK: 0xe0,
  CDB_FUA: 0x08,
  CDB_BYTCHK_MASK: 0x06,
  CDB_LBA_HIGH_6_MASK: 0x1f,
  INQUIRY_EVPD: 0x01,
  MODE_SENSE_DBD: 0x08,
  REQUEST_SENSE_DESC: 0x01,
  UNMAP_ANCHOR: 0x01,
  SERVICE_ACTION_MASK: 0x1f,
  READ_CAPACITY_PMI: 0x01,
  /** Byte 4 of START STOP UNIT. */
  START_STOP_START: 0x01,
  START_STOP_LOEJ: 0x02,
  START_STOP_POWER_MASK: 0xf0,
  /** Byte 4 of PREVENT ALLOW MEDIUM REMOVAL. */
  PREVENT_MEDIUM_REMOVAL: 0x01,
  PREVENT_PERSISTENT: 0x02,
  READ_TOC_MSF: 0x02,
  READ_TOC_FORMAT_MASK: 0x0f,
  GET_CONFIGURATION_RT_MASK: 0x03,
  GET_CONFIGURATION_RT_ALL: 0x00,
  GET_CONFIGURATION_RT_CURRENT: 0x01,
  GET_CONFIGURATION_RT_ONE: 0x02,
  EVENT_STATUS_POLLED: 0x01,
  SELECT_REPORT_ALL: 0x02,
  SELECT_REPORT_WELL_KNOWN: 0x01,
});
