/**
 * INQUIRY and vital product data of our devices. Implements SPC-4 6.6, 7.8 and SBC-3 6.6.
 *
 * Quirk: the vendor is not "Msft", as Hyper-V's disks have it: Linux's storvsc then assumes things that we do not do
 * (WRITE SAME), and believes less of what the device says.
 */
import { createHash } from 'node:crypto';
import {
  INQUIRY_VALUES,
  InquiryData,
  VPD_DESIGNATOR,
  VPD_PAGE,
  VPD_VALUES,
  VpdBlockCharacteristics,
  VpdBlockLimits,
  VpdDesignator,
  VpdHeader,
  VpdProvisioning,
} from '../../../abi/scsi';

export const VENDOR = 'XENLIGHT';
const REVISION = '0001';

export interface DeviceIdentity {
  /** TYPE_DISK or TYPE_ROM. */
  readonly type: number;
  readonly removable: boolean;
  /** At most 16 ASCII characters. */
  readonly product: string;
  /** Printable ASCII; what a guest's /dev/disk/by-id shows. */
  readonly serial: string;
  /** SBC or MMC version descriptor. */
  readonly standard: number;
}

/** What the block limits page needs; lengths in bytes. */
export interface BlockLimits {
  readonly logicalBlock: number;
  readonly physicalBlock: number;
  readonly maxTransfer: number;
  readonly discard:
    | {
        readonly granularity: number;
        readonly alignment: number;
        readonly maxBlocks: number;
        readonly maxDescriptors: number;
      }
    | undefined;
}

function ascii(target: Buffer, text: string, offset: number, length: number): void {
  target.write(text.padEnd(length, ' '), offset, length, 'latin1');
}

export function standardInquiry(identity: DeviceIdentity): Buffer {
  const data = Buffer.alloc(InquiryData.size);
  data[InquiryData.offsetOf('peripheral')] = identity.type;
  data[InquiryData.offsetOf('rmb')] = identity.removable ? INQUIRY_VALUES.INQUIRY_RMB : 0;
  data[InquiryData.offsetOf('version')] = INQUIRY_VALUES.INQUIRY_VERSION_SPC4;
  data[InquiryData.offsetOf('response_data_format')] = INQUIRY_VALUES.INQUIRY_FORMAT_HISUP;
  data[InquiryData.offsetOf('additional_length')] = data.length - InquiryData.offsetOf('additional_length') - 1;
  data[InquiryData.offsetOf('flags7')] = INQUIRY_VALUES.INQUIRY_CMDQUE;
  ascii(data, VENDOR, InquiryData.offsetOf('vendor'), 8);
  ascii(data, identity.product, InquiryData.offsetOf('product'), 16);
  ascii(data, REVISION, InquiryData.offsetOf('revision'), 4);
  const { SCSI_VERSION_DESCRIPTOR_SAM5, SCSI_VERSION_DESCRIPTOR_SPC4 } = INQUIRY_VALUES;
  [SCSI_VERSION_DESCRIPTOR_SAM5, SCSI_VERSION_DESCRIPTOR_SPC4, identity.standard].forEach((standard, i) => {
    data.writeUInt16BE(standard, InquiryData.offsetOf('version_descriptors') + 2 * i);
  });
  return data;
}

/** What a LUN that is not there answers to INQUIRY: that nothing can be there. */
export function absentInquiry(): Buffer {
  const data = Buffer.alloc(36);
  data[InquiryData.offsetOf('peripheral')] = INQUIRY_VALUES.INQUIRY_NOT_PRESENT;
  data[InquiryData.offsetOf('version')] = INQUIRY_VALUES.INQUIRY_VERSION_SPC4;
  data[InquiryData.offsetOf('response_data_format')] = INQUIRY_VALUES.INQUIRY_FORMAT_HISUP;
  data[InquiryData.offsetOf('additional_length')] = data.length - InquiryData.offsetOf('additional_length') - 1;
  return data;
}

function page(type: number, code: number, body: Uint8Array): Buffer {
  const data = Buffer.alloc(VpdHeader.size + body.length);
  data[VpdHeader.offsetOf('peripheral')] = type;
  data[VpdHeader.offsetOf('page_code')] = code;
  data.writeUInt16BE(body.length, VpdHeader.offsetOf('page_length'));
  data.set(body, VpdHeader.size);
  return data;
}

function designator(codeSet: number, type: number, body: Uint8Array): Buffer {
  const data = Buffer.alloc(VpdDesignator.size + body.length);
  data[VpdDesignator.offsetOf('code_set')] = codeSet;
  data[VpdDesignator.offsetOf('designator_type')] = type;
  data[VpdDesignator.offsetOf('designator_length')] = body.length;
  data.set(body, VpdDesignator.size);
  return data;
}

/** By vendor and serial number, and by an 8-byte name made from them (NAA, locally assigned). */
function identification({ type, serial, product }: DeviceIdentity): Buffer {
  const naa = createHash('sha256').update(`${VENDOR}\0${product}\0${serial}`).digest().subarray(0, 8);
  naa[0] = VPD_DESIGNATOR.NAA_LOCALLY_ASSIGNED | (naa[0] & 0x0f);
  const name = Buffer.from(`${VENDOR}${product.padEnd(16, ' ')}${serial}`, 'latin1');
  const designators = [
    designator(VPD_DESIGNATOR.DESIGNATOR_CODE_BINARY, VPD_DESIGNATOR.DESIGNATOR_NAA, naa),
    designator(VPD_DESIGNATOR.DESIGNATOR_CODE_ASCII, VPD_DESIGNATOR.DESIGNATOR_T10_VENDOR_ID, name),
  ];
  return page(type, VPD_PAGE.VPD_DEVICE_IDENTIFICATION, Buffer.concat(designators));
}

function blockLimits(limits: BlockLimits): Buffer {
  const data = Buffer.alloc(VpdBlockLimits.size);
  const at = VpdBlockLimits.offsetOf;
  data[VpdHeader.offsetOf('page_code')] = VPD_PAGE.VPD_BLOCK_LIMITS;
  data.writeUInt16BE(data.length - VpdHeader.size, VpdHeader.offsetOf('page_length'));
  const blocks = limits.maxTransfer / limits.logicalBlock;
  data.writeUInt16BE(limits.physicalBlock / limits.logicalBlock, at('optimal_transfer_length_granularity'));
  data.writeUInt32BE(blocks, at('maximum_transfer_length'));
  if (limits.discard !== undefined) {
    const { granularity, alignment, maxBlocks, maxDescriptors } = limits.discard;
    data.writeUInt32BE(maxBlocks, at('maximum_unmap_lba_count'));
    data.writeUInt32BE(maxDescriptors, at('maximum_unmap_block_descriptor_count'));
    data.writeUInt32BE(granularity / limits.logicalBlock, at('optimal_unmap_granularity'));
    // Linux's and the standard's alignment is the address of the first aligned block, below the granularity.
    const first = Math.floor((alignment % granularity) / limits.logicalBlock);
    data.writeUInt32BE((VPD_VALUES.UGAVALID + first) >>> 0, at('unmap_granularity_alignment'));
  }
  return data;
}

function characteristics(): Buffer {
  const data = Buffer.alloc(VpdBlockCharacteristics.size);
  data[VpdHeader.offsetOf('page_code')] = VPD_PAGE.VPD_BLOCK_DEVICE_CHARACTERISTICS;
  data.writeUInt16BE(data.length - VpdHeader.size, VpdHeader.offsetOf('page_length'));
  data.writeUInt16BE(VPD_VALUES.ROTATION_RATE_NON_ROTATING, VpdBlockCharacteristics.offsetOf('medium_rotation_rate'));
  return data;
}

function provisioning(): Buffer {
  const data = Buffer.alloc(VpdProvisioning.size);
  data[VpdHeader.offsetOf('page_code')] = VPD_PAGE.VPD_LOGICAL_BLOCK_PROVISIONING;
  data.writeUInt16BE(data.length - VpdHeader.size, VpdHeader.offsetOf('page_length'));
  data[VpdProvisioning.offsetOf('flags')] = VPD_VALUES.LBPU;
  data[VpdProvisioning.offsetOf('provisioning_type')] = VPD_VALUES.PROVISIONING_THIN;
  return data;
}

/** The VPD pages of a device by their codes, page 0 included; without `limits` those of any device only. */
export function vitalProductData(identity: DeviceIdentity, limits?: BlockLimits): ReadonlyMap<number, Buffer> {
  const pages = new Map<number, Buffer>([
    [
      VPD_PAGE.VPD_UNIT_SERIAL_NUMBER,
      page(identity.type, VPD_PAGE.VPD_UNIT_SERIAL_NUMBER, Buffer.from(identity.serial, 'latin1')),
    ],
    [VPD_PAGE.VPD_DEVICE_IDENTIFICATION, identification(identity)],
  ]);
  if (limits !== undefined) {
    pages.set(VPD_PAGE.VPD_BLOCK_LIMITS, blockLimits(limits));
    pages.set(VPD_PAGE.VPD_BLOCK_DEVICE_CHARACTERISTICS, characteristics());
    if (limits.discard !== undefined) pages.set(VPD_PAGE.VPD_LOGICAL_BLOCK_PROVISIONING, provisioning());
  }
  const codes = Uint8Array.from([VPD_PAGE.VPD_SUPPORTED_PAGES, ...pages.keys()]);
  pages.set(VPD_PAGE.VPD_SUPPORTED_PAGES, page(identity.type, VPD_PAGE.VPD_SUPPORTED_PAGES, codes));
  return pages;
}
