/**
 * ELF64 files, as far as loading a kernel needs them: header, program headers, sections, symbols. Implements the
 * System V ABI, chapters 4 and 5, and its x86-64 supplement.
 *
 * Quirks: everything comes from a file that nobody has checked, so every offset is checked against the file's length
 * before use and every count is bounded by what the file can hold. Section headers are a convenience: a file whose
 * section table is damaged still loads, without symbols. 64-bit file offsets and sizes are turned into Numbers only
 * after it is known that they lie within the file; addresses stay bigints.
 */
import { struct } from '../../../abi/layout';
import { UsageError } from '../../errors';

const SPEC = 'System V ABI: ELF-64 object file format';

export const Elf64Ehdr = struct('Elf64_Ehdr', SPEC, 64, {
  e_ident: { type: 'u8', offset: 0, count: 16 },
  e_type: { type: 'u16', offset: 16 },
  e_machine: { type: 'u16', offset: 18 },
  e_version: { type: 'u32', offset: 20 },
  e_entry: { type: 'u64', offset: 24 },
  e_phoff: { type: 'u64', offset: 32 },
  e_shoff: { type: 'u64', offset: 40 },
  e_flags: { type: 'u32', offset: 48 },
  e_ehsize: { type: 'u16', offset: 52 },
  e_phentsize: { type: 'u16', offset: 54 },
  e_phnum: { type: 'u16', offset: 56 },
  e_shentsize: { type: 'u16', offset: 58 },
  e_shnum: { type: 'u16', offset: 60 },
  e_shstrndx: { type: 'u16', offset: 62 },
});

export const Elf64Phdr = struct('Elf64_Phdr', SPEC, 56, {
  p_type: { type: 'u32', offset: 0 },
  p_flags: { type: 'u32', offset: 4 },
  p_offset: { type: 'u64', offset: 8 },
  p_vaddr: { type: 'u64', offset: 16 },
  p_paddr: { type: 'u64', offset: 24 },
  p_filesz: { type: 'u64', offset: 32 },
  p_memsz: { type: 'u64', offset: 40 },
  p_align: { type: 'u64', offset: 48 },
});

export const Elf64Shdr = struct('Elf64_Shdr', SPEC, 64, {
  sh_name: { type: 'u32', offset: 0 },
  sh_type: { type: 'u32', offset: 4 },
  sh_flags: { type: 'u64', offset: 8 },
  sh_addr: { type: 'u64', offset: 16 },
  sh_offset: { type: 'u64', offset: 24 },
  sh_size: { type: 'u64', offset: 32 },
  sh_link: { type: 'u32', offset: 40 },
  sh_info: { type: 'u32', offset: 44 },
  sh_addralign: { type: 'u64', offset: 48 },
  sh_entsize: { type: 'u64', offset: 56 },
});

export const Elf64Sym = struct('Elf64_Sym', SPEC, 24, {
  st_name: { type: 'u32', offset: 0 },
  st_info: { type: 'u8', offset: 4 },
  st_other: { type: 'u8', offset: 5 },
  st_shndx: { type: 'u16', offset: 6 },
  st_value: { type: 'u64', offset: 8 },
  st_size: { type: 'u64', offset: 16 },
});

export const Elf64Nhdr = struct('Elf64_Nhdr', SPEC, 12, {
  n_namesz: { type: 'u32', offset: 0 },
  n_descsz: { type: 'u32', offset: 4 },
  n_type: { type: 'u32', offset: 8 },
});

export const PT_LOAD = 1;
export const PT_NOTE = 4;
export const PF_X = 1;
export const SHT_SYMTAB = 2;
export const SHT_NOTE = 7;
export const SHF_EXECINSTR = 4n;
const ELFCLASS32 = 1;
const ELFCLASS64 = 2;
const ELFDATA2LSB = 1;
const ET_EXEC = 2;
const ET_DYN = 3;
const EM_X86_64 = 62;
const MACHINES: Readonly<Record<number, string>> = {
  3: '32-bit x86',
  8: 'MIPS',
  20: '32-bit PowerPC',
  21: 'PowerPC',
  22: 'S/390',
  40: '32-bit ARM',
  50: 'Itanium',
  183: 'ARM64',
  243: 'RISC-V',
  258: 'LoongArch',
};
const TYPES: Readonly<Record<number, string>> = { 0: 'no type', 1: 'a relocatable object', 4: 'a core dump' };

/** A program header whose file part lies within the file. */
export interface ElfSegment {
  readonly type: number;
  readonly flags: number;
  readonly fileOffset: number;
  readonly fileSize: number;
  readonly vaddr: bigint;
  readonly paddr: bigint;
  readonly memSize: bigint;
}

/** A section header whose contents lie within the file. */
export interface ElfSection {
  readonly name: string;
  readonly type: number;
  readonly flags: bigint;
  readonly addr: bigint;
  readonly fileOffset: number;
  readonly fileSize: number;
  readonly link: number;
}

export interface Elf {
  readonly bytes: Buffer;
  readonly entry: bigint;
  readonly segments: readonly ElfSegment[];
  /** Empty when the file has none, or none that can be trusted. Indexes are those of the file. */
  readonly sections: readonly (ElfSection | undefined)[];
}

export function isElf(bytes: Buffer): boolean {
  return bytes.length >= 4 && bytes.readUInt32BE(0) === 0x7f454c46;
}

export function viewOf(bytes: Uint8Array): DataView {
  return new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
}

const hex = (value: bigint | number): string => `0x${value.toString(16)}`;

/**
 * Reads the headers of an x86-64 ELF executable. `what` names the image in errors ("image", "payload").
 * Throws UsageError for anything that is not one, or whose headers point outside the file.
 */
export function parseElf(file: string, bytes: Buffer, what = 'image'): Elf {
  const truncated = (found: string, wanted: string): UsageError =>
    new UsageError(`truncated ELF ${what}`, { file, found, wanted });
  if (!isElf(bytes)) {
    throw new UsageError('not a kernel image', { file, found: `${what} without ELF magic`, wanted: 'an x86-64 ELF' });
  }
  if (bytes.length < Elf64Ehdr.size) {
    throw truncated(`${bytes.length} bytes`, `at least the ${Elf64Ehdr.size} bytes of an ELF header`);
  }
  const view = viewOf(bytes);
  const h = Elf64Ehdr.get;
  const elfClass = h.e_ident(view, 0, 4);
  const machine = h.e_machine(view, 0);
  if (elfClass !== ELFCLASS64 || h.e_ident(view, 0, 5) !== ELFDATA2LSB || machine !== EM_X86_64) {
    const bits = elfClass === ELFCLASS32 ? '32-bit ' : elfClass === ELFCLASS64 ? '64-bit ' : '';
    const order = h.e_ident(view, 0, 5) === ELFDATA2LSB ? '' : 'big-endian ';
    throw new UsageError(elfClass === ELFCLASS32 ? 'a 32-bit kernel' : 'a kernel for another machine', {
      file,
      found: `a ${bits}${order}ELF for ${machine === EM_X86_64 ? 'x86-64' : (MACHINES[machine] ?? `machine ${machine}`)}`,
      wanted: 'a 64-bit kernel for x86-64',
    });
  }
  const type = h.e_type(view, 0);
  if (type !== ET_EXEC && type !== ET_DYN) {
    throw new UsageError('not an executable ELF', {
      file,
      found: TYPES[type] ?? `ELF type ${type}`,
      wanted: 'an executable (a vmlinux)',
    });
  }
  return { bytes, entry: h.e_entry(view, 0), segments: segments(view, truncated), sections: sections(bytes, view) };
}

function segments(view: DataView, truncated: (found: string, wanted: string) => UsageError): ElfSegment[] {
  const h = Elf64Ehdr.get;
  const p = Elf64Phdr.get;
  const at = h.e_phoff(view, 0);
  const entry = h.e_phentsize(view, 0);
  const count = h.e_phnum(view, 0);
  if (count === 0) return [];
  if (entry < Elf64Phdr.size) {
    throw truncated(`program headers of ${entry} bytes`, `program headers of ${Elf64Phdr.size} bytes`);
  }
  const length = BigInt(view.byteLength);
  if (at + BigInt(entry * count) > length) {
    throw truncated(`${view.byteLength} bytes`, `${hex(at + BigInt(entry * count))}, the end of the program headers`);
  }
  const found: ElfSegment[] = [];
  for (let i = 0; i < count; i++) {
    const base = Number(at) + i * entry;
    const type = p.p_type(view, base);
    if (type !== PT_LOAD && type !== PT_NOTE) continue;
    const offset = p.p_offset(view, base);
    const size = p.p_filesz(view, base);
    if (size > 0n && offset + size > length) {
      throw truncated(`${view.byteLength} bytes`, `${offset + size}, the end of program segment ${i}`);
    }
    found.push({
      type,
      flags: p.p_flags(view, base),
      fileOffset: size > 0n ? Number(offset) : 0,
      fileSize: Number(size),
      vaddr: p.p_vaddr(view, base),
      paddr: p.p_paddr(view, base),
      memSize: p.p_memsz(view, base),
    });
  }
  return found;
}

function sections(bytes: Buffer, view: DataView): (ElfSection | undefined)[] {
  const h = Elf64Ehdr.get;
  const s = Elf64Shdr.get;
  const at = h.e_shoff(view, 0);
  const entry = h.e_shentsize(view, 0);
  const count = h.e_shnum(view, 0);
  const length = BigInt(view.byteLength);
  if (at === 0n || count === 0 || entry < Elf64Shdr.size || at + BigInt(entry * count) > length) return [];
  const raw: ((Omit<ElfSection, 'name'> & { nameAt: number }) | undefined)[] = [];
  for (let i = 0; i < count; i++) {
    const base = Number(at) + i * entry;
    const offset = s.sh_offset(view, base);
    const size = s.sh_size(view, base);
    raw.push(
      offset + size > length
        ? undefined
        : {
            nameAt: s.sh_name(view, base),
            type: s.sh_type(view, base),
            flags: s.sh_flags(view, base),
            addr: s.sh_addr(view, base),
            fileOffset: Number(offset),
            fileSize: Number(size),
            link: s.sh_link(view, base),
          },
    );
  }
  const strings = raw[h.e_shstrndx(view, 0)];
  return raw.map((r) => {
    if (r === undefined) return undefined;
    const { nameAt, ...rest } = r;
    return { name: strings ? stringAt(bytes, strings, nameAt) : '', ...rest };
  });
}

/** Virtual addresses, from `start` up to and without `end`. */
export interface AddressRange {
  readonly start: bigint;
  readonly end: bigint;
}

/** With more executable sections than this, a file is not one that a linker has made of a kernel. */
const MAX_CODE_SECTIONS = 64;

/**
 * The virtual addresses of the code in a segment: its executable sections; without any, all of it if it is executable.
 * Linux puts what it frees after booting (.init.text to .bss, a fifth of a small guest's memory) into one segment that
 * is executable for the sake of few sections. Never outside the segment, whatever the section headers say.
 */
export function codeIn(elf: Elf, segment: ElfSegment): AddressRange[] {
  if (segment.type !== PT_LOAD || (segment.flags & PF_X) === 0 || segment.memSize === 0n) return [];
  const whole = { start: segment.vaddr, end: segment.vaddr + segment.memSize };
  const code = elf.sections.filter((s) => s !== undefined && (s.flags & SHF_EXECINSTR) !== 0n) as ElfSection[];
  if (code.length > MAX_CODE_SECTIONS) return [whole];
  const parts = code.flatMap(({ addr, fileSize }) => {
    const part = { start: addr, end: addr + BigInt(fileSize) };
    if (part.start < whole.start) part.start = whole.start;
    if (part.end > whole.end) part.end = whole.end;
    return part.start < part.end ? [part] : [];
  });
  return parts.length === 0 ? [whole] : parts;
}

/** The virtual addresses of all code. */
export const codeRanges = (elf: Elf): AddressRange[] => elf.segments.flatMap((segment) => codeIn(elf, segment));

/** A NUL-terminated string of a string table, at most 512 bytes of it; '' if it lies outside. */
export function stringAt(bytes: Buffer, table: { fileOffset: number; fileSize: number }, at: number): string {
  if (at >= table.fileSize) return '';
  const start = table.fileOffset + at;
  const limit = Math.min(table.fileOffset + table.fileSize, start + 512);
  const end = bytes.subarray(start, limit).indexOf(0);
  return bytes.toString('latin1', start, end < 0 ? limit : start + end);
}
