/**
 * ELF notes by which a kernel describes itself to the domain builder. Implements Xen public/elfnote.h.
 *
 * Quirks: the note's name is "Xen". Numeric descriptors have 4 or 8 bytes, whichever the kernel's author chose.
 */
import { constants } from '../layout';

export const XEN_ELFNOTE = constants('Xen public/elfnote.h', {
  XEN_ELFNOTE_INFO: 0,
  XEN_ELFNOTE_ENTRY: 1,
  XEN_ELFNOTE_HYPERCALL_PAGE: 2,
  XEN_ELFNOTE_VIRT_BASE: 3,
  XEN_ELFNOTE_PADDR_OFFSET: 4,
  XEN_ELFNOTE_XEN_VERSION: 5,
  XEN_ELFNOTE_GUEST_OS: 6,
  XEN_ELFNOTE_GUEST_VERSION: 7,
  XEN_ELFNOTE_LOADER: 8,
  XEN_ELFNOTE_PAE_MODE: 9,
  XEN_ELFNOTE_FEATURES: 10,
  XEN_ELFNOTE_BSD_SYMTAB: 11,
  XEN_ELFNOTE_HV_START_LOW: 12,
  XEN_ELFNOTE_L1_MFN_VALID: 13,
  XEN_ELFNOTE_SUSPEND_CANCEL: 14,
  XEN_ELFNOTE_INIT_P2M: 15,
  XEN_ELFNOTE_MOD_START_PFN: 16,
  XEN_ELFNOTE_SUPPORTED_FEATURES: 17,
  XEN_ELFNOTE_PHYS32_ENTRY: 18,
  XEN_ELFNOTE_PHYS32_RELOC: 19,
});

const NOTE_NAMES = new Map<number, string>(
  Object.entries(XEN_ELFNOTE).map(([name, type]) => [type, name.slice('XEN_ELFNOTE_'.length)]),
);

/** 'ENTRY' for 1; 'note_N' for a type that the header does not have. */
export function elfNoteName(type: number): string {
  return NOTE_NAMES.get(type) ?? `note_${type}`;
}
