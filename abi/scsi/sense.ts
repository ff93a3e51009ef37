/**
 * Status, sense keys, additional sense codes, and fixed format sense data. Implements SAM-5 5.3, SPC-4 4.5 and annex D.2.
 *
 * Quirk: an additional sense code and its qualifier are one number here, code * 256 + qualifier.
 */
import { constants, struct } from '../layout';

export const SAM_STAT = constants('SAM-5 5.3.1: status', {
  SAM_STAT_GOOD: 0x00,
  SAM_STAT_CHECK_CONDITION: 0x02,
  SAM_STAT_BUSY: 0x08,
  SAM_STAT_TASK_SET_FULL: 0x28,
});

export const SENSE_KEY = constants('SPC-4 4.5.6: sense keys', {
  NO_SENSE: 0x0,
  NOT_READY: 0x2,
  MEDIUM_ERROR: 0x3,
  HARDWARE_ERROR: 0x4,
  ILLEGAL_REQUEST: 0x5,
  UNIT_ATTENTION: 0x6,
  DATA_PROTECT: 0x7,
});

export const ASC = constants('SPC-4 D.2: ADDITIONAL SENSE CODE * 256 + QUALIFIER', {
  ASC_NO_ADDITIONAL_SENSE: 0x0000,
  ASC_LOGICAL_UNIT_NOT_READY: 0x0400,
  ASC_WRITE_ERROR: 0x0c00,
  ASC_UNRECOVERED_READ_ERROR: 0x1100,
  ASC_PARAMETER_LIST_LENGTH_ERROR: 0x1a00,
  ASC_INVALID_COMMAND_OPERATION_CODE: 0x2000,
  ASC_LBA_OUT_OF_RANGE: 0x2100,
  ASC_INVALID_FIELD_IN_CDB: 0x2400,
  ASC_LOGICAL_UNIT_NOT_SUPPORTED: 0x2500,
  ASC_INVALID_FIELD_IN_PARAMETER_LIST: 0x2600,
  ASC_WRITE_PROTECTED: 0x2700,
  ASC_SPACE_ALLOCATION_FAILED_WRITE_PROTECT: 0x2707,
  ASC_MEDIUM_MAY_HAVE_CHANGED: 0x2800,
  ASC_CAPACITY_DATA_HAS_CHANGED: 0x2a09,
  ASC_SAVING_PARAMETERS_NOT_SUPPORTED: 0x3900,
  ASC_MEDIUM_NOT_PRESENT: 0x3a00,
  ASC_INTERNAL_TARGET_FAILURE: 0x4400,
  ASC_MEDIUM_REMOVAL_PREVENTED: 0x5302,
});

/** The first 18 bytes; Linux's struct request_sense allows for more. */
export const SenseFixed = struct('sense_fixed', 'SPC-4 4.5.3: fixed format sense data', 18, {
  response_code: { type: 'u8', offset: 0 },
  sense_key: { type: 'u8', offset: 2 },
  information: { type: 'u8', offset: 3, count: 4 },
  add_sense_len: { type: 'u8', offset: 7 },
  command_info: { type: 'u8', offset: 8, count: 4 },
  asc: { type: 'u8', offset: 12 },
  ascq: { type: 'u8', offset: 13 },
  fruc: { type: 'u8', offset: 14 },
  sks: { type: 'u8', offset: 15, count: 3 },
});

export const SENSE_RESPONSE = constants('SPC-4 4.5.1: response codes', { SENSE_CURRENT_FIXED: 0x70 });
