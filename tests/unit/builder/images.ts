/** Makes small ELF and bzImage files for the builder's tests. */
import { XEN_ELFNOTE as N } from '../../../abi/xen/elf-note';
import { Elf64Ehdr, Elf64Nhdr, Elf64Phdr, PT_LOAD, PT_NOTE } from '../../../shim/xen/builder/elf';

export interface SegmentSpec {
  readonly paddr: bigint;
  readonly vaddr?: bigint;
  readonly bytes: Buffer;
  readonly memSize?: bigint;
  /** Overrides what the header says. */
  readonly fileOffset?: bigint;
  readonly fileSize?: bigint;
}

export interface NoteSpec {
  readonly type: number;
  readonly desc: Buffer;
  readonly owner?: string;
}

export interface ElfSpec {
  readonly segments: readonly SegmentSpec[];
  readonly notes?: readonly NoteSpec[];
  readonly entry?: bigint;
  readonly elfClass?: number;
  readonly data?: number;
  readonly machine?: number;
  readonly type?: number;
}

export const u32 = (value: number): Buffer => {
  const b = Buffer.alloc(4);
  b.writeUInt32LE(value);
  return b;
};
export const u64 = (value: bigint): Buffer => {
  const b = Buffer.alloc(8);
  b.writeBigUInt64LE(BigInt.asUintN(64, value));
  return b;
};
export const text = (value: string): Buffer => Buffer.from(`${value}\0`, 'latin1');
export const viewOf = (b: Buffer): DataView => new DataView(b.buffer, b.byteOffset, b.byteLength);

const pad4 = (b: Buffer): Buffer => Buffer.concat([b, Buffer.alloc((4 - (b.length % 4)) % 4)]);

export function makeNote({ type, desc, owner = 'Xen' }: NoteSpec): Buffer {
  const name = text(owner);
  const header = Buffer.alloc(Elf64Nhdr.size);
  Elf64Nhdr.set.n_namesz(viewOf(header), 0, name.length);
  Elf64Nhdr.set.n_descsz(viewOf(header), 0, desc.length);
  Elf64Nhdr.set.n_type(viewOf(header), 0, type);
  return Buffer.concat([header, pad4(name), pad4(desc)]);
}

/** Header, program headers, then the contents one after the other. */
export function makeElf(spec: ElfSpec): Buffer {
  const notes = Buffer.concat((spec.notes ?? []).map(makeNote));
  const count = spec.segments.length + (spec.notes === undefined ? 0 : 1);
  const header = Buffer.alloc(Elf64Ehdr.size + count * Elf64Phdr.size);
  const view = viewOf(header);
  const e = Elf64Ehdr.set;
  header.write('\x7fELF', 0, 'latin1');
  e.e_ident(view, 0, spec.elfClass ?? 2, 4);
  e.e_ident(view, 0, spec.data ?? 1, 5);
  e.e_ident(view, 0, 1, 6);
  e.e_type(view, 0, spec.type ?? 2);
  e.e_machine(view, 0, spec.machine ?? 62);
  e.e_version(view, 0, 1);
  e.e_entry(view, 0, spec.entry ?? 0n);
  e.e_phoff(view, 0, BigInt(Elf64Ehdr.size));
  e.e_ehsize(view, 0, Elf64Ehdr.size);
  e.e_phentsize(view, 0, Elf64Phdr.size);
  e.e_phnum(view, 0, count);
  const parts: Buffer[] = [header];
  let offset = header.length;
  let at = Elf64Ehdr.size;
  const p = Elf64Phdr.set;
  for (const s of spec.segments) {
    p.p_type(view, at, PT_LOAD);
    p.p_flags(view, at, 7);
    p.p_offset(view, at, s.fileOffset ?? BigInt(offset));
    p.p_vaddr(view, at, s.vaddr ?? s.paddr);
    p.p_paddr(view, at, s.paddr);
    p.p_filesz(view, at, s.fileSize ?? BigInt(s.bytes.length));
    p.p_memsz(view, at, s.memSize ?? BigInt(s.bytes.length));
    parts.push(s.bytes);
    offset += s.bytes.length;
    at += Elf64Phdr.size;
  }
  if (spec.notes !== undefined) {
    p.p_type(view, at, PT_NOTE);
    p.p_offset(view, at, BigInt(offset));
    p.p_filesz(view, at, BigInt(notes.length));
    p.p_memsz(view, at, BigInt(notes.length));
    parts.push(notes);
  }
  return Buffer.concat(parts);
}

/** The notes of a current Linux (the values of Debian's 6.1.0-50). */
export const LINUX_NOTES: readonly NoteSpec[] = [
  { type: N.XEN_ELFNOTE_GUEST_OS, desc: text('linux') },
  { type: N.XEN_ELFNOTE_GUEST_VERSION, desc: text('2.6') },
  { type: N.XEN_ELFNOTE_XEN_VERSION, desc: text('xen-3.0') },
  { type: N.XEN_ELFNOTE_VIRT_BASE, desc: u64(0xffffffff80000000n) },
  { type: N.XEN_ELFNOTE_INIT_P2M, desc: u64(0x8000000000n) },
  { type: N.XEN_ELFNOTE_ENTRY, desc: u64(0xffffffff81000040n) },
  { type: N.XEN_ELFNOTE_FEATURES, desc: text('!writable_page_tables|pae_pgdir_above_4gb') },
  { type: N.XEN_ELFNOTE_SUPPORTED_FEATURES, desc: u32(0x8801) },
  { type: N.XEN_ELFNOTE_PAE_MODE, desc: text('yes') },
  { type: N.XEN_ELFNOTE_LOADER, desc: text('generic') },
  { type: N.XEN_ELFNOTE_L1_MFN_VALID, desc: Buffer.concat([u64(1n), u64(1n)]) },
  { type: N.XEN_ELFNOTE_SUSPEND_CANCEL, desc: u32(1) },
  { type: N.XEN_ELFNOTE_MOD_START_PFN, desc: u32(1) },
  { type: N.XEN_ELFNOTE_HV_START_LOW, desc: u64(0xffff800000000000n) },
  { type: N.XEN_ELFNOTE_PADDR_OFFSET, desc: u64(0n) },
  { type: N.XEN_ELFNOTE_PHYS32_ENTRY, desc: u64(0x1000850n) },
];

/** LINUX_NOTES without some, and with others added. */
export function notes(without: readonly number[], ...more: readonly NoteSpec[]): NoteSpec[] {
  const gone = new Set([...without, ...more.map((n) => n.type)]);
  return [...LINUX_NOTES.filter((n) => !gone.has(n.type)), ...more];
}

/** Bytes that look like code with calls in it, so that the x86 filter of xz has something to do. */
export function codeLike(length: number): Buffer {
  const b = Buffer.alloc(length);
  let seed = 12345;
  for (let i = 0; i < length; i++) {
    seed = (Math.imul(seed, 1103515245) + 12345) >>> 0;
    b[i] = (seed >>> 16) & 0x3f;
  }
  for (let i = 0; i + 5 <= length; i += 64) {
    b[i] = 0xe8;
    b.writeInt32LE(0x4000 - i, i + 1);
  }
  return b;
}

/** A small kernel with Linux's notes at Linux's addresses. Its compressed forms are in tests/fixtures/builder. */
export function tinyLinux(): Buffer {
  return makeElf({
    segments: [
      { paddr: 0x1000000n, vaddr: 0xffffffff81000000n, bytes: codeLike(24000) },
      { paddr: 0x1008000n, vaddr: 0n, bytes: Buffer.from('per-cpu data'), memSize: 0x3000n },
    ],
    notes: LINUX_NOTES,
    entry: 0x1000000n,
  });
}

export interface BzImageSpec {
  readonly protocol?: number;
  readonly setupSects?: number;
  readonly payloadOffset?: number;
  /** Overrides what the header says. */
  readonly payloadLength?: number;
  readonly version?: string;
}

export function makeBzImage(payload: Buffer, spec: BzImageSpec = {}): Buffer {
  const sects = spec.setupSects ?? 3;
  const offset = spec.payloadOffset ?? 0x2cc;
  const setup = Buffer.alloc(((sects || 4) + 1) * 512);
  setup[0x1f1] = sects;
  setup.writeUInt16LE(0xaa55, 0x1fe);
  setup.write('HdrS', 0x202, 'latin1');
  setup.writeUInt16LE(spec.protocol ?? 0x20f, 0x206);
  if (spec.version !== undefined) {
    setup.writeUInt16LE(0x400 - 0x200, 0x20e);
    setup.write(`${spec.version}\0`, 0x400, 'latin1');
  }
  setup.writeUInt32LE(offset, 0x248);
  setup.writeUInt32LE(spec.payloadLength ?? payload.length, 0x24c);
  return Buffer.concat([setup, Buffer.alloc(offset), payload, Buffer.from('a signature behind it')]);
}
