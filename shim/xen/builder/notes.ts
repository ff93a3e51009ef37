/**
 * The ELF notes by which a kernel tells how it wants to be started. Implements Xen public/elfnote.h and the rules of
 * Xen's loader for which of them decide whether an image is accepted (xen-pv-abi section 1.2).
 *
 * Quirks: numeric descriptors have 4 or 8 bytes (1 and 2 are accepted as well, as Xen does). Notes are taken from
 * PT_NOTE segments, and only if no Xen note is there from SHT_NOTE sections: some old images have the notes in a
 * section without a program header. A later note of the same type replaces an earlier one. In FEATURES, '!' means that
 * the kernel requires the feature; writable_page_tables is required by every Linux, which runs well without it, so Xen
 * never rejects on it and neither do we.
 */
import { elfNoteName, XEN_ELFNOTE } from '../../../abi/xen/elf-note';
import { FEATURE_NAMES, XENFEAT } from '../../../abi/xen/features';
import { UsageError } from '../../errors';
import { type Elf, Elf64Nhdr, PT_NOTE, SHT_NOTE, viewOf } from './elf';

export interface Note {
  readonly owner: string;
  readonly type: number;
  readonly desc: Buffer;
}

export interface XenNotes {
  /** Every note with the owner "Xen", in file order. */
  readonly all: readonly Note[];
  readonly entry?: bigint;
  readonly hypercallPage?: bigint;
  readonly virtBase?: bigint;
  readonly paddrOffset?: bigint;
  readonly xenVersion?: string;
  readonly guestOs?: string;
  readonly guestVersion?: string;
  readonly loader?: string;
  readonly bsdSymtab: boolean;
  readonly initP2m?: bigint;
  readonly modStartPfn: boolean;
  readonly suspendCancel: boolean;
  readonly phys32Entry?: bigint;
  /** Names in the FEATURES note, those with '!' and those without. */
  readonly requiredFeatures: readonly string[];
  readonly wantedFeatures: readonly string[];
  /** The bitmap of SUPPORTED_FEATURES: what the kernel can live with, nothing it insists on. */
  readonly supportedFeatures?: bigint;
}

/** Notes are few and small; a file with more is damaged. */
const MAX_NOTES = 1024;
const XEN_OWNER = 'Xen';
const XEN_VERSION = 'xen-3.0';
const LINUX = 'linux';
const GENERIC = 'generic';

const align4 = (n: number): number => (n + 3) & ~3;

/** Reads the notes of one segment or section; stops at the first one that does not fit. */
function notesIn(elf: Elf, fileOffset: number, fileSize: number, into: Note[]): void {
  const view = viewOf(elf.bytes);
  const end = fileOffset + fileSize;
  let at = fileOffset;
  while (at + Elf64Nhdr.size <= end && into.length < MAX_NOTES) {
    const nameSize = Elf64Nhdr.get.n_namesz(view, at);
    const descSize = Elf64Nhdr.get.n_descsz(view, at);
    const type = Elf64Nhdr.get.n_type(view, at);
    const nameAt = at + Elf64Nhdr.size;
    // Sizes near 2^32 must not wrap in align4: compare before aligning.
    if (nameSize > end - nameAt || descSize > end - nameAt) return;
    const descAt = nameAt + align4(nameSize);
    if (descAt + descSize > end) return;
    const owner = elf.bytes.toString('latin1', nameAt, nameAt + Math.max(0, nameSize - 1));
    into.push({ owner, type, desc: elf.bytes.subarray(descAt, descAt + descSize) });
    at = descAt + align4(descSize);
  }
}

/** Every note of the file, whoever owns it. */
export function readNotes(elf: Elf): Note[] {
  const notes: Note[] = [];
  for (const s of elf.segments) if (s.type === PT_NOTE) notesIn(elf, s.fileOffset, s.fileSize, notes);
  if (notes.some((n) => n.owner === XEN_OWNER)) return notes;
  const others: Note[] = [];
  for (const s of elf.sections) if (s?.type === SHT_NOTE) notesIn(elf, s.fileOffset, s.fileSize, others);
  return others.some((n) => n.owner === XEN_OWNER) ? others : notes;
}

/** The number in a note's descriptor, or undefined if it has no size that a number can have. */
export function noteNumber(note: Note): bigint | undefined {
  switch (note.desc.length) {
    case 1:
      return BigInt(note.desc.readUInt8(0));
    case 2:
      return BigInt(note.desc.readUInt16LE(0));
    case 4:
      return BigInt(note.desc.readUInt32LE(0));
    case 8:
      return note.desc.readBigUInt64LE(0);
    default:
      return undefined;
  }
}

/** The string in a note's descriptor, up to the NUL. */
export function noteString(note: Note): string {
  const end = note.desc.indexOf(0);
  return note.desc.toString('latin1', 0, end < 0 ? note.desc.length : end);
}

/** Text from a file as it may be shown on a terminal: printable ASCII only, at most `limit` characters. */
export function printable(text: string, limit = 200): string {
  return text.slice(0, limit).replace(/[^\x20-\x7e]/g, '?');
}

/** Decodes the Xen notes of `elf`. Throws UsageError if there are none, or if a number has an impossible size. */
export function xenNotes(file: string, elf: Elf): XenNotes {
  const all = readNotes(elf).filter((n) => n.owner === XEN_OWNER);
  if (all.length === 0) {
    const legacy = elf.sections.some((s) => s?.name === '__xen_guest');
    throw new UsageError('not a Xen PV kernel', {
      file,
      found: legacy ? 'no Xen ELF notes, only a __xen_guest section' : 'no Xen ELF notes',
      wanted: 'a kernel built with Xen PV support (Linux: CONFIG_XEN_PV=y)',
    });
  }
  const byType = new Map(all.map((n) => [n.type, n]));
  const number = (type: number): bigint | undefined => {
    const note = byType.get(type);
    if (note === undefined) return undefined;
    const value = noteNumber(note);
    if (value === undefined) {
      throw new UsageError(`malformed note ${elfNoteName(type)}`, {
        file,
        found: `a descriptor of ${note.desc.length} bytes`,
        wanted: 'a number of 4 or 8 bytes',
      });
    }
    return value;
  };
  const string = (type: number): string | undefined => {
    const note = byType.get(type);
    return note === undefined ? undefined : noteString(note);
  };
  const features = (string(XEN_ELFNOTE.XEN_ELFNOTE_FEATURES) ?? '').split('|').filter((f) => f !== '');
  return {
    all,
    entry: number(XEN_ELFNOTE.XEN_ELFNOTE_ENTRY),
    hypercallPage: number(XEN_ELFNOTE.XEN_ELFNOTE_HYPERCALL_PAGE),
    virtBase: number(XEN_ELFNOTE.XEN_ELFNOTE_VIRT_BASE),
    paddrOffset: number(XEN_ELFNOTE.XEN_ELFNOTE_PADDR_OFFSET),
    xenVersion: string(XEN_ELFNOTE.XEN_ELFNOTE_XEN_VERSION),
    guestOs: string(XEN_ELFNOTE.XEN_ELFNOTE_GUEST_OS),
    guestVersion: string(XEN_ELFNOTE.XEN_ELFNOTE_GUEST_VERSION),
    loader: string(XEN_ELFNOTE.XEN_ELFNOTE_LOADER),
    bsdSymtab: string(XEN_ELFNOTE.XEN_ELFNOTE_BSD_SYMTAB) === 'yes',
    initP2m: number(XEN_ELFNOTE.XEN_ELFNOTE_INIT_P2M),
    modStartPfn: (number(XEN_ELFNOTE.XEN_ELFNOTE_MOD_START_PFN) ?? 0n) !== 0n,
    suspendCancel: (number(XEN_ELFNOTE.XEN_ELFNOTE_SUSPEND_CANCEL) ?? 0n) !== 0n,
    phys32Entry: number(XEN_ELFNOTE.XEN_ELFNOTE_PHYS32_ENTRY),
    requiredFeatures: features.filter((f) => f.startsWith('!')).map((f) => f.slice(1)),
    wantedFeatures: features.filter((f) => !f.startsWith('!')),
    supportedFeatures: number(XEN_ELFNOTE.XEN_ELFNOTE_SUPPORTED_FEATURES),
  };
}

/** Features that a kernel may not require, with what they would mean. */
const IMPOSSIBLE: ReadonlyMap<number, string> = new Map([
  [XENFEAT.XENFEAT_auto_translated_physmap, 'memory translated by the hypervisor (HVM or PVH)'],
  [XENFEAT.XENFEAT_supervisor_mode_kernel, 'a kernel in ring 0'],
  [XENFEAT.XENFEAT_dom0, 'the privileges of the control domain'],
]);

/** Is it Linux (or a kernel that says so), in the sense of the GUEST_OS note? */
export function isLinux(notes: XenNotes): boolean {
  return notes.guestOs?.toLowerCase().startsWith(LINUX) ?? false;
}

/** Is it GRUB, which hands the domain over to another kernel? */
export function isGrub(notes: XenNotes): boolean {
  return notes.guestOs === 'GRUB';
}

/** Everything about the notes that keeps the kernel from booting; empty if nothing does. */
export function noteProblems(file: string, notes: XenNotes): UsageError[] {
  const problems: UsageError[] = [];
  const problem = (summary: string, found: string, wanted: string): void => {
    problems.push(new UsageError(summary, { file, found, wanted }));
  };
  const quote = (s: string | undefined): string => (s === undefined ? 'none' : `"${printable(s, 80)}"`);
  if (notes.entry === undefined && notes.phys32Entry !== undefined) {
    problem(
      'a PVH kernel without PV support',
      'the note PHYS32_ENTRY but no ENTRY',
      'a PV kernel (Linux: CONFIG_XEN_PV=y)',
    );
  }
  if (!notes.xenVersion?.startsWith(XEN_VERSION)) {
    problem('built for another Xen', `XEN_VERSION ${quote(notes.xenVersion)}`, `XEN_VERSION "${XEN_VERSION}"`);
  }
  if (!notes.loader?.startsWith(GENERIC) && !notes.guestOs?.startsWith(LINUX)) {
    problem(
      'a kernel for another loader',
      `GUEST_OS ${quote(notes.guestOs)} and LOADER ${quote(notes.loader)}`,
      `GUEST_OS "${LINUX}" or LOADER "${GENERIC}"`,
    );
  }
  if (notes.bsdSymtab) {
    problem('an unsupported note', 'BSD_SYMTAB "yes" (symbols to be loaded behind the kernel)', 'no such note');
  }
  for (const name of notes.requiredFeatures) {
    const bit = FEATURE_NAMES.get(name);
    const meaning = bit === undefined ? 'not known' : IMPOSSIBLE.get(bit);
    if (meaning !== undefined) {
      problem(
        'an unsupported required feature',
        `"!${printable(name, 80)}" (${meaning})`,
        'a kernel that runs without',
      );
    }
  }
  return problems;
}
