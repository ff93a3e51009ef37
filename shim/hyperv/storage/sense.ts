/**
 * The sense data that devices answer with, and its fixed format. Implements SPC-4 4.5.3.
 */
import { ASC, SENSE_KEY, SENSE_RESPONSE, SenseFixed } from '../../../abi/scsi';
import type { DiskErrorKind } from '../../image/disk';
import type { Sense } from './task';

function sense(key: number, code: number): Sense {
  return Object.freeze({ key, code });
}

const { NO_SENSE, NOT_READY, MEDIUM_ERROR, HARDWARE_ERROR, ILLEGAL_REQUEST, UNIT_ATTENTION, DATA_PROTECT } = SENSE_KEY;

export const SENSE = {
  none: sense(NO_SENSE, ASC.ASC_NO_ADDITIONAL_SENSE),
  invalidOpcode: sense(ILLEGAL_REQUEST, ASC.ASC_INVALID_COMMAND_OPERATION_CODE),
  invalidField: sense(ILLEGAL_REQUEST, ASC.ASC_INVALID_FIELD_IN_CDB),
  invalidParameter: sense(ILLEGAL_REQUEST, ASC.ASC_INVALID_FIELD_IN_PARAMETER_LIST),
  parameterListLength: sense(ILLEGAL_REQUEST, ASC.ASC_PARAMETER_LIST_LENGTH_ERROR),
  outOfRange: sense(ILLEGAL_REQUEST, ASC.ASC_LBA_OUT_OF_RANGE),
  savingNotSupported: sense(ILLEGAL_REQUEST, ASC.ASC_SAVING_PARAMETERS_NOT_SUPPORTED),
  removalPrevented: sense(ILLEGAL_REQUEST, ASC.ASC_MEDIUM_REMOVAL_PREVENTED),
  noMedium: sense(NOT_READY, ASC.ASC_MEDIUM_NOT_PRESENT),
  notReady: sense(NOT_READY, ASC.ASC_LOGICAL_UNIT_NOT_READY),
  readError: sense(MEDIUM_ERROR, ASC.ASC_UNRECOVERED_READ_ERROR),
  writeError: sense(MEDIUM_ERROR, ASC.ASC_WRITE_ERROR),
  internalFailure: sense(HARDWARE_ERROR, ASC.ASC_INTERNAL_TARGET_FAILURE),
  writeProtected: sense(DATA_PROTECT, ASC.ASC_WRITE_PROTECTED),
  noSpace: sense(DATA_PROTECT, ASC.ASC_SPACE_ALLOCATION_FAILED_WRITE_PROTECT),
  capacityChanged: sense(UNIT_ATTENTION, ASC.ASC_CAPACITY_DATA_HAS_CHANGED),
  mediumChanged: sense(UNIT_ATTENTION, ASC.ASC_MEDIUM_MAY_HAVE_CHANGED),
} as const;

const RESPONSE_CODE = SenseFixed.offsetOf('response_code');
const KEY = SenseFixed.offsetOf('sense_key');
const ADDITIONAL_LENGTH = SenseFixed.offsetOf('add_sense_len');
const CODE = SenseFixed.offsetOf('asc');
/** Bytes behind the field that says how many there are. */
const ADDITIONAL = SenseFixed.size - ADDITIONAL_LENGTH - 1;

/** Writes SenseFixed.size bytes of sense data. */
export function writeSense(target: Buffer, offset: number, { key, code }: Sense): void {
  target.fill(0, offset, offset + SenseFixed.size);
  target[offset + RESPONSE_CODE] = SENSE_RESPONSE.SENSE_CURRENT_FIXED;
  target[offset + KEY] = key;
  target[offset + ADDITIONAL_LENGTH] = ADDITIONAL;
  target.writeUInt16BE(code, offset + CODE);
}

/** What the guest is told about a request that the disk could not do. */
export function diskErrorSense(kind: DiskErrorKind, reading: boolean): Sense {
  switch (kind) {
    case 'io':
      return reading ? SENSE.readError : SENSE.writeError;
    case 'no-space':
      return SENSE.noSpace;
    case 'read-only':
      return SENSE.writeProtected;
    case 'corrupt':
      return SENSE.internalFailure;
    case 'closed':
      return SENSE.notReady;
  }
}
