/**
 * Grant tables: shared entries, versions 1 and 2, and their flags. Implements Xen public/grant_table.h.
 *
 * Quirks: a version 2 entry is a union of three layouts; its members carry the layout's name. Version 2 keeps
 * GTF_reading and GTF_writing in a separate array of u16 status words. The first eight entries survive a change of
 * version.
 */
import { constants, struct } from '../layout';

const SPEC = 'Xen public/grant_table.h: struct';

export const GrantEntryV1 = struct('grant_entry_v1', `${SPEC} grant_entry_v1`, 8, {
  flags: { type: 'u16', offset: 0, doc: 'GTF_*' },
  domid: { type: 'u16', offset: 2 },
  frame: { type: 'u32', offset: 4 },
});

export const GrantEntryHeader = struct('grant_entry_header', `${SPEC} grant_entry_header`, 4, {
  flags: { type: 'u16', offset: 0, doc: 'GTF_*' },
  domid: { type: 'u16', offset: 2 },
});

export const GrantEntryV2 = struct('grant_entry_v2', 'Xen public/grant_table.h: union grant_entry_v2', 16, {
  hdr: { type: GrantEntryHeader, offset: 0 },
  full_page_pad0: { type: 'u32', offset: 4 },
  full_page_frame: { type: 'u64', offset: 8 },
  sub_page_page_off: { type: 'u16', offset: 4 },
  sub_page_length: { type: 'u16', offset: 6 },
  sub_page_frame: { type: 'u64', offset: 8 },
  transitive_trans_domid: { type: 'u16', offset: 4 },
  transitive_pad0: { type: 'u16', offset: 6 },
  transitive_gref: { type: 'u32', offset: 8 },
});

export const GTF = constants('Xen public/grant_table.h: grant entry flags', {
  GTF_invalid: 0,
  GTF_permit_access: 1,
  GTF_accept_transfer: 2,
  GTF_transitive: 3,
  GTF_type_mask: 3,
  GTF_readonly: 4,
  GTF_reading: 8,
  GTF_writing: 0x10,
  GTF_PWT: 0x20,
  GTF_PCD: 0x40,
  GTF_PAT: 0x80,
  GTF_sub_page: 0x100,
  GTF_transfer_committed: 4,
  GTF_transfer_completed: 8,
});

export const GNTTAB = constants('Xen public/grant_table.h: reserved entries', {
  GNTTAB_NR_RESERVED_ENTRIES: 8,
  GNTTAB_RESERVED_CONSOLE: 0,
  GNTTAB_RESERVED_XENSTORE: 1,
});
