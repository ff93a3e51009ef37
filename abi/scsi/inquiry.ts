/**
 * INQUIRY data and vital product data. Implements SPC-4 6.6 and 7.8, SBC-3 6.6.
 */
import { constants, struct } from '../layout';

export const InquiryData = struct('inquiry_data', 'SPC-4 6.6.2: standard INQUIRY data', 74, {
  peripheral: { type: 'u8', offset: 0, doc: 'qualifier in the three high bits, device type' },
  rmb: { type: 'u8', offset: 1 },
  version: { type: 'u8', offset: 2 },
  response_data_format: { type: 'u8', offset: 3 },
  additional_length: { type: 'u8', offset: 4 },
  flags5: { type: 'u8', offset: 5 },
  flags6: { type: 'u8', offset: 6 },
  flags7: { type: 'u8', offset: 7 },
  vendor: { type: 'u8', offset: 8, count: 8 },
  product: { type: 'u8', offset: 16, count: 16 },
  revision: { type: 'u8', offset: 32, count: 4 },
  version_descriptors: { type: 'u8', offset: 58, count: 16 },
});

export const INQUIRY_VALUES = constants('SPC-4 6.6.2: values of standard INQUIRY data', {
  TYPE_DISK: 0x00,
  TYPE_ROM: 0x05,
  /** Peripheral qualifier 3, device type 0x1f: no device can be here. */
  INQUIRY_NOT_PRESENT: 0x7f,
  INQUIRY_RMB: 0x80,
  INQUIRY_VERSION_SPC4: 0x06,
  /** Response data format 2, and LUNs in the hierarchical format. */
  INQUIRY_FORMAT_HISUP: 0x12,
  INQUIRY_CMDQUE: 0x02,
  SCSI_VERSION_DESCRIPTOR_SAM5: 0x00a0,
  SCSI_VERSION_DESCRIPTOR_SPC4: 0x0460,
  SCSI_VERSION_DESCRIPTOR_SBC3: 0x04c0,
  SCSI_VERSION_DESCRIPTOR_MMC6: 0x02e0,
});

export const VpdHeader = struct('vpd_header', 'SPC-4 7.8: VPD page header', 4, {
  peripheral: { type: 'u8', offset: 0 },
  page_code: { type: 'u8', offset: 1 },
  page_length: { type: 'u8', offset: 2, count: 2 },
});

export const VPD_PAGE = constants('SPC-4 7.8, SBC-3 6.6: VPD pages', {
  VPD_SUPPORTED_PAGES: 0x00,
  VPD_UNIT_SERIAL_NUMBER: 0x80,
  VPD_DEVICE_IDENTIFICATION: 0x83,
  VPD_BLOCK_LIMITS: 0xb0,
  VPD_BLOCK_DEVICE_CHARACTERISTICS: 0xb1,
  VPD_LOGICAL_BLOCK_PROVISIONING: 0xb2,
});

export const VpdDesignator = struct('vpd_designator', 'SPC-4 7.8.6.1: designation descriptor', 4, {
  code_set: { type: 'u8', offset: 0 },
  designator_type: { type: 'u8', offset: 1 },
  designator_length: { type: 'u8', offset: 3 },
});

export const VPD_DESIGNATOR = constants('SPC-4 7.8.6: designators', {
  DESIGNATOR_CODE_BINARY: 1,
  DESIGNATOR_CODE_ASCII: 2,
  DESIGNATOR_T10_VENDOR_ID: 1,
  DESIGNATOR_NAA: 3,
  /** In the four high bits of the first byte. */
  NAA_LOCALLY_ASSIGNED: 0x30,
});

export const VpdBlockLimits = struct('vpd_block_limits', 'SBC-3 6.6.3: block limits', 64, {
  header: { type: VpdHeader, offset: 0 },
  wsnz: { type: 'u8', offset: 4 },
  maximum_compare_and_write_length: { type: 'u8', offset: 5 },
  optimal_transfer_length_granularity: { type: 'u8', offset: 6, count: 2 },
  maximum_transfer_length: { type: 'u8', offset: 8, count: 4 },
  optimal_transfer_length: { type: 'u8', offset: 12, count: 4 },
  maximum_prefetch_length: { type: 'u8', offset: 16, count: 4 },
  maximum_unmap_lba_count: { type: 'u8', offset: 20, count: 4 },
  maximum_unmap_block_descriptor_count: { type: 'u8', offset: 24, count: 4 },
  optimal_unmap_granularity: { type: 'u8', offset: 28, count: 4 },
  unmap_granularity_alignment: { type: 'u8', offset: 32, count: 4, doc: 'valid if the highest bit is set' },
  maximum_write_same_length: { type: 'u8', offset: 36, count: 8 },
});

export const VpdBlockCharacteristics = struct('vpd_block_characteristics', 'SBC-3 6.6.2', 64, {
  header: { type: VpdHeader, offset: 0 },
  medium_rotation_rate: { type: 'u8', offset: 4, count: 2 },
  product_type: { type: 'u8', offset: 6 },
  form_factor: { type: 'u8', offset: 7 },
});

export const VpdProvisioning = struct('vpd_provisioning', 'SBC-3 6.6.4: logical block provisioning', 8, {
  header: { type: VpdHeader, offset: 0 },
  threshold_exponent: { type: 'u8', offset: 4 },
  flags: { type: 'u8', offset: 5 },
  provisioning_type: { type: 'u8', offset: 6 },
});

export const VPD_VALUES = constants('SBC-3 6.6: values of VPD pages', {
  UGAVALID: 0x8000_0000,
  ROTATION_RATE_NON_ROTATING: 1,
  LBPU: 0x80,
  PROVISIONING_THIN: 2,
});
