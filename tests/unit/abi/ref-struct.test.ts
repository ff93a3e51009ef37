/**
 * ref-struct-di types built from declarations: same sizes, same offsets, same bytes.
 */
import * as hyperv from '../../../abi/hyperv';
import { type Fields, type Struct, struct } from '../../../abi/layout';
import * as xen from '../../../abi/xen';
import { collect } from '../../../scripts/gen-headers';
import { toRefStruct, whyNotRefStruct } from '../../../shim/partition/ffi/ref-struct';

const all: readonly Struct<Fields>[] = [...collect(xen).structs, ...collect(hyperv).structs];
const expressible = all.filter((s) => whyNotRefStruct(s) === undefined);

/** What cannot be expressed, and why: a new entry here is a decision, not an accident. */
const INEXPRESSIBLE: Readonly<Record<string, string>> = {
  evtchn_op: 'u_bind_interdomain overlaps another field',
  evtchn_status: 'u_interdomain_dom overlaps another field',
  gnttab_cache_flush: 'a_ref overlaps another field',
  gnttab_copy: 'source: u_gmfn overlaps another field',
  gnttab_copy_ptr: 'u_gmfn overlaps another field',
  gnttab_map_grant_ref: "ref is a name of ref-struct-di's own",
  gnttab_transfer: "ref is a name of ref-struct-di's own",
  grant_entry_v2: 'sub_page_page_off overlaps another field',
  mmuext_op: 'arg1_linear_addr overlaps another field',
  e820entry: 'its size is no multiple of its alignment',
  start_info: 'console_dom0_info_off overlaps another field',
  vmscsi_request: 'sense_data overlaps another field',
  vstor_packet: 'vm_srb: sense_data overlaps another field',
  xen_add_to_physmap_batch: 'u_res0 overlaps another field',
  hv_get_vp_from_apic_id_in: 'apic_ids is an open-ended array',
  hv_message: 'header: port overlaps another field',
  hv_message_header: 'port overlaps another field',
  hv_message_page: 'sint_message: header: port overlaps another field',
  hv_send_ipi_ex: 'vp_set: bank_contents is an open-ended array',
  hv_tlb_flush: 'gva_list is an open-ended array',
  hv_tlb_flush_ex: 'hv_vp_set: bank_contents is an open-ended array',
  hv_vpset: 'bank_contents is an open-ended array',
  gpa_range: 'pfn_array is an open-ended array',
  icmsg_negotiate: 'icversion_data is an open-ended array',
  ictimesync_data: 'its size is no multiple of its alignment',
  ictimesync_ref_data: 'its size is no multiple of its alignment',
  vmbus_channel_gpadl_body: 'pfn is an open-ended array',
  vmbus_channel_initiate_contact: 'msg_sint overlaps another field',
  vmbus_channel_initiate_contact_v6: 'contact: msg_sint overlaps another field',
  vmbus_channel_offer: 'pipe_mode overlaps another field',
  vmbus_channel_offer_channel: 'offer: pipe_mode overlaps another field',
  vmdata_gpa_direct: 'range: pfn_array is an open-ended array',
};

test('exactly the listed structs cannot be expressed', () => {
  const reasons = Object.fromEntries(all.map((s) => [s.name, whyNotRefStruct(s)]).filter(([, r]) => r !== undefined));
  expect(reasons).toEqual(INEXPRESSIBLE);
});

test.each(expressible.map((s) => [s.name, s] as const))('%s has the declared size and offsets', (_name, decl) => {
  const type = toRefStruct(decl);
  expect(type.size).toBe(decl.size);
  for (const [name, f] of Object.entries(decl.fields)) {
    expect([name, type.fields[name]?.offset]).toEqual([name, f.offset]);
  }
});

test('values written through one are read through the other', () => {
  const decl = struct('sample', 'test', 40, {
    a: { type: 'u8', offset: 0 },
    b: { type: 's32', offset: 4 },
    c: { type: 'u16', offset: 8, count: 3 },
    d: { type: 'u64', offset: 24 },
    e: { type: xen.EvtchnBindIpi, offset: 32 },
  });
  const type = toRefStruct(decl);
  const buffer = Buffer.alloc(decl.size);
  const view = new DataView(buffer.buffer, buffer.byteOffset, buffer.length);
  decl.set.a(view, 0, 200);
  decl.set.b(view, 0, -5);
  decl.set.c(view, 0, 77, 2);
  decl.set.d(view, 0, 0x1_0000_0000n);
  xen.EvtchnBindIpi.set.port(view, decl.offsetOf('e'), 9);
  const value = new type(buffer) as unknown as Record<string, unknown> & { e: { port: number } };
  expect(value.a).toBe(200);
  expect(value.b).toBe(-5);
  expect(value.c).toEqual([0, 0, 77]);
  expect(Number(value.d)).toBe(0x1_0000_0000);
  expect(value.e.port).toBe(9);
  value.c = [1, 2, 3];
  value.b = 6;
  expect([0, 1, 2].map((i) => decl.get.c(view, 0, i))).toEqual([1, 2, 3]);
  expect(decl.get.b(view, 0)).toBe(6);
  expect(() => {
    value.c = [1];
  }).toThrow(RangeError);
});

test('the type of a declaration is built once, and an inexpressible one is refused with the reason', () => {
  expect(toRefStruct(xen.VcpuInfo)).toBe(toRefStruct(xen.VcpuInfo));
  expect(() => toRefStruct(xen.E820Entry)).toThrow(/e820entry.*size is no multiple/);
});
