/**
 * The C headers: what they say, and that a freestanding compiler accepts them and every layout assertion in them.
 */
import { execFileSync, spawnSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import * as hyperv from '../../../abi/hyperv';
import { constants, struct } from '../../../abi/layout';
import * as trap from '../../../abi/trap';
import * as xen from '../../../abi/xen';
import { asmOffsetsText, collect, constantToC, generate, headerText, structToC } from '../../../scripts/gen-headers';

const gcc = spawnSync('gcc', ['--version']).status === 0;
const withGcc = gcc ? test : test.skip;

/** Compiles C text the way native/trap is compiled; throws with gcc's output if it does not. */
function compileC(text: string, headers: ReadonlyMap<string, string> = new Map(), name = 'test.c'): void {
  const dir = mkdtempSync(join(tmpdir(), 'xenlighten-headers-'));
  try {
    mkdirSync(join(dir, 'abi'));
    for (const [file, body] of headers) writeFileSync(join(dir, 'abi', file), body);
    writeFileSync(join(dir, name), text);
    const flags = ['-std=c11', '-ffreestanding', '-Wall', '-Wextra', '-Werror', '-I', dir, '-c', '-o', '/dev/null'];
    execFileSync('gcc', [...flags, join(dir, name)], { stdio: 'pipe' });
  } finally {
    rmSync(dir, { recursive: true, force: true });
  }
}

test('constants', () => {
  expect(constantToC(9, true)).toBe('9');
  expect(constantToC(10, true)).toBe('0xa');
  expect(constantToC(0x7fff_ffff, true)).toBe('0x7fffffff');
  expect(constantToC(0x8000_0000, true)).toBe('0x80000000ULL');
  expect(constantToC(0xffff_8000_0000_0000n, true)).toBe('0xffff800000000000ULL');
  expect(constantToC(0xffff_8000_0000_0000n, false)).toBe('0xffff800000000000');
  expect(constantToC(-3, true)).toBe('(-3)');
  expect(() => constantToC(2 ** 60, true)).toThrow(RangeError);
  expect(() => constantToC(0.5, true)).toThrow(RangeError);
});

test('a plain struct has explicit padding and one assertion for each field', () => {
  const s = struct('sample', 'the spec', 16, {
    a: { type: 'u16', offset: 0 },
    b: { type: 'u64', offset: 8, doc: 'a doc' },
  });
  expect(structToC(s).split('\n')).toEqual([
    '/* the spec */',
    'struct sample {',
    '  uint16_t a;',
    '  uint8_t _pad0[6];',
    '  uint64_t b; /* a doc */',
    '};',
    '_Static_assert(sizeof(struct sample) == 16, "size of sample");',
    '_Static_assert(__builtin_offsetof(struct sample, a) == 0, "offset of sample.a");',
    '_Static_assert(__builtin_offsetof(struct sample, b) == 8, "offset of sample.b");',
  ]);
});

test('only a struct that is not naturally laid out is packed', () => {
  expect(structToC(xen.E820Entry)).toContain('} __attribute__((packed));');
  expect(structToC(xen.StartInfo)).not.toContain('packed');
});

test('a nested struct is emitted before the one that holds it, even if only that is exported', () => {
  const inner = struct('inner', 't', 4, { x: { type: 'u32', offset: 0 } });
  const outer = struct('outer', 't', 8, { list: { type: inner, offset: 0, count: 2 } });
  const decls = collect({ outer });
  expect(decls.structs.map((s) => s.name)).toEqual(['inner', 'outer']);
  expect(headerText(decls, [])).toContain('struct inner list[2];');
});

test('a name may be declared twice only with one meaning', () => {
  const a = constants('a', { N: 1 });
  const text = headerText(collect({ a, again: constants('b', { N: 1n, M: 2 }) }), []);
  expect(text.match(/#define N /g)).toHaveLength(1);
  expect(() => headerText(collect({ a, other: constants('b', { N: 2 }) }), [])).toThrow(/N is declared twice/);
  const s1 = struct('s', 't', 4, { x: { type: 'u32', offset: 0 } });
  const s2 = struct('s', 't', 8, { x: { type: 'u64', offset: 0 } });
  expect(() => headerText(collect({ s1, s2 }), [])).toThrow(/s is declared twice/);
});

withGcc('unions, packing, padding names and open arrays keep every declared offset', () => {
  const packed = struct('packed_inner', 't', 6, {
    a: { type: 'u16', offset: 0 },
    b: { type: 'u32', offset: 2 },
  });
  const weird = struct('weird', 't', 64, {
    _pad0: { type: 'u8', offset: 0 },
    // Two alternatives, neither aligned to the widest member of the other.
    word: { type: 'u32', offset: 4 },
    wide: { type: 'u64', offset: 8 },
    bytes: { type: 'u8', offset: 5, count: 6 },
    narrow: { type: 'u16', offset: 12 },
    odd: { type: 'u16', offset: 17 },
    inner: { type: packed, offset: 20, count: 2 },
    view: { type: 'u64', offset: 24 },
    tail: { type: 's16', offset: 40, count: 3 },
  });
  const open = struct('open_array', 't', 8, {
    n: { type: 'u64', offset: 0 },
    list: { type: 'u32', offset: 8, count: 0 },
  });
  const files = new Map([['t.h', headerText(collect({ weird, open }), [])]]);
  const use = 'return (int)w->wide + w->bytes[5] + (int)o->list[1];';
  compileC(`#include "abi/t.h"\nint f(struct weird *w, struct open_array *o) { ${use} }\n`, files);
});

withGcc('an assertion fails if the layout is not the declared one', () => {
  const s = struct('sample', 't', 8, { a: { type: 'u32', offset: 4 } });
  const broken = structToC(s).replace('_pad0[4]', '_pad0[8]');
  expect(() => compileC(`#include <stdint.h>\n${broken}\n`)).toThrow(/offset of sample.a/);
});

withGcc('all headers compile together, freestanding, and asm-offsets.h assembles', () => {
  const files = generate({ xen: collect(xen), hyperv: collect(hyperv), trap: collect(trap) });
  expect([...files.keys()]).toEqual(['xen.h', 'hyperv.h', 'trap.h', 'asm-offsets.h']);
  compileC('#include "abi/trap.h"\n#include "abi/hyperv.h"\n#include "abi/xen.h"\nint x;\n', files);
  const asm = '#include "abi/asm-offsets.h"\nmov $vcpu_info_arch, %eax\nmov $FLAT_KERNEL_CS, %eax\n';
  compileC(
    `${asm}movabs $HYPERVISOR_VIRT_START, %rax\n.if SIZEOF_vcpu_info != 64\n.error "size"\n.endif\n`,
    files,
    'test.S',
  );
});

test('asm-offsets.h has offsets and sizes by name, without suffixes', () => {
  const decls = collect({ c: constants('t', { BIG: 0x1_0000_0000 }), s: xen.VcpuInfo });
  const lines = asmOffsetsText([decls]).split('\n');
  expect(lines).toContain('#define BIG 0x100000000');
  expect(lines).toContain('#define SIZEOF_vcpu_info 0x40');
  expect(lines).toContain('#define vcpu_info_evtchn_pending_sel 8');
});
