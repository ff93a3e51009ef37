/**
 * The block device protocol. Implements Xen public/io/blkif.h.
 *
 * Quirks: sector numbers and segments count 512 bytes, whatever the disk's sector size is. `first_sect` and `last_sect`
 * are inside one page, both included. The layout of requests differs between 32-bit and 64-bit guests; this is the
 * 64-bit one ("x86_64-abi"). A segment is an anonymous struct in Xen's header (blkif_request_segment here), and so is
 * what the nodes in xenstore are called.
 */
import { constants, struct } from '../layout';

export const BLKIF_OP = constants('Xen public/io/blkif.h: operations', {
  BLKIF_OP_READ: 0,
  BLKIF_OP_WRITE: 1,
  BLKIF_OP_WRITE_BARRIER: 2,
  BLKIF_OP_FLUSH_DISKCACHE: 3,
  BLKIF_OP_DISCARD: 5,
  BLKIF_OP_INDIRECT: 6,
});

export const BLKIF_RSP = constants('Xen public/io/blkif.h: status of a response', {
  BLKIF_RSP_OKAY: 0,
  BLKIF_RSP_ERROR: -1,
  BLKIF_RSP_EOPNOTSUPP: -2,
});

export const BLKIF = constants('Xen public/io/blkif.h: limits and flags', {
  BLKIF_MAX_SEGMENTS_PER_REQUEST: 11,
  BLKIF_MAX_INDIRECT_PAGES_PER_REQUEST: 8,
  BLKIF_DISCARD_SECURE: 1,
  VDISK_CDROM: 0x1,
  VDISK_REMOVABLE: 0x2,
  VDISK_READONLY: 0x4,
});

export const BlkifRequestSegment = struct('blkif_request_segment', 'Xen public/io/blkif.h', 8, {
  gref: { type: 'u32', offset: 0 },
  first_sect: { type: 'u8', offset: 4 },
  last_sect: { type: 'u8', offset: 5 },
});

export const BlkifRequest = struct('blkif_request', 'Xen public/io/blkif.h: struct blkif_request', 112, {
  operation: { type: 'u8', offset: 0 },
  nr_segments: { type: 'u8', offset: 1 },
  handle: { type: 'u16', offset: 2 },
  id: { type: 'u64', offset: 8 },
  sector_number: { type: 'u64', offset: 16 },
  seg: { type: BlkifRequestSegment, offset: 24, count: 11 },
});

export const BlkifRequestDiscard = struct('blkif_request_discard', 'Xen public/io/blkif.h', 32, {
  operation: { type: 'u8', offset: 0 },
  flag: { type: 'u8', offset: 1 },
  handle: { type: 'u16', offset: 2 },
  id: { type: 'u64', offset: 8 },
  sector_number: { type: 'u64', offset: 16 },
  nr_sectors: { type: 'u64', offset: 24 },
});

export const BlkifRequestIndirect = struct('blkif_request_indirect', 'Xen public/io/blkif.h', 64, {
  operation: { type: 'u8', offset: 0 },
  indirect_op: { type: 'u8', offset: 1 },
  nr_segments: { type: 'u16', offset: 2 },
  id: { type: 'u64', offset: 8 },
  sector_number: { type: 'u64', offset: 16 },
  handle: { type: 'u16', offset: 24 },
  indirect_grefs: { type: 'u32', offset: 28, count: 8 },
});

export const BlkifResponse = struct('blkif_response', 'Xen public/io/blkif.h: struct blkif_response', 16, {
  id: { type: 'u64', offset: 0 },
  operation: { type: 'u8', offset: 8 },
  status: { type: 's16', offset: 10 },
});
