/**
 * The part of the translation table that is about devices: requests that a guest puts into rings, instead of making
 * hypercalls. Statistics count by these names, and docs/translation-table.md is made from them.
 */
import { BLKIF_OP } from '../../abi/xen/blkif';
import type { Exactness } from './table';

export interface DeviceOperation {
  /** In Xen's words. */
  readonly name: string;
  /** What is sent to the VSP over the VMBus channel. */
  readonly hyperv: string;
  readonly exact: Exactness;
  readonly note: string;
}

/** Of block devices, by operation. */
export const BLKIF_OPERATIONS = {
  read: {
    name: 'blkif read',
    hyperv: 'vstor EXECUTE_SRB, SCSI READ(10) or READ(16)',
    exact: 'exact',
    note: 'direct or indirect; granted pages become a GPA-direct range, one more for each gap in it',
  },
  write: {
    name: 'blkif write',
    hyperv: 'vstor EXECUTE_SRB, SCSI WRITE(10) or WRITE(16)',
    exact: 'exact',
    note: 'as read',
  },
  flush: {
    name: 'blkif flush',
    hyperv: 'vstor EXECUTE_SRB, SCSI SYNCHRONIZE CACHE(10)',
    exact: 'exact',
    note: 'what had completed before it is on the medium after it',
  },
  discard: {
    name: 'blkif discard',
    hyperv: 'vstor EXECUTE_SRB, SCSI UNMAP',
    exact: 'near',
    note: 'whole blocks only; what was discarded may read as before; secure discard is not supported',
  },
  other: {
    name: 'blkif other',
    hyperv: '-',
    exact: 'refused',
    note: 'barriers and unknown operations: BLKIF_RSP_EOPNOTSUPP',
  },
} as const satisfies Readonly<Record<string, DeviceOperation>>;

export type BlkifOperationName = keyof typeof BLKIF_OPERATIONS;

const NAMES: Readonly<Record<number, BlkifOperationName>> = {
  [BLKIF_OP.BLKIF_OP_READ]: 'read',
  [BLKIF_OP.BLKIF_OP_WRITE]: 'write',
  [BLKIF_OP.BLKIF_OP_FLUSH_DISKCACHE]: 'flush',
  [BLKIF_OP.BLKIF_OP_DISCARD]: 'discard',
};

/** `operation`: BLKIF_OP_*, for indirect requests the one inside. */
export function blkifOperation(operation: number): BlkifOperationName {
  return NAMES[operation] ?? 'other';
}

/** What became of a device's requests of one operation. */
export interface DeviceCount {
  /** Answered, whatever the answer. */
  count: number;
  /** Asked for. */
  bytes: number;
  /** Answered with an error. */
  errors: number;
}

export type BlkifCounts = Readonly<Record<BlkifOperationName, DeviceCount>>;

export function noBlkifCounts(): BlkifCounts {
  const none = (): DeviceCount => ({ count: 0, bytes: 0, errors: 0 });
  return { read: none(), write: none(), flush: none(), discard: none(), other: none() };
}
