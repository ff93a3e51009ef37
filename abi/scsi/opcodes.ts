/**
 * Operation codes and service actions. Implements SPC-4 annex D.3, SBC-3 and MMC-6 as far as they are used or refused
 * knowingly.
 *
 * Quirk: the two shortest MODE SENSE and START STOP names are Linux's, and mean the 6-byte commands.
 */
import { constants } from '../layout';

export const SCSI_OPCODE = constants('SPC-4 D.3: operation codes', {
  TEST_UNIT_READY: 0x00,
  REQUEST_SENSE: 0x03,
  READ_6: 0x08,
  WRITE_6: 0x0a,
  INQUIRY: 0x12,
  MODE_SELECT: 0x15,
  RESERVE: 0x16,
  RELEASE: 0x17,
  MODE_SENSE: 0x1a,
  START_STOP: 0x1b,
  ALLOW_MEDIUM_REMOVAL: 0x1e,
  READ_CAPACITY: 0x25,
  READ_10: 0x28,
  WRITE_10: 0x2a,
  VERIFY: 0x2f,
  SYNCHRONIZE_CACHE: 0x35,
  WRITE_SAME: 0x41,
  UNMAP: 0x42,
  READ_TOC: 0x43,
  GPCMD_GET_CONFIGURATION: 0x46,
  GET_EVENT_STATUS_NOTIFICATION: 0x4a,
  GPCMD_READ_DISC_INFO: 0x51,
  MODE_SENSE_10: 0x5a,
  PERSISTENT_RESERVE_IN: 0x5e,
  PERSISTENT_RESERVE_OUT: 0x5f,
  READ_16: 0x88,
  WRITE_16: 0x8a,
  VERIFY_16: 0x8f,
  SYNCHRONIZE_CACHE_16: 0x91,
  WRITE_SAME_16: 0x93,
  SERVICE_ACTION_IN_16: 0x9e,
  REPORT_LUNS: 0xa0,
  MAINTENANCE_IN: 0xa3,
  READ_12: 0xa8,
  WRITE_12: 0xaa,
  VERIFY_12: 0xaf,
});

export const SCSI_SERVICE_ACTION = constants('SBC-3: service actions of SERVICE ACTION IN(16)', {
  SAI_READ_CAPACITY_16: 0x10,
});

/** Lengths of command descriptor blocks by the group in the three high bits of the operation code; 0: not defined. */
export const CDB_LENGTHS: readonly number[] = [6, 10, 10, 0, 16, 12, 0, 0];
