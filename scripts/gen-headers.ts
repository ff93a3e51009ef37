/**
 * Generates the C headers that native/ includes, from the declarations in abi/.
 *
 *   native/include/abi/xen.h, hyperv.h, trap.h   structs and constants for C, with every size and offset asserted
 *   native/include/abi/asm-offsets.h             the same offsets and constants for assembler
 *
 * The files are build outputs (git-ignored). A file is written only when its contents change, so that `make` does not
 * rebuild everything. The whole module `abi/<room>/index` is read: what it exports is what C sees.
 *
 * Quirks: overlapping fields become anonymous unions of anonymous structs, so C reaches them under the names used in
 * the declaration; a struct whose fields are not naturally aligned is packed as a whole. Constants above 0x7fffffff get
 * ULL in the C headers and no suffix in asm-offsets.h, so one translation unit must not include both kinds.
 */
import { existsSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { type Constants, DECL, elementSize, type FieldDecl, type Fields, type Struct } from '../abi/layout';

type AnyStruct = Struct<Fields>;

/** What one room of abi/ (xen, hyperv, trap) declares. */
export interface Declarations {
  readonly structs: readonly AnyStruct[];
  readonly constants: readonly Constants[];
}

const SCALAR_C: Readonly<Record<string, string>> = {
  u8: 'uint8_t',
  u16: 'uint16_t',
  u32: 'uint32_t',
  u64: 'uint64_t',
  s8: 'int8_t',
  s16: 'int16_t',
  s32: 'int32_t',
  s64: 'int64_t',
};

function isStruct(value: unknown): value is AnyStruct {
  return typeof value === 'object' && value !== null && (value as { kind?: unknown }).kind === 'struct';
}

/** Collects every declaration that a module exports; a struct that is only nested in another one is found too. */
export function collect(module: Readonly<Record<string, unknown>>): Declarations {
  const structs = new Set<AnyStruct>();
  const groups = new Set<Constants>();
  const add = (s: AnyStruct): void => {
    if (structs.has(s)) return;
    for (const f of Object.values(s.fields)) if (typeof f.type !== 'string') add(f.type);
    structs.add(s);
  };
  for (const value of Object.values(module)) {
    if (isStruct(value)) add(value);
    else if (typeof value === 'object' && value !== null && DECL in value) {
      groups.add((value as { [DECL]: Constants })[DECL]);
    }
  }
  return { structs: [...structs], constants: [...groups] };
}

interface Placed {
  readonly name: string;
  readonly decl: FieldDecl;
  readonly start: number;
  readonly end: number;
}

/** Natural alignment in C of a field; 1 for a nested struct that has to be packed. */
function alignment(type: FieldDecl['type']): number {
  if (typeof type === 'string') return elementSize(type);
  return needsPacking(type) ? 1 : structAlignment(type);
}

function structAlignment(s: AnyStruct): number {
  return Object.values(s.fields).reduce((max, f) => Math.max(max, alignment(f.type)), 1);
}

function needsPacking(s: AnyStruct): boolean {
  const fields = Object.values(s.fields);
  return s.size % structAlignment(s) !== 0 || fields.some((f) => f.offset % alignment(f.type) !== 0);
}

function placed(s: AnyStruct): Placed[] {
  return Object.entries(s.fields)
    .map(([name, decl]) => ({
      name,
      decl,
      start: decl.offset,
      end: decl.offset + elementSize(decl.type) * (decl.count ?? 1),
    }))
    .sort((a, b) => a.start - b.start);
}

/** Groups fields, sorted by offset, into runs that overlap. */
function clusters(fields: readonly Placed[]): Placed[][] {
  const out: Placed[][] = [];
  let end = -1;
  for (const f of fields) {
    const last = out[out.length - 1];
    if (last !== undefined && f.start < end) last.push(f);
    else out.push([f]);
    end = Math.max(end, f.end);
  }
  return out;
}

function member(f: Placed): string {
  const { type, count, doc } = f.decl;
  const c = typeof type === 'string' ? SCALAR_C[type] : `struct ${type.name}`;
  const array = count === undefined ? '' : count === 0 ? '[]' : `[${count}]`;
  return `${c} ${f.name}${array};${doc === undefined ? '' : ` /* ${doc.replace(/\*\//g, '* /')} */`}`;
}

/** The C definition of one struct, followed by the assertions that it has the declared layout. */
export function structToC(s: AnyStruct): string {
  const lines: string[] = [];
  let pads = 0;
  const pad = (indent: string, bytes: number): void => {
    if (bytes === 0) return;
    while (`_pad${pads}` in s.fields) pads++;
    lines.push(`${indent}uint8_t _pad${pads++}[${bytes}];`);
  };
  let at = 0;
  for (const cluster of clusters(placed(s))) {
    const start = cluster[0]?.start ?? 0;
    const end = Math.max(...cluster.map((f) => f.end));
    pad('  ', start - at);
    at = end;
    if (cluster.length === 1) {
      lines.push(`  ${member(cluster[0] as Placed)}`);
      continue;
    }
    // First fit: each lane is one alternative of the union.
    const lanes: Placed[][] = [];
    for (const f of cluster) {
      const lane = lanes.find((l) => (l[l.length - 1] as Placed).end <= f.start);
      if (lane === undefined) lanes.push([f]);
      else lane.push(f);
    }
    const align = Math.max(...cluster.map((f) => alignment(f.decl.type)));
    const packed = start % align !== 0 || (end - start) % align !== 0 ? ' __attribute__((packed))' : '';
    lines.push('  union {');
    for (const lane of lanes) {
      if (lane.length === 1 && lane[0]?.start === start) {
        lines.push(`    ${member(lane[0])}`);
        continue;
      }
      lines.push('    struct {');
      let pos = start;
      for (const f of lane) {
        pad('      ', f.start - pos);
        lines.push(`      ${member(f)}`);
        pos = f.end;
      }
      const laneAlign = Math.max(...lane.map((f) => alignment(f.decl.type)));
      const inner = packed !== '' || (pos - start) % laneAlign !== 0 ? ' __attribute__((packed))' : '';
      lines.push(`    }${inner};`);
    }
    lines.push(`  }${packed};`);
  }
  pad('  ', s.size - at);
  const attribute = needsPacking(s) ? ' __attribute__((packed))' : '';
  const asserts = [`_Static_assert(sizeof(struct ${s.name}) == ${s.size}, "size of ${s.name}");`];
  for (const [name, f] of Object.entries(s.fields)) {
    asserts.push(
      `_Static_assert(__builtin_offsetof(struct ${s.name}, ${name}) == ${f.offset}, "offset of ${s.name}.${name}");`,
    );
  }
  return [`/* ${s.spec} */`, `struct ${s.name} {`, ...lines, `}${attribute};`, ...asserts].join('\n');
}

function hex(value: bigint): string {
  return value < 10n ? value.toString() : `0x${value.toString(16)}`;
}

/** A constant as a C (`suffix` true) or assembler (`suffix` false) expression. */
export function constantToC(value: number | bigint, suffix: boolean): string {
  if (typeof value === 'number' && !Number.isSafeInteger(value)) throw new RangeError(`${value} is no exact integer`);
  const v = BigInt(value);
  if (v < 0n) return `(-${hex(-v)})`;
  return v > 0x7fff_ffffn && suffix ? `${hex(v)}ULL` : hex(v);
}

/** Keeps what has been emitted so far, so that a name declared twice is either the same thing or an error. */
class Names {
  private readonly seen = new Map<string, number | bigint | AnyStruct>();

  /** True if the name is new; RangeError if it already means something else. */
  add(name: string, value: number | bigint | AnyStruct): boolean {
    const old = this.seen.get(name);
    if (old === undefined) {
      this.seen.set(name, value);
      return true;
    }
    const same = typeof value === 'object' || typeof old === 'object' ? old === value : BigInt(old) === BigInt(value);
    if (!same) throw new RangeError(`${name} is declared twice with different meanings`);
    return false;
  }
}

const BANNER = '/* Generated by scripts/gen-headers.ts from abi/. Do not edit. */';

/** The text of one C header. `names` carries over from the headers that it includes. */
export function headerText(
  decls: Declarations,
  includes: readonly string[],
  constantNames: Names = new Names(),
  structNames: Names = new Names(),
): string {
  const out: string[] = [BANNER, '#pragma once', '', '#include <stdint.h>'];
  for (const i of includes) out.push(`#include "${i}"`);
  for (const group of decls.constants) {
    const lines: string[] = [];
    for (const [name, value] of Object.entries(group.values)) {
      if (constantNames.add(name, value)) lines.push(`#define ${name} ${constantToC(value, true)}`);
    }
    if (lines.length > 0) out.push('', `/* ${group.spec} */`, ...lines);
  }
  for (const s of decls.structs) if (structNames.add(s.name, s)) out.push('', structToC(s));
  return `${out.join('\n')}\n`;
}

/** The text of asm-offsets.h: `NAME_field` and `SIZEOF_NAME` for every struct, and every constant. */
export function asmOffsetsText(rooms: readonly Declarations[]): string {
  const out: string[] = [BANNER, '#pragma once'];
  const names = new Names();
  const define = (name: string, value: number | bigint): void => {
    if (names.add(name, value)) out.push(`#define ${name} ${constantToC(value, false)}`);
  };
  for (const room of rooms) {
    for (const group of room.constants) {
      out.push('', `/* ${group.spec} */`);
      for (const [name, value] of Object.entries(group.values)) define(name, value);
    }
  }
  for (const room of rooms) {
    for (const s of room.structs) {
      out.push('', `/* struct ${s.name} */`);
      define(`SIZEOF_${s.name}`, s.size);
      for (const [name, f] of Object.entries(s.fields)) define(`${s.name}_${name}`, f.offset);
    }
  }
  return `${out.join('\n')}\n`;
}

/** Loads `abi/<room>`; a room that does not exist declares nothing. */
function load(room: string): Declarations {
  const path = join(__dirname, '..', 'abi', room);
  if (!['index.js', 'index.ts'].some((f) => existsSync(join(path, f)))) return { structs: [], constants: [] };
  return collect(require(path) as Record<string, unknown>);
}

/** All generated files, by name. */
export function generate(rooms: Readonly<Record<'xen' | 'hyperv' | 'trap', Declarations>>): Map<string, string> {
  const constantNames = new Names();
  const structNames = new Names();
  const files = new Map<string, string>();
  files.set('xen.h', headerText(rooms.xen, [], constantNames, structNames));
  files.set('hyperv.h', headerText(rooms.hyperv, [], constantNames, structNames));
  files.set('trap.h', headerText(rooms.trap, ['xen.h', 'hyperv.h'], constantNames, structNames));
  // Hyper-V structs are left out: assembler has no use for them.
  files.set('asm-offsets.h', asmOffsetsText([rooms.xen, { ...rooms.hyperv, structs: [] }, rooms.trap]));
  return files;
}

/** The checkout: the nearest directory above that has package.json (dist/ has none). */
function root(): string {
  let dir = __dirname;
  while (!existsSync(join(dir, 'package.json'))) {
    const up = dirname(dir);
    if (up === dir) throw new Error(`no package.json above ${__dirname}`);
    dir = up;
  }
  return dir;
}

function main(): void {
  const dir = join(root(), 'native', 'include', 'abi');
  mkdirSync(dir, { recursive: true });
  const files = generate({ xen: load('xen'), hyperv: load('hyperv'), trap: load('trap') });
  for (const [name, text] of files) {
    const path = join(dir, name);
    if (existsSync(path) && readFileSync(path, 'utf8') === text) continue;
    writeFileSync(path, text);
    process.stdout.write(`wrote ${path}\n`);
  }
}

if (require.main === module) main();
