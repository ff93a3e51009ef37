/**
 * GUIDs as VMBus carries them, and those of the device classes.
 *
 * Quirk: in memory the first three groups are little-endian and the last two are plain bytes, so a GUID's text is not the
 * order of its bytes. Text here is lower case, with hyphens (shim/hyperv/vmbus/guid.ts converts).
 */
import { struct } from '../../layout';

export const VmbusGuid = struct('vmbus_guid', 'MS-DTYP 2.3.4: GUID', 16, {
  data1: { type: 'u32', offset: 0 },
  data2: { type: 'u16', offset: 4 },
  data3: { type: 'u16', offset: 6 },
  data4: { type: 'u8', offset: 8, count: 8 },
});

/** Interface types: what kind of device an offer is. Guests ignore those that they do not know. */
export const VMBUS_CLASS = Object.freeze({
  scsi: 'ba6163d9-04a1-4d29-b605-72e2ffb1dc7f',
  ide: '32412632-86cb-44a2-9b5c-50d1417354f5',
  fibreChannel: '2f9bcc4a-0069-4af3-b76b-6fd0be528cda',
  network: 'f8615163-df3e-46c5-913f-f2d2f965ed0e',
  pci: '44c4f61d-4444-4400-9d52-802e27ede19f',
  networkDirect: '8c2eaf3d-32a7-4b09-ab99-bd1f1c86b501',
  video: 'da0a7802-e377-4aac-8e77-0558eb1073f8',
  keyboard: 'f912ad6d-2b17-48ea-bd65-f927a61c7684',
  mouse: 'cfa8b69e-5b4a-4cc0-b98b-8ba1a1f3f95a',
  shutdown: '0e0b6031-5213-4934-818b-38d90ced39db',
  timesync: '9527e630-d0ae-497b-adce-e80ab0175caf',
  heartbeat: '57164f39-9115-4e78-ab55-382f3bd5422d',
  kvp: 'a9a0f4e7-5a45-4d96-b827-8a841e8c03e6',
  vss: '35fa2e29-ea23-4236-96ae-3a6ebacba440',
  dynamicMemory: '525074dc-8985-46e2-8057-a307dc18a502',
  fileCopy: '34d14be3-dee4-41c8-9ae7-6b174977c192',
  remoteDesktop: '276aacf4-ac15-426c-98dd-7521ad3f01fe',
  activation1: 'f8e65716-3cb3-4a06-9a60-1889c5cccab5',
  activation2: '3375baf4-9e15-4b30-b765-67acb10d607b',
  initialConfiguration: 'c376c1c3-d276-48d2-90a9-c04748072c60',
});

/** Instances that are the same on every Hyper-V host: there is one of each. */
export const VMBUS_INSTANCE = Object.freeze({
  mouse: '58f75a6d-d949-4320-99e1-a2a2576d581c',
  shutdown: 'b6650ff7-33bc-4840-8048-e0676786f393',
  timesync: '2dd1ce17-079e-403c-b352-a1921ee207ee',
  kvp: '242ff919-07db-4180-9c2e-b86cb68c8c55',
});
