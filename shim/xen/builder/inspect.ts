/**
 * What a kernel file is, what its notes say, and whether, how or why not it boots: `xenlighten inspect KERNEL`.
 */
import { elfNoteName, XEN_ELFNOTE } from '../../../abi/xen/elf-note';
import { FEATURE_NAMES } from '../../../abi/xen/features';
import { UsageError } from '../../errors';
import { parseElf } from './elf';
import { type KernelImage, type LoadOptions, loadImage } from './image';
import { type KernelFacts, kernelFacts } from './kernel-facts';
import { planLayout, sufficientPages } from './layout';
import { type Note, noteNumber, noteProblems, noteString, printable, readNotes, xenNotes } from './notes';

export interface NoteReport {
  readonly owner: string;
  readonly type: number;
  /** 'ENTRY'; for owners other than Xen the type's number. */
  readonly name: string;
  /** The descriptor in words. */
  readonly value: string;
}

export interface KernelReport {
  readonly file: string;
  readonly format: KernelImage['format'];
  /** 'xz', or 'none'. */
  readonly compression: string;
  readonly fileBytes: number;
  readonly payloadBytes: number;
  readonly elfBytes: number;
  /** Linux's boot protocol and version text; bzImage only. */
  readonly protocol: string | undefined;
  readonly version: string | undefined;
  readonly notes: readonly NoteReport[];
  readonly boots: boolean;
  /** How it would be started; empty if it is not. */
  readonly how: readonly string[];
  /** Every reason why it is not started. */
  readonly problems: readonly string[];
}

const hex = (value: bigint | number): string => `0x${value.toString(16)}`;
const bytesOf = (desc: Buffer): string =>
  desc.length === 0 ? '(empty)' : `${desc.toString('hex', 0, 32)}${desc.length > 32 ? '...' : ''}`;

const STRINGS: ReadonlySet<number> = new Set([
  XEN_ELFNOTE.XEN_ELFNOTE_XEN_VERSION,
  XEN_ELFNOTE.XEN_ELFNOTE_GUEST_OS,
  XEN_ELFNOTE.XEN_ELFNOTE_GUEST_VERSION,
  XEN_ELFNOTE.XEN_ELFNOTE_LOADER,
  XEN_ELFNOTE.XEN_ELFNOTE_PAE_MODE,
  XEN_ELFNOTE.XEN_ELFNOTE_FEATURES,
  XEN_ELFNOTE.XEN_ELFNOTE_BSD_SYMTAB,
]);

function featureNames(bitmap: bigint): string {
  const names: string[] = [];
  for (let bit = 0; bit < 64; bit++) {
    if (((bitmap >> BigInt(bit)) & 1n) === 0n) continue;
    names.push([...FEATURE_NAMES].find(([, b]) => b === bit)?.[0] ?? `bit ${bit}`);
  }
  return names.join('|') || 'none';
}

/** A note's descriptor in words. */
export function describeNote(note: Note): string {
  const { desc } = note;
  if (note.owner !== 'Xen') return bytesOf(desc);
  if (STRINGS.has(note.type)) return `"${printable(noteString(note))}"`;
  switch (note.type) {
    case XEN_ELFNOTE.XEN_ELFNOTE_L1_MFN_VALID: {
      const pairs: string[] = [];
      for (let at = 0; at + 16 <= Math.min(desc.length, 64); at += 16) {
        pairs.push(`mask ${hex(desc.readBigUInt64LE(at))} value ${hex(desc.readBigUInt64LE(at + 8))}`);
      }
      return pairs.join(', ') || bytesOf(desc);
    }
    case XEN_ELFNOTE.XEN_ELFNOTE_PHYS32_RELOC:
      if (desc.length !== 12) return bytesOf(desc);
      return `align ${hex(desc.readUInt32LE(0))} from ${hex(desc.readUInt32LE(4))} to ${hex(desc.readUInt32LE(8))}`;
    case XEN_ELFNOTE.XEN_ELFNOTE_SUPPORTED_FEATURES: {
      const bitmap = noteNumber(note);
      return bitmap === undefined ? bytesOf(desc) : `${hex(bitmap)} (${featureNames(bitmap)})`;
    }
    default: {
      const value = elfNoteName(note.type).startsWith('note_') ? undefined : noteNumber(note);
      return value === undefined ? bytesOf(desc) : hex(value);
    }
  }
}

function howItBoots(facts: KernelFacts): string[] {
  const minimum = sufficientPages({ kernel: facts, nrPages: facts.endPfn });
  const plan = planLayout({ kernel: facts, nrPages: minimum });
  return [
    `64-bit PV, entry at ${hex(facts.entry)}`,
    `kernel in frames ${hex(facts.startPfn)} to ${hex(facts.endPfn)}, mapped from ${hex(facts.virtBase)}`,
    facts.hypercallPfn === undefined
      ? 'no hypercall page asked for'
      : `hypercall page in frame ${hex(facts.hypercallPfn)}`,
    plan.p2mFrames === undefined ? 'p2m list in the initial mapping' : `p2m list at ${hex(plan.p2m.va)}`,
    facts.modStartPfn ? 'ramdisk by frame number, unmapped' : 'ramdisk in the initial mapping',
    `at least ${Math.ceil(minimum / 256)} MB of memory to place it in, ramdisk not counted`,
  ];
}

/**
 * Reads and judges a kernel file. Throws UsageError only when the file cannot be read or unpacked; whatever is wrong
 * with the kernel inside is part of the report.
 */
export async function inspectKernel(file: string, options: LoadOptions = {}): Promise<KernelReport> {
  return inspectImage(await loadImage(file, options));
}

/** The same for an image that is in memory. */
export function inspectImage(image: KernelImage): KernelReport {
  const problems: string[] = [];
  let notes: NoteReport[] = [];
  let how: string[] = [];
  try {
    const elf = parseElf(image.file, image.elf, image.format === 'bzImage' ? 'payload' : 'image');
    notes = readNotes(elf).map((note) => ({
      owner: printable(note.owner),
      type: note.type,
      name: note.owner === 'Xen' ? elfNoteName(note.type) : `type ${note.type}`,
      value: describeNote(note),
    }));
    const xen = xenNotes(image.file, elf);
    problems.push(...noteProblems(image.file, xen).map((p) => p.message));
    const facts = kernelFacts(image.file, elf, xen);
    how = howItBoots(facts);
  } catch (error) {
    if (!(error instanceof UsageError)) throw error;
    if (!problems.includes(error.message)) problems.push(error.message);
  }
  return {
    file: image.file,
    format: image.format,
    compression: image.compression ?? 'none',
    fileBytes: image.fileBytes,
    payloadBytes: image.payloadBytes,
    elfBytes: image.elfBytes,
    protocol: image.bzImage?.protocol,
    version: image.bzImage && printable(image.bzImage.version),
    notes,
    boots: problems.length === 0,
    how,
    problems,
  };
}

/** The report as lines of text, without a final newline. */
export function formatReport(report: KernelReport): string {
  const lines = [report.file];
  const field = (name: string, value: string): void => {
    lines.push(`  ${name.padEnd(12)} ${value}`);
  };
  const protocol = report.protocol === undefined ? '' : `, boot protocol ${report.protocol}`;
  field('format', `${report.format}${protocol}, ${report.fileBytes} bytes`);
  if (report.version) field('version', report.version);
  if (report.compression !== 'none') {
    field('compression', `${report.compression}, ${report.payloadBytes} bytes from ${report.elfBytes}`);
  }
  if (report.notes.length > 0) {
    lines.push('  ELF notes');
    const width = Math.max(...report.notes.map((n) => n.name.length));
    for (const n of report.notes) {
      const type = n.owner === 'Xen' ? String(n.type).padStart(2) : '  ';
      lines.push(`    ${n.owner.padEnd(5)} ${type} ${n.name.padEnd(width)}  ${n.value}`);
    }
  }
  if (report.boots) {
    lines.push('  boots: yes');
    for (const line of report.how) lines.push(`    ${line}`);
  } else {
    lines.push('  boots: no');
    for (const line of report.problems) lines.push(`    ${line}`);
  }
  return lines.join('\n');
}
