/**
 * The symbols that Linux carries inside its image (CONFIG_KALLSYMS), for kernels that come without any other: Debian's
 * are stripped and their System.map is a stub.
 *
 * The tables have no header and no symbols of their own; they are found by their shape. In memory order:
 *   Linux up to 6.3:  offsets, relative base, number, names, markers, (sequence), token table, token index
 *   Linux from 6.4:   number, names, markers, token table, token index, offsets, relative base
 * each aligned to 8 bytes. A name is a length (one byte, or two if the first has bit 7 set) and that many token
 * numbers; a token is a string, and those for characters that occur in names at all are the characters themselves, so
 * the digits stand side by side and can be searched for. Every 256th name's place is in the markers. Offsets are
 * signed: negative ones count from the relative base, others are absolute (per-CPU); later kernels only add them.
 *
 * Quirks: the sequence (three bytes a symbol) is there in 6.2, 6.3 and stable releases that took it over, as Debian's
 * 6.1. Everything found is checked against everything else, and whatever does not agree means "no symbols".
 */
import { type Elf, viewOf } from './elf';
import type { KernelSymbol } from './symbols';

const TOKENS = 256;
const DIGITS = Buffer.from([...'0123456789'].map((c) => `${c}\0`).join(''), 'latin1');
/** Code of '0': the number of tokens before the digits. */
const FIRST_DIGIT = 48;
const NAMES_PER_MARKER = 256;
const MAX_TOKEN_TABLE_BYTES = 0x10000;
const SEQUENCE_BYTES = 3;
const MIN_SYMBOLS = 1000;
const MAX_SYMBOLS = 2_000_000;
/** How far in front of the token table the names may start. */
const MAX_TABLE_BYTES = 32 * 1024 * 1024;
const MAX_NAME = 512;
const KERNEL_BASE = 0xffffffff80000000n;
/** Places where the digits are looked for: other tables may contain them as well. */
const MAX_TRIES = 64;

const align8 = (at: number): number => (at + 7) & ~7;

/** The symbols of the kernel in `elf`, or undefined. Never throws. */
export function readKallsyms(elf: Elf): KernelSymbol[] | undefined {
  const { bytes } = elf;
  let from = 0;
  for (let tries = 0; tries < MAX_TRIES; tries++) {
    const digits = bytes.indexOf(DIGITS, from);
    if (digits < 0) return undefined;
    from = digits + 1;
    const tokens = tokenTable(bytes, digits);
    const symbols = tokens && symbolsAround(bytes, tokens);
    if (symbols !== undefined) return symbols;
  }
  return undefined;
}

interface Tokens {
  readonly start: number;
  /** First byte behind the token index. */
  readonly end: number;
  readonly text: readonly string[];
}

/** The token table around the digits at `digits`, verified by the index behind it. */
function tokenTable(bytes: Buffer, digits: number): Tokens | undefined {
  let start = digits;
  for (let i = 0; i < FIRST_DIGIT; i++) {
    const nul = bytes.lastIndexOf(0, start - 2);
    if (start < 2 || nul < 0 || digits - nul > MAX_TOKEN_TABLE_BYTES) return undefined;
    start = nul + 1;
  }
  const text: string[] = [];
  const offsets: number[] = [];
  let at = start;
  for (let i = 0; i < TOKENS; i++) {
    const nul = bytes.indexOf(0, at);
    if (nul < 0 || nul - start > MAX_TOKEN_TABLE_BYTES) return undefined;
    offsets.push(at - start);
    text.push(bytes.toString('latin1', at, nul));
    at = nul + 1;
  }
  // Addresses decide about alignment, but sections are aligned alike in the file.
  const index = align8(at);
  if (index + 2 * TOKENS > bytes.length) return undefined;
  for (let i = 0; i < TOKENS; i++) if (bytes.readUInt16LE(index + 2 * i) !== offsets[i]) return undefined;
  return { start, end: index + 2 * TOKENS, text };
}

function symbolsAround(bytes: Buffer, tokens: Tokens): KernelSymbol[] | undefined {
  const view = viewOf(bytes);
  const end = align8(tokens.start);
  // The number of symbols stands in front of the names, padded with zeroes; hardly anything else looks like that.
  for (let at = end - 16; at >= Math.max(0, end - MAX_TABLE_BYTES); at -= 8) {
    const count = view.getUint32(at, true);
    if (count < MIN_SYMBOLS || count > MAX_SYMBOLS || view.getUint32(at + 4, true) !== 0) continue;
    const names = nameOffsets(view, at + 8, end, count);
    if (names === undefined) continue;
    const addresses =
      addressesAt(view, align8(tokens.end), count) ?? addressesAt(view, at - 8 - align8(4 * count), count);
    return addresses && names.map((name, i) => ({ address: addresses[i], name: nameAt(bytes, name, tokens.text) }));
  }
  return undefined;
}

/** Where each of `count` names starts, if they, their markers and perhaps the sequence fill the space up to `end`. */
function nameOffsets(view: DataView, start: number, end: number, count: number): number[] | undefined {
  const offsets: number[] = [];
  let at = start;
  for (let i = 0; i < count; i++) {
    if (at + 2 > end) return undefined;
    offsets.push(at);
    const first = view.getUint8(at);
    at += first < 0x80 ? 1 + first : 2 + ((first & 0x7f) | (view.getUint8(at + 1) << 7));
  }
  const markers = align8(at);
  const markersEnd = align8(markers + 4 * Math.ceil(count / NAMES_PER_MARKER));
  if (markersEnd !== end && align8(markersEnd + SEQUENCE_BYTES * count) !== end) return undefined;
  for (let i = 0; i < count; i += NAMES_PER_MARKER) {
    if (view.getUint32(markers + (i / NAMES_PER_MARKER) * 4, true) !== offsets[i] - start) return undefined;
  }
  return offsets;
}

/** Addresses from offsets at `at` and the relative base behind them, if that base is a kernel's. */
function addressesAt(view: DataView, at: number, count: number): bigint[] | undefined {
  const baseAt = align8(at + 4 * count);
  if (at < 0 || baseAt + 8 > view.byteLength) return undefined;
  const base = view.getBigUint64(baseAt, true);
  if (base < KERNEL_BASE) return undefined;
  const offsets: number[] = [];
  let negative = 0;
  for (let i = 0; i < count; i++) {
    const offset = view.getInt32(at + 4 * i, true);
    if (offset < 0) negative++;
    offsets.push(offset);
  }
  return offsets.map((offset) => {
    if (negative === 0) return base + BigInt(offset);
    return offset < 0 ? base - 1n - BigInt(offset) : BigInt(offset);
  });
}

/** A name without its leading type letter. */
function nameAt(bytes: Buffer, at: number, tokens: readonly string[]): string {
  const first = bytes[at];
  const long = first >= 0x80;
  const length = long ? (first & 0x7f) | (bytes[at + 1] << 7) : first;
  const start = at + (long ? 2 : 1);
  let name = '';
  for (let i = start; i < start + length && name.length <= MAX_NAME; i++) name += tokens[bytes[i]];
  return name.slice(1);
}
