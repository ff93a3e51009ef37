/**
 * Compares declarations of abi/ with a vendor's C headers.
 *
 * Every declaration becomes one C expression on one line: `sizeof(struct X)`, the offset and size of a field, a
 * constant. A first compilation without code generation tells which lines the headers do not know, by the line numbers
 * of gcc's errors; the rest is compiled, run, and its output compared. So nothing has to be known beforehand about what
 * a header declares, how (macro, enum), or under which nesting.
 */
import { execFileSync, spawnSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { DECL, elementSize, type Fields, type Struct } from '../../../abi/layout';
import { collect } from '../../../scripts/gen-headers';

export interface Vendor {
  /** What comes before the generated code: includes and shims. */
  readonly preamble: string;
  readonly includeDirs?: readonly string[];
  /** A C expression for a constant that the headers spell differently. */
  readonly expressions?: Readonly<Record<string, string>>;
  /** The C tag of a struct that the headers name differently, with its keyword. */
  readonly tags?: Readonly<Record<string, string>>;
  /**
   * Prefix of a cross compiler's programs ('x86_64-w64-mingw32-'). What it makes cannot be run here, so the values are
   * read from the object file; expressions must then be constant.
   */
  readonly cross?: string;
  /**
   * Unions of 64 bits whose bit-fields our constants are masks of, by the constants' prefix: 'WHV_EXIT_' is
   * WHV_EXTENDED_VM_EXITS, so that WHV_EXIT_HypercallExit is what the union holds with .HypercallExit = 1.
   */
  readonly bitFields?: Readonly<Record<string, string>>;
}

export interface Difference {
  /** 'NAME', 'struct NAME', or 'NAME.field'. */
  readonly item: string;
  readonly ours: string;
  readonly theirs: string;
}

export interface Comparison {
  /** Items found in both and equal. */
  readonly equal: readonly string[];
  /** Items found in both that differ. */
  readonly different: readonly Difference[];
  /** Items that the vendor's headers do not have. */
  readonly missing: readonly string[];
}

interface Probe {
  readonly item: string;
  /** The initializer of a union, in place of an expression. */
  readonly union?: string;
  readonly ours: bigint;
  /** The first expression that compiles is used. */
  readonly candidates: readonly string[];
}

const U64 = 64;

/** A field 'a_b_c' may be 'a.b_c', 'a_b.c' or 'a.b.c' in the header, and may sit in a union called u. */
export function fieldPaths(name: string): string[] {
  const parts = name.split('_');
  const paths: string[] = [name, `u.${name}`];
  const bits = Math.min(parts.length - 1, 5);
  for (let mask = 1; mask < 1 << bits; mask++) {
    let path = parts[0] ?? '';
    for (let i = 1; i < parts.length; i++) path += (mask & (1 << (i - 1)) ? '.' : '_') + parts[i];
    // A name that starts or doubles an underscore cannot be split there.
    if (!path.split('.').includes('')) paths.push(path);
  }
  return paths;
}

function structProbes(s: Struct<Fields>, vendor: Vendor): Probe[] {
  const tag = vendor.tags?.[s.name];
  const tags = tag === undefined ? [`struct ${s.name}`, `union ${s.name}`] : [tag];
  const probes: Probe[] = [
    { item: `struct ${s.name}`, ours: BigInt(s.size), candidates: tags.map((t) => `sizeof(${t})`) },
  ];
  for (const [name, f] of Object.entries(s.fields)) {
    const paths = fieldPaths(name);
    const on = (format: (tag: string, path: string) => string): string[] =>
      tags.flatMap((t) => paths.map((p) => format(t, p)));
    probes.push({
      item: `${s.name}.${name}`,
      ours: BigInt(f.offset),
      candidates: on((t, p) => `__builtin_offsetof(${t}, ${p})`),
    });
    if (f.count === 0) continue;
    probes.push({
      item: `sizeof ${s.name}.${name}`,
      ours: BigInt(elementSize(f.type) * (f.count ?? 1)),
      candidates: on((t, p) => `sizeof(((${t} *)0)->${p})`),
    });
  }
  return probes;
}

function probesOf(module: Readonly<Record<string, unknown>>, vendor: Vendor): Probe[] {
  const decls = collect(module);
  const probes = decls.structs.flatMap((s) => structProbes(s, vendor));
  const seen = new Set<string>();
  for (const group of decls.constants) {
    for (const [name, value] of Object.entries(group.values)) {
      if (seen.has(name)) continue;
      seen.add(name);
      const ours = BigInt.asUintN(U64, BigInt(value));
      const [prefix, union] = Object.entries(vendor.bitFields ?? {}).find(([p]) => name.startsWith(p)) ?? [];
      if (prefix !== undefined && union !== undefined)
        probes.push({ item: name, ours, union, candidates: [`{ .${name.slice(prefix.length)} = 1 }`] });
      else probes.push({ item: name, ours, candidates: [vendor.expressions?.[name] ?? name] });
    }
  }
  return probes;
}

/** Lines (1-based) of `body` that the compiler rejects. */
function rejected(dir: string, vendor: Vendor, body: readonly string[]): Set<number> {
  const file = join(dir, 'probe.c');
  writeFileSync(file, `${vendor.preamble}\n#line 1 "body"\n${body.join('\n')}\n`);
  const flags = ['-std=gnu11', '-w', '-fsyntax-only', '-fmax-errors=0', '-fdiagnostics-color=never'];
  const result = spawnSync(`${vendor.cross ?? ''}gcc`, [...flags, ...includeFlags(vendor), file], {
    encoding: 'utf8',
    maxBuffer: 1 << 26,
    env: { ...process.env, LC_ALL: 'C' },
  });
  const bad = new Set<number>();
  for (const line of result.stderr.split('\n')) {
    const m = /^(.*?):(\d+):(?:\d+:)? (?:fatal )?error: (.*)$/.exec(line);
    if (m === null) continue;
    // An error outside the generated lines means that the headers themselves do not compile.
    if (m[1] !== 'body') throw new Error(`the vendor's headers do not compile: ${line}`);
    bad.add(Number(m[2]));
  }
  if (result.status !== 0 && bad.size === 0) throw new Error(`gcc failed: ${result.stderr}`);
  return bad;
}

function includeFlags(vendor: Vendor): string[] {
  return (vendor.includeDirs ?? []).flatMap((d) => ['-I', d]);
}

/** The values of the expressions, by running a program that prints them. */
function run(dir: string, vendor: Vendor, expressions: readonly string[]): bigint[] {
  const prints = expressions.map((e) => `  printf("%llx\\n", ${e});`);
  const source = join(dir, 'print.c');
  const binary = join(dir, 'print');
  const main = `int main(void) {\n${prints.join('\n')}\n  return 0;\n}\n`;
  writeFileSync(source, `${vendor.preamble}\n#include <stdio.h>\n${main}`);
  execFileSync('gcc', ['-std=gnu11', '-w', '-O0', ...includeFlags(vendor), '-o', binary, source]);
  const output = execFileSync(binary, { encoding: 'utf8' }).trim();
  return output.split('\n').map((line) => BigInt(`0x${line}`));
}

interface Found {
  readonly probe: Probe;
  readonly expression: string;
}

/** The values of what was found, from variables of 64 bits in an object file. */
function readObject(dir: string, vendor: Vendor, found: readonly Found[]): bigint[] {
  const source = join(dir, 'values.c');
  const object = join(dir, 'values.o');
  const binary = join(dir, 'values.bin');
  const variables = found.map(({ probe, expression }, i) => {
    const type = probe.union ?? 'unsigned long long';
    const value = probe.union === undefined ? `(unsigned long long)(${expression})` : expression;
    return `${type} value_${i} __attribute__((section("values"))) = ${value};\n`;
  });
  writeFileSync(source, `${vendor.preamble}\n${variables.join('')}`);
  // In the order in which they are written.
  const flags = ['-std=gnu11', '-w', '-fno-toplevel-reorder', ...includeFlags(vendor)];
  execFileSync(`${vendor.cross}gcc`, [...flags, '-c', '-o', object, source]);
  execFileSync(`${vendor.cross}objcopy`, ['-O', 'binary', '-j', 'values', object, binary]);
  const bytes = readFileSync(binary);
  // The section may be padded at its end.
  return found.map((_, i) => bytes.readBigUInt64LE(8 * i));
}

/** Compares every struct, field and constant that a module of abi/ exports with the vendor's headers. */
export function compare(module: Readonly<Record<string, unknown>>, vendor: Vendor): Comparison {
  const dir = mkdtempSync(join(tmpdir(), 'xenlighten-layout-'));
  try {
    const probes = probesOf(module, vendor);
    const lines: string[] = [];
    const owner: { probe: Probe; expression: string }[] = [];
    for (const probe of probes) {
      for (const expression of probe.candidates) {
        const body =
          probe.union === undefined
            ? `unsigned long long v = (unsigned long long)(${expression});`
            : `${probe.union} v = ${expression};`;
        lines.push(`void probe_${lines.length}(void) { ${body} (void)v; }`);
        owner.push({ probe, expression });
      }
    }
    const bad = rejected(dir, vendor, lines);
    const chosen = new Map<Probe, string>();
    owner.forEach(({ probe, expression }, i) => {
      if (!bad.has(i + 1) && !chosen.has(probe)) chosen.set(probe, expression);
    });

    const found = probes.filter((p) => chosen.has(p));
    const values =
      vendor.cross === undefined
        ? run(
            dir,
            vendor,
            found.map((p) => `(unsigned long long)(${chosen.get(p)})`),
          )
        : readObject(
            dir,
            vendor,
            found.map((probe) => ({ probe, expression: chosen.get(probe) ?? '' })),
          );
    if (values.length !== found.length) throw new Error(`expected ${found.length} values, got ${values.length}`);

    const equal: string[] = [];
    const different: Difference[] = [];
    found.forEach((p, i) => {
      const theirs = values[i] as bigint;
      if (theirs === p.ours) equal.push(p.item);
      else different.push({ item: p.item, ours: `0x${p.ours.toString(16)}`, theirs: `0x${theirs.toString(16)}` });
    });
    return { equal, different, missing: probes.filter((p) => !chosen.has(p)).map((p) => p.item) };
  } finally {
    rmSync(dir, { recursive: true, force: true });
  }
}

/** Whether an item of a comparison belongs to an allow-list key: the item itself, or any part of a struct. */
function covers(key: string, item: string): boolean {
  if (key === item || item === `sizeof ${key}`) return true;
  if (!key.startsWith('struct ')) return false;
  const name = key.slice('struct '.length);
  return item.startsWith(`${name}.`) || item.startsWith(`sizeof ${name}.`);
}

export interface Verdict {
  /** Missing or different, and not allowed. */
  readonly unexpected: readonly string[];
  /** Allowed, but neither missing nor different. */
  readonly stale: readonly string[];
}

/**
 * Holds a comparison against an allow-list of reasons by item. Allowing 'struct X' allows X and all its fields, and is
 * stale unless X itself is missing or differs in size.
 */
export function judge(comparison: Comparison, allowed: Readonly<Record<string, string>>): Verdict {
  const problems = new Map<string, string>();
  for (const item of comparison.missing) problems.set(item, `${item}: not in the vendor's headers`);
  for (const d of comparison.different) problems.set(d.item, `${d.item}: ours ${d.ours}, theirs ${d.theirs}`);
  const keys = Object.keys(allowed);
  return {
    unexpected: [...problems].filter(([item]) => !keys.some((k) => covers(k, item))).map(([, text]) => text),
    stale: keys.filter((k) => !problems.has(k)),
  };
}

/** Whether a program can be run at all. */
export function hasProgram(name: string): boolean {
  return spawnSync(name, ['--version'], { stdio: 'ignore' }).status === 0;
}

/** The constants of a group, by name; what a test needs to talk about a whole group. */
export function namesIn(group: { readonly [DECL]: { readonly values: object } }): string[] {
  return Object.keys(group[DECL].values);
}
