/**
 * Parameter data of block devices: capacities, the UNMAP list, the LUN list. Implements SBC-3 5.15, 5.16, 5.28; SPC-4 6.33.
 */
import { constants, struct } from '../layout';

export const ReadCapacity10Data = struct('read_capacity_10_data', 'SBC-3 5.15.2', 8, {
  last_lba: { type: 'u8', offset: 0, count: 4, doc: 'all ones: ask READ CAPACITY(16)' },
  block_length: { type: 'u8', offset: 4, count: 4 },
});

export const ReadCapacity16Data = struct('read_capacity_16_data', 'SBC-3 5.16.2', 32, {
  last_lba: { type: 'u8', offset: 0, count: 8 },
  block_length: { type: 'u8', offset: 8, count: 4 },
  protection: { type: 'u8', offset: 12 },
  exponent: { type: 'u8', offset: 13, doc: 'logical blocks per physical block, as a power of two' },
  provisioning: { type: 'u8', offset: 14, count: 2, doc: 'LBPME, LBPRZ, lowest aligned LBA' },
});

export const UnmapHeader = struct('unmap_header', 'SBC-3 5.28.2: UNMAP parameter list', 8, {
  data_length: { type: 'u8', offset: 0, count: 2, doc: 'bytes that follow this field' },
  descriptor_data_length: { type: 'u8', offset: 2, count: 2 },
});

export const UnmapDescriptor = struct('unmap_descriptor', 'SBC-3 5.28.2: UNMAP block descriptor', 16, {
  logical_block_address: { type: 'u8', offset: 0, count: 8 },
  block_count: { type: 'u8', offset: 8, count: 4 },
});

export const LunListHeader = struct('lun_list_header', 'SPC-4 6.33: REPORT LUNS parameter data', 8, {
  lun_list_length: { type: 'u8', offset: 0, count: 4 },
});

export const ScsiLunField = struct('scsi_lun', 'SAM-5 4.7: logical unit number', 8, {
  scsi_lun: { type: 'u8', offset: 0, count: 8 },
});

export const BLOCK = constants('SBC-3 5.15, 5.16', {
  CAPACITY_10_MAX: 0xffff_ffff,
  /** High byte of `provisioning`. */
  LBPME: 0x80,
});
