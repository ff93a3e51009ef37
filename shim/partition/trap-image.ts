/**
 * The trap module's ELF image: segments to load and symbols to name addresses with.
 *
 * It is our own file, made by native/trap/Makefile, so a malformed one means a broken installation: plain Errors.
 */
import { readFileSync } from 'node:fs';
import { TRAP_VA } from '../../abi/trap';
import { nativeFile } from './native-files';

export interface TrapSegment {
  /** Offset from the start of the image, whole pages. */
  readonly offset: number;
  readonly bytes: Buffer;
  /** Bytes in memory, zero beyond `bytes`. */
  readonly size: number;
  readonly executable: boolean;
  readonly writable: boolean;
}

export interface TrapImage {
  readonly entry: bigint;
  readonly segments: readonly TrapSegment[];
  /** Bytes of memory that the image takes, a multiple of 4096. */
  readonly size: number;
  /** TRAP_ABI_VERSION of its making; undefined for one that does not say. */
  readonly abiVersion?: number | undefined;
  /** Nearest symbol at or below a module address, such as "do_hypercall+0x1c". */
  symbolAt(address: bigint): string | undefined;
}

const PT_LOAD = 1;
const SHT_SYMTAB = 2;

function parseSymbols(elf: Buffer): { address: bigint; name: string }[] {
  const shoff = Number(elf.readBigUInt64LE(0x28));
  const [shentsize, shnum] = [elf.readUInt16LE(0x3a), elf.readUInt16LE(0x3c)];
  const symbols: { address: bigint; name: string }[] = [];
  for (let i = 0; i < shnum; i++) {
    const at = shoff + i * shentsize;
    if (elf.readUInt32LE(at + 4) !== SHT_SYMTAB) continue;
    const offset = Number(elf.readBigUInt64LE(at + 0x18));
    const size = Number(elf.readBigUInt64LE(at + 0x20));
    const strings = shoff + elf.readUInt32LE(at + 0x28) * shentsize;
    const names = Number(elf.readBigUInt64LE(strings + 0x18));
    for (let s = offset; s + 24 <= offset + size; s += 24) {
      const type = elf.readUInt8(s + 4) & 15;
      const from = names + elf.readUInt32LE(s);
      const name = elf.toString('latin1', from, elf.indexOf(0, from));
      if (type <= 2 && name !== '') symbols.push({ address: elf.readBigUInt64LE(s + 8), name });
    }
  }
  return symbols.sort((a, b) => (a.address < b.address ? -1 : a.address > b.address ? 1 : 0));
}

/** Parses an image. */
export function parseTrapImage(elf: Buffer): TrapImage {
  if (elf.readUInt32BE(0) !== 0x7f454c46) throw new Error('the trap module is not an ELF file');
  const base = TRAP_VA.TRAP_VA_IMAGE;
  const phoff = Number(elf.readBigUInt64LE(0x20));
  const [phentsize, phnum] = [elf.readUInt16LE(0x36), elf.readUInt16LE(0x38)];
  const segments: TrapSegment[] = [];
  for (let i = 0; i < phnum; i++) {
    const at = phoff + i * phentsize;
    if (elf.readUInt32LE(at) !== PT_LOAD) continue;
    const flags = elf.readUInt32LE(at + 4);
    const from = Number(elf.readBigUInt64LE(at + 8));
    const offset = Number(elf.readBigUInt64LE(at + 0x10) - base);
    const fileSize = Number(elf.readBigUInt64LE(at + 0x20));
    const size = Number(elf.readBigUInt64LE(at + 0x28));
    if (offset < 0 || offset % 4096 !== 0) throw new Error(`trap module segment at ${offset}: not on a page`);
    segments.push({
      offset,
      bytes: elf.subarray(from, from + fileSize),
      size: Math.ceil(size / 4096) * 4096,
      executable: (flags & 1) !== 0,
      writable: (flags & 2) !== 0,
    });
  }
  let symbols: { address: bigint; name: string }[] | undefined;
  const versionAt = (): number | undefined => {
    symbols ??= parseSymbols(elf);
    const symbol = symbols.find((s) => s.name === 'trap_abi_version');
    const offset = Number((symbol?.address ?? base) - base);
    const segment = segments.find((s) => offset >= s.offset && offset + 4 <= s.offset + s.bytes.length);
    return symbol === undefined ? undefined : segment?.bytes.readUInt32LE(offset - segment.offset);
  };
  return {
    entry: elf.readBigUInt64LE(0x18),
    segments,
    size: Math.max(...segments.map((s) => s.offset + s.size)),
    get abiVersion() {
      return versionAt();
    },
    symbolAt(address) {
      symbols ??= parseSymbols(elf);
      let best: { address: bigint; name: string } | undefined;
      for (const s of symbols) {
        if (s.address > address) break;
        best = s;
      }
      return best === undefined ? undefined : `${best.name}+0x${(address - best.address).toString(16)}`;
    },
  };
}

let cached: TrapImage | undefined;

/** The module that the build made; NativeFileMissingError when it is not there. */
export function trapImage(): TrapImage {
  cached ??= parseTrapImage(readFileSync(nativeFile('trap', 'trap.elf')));
  return cached;
}
