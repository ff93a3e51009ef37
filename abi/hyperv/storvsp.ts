/**
 * The storage protocol of VMBus ("vstor"): packets between a guest's storvsc and the host's storage VSP. Microsoft has not
 * published it; hyperv-abi 6.1 puts together what Linux's storvsc and OpenVMM's storvsp agree on.
 *
 * Quirks: a packet is a header of 12 bytes and a union of 0x34, whatever the operation. Versions before 5.1 (Windows 8)
 * had a shorter SRB of 0x24, without the last 16 bytes; what answers is as long as what asked. The major version is the
 * high byte of `major_minor`. `sense_data` lies over `cdb`: the answer overwrites the question.
 */
import { constants, struct } from '../layout';

const SPEC = 'hyperv-abi 6.1: storvsp';

export const VmscsiRequest = struct('vmscsi_request', `${SPEC}: SRB`, 0x34, {
  length: { type: 'u16', offset: 0 },
  srb_status: { type: 'u8', offset: 2 },
  scsi_status: { type: 'u8', offset: 3 },
  port_number: { type: 'u8', offset: 4 },
  path_id: { type: 'u8', offset: 5 },
  target_id: { type: 'u8', offset: 6 },
  lun: { type: 'u8', offset: 7 },
  cdb_length: { type: 'u8', offset: 8 },
  sense_info_length: { type: 'u8', offset: 9 },
  data_in: { type: 'u8', offset: 10 },
  reserved: { type: 'u8', offset: 11 },
  data_transfer_length: { type: 'u32', offset: 12, doc: 'in: bytes wanted; out: bytes moved' },
  cdb: { type: 'u8', offset: 16, count: 16 },
  sense_data: { type: 'u8', offset: 16, count: 20 },
  reserve: { type: 'u16', offset: 36 },
  queue_tag: { type: 'u8', offset: 38 },
  queue_action: { type: 'u8', offset: 39 },
  srb_flags: { type: 'u32', offset: 40 },
  time_out_value: { type: 'u32', offset: 44, doc: 'seconds' },
  queue_sort_key: { type: 'u32', offset: 48 },
});

export const VmstorageChannelProperties = struct('vmstorage_channel_properties', `${SPEC}: QUERY_PROPERTIES`, 24, {
  reserved: { type: 'u32', offset: 0 },
  max_channel_count: { type: 'u16', offset: 4, doc: 'sub-channels, the primary one not counted' },
  reserved1: { type: 'u16', offset: 6 },
  flags: { type: 'u32', offset: 8 },
  max_transfer_bytes: { type: 'u32', offset: 12 },
  reserved2: { type: 'u64', offset: 16 },
});

export const VmstorageProtocolVersion = struct('vmstorage_protocol_version', `${SPEC}: QUERY_PROTOCOL_VERSION`, 4, {
  major_minor: { type: 'u16', offset: 0, doc: 'major in the high byte' },
  revision: { type: 'u16', offset: 2 },
});

export const VstorPacket = struct('vstor_packet', SPEC, 64, {
  operation: { type: 'u32', offset: 0 },
  flags: { type: 'u32', offset: 4 },
  status: { type: 'u32', offset: 8, doc: 'NTSTATUS' },
  vm_srb: { type: VmscsiRequest, offset: 12 },
  storage_channel_properties: { type: VmstorageChannelProperties, offset: 12 },
  version: { type: VmstorageProtocolVersion, offset: 12 },
  sub_channel_count: { type: 'u16', offset: 12 },
});

export const VSTOR = constants(`${SPEC}: sizes and flags`, {
  /** Length of a packet of versions before 5.1. */
  VSTOR_PACKET_SIZE_V1: 12 + 0x24,
  REQUEST_COMPLETION_FLAG: 0x1,
  STORAGE_CHANNEL_SUPPORTS_MULTI_CHANNEL: 0x1,
  STORVSC_SENSE_BUFFER_SIZE: 0x14,
  STORVSC_MAX_CMD_LEN: 0x10,
});

export const VSTOR_OPERATION = constants(`${SPEC}: operations`, {
  VSTOR_OPERATION_COMPLETE_IO: 1,
  VSTOR_OPERATION_REMOVE_DEVICE: 2,
  VSTOR_OPERATION_EXECUTE_SRB: 3,
  VSTOR_OPERATION_RESET_LUN: 4,
  VSTOR_OPERATION_RESET_ADAPTER: 5,
  VSTOR_OPERATION_RESET_BUS: 6,
  VSTOR_OPERATION_BEGIN_INITIALIZATION: 7,
  VSTOR_OPERATION_END_INITIALIZATION: 8,
  VSTOR_OPERATION_QUERY_PROTOCOL_VERSION: 9,
  VSTOR_OPERATION_QUERY_PROPERTIES: 10,
  VSTOR_OPERATION_ENUMERATE_BUS: 11,
  VSTOR_OPERATION_FCHBA_DATA: 12,
  VSTOR_OPERATION_CREATE_SUB_CHANNELS: 13,
});

export const VMSTOR_PROTO_VERSION = constants(`${SPEC}: versions`, {
  VMSTOR_PROTO_VERSION_WIN6: 0x0200,
  VMSTOR_PROTO_VERSION_WIN7: 0x0402,
  VMSTOR_PROTO_VERSION_WIN8: 0x0501,
  VMSTOR_PROTO_VERSION_WIN8_1: 0x0600,
  VMSTOR_PROTO_VERSION_WIN10: 0x0602,
});

/** `data_in`. */
export const STORVSC_DATA = constants(`${SPEC}: direction`, {
  WRITE_TYPE: 0,
  READ_TYPE: 1,
  UNKNOWN_TYPE: 2,
});

export const SRB_STATUS = constants(`${SPEC}: srb_status`, {
  SRB_STATUS_AUTOSENSE_VALID: 0x80,
  SRB_STATUS_QUEUE_FROZEN: 0x40,
  SRB_STATUS_SUCCESS: 0x01,
  SRB_STATUS_ABORTED: 0x02,
  SRB_STATUS_ERROR: 0x04,
  SRB_STATUS_BUSY: 0x05,
  SRB_STATUS_INVALID_REQUEST: 0x06,
  SRB_STATUS_TIMEOUT: 0x09,
  SRB_STATUS_SELECTION_TIMEOUT: 0x0a,
  SRB_STATUS_BUS_RESET: 0x0e,
  SRB_STATUS_DATA_OVERRUN: 0x12,
  SRB_STATUS_INVALID_LUN: 0x20,
  SRB_STATUS_INVALID_TARGET_ID: 0x21,
  SRB_STATUS_BAD_FUNCTION: 0x22,
});

export const SRB_FLAGS = constants(`${SPEC}: srb_flags`, {
  SRB_FLAGS_QUEUE_ACTION_ENABLE: 0x2,
  SRB_FLAGS_DISABLE_SYNCH_TRANSFER: 0x8,
  SRB_FLAGS_DATA_IN: 0x40,
  SRB_FLAGS_DATA_OUT: 0x80,
  SRB_FLAGS_NO_QUEUE_FREEZE: 0x100,
});

/** The NTSTATUS values that a storage VSP answers with. */
export const VSTOR_STATUS = constants('MS-ERREF: NTSTATUS', {
  STATUS_SUCCESS: 0,
  STATUS_BUFFER_OVERFLOW: 0x8000_0005,
  STATUS_DEVICE_BUSY: 0x8000_0011,
  STATUS_INVALID_PARAMETER: 0xc000_000d,
  STATUS_INVALID_DEVICE_REQUEST: 0xc000_0010,
  STATUS_REVISION_MISMATCH: 0xc000_0059,
  STATUS_DEVICE_DOES_NOT_EXIST: 0xc000_00c0,
  STATUS_INVALID_DEVICE_STATE: 0xc000_0184,
  STATUS_IO_DEVICE_ERROR: 0xc000_0185,
});

/** The interface type of a synthetic SCSI controller. */
export const SCSI_INTERFACE_TYPE = 'ba6163d9-04a1-4d29-b605-72e2ffb1dc7f';
