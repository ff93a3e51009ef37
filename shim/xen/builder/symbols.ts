/**
 * Names for addresses in a kernel, for crash reports. From the first of these that has any: a System.map beside the
 * kernel, the ELF's own symbol table, the kallsyms tables that Linux carries inside its image.
 *
 * Quirks: Debian puts a stub of one line in place of System.map; a file without usable lines counts as none. Nothing is
 * read before the first question, and the kernel image is not kept in memory for it: it is read again.
 */
import { readFile, stat } from 'node:fs/promises';
import { basename, dirname, join } from 'node:path';
import { type Elf, Elf64Sym, parseElf, SHT_SYMTAB, stringAt, viewOf } from './elf';
import { type LoadOptions, loadImage } from './image';
import { readKallsyms } from './kallsyms';

/** A System.map is some 10 MB at most. */
const MAX_MAP_BYTES = 64 * 1024 * 1024;
const MAX_SYMBOLS = 2_000_000;
/** Fewer lines than this are a stub, not a kernel's symbols. */
const MIN_MAP_SYMBOLS = 16;
/** An address further behind a symbol than this is not part of it. */
const MAX_OFFSET = 0x100000n;
const STT_SECTION = 3;
const STT_FILE = 4;

export interface NamedAddress {
  readonly name: string;
  /** Bytes behind the symbol. */
  readonly offset: number;
}

export interface KernelSymbol {
  readonly address: bigint;
  readonly name: string;
}

/** Symbols sorted by address. */
export class SymbolTable {
  private readonly addresses: BigUint64Array;
  private readonly names: string[];

  constructor(
    symbols: readonly KernelSymbol[],
    /** Where they come from, in words. */
    readonly source: string,
  ) {
    const sorted = [...symbols].sort((a, b) => (a.address < b.address ? -1 : a.address > b.address ? 1 : 0));
    this.addresses = BigUint64Array.from(sorted, (s) => s.address);
    this.names = sorted.map((s) => s.name);
  }

  get size(): number {
    return this.names.length;
  }

  /** The nearest symbol at or below `address`, the first of those that share an address. */
  lookup(address: bigint): NamedAddress | undefined {
    let low = 0;
    let high = this.addresses.length;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (this.addresses[middle] <= address) low = middle + 1;
      else high = middle;
    }
    if (low === 0) return undefined;
    const found = this.addresses[low - 1];
    const offset = address - found;
    if (offset > MAX_OFFSET) return undefined;
    let first = low - 1;
    while (first > 0 && this.addresses[first - 1] === found) first--;
    return { name: this.names[first], offset: Number(offset) };
  }

  /** 'name+0x1f', or undefined. */
  format(address: bigint): string | undefined {
    const found = this.lookup(address);
    if (found === undefined) return undefined;
    return found.offset === 0 ? found.name : `${found.name}+0x${found.offset.toString(16)}`;
  }
}

/** Parses a System.map ("ffffffff81000000 T _text"); undefined if it has next to no symbols. */
export function parseSystemMap(text: string): KernelSymbol[] | undefined {
  const symbols: KernelSymbol[] = [];
  for (const match of text.matchAll(/^([0-9a-f]{8,16}) ([A-Za-z]) (\S{1,512})(?:[ \t].*)?$/gm)) {
    if (symbols.length >= MAX_SYMBOLS) break;
    // Per-CPU symbols are offsets from 0, debugging ones repeat others.
    if (match[2] === 'a' || match[2] === 'A') continue;
    symbols.push({ address: BigInt(`0x${match[1]}`), name: match[3] });
  }
  return symbols.length < MIN_MAP_SYMBOLS ? undefined : symbols;
}

/** The functions and objects of an ELF's symbol table; undefined if it is stripped. */
export function elfSymbols(elf: Elf): KernelSymbol[] | undefined {
  const table = elf.sections.find((s) => s?.type === SHT_SYMTAB);
  const strings = table && elf.sections[table.link];
  if (table === undefined || strings === undefined) return undefined;
  const view = viewOf(elf.bytes);
  const count = Math.min(MAX_SYMBOLS, Math.floor(table.fileSize / Elf64Sym.size));
  const symbols: KernelSymbol[] = [];
  for (let i = 0; i < count; i++) {
    const base = table.fileOffset + i * Elf64Sym.size;
    const type = Elf64Sym.get.st_info(view, base) & 0xf;
    const address = Elf64Sym.get.st_value(view, base);
    if (type === STT_SECTION || type === STT_FILE || address === 0n || Elf64Sym.get.st_shndx(view, base) === 0)
      continue;
    const name = stringAt(elf.bytes, strings, Elf64Sym.get.st_name(view, base));
    if (name !== '') symbols.push({ address, name });
  }
  return symbols.length === 0 ? undefined : symbols;
}

/** Where a kernel's System.map would be: vmlinuz-6.1 -> System.map-6.1, and plain System.map. */
export function systemMapCandidates(kernelFile: string): string[] {
  const directory = dirname(kernelFile);
  const version = /^(?:vmlinuz|vmlinux|bzImage|kernel)-(.+)$/.exec(basename(kernelFile))?.[1];
  const names = version === undefined ? ['System.map'] : [`System.map-${version}`];
  return names.map((name) => join(directory, name));
}

/** Symbols of one kernel, read when first asked for. */
export class SymbolSource {
  private table: Promise<SymbolTable | undefined> | undefined;

  /** `readElf` reads the kernel's ELF again; it is called at most once and may fail. */
  constructor(
    private readonly kernelFile: string,
    private readonly readElf: () => Promise<Elf>,
  ) {}

  /** The table, or undefined if the kernel's symbols are nowhere to be found. Never rejects. */
  load(): Promise<SymbolTable | undefined> {
    this.table ??= this.find().catch(() => undefined);
    return this.table;
  }

  private async find(): Promise<SymbolTable | undefined> {
    for (const path of systemMapCandidates(this.kernelFile)) {
      const size = await stat(path).then(
        (s) => (s.isFile() ? s.size : 0),
        () => 0,
      );
      if (size === 0 || size > MAX_MAP_BYTES) continue;
      const symbols = parseSystemMap(await readFile(path, 'latin1').catch(() => ''));
      if (symbols !== undefined) return new SymbolTable(symbols, path);
    }
    const elf = await this.readElf();
    const own = elfSymbols(elf);
    if (own !== undefined) return new SymbolTable(own, "the kernel's symbol table");
    const kallsyms = readKallsyms(elf);
    return kallsyms && new SymbolTable(kallsyms, "the kernel's kallsyms");
  }
}

/** The symbols of a kernel file, which is read again when they are first asked for. */
export function kernelSymbols(file: string, options: LoadOptions = {}): SymbolSource {
  return new SymbolSource(file, async () => parseElf(file, (await loadImage(file, options)).elf));
}
