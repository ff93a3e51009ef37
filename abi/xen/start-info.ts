/**
 * The page that rsi points to when a PV kernel starts. Implements Xen public/xen.h, struct start_info.
 *
 * Quirks: shared_info is a machine address, store_mfn and console.domU.mfn are frame numbers, pt_base and mfn_list are
 * virtual addresses; mod_start is one or the other depending on SIF_MOD_START_PFN. The console union is declared for
 * domU and for dom0.
 */
import { constants, struct } from '../layout';

export const StartInfo = struct('start_info', 'Xen public/xen.h: struct start_info', 1168, {
  magic: { type: 'u8', offset: 0, count: 32, doc: '"xen-3.0-x86_64", NUL padded' },
  nr_pages: { type: 'u64', offset: 32 },
  shared_info: { type: 'u64', offset: 40, doc: 'machine address' },
  flags: { type: 'u32', offset: 48, doc: 'SIF_*' },
  store_mfn: { type: 'u64', offset: 56 },
  store_evtchn: { type: 'u32', offset: 64 },
  console_domU_mfn: { type: 'u64', offset: 72 },
  console_domU_evtchn: { type: 'u32', offset: 80 },
  console_dom0_info_off: { type: 'u32', offset: 72 },
  console_dom0_info_size: { type: 'u32', offset: 76 },
  pt_base: { type: 'u64', offset: 88, doc: 'virtual address of the initial L4' },
  nr_pt_frames: { type: 'u64', offset: 96 },
  mfn_list: { type: 'u64', offset: 104, doc: 'virtual address of the p2m list' },
  mod_start: { type: 'u64', offset: 112 },
  mod_len: { type: 'u64', offset: 120 },
  cmd_line: { type: 's8', offset: 128, count: 1024 },
  first_p2m_pfn: { type: 'u64', offset: 1152 },
  nr_p2m_frames: { type: 'u64', offset: 1160 },
});

export const START_INFO = constants('Xen public/xen.h: start_info', {
  MAX_GUEST_CMDLINE: 1024,
  SIF_PRIVILEGED: 1,
  SIF_INITDOMAIN: 2,
  SIF_MULTIBOOT_MOD: 4,
  SIF_MOD_START_PFN: 8,
  SIF_VIRT_P2M_4TOOLS: 0x10,
  SIF_PM_MASK: 0xff00,
});
