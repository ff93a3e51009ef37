import { TRAP_CPUID, TrapCpuid } from '../../../abi/trap';
import { CPUID_TABLE_BYTES } from '../../../shim/partition/trap-layout';
import {
  ANY_SUBLEAF,
  CPUID_POLICY,
  type CpuidRegister,
  domainCpuid,
  encodeCpuidTable,
  HIDDEN_LEAVES,
  hardwareValue,
  toMarkdown,
  tscScale,
  xenLeaves,
} from '../../../shim/xen/cpuid-policy';

const OPTIONS = { version: (4 << 16) | 17, tscKhz: 2_595_000 };

/** Leaves that have subleaves; of all others ECX does not matter. */
const WITH_SUBLEAVES = [4, 7, 0xd, 0x40000003, 0x40000005];
const REGISTERS = ['eax', 'ebx', 'ecx', 'edx'] as const;

function row(leaf: number, reg: CpuidRegister, sub = 0) {
  const subleaf = WITH_SUBLEAVES.includes(leaf) ? sub : ANY_SUBLEAF;
  const found = CPUID_POLICY.find((r) => r.leaf === leaf && r.reg === reg && r.subleaf === subleaf);
  if (!found) throw new Error(`no row for ${leaf.toString(16)}/${subleaf} ${reg}`);
  return found;
}

/** Bits by number, from the specification, not from the policy. */
const REQUIRED: [number, CpuidRegister, number[]][] = [
  [1, 'edx', [0, 2, 4, 5, 6, 7, 8, 9, 11, 14, 15, 16, 19, 23, 24, 25, 26]],
  [1, 'ecx', [13, 31]],
  [0x80000001, 'edx', [11, 20, 29]],
];
const MUST_HIDE: [number, CpuidRegister, number, number[]][] = [
  [1, 'edx', 0, [1, 3, 12, 13, 17, 21, 29, 31]],
  [1, 'ecx', 0, [2, 3, 4, 5, 6, 7, 8, 11, 14, 15, 17, 18, 21, 24]],
  [7, 'ebx', 0, [1, 2, 7, 10, 12, 14, 15, 20, 25]],
  [7, 'ecx', 0, [2, 3, 4, 5, 7, 13, 16, 29, 30, 31]],
  [7, 'edx', 0, [5, 18, 19, 20, 22, 24, 25, 26, 27, 29, 30, 31]],
  [7, 'eax', 1, [6, 17, 18, 19, 20, 26, 27]],
  [0xd, 'eax', 0, [3, 4, 8, 9, 17, 18]],
  [0xd, 'eax', 1, [3, 4]],
  [0x80000001, 'edx', 0, [1, 3, 12, 13, 17, 26]],
  [0x80000001, 'ecx', 0, [2, 3, 4, 9, 10, 12, 13, 15, 19, 22, 29]],
  [0x80000008, 'ebx', 0, [9, 14, 15, 16, 17, 18, 19, 20, 23, 24, 25, 28]],
  [0x80000021, 'eax', 0, [8, 17]],
];
/** Unprivileged features: they work at any CPL without help. */
const OFFERED: [number, CpuidRegister, number, number[]][] = [
  [1, 'ecx', 0, [0, 1, 9, 12, 13, 19, 20, 22, 23, 25, 26, 28, 29, 30]],
  [7, 'ebx', 0, [0, 3, 5, 8, 9, 16, 17, 18, 19, 21, 23, 24, 28, 29, 30, 31]],
  [7, 'ecx', 0, [1, 6, 8, 9, 10, 11, 12, 14, 22, 27, 28]],
  [7, 'edx', 0, [4, 14]],
  [7, 'eax', 1, [4, 5, 10, 11, 12]],
  [0xd, 'eax', 0, [0, 1, 2, 5, 6, 7]],
  [0xd, 'eax', 1, [0, 1, 2]],
  [0x80000001, 'ecx', 0, [0, 5, 6, 7, 8, 11, 16, 21]],
  [0x80000008, 'ebx', 0, [0]],
];

describe('CPUID policy', () => {
  test.each(REQUIRED)('leaf %p %s shows what a PV Linux needs', (leaf, reg, bits) => {
    const { andMask, orBits } = row(leaf, reg);
    expect(bits.filter((b) => !(((andMask | orBits) >>> b) & 1))).toEqual([]);
  });

  test.each(MUST_HIDE)('leaf %p %s hides what a PV guest cannot use', (leaf, reg, subleaf, bits) => {
    const { andMask, orBits, hidden } = row(leaf, reg, subleaf);
    expect(bits.filter((b) => ((andMask | orBits) >>> b) & 1)).toEqual([]);
    const named = new Set(hidden.map((h) => h.bit));
    expect(bits.filter((b) => !named.has(b))).toEqual([]);
  });

  test.each(OFFERED)('leaf %p %s offers what needs no privilege', (leaf, reg, subleaf, bits) => {
    const { andMask } = row(leaf, reg, subleaf);
    expect(bits.filter((b) => !((andMask >>> b) & 1))).toEqual([]);
  });

  test('every leaf has all four registers, and every bit of them has exactly one policy', () => {
    const leaves = new Set(CPUID_POLICY.map((r) => `${r.leaf}/${r.subleaf}`));
    expect(CPUID_POLICY).toHaveLength(leaves.size * REGISTERS.length);
    for (const r of CPUID_POLICY) {
      const named = [...r.visible, ...r.hidden, ...r.optional, ...r.computed].map((b) => b.bit);
      const reserved = Array.from({ length: 32 }, (_, bit) => bit).filter((bit) => (r.reserved >>> bit) & 1);
      const where = `${r.leaf.toString(16)}/${r.subleaf} ${r.reg}`;
      // A number or a text is described as a whole; its mask says what of it is shown.
      const described = r.doc === undefined ? [...named, ...reserved].sort((a, b) => a - b) : named;
      const wanted = r.doc === undefined ? Array.from({ length: 32 }, (_, bit) => bit) : [];
      expect([where, described]).toEqual([where, wanted]);
    }
  });

  test('no leaf is both listed and hidden whole', () => {
    const hidden = HIDDEN_LEAVES.flatMap(([leaves]) => leaves.split(',').map((part) => part.trim()))
      .filter((text) => /^[0-9a-f]+$/.test(text))
      .map((text) => Number.parseInt(text, 16));
    // Leaves 7 and 0xd are hidden in part.
    const listed = new Set(CPUID_POLICY.map((r) => r.leaf));
    expect(hidden.filter((leaf) => listed.has(leaf) && leaf !== 7 && leaf !== 0xd)).toEqual([]);
    for (let leaf = 0; leaf <= 0x20; leaf++) {
      const known = listed.has(leaf) || hidden.includes(leaf) || [8, 0xc, 0xe, 0x11, 0x13, 0x1f].includes(leaf);
      expect([leaf, known]).toEqual([leaf, true]);
    }
  });

  test('leaves that must read as zeros are absent', () => {
    const leaves = new Set(CPUID_POLICY.map((r) => r.leaf));
    for (const leaf of [3, 5, 6, 9, 0xa, 0xb, 0x15, 0x16, 0x8000000a, 0x80000019, 0x8000001d, 0x8000001e]) {
      expect(leaves.has(leaf)).toBe(false);
    }
  });

  test('every mask is exactly the visible bits, and every other bit has a name and a reason', () => {
    for (const r of CPUID_POLICY.filter((p) => p.doc === undefined)) {
      const visible = r.visible.reduce((m, b) => (m | (1 << b.bit)) >>> 0, 0);
      expect(r.andMask).toBe(visible);
      for (const h of [...r.hidden, ...r.optional, ...r.computed]) {
        expect((r.andMask >>> h.bit) & 1).toBe(0);
        expect((r.orBits >>> h.bit) & 1).toBe(0);
        expect(h.name).not.toBe('');
        expect(h.reason.length).toBeGreaterThan(10);
      }
    }
  });

  test('only HYPERVISOR and the width of linear addresses are claimed whatever the hardware says', () => {
    expect(CPUID_POLICY.filter((r) => r.orBits !== 0).map((r) => [r.leaf, r.reg, r.orBits])).toEqual([
      [1, 'ecx', 0x80000000],
      [0x80000008, 'eax', 48 << 8],
    ]);
  });

  test('AMD’s copy of leaf 1 EDX agrees with leaf 1 EDX', () => {
    const common = 0x0183f3ff;
    expect((row(0x80000001, 'edx').andMask & common) >>> 0).toBe((row(1, 'edx').andMask & common & ~(1 << 11)) >>> 0);
  });
});

describe('Xen leaves', () => {
  const get = (leaf: number, reg: CpuidRegister, sub = 0, options = {}) => {
    const subleaf = WITH_SUBLEAVES.includes(leaf) ? sub : ANY_SUBLEAF;
    const rows = xenLeaves({ ...OPTIONS, ...options });
    return rows.find((r) => r.leaf === leaf && r.reg === reg && r.subleaf === subleaf)?.orBits;
  };

  test('signature, version, hypercall MSR', () => {
    const text = Buffer.alloc(12);
    (['ebx', 'ecx', 'edx'] as const).forEach((reg, i) => {
      text.writeUInt32LE(get(0x40000000, reg) ?? 0, 4 * i);
    });
    expect(text.toString()).toBe('XenVMMXenVMM');
    expect(get(0x40000000, 'eax')).toBe(0x40000005);
    expect(get(0x40000001, 'eax')).toBe(0x00040011);
    expect([get(0x40000002, 'eax'), get(0x40000002, 'ebx'), get(0x40000002, 'ecx')]).toEqual([1, 0x40000000, 1]);
  });

  test('machine address width keeps guests on grant version 1', () => {
    expect(get(0x40000005, 'ebx')).toBe(40);
    expect(get(0x40000005, 'ebx', 0, { machineAddressBits: 44 })).toBe(44);
    expect(() => xenLeaves({ ...OPTIONS, machineAddressBits: 45 })).toThrow(RangeError);
    expect(() => xenLeaves({ ...OPTIONS, machineAddressBits: 38 })).toThrow(RangeError);
  });

  test('TSC leaf', () => {
    expect(get(0x40000003, 'eax')).toBe(2);
    expect(get(0x40000003, 'eax', 0, { tscNative: false })).toBe(3);
    expect(get(0x40000003, 'ecx')).toBe(2_595_000);
    expect(get(0x40000003, 'eax', 2)).toBe(2_595_000);
  });

  test.each([1, 1000, 999_999, 1_000_000, 2_595_000, 5_000_000])(
    'the scale of a TSC of %p kHz counts nanoseconds',
    (khz) => {
      const { mul, shift } = tscScale(khz);
      expect(mul).toBeGreaterThanOrEqual(2 ** 31);
      expect(mul).toBeLessThanOrEqual(2 ** 32 - 1);
      const ticks = BigInt(khz) * 1000n; // one second
      const shifted = shift >= 0 ? ticks << BigInt(shift) : ticks >> BigInt(-shift);
      expect(Math.abs(Number((shifted * BigInt(mul)) >> 32n) - 1e9)).toBeLessThan(4);
    },
  );

  test('a frequency of 0 is refused', () => {
    expect(() => tscScale(0)).toThrow(RangeError);
  });
});

describe('encoding', () => {
  test('one entry a leaf, registers in place', () => {
    const rows = domainCpuid(OPTIONS);
    const table = encodeCpuidTable(rows);
    const view = new DataView(table.buffer, table.byteOffset, table.byteLength);
    expect(table.length).toBe(new Set(rows.map((r) => `${r.leaf}/${r.subleaf}`)).size * TrapCpuid.size);
    const seen: number[][] = [];
    for (let at = 0; at < table.length; at += TrapCpuid.size) {
      const leaf = TrapCpuid.get.leaf(view, at);
      const subleaf = TrapCpuid.get.subleaf(view, at);
      seen.push([leaf, subleaf]);
      const intel = rows.find((x) => x.leaf === leaf)?.intelOnly ? TRAP_CPUID.TRAP_CPUID_INTEL : 0;
      expect(TrapCpuid.get.flags(view, at)).toBe(intel);
      (['eax', 'ebx', 'ecx', 'edx'] as const).forEach((reg, i) => {
        const r = rows.find((x) => x.leaf === leaf && x.subleaf === subleaf && x.reg === reg);
        expect(TrapCpuid.get.and_mask(view, at, i)).toBe(r?.andMask ?? 0);
        expect(TrapCpuid.get.or_bits(view, at, i)).toBe(r?.orBits ?? 0);
      });
    }
    expect(seen).toContainEqual([2, ANY_SUBLEAF]);
    expect(table.length).toBeLessThanOrEqual(CPUID_TABLE_BYTES);
  });

  test('the processor’s own values are read back by row', () => {
    const table = encodeCpuidTable(domainCpuid(OPTIONS));
    const view = new DataView(table.buffer, table.byteOffset, table.byteLength);
    for (let at = 0; at < table.length; at += TrapCpuid.size) {
      if (TrapCpuid.get.leaf(view, at) === 7 && TrapCpuid.get.subleaf(view, at) === 0) {
        TrapCpuid.set.hardware(view, at, 0x20, 1);
      }
    }
    expect(hardwareValue(view, row(7, 'ebx'))).toBe(0x20);
    expect(hardwareValue(view, row(7, 'ebx', 1))).toBe(0);
    expect(hardwareValue(new DataView(new ArrayBuffer(0)), row(7, 'ebx'))).toBe(0);
  });

  test('leaves without subleaves answer whatever ECX holds', () => {
    for (const r of domainCpuid(OPTIONS)) {
      if (!WITH_SUBLEAVES.includes(r.leaf)) expect([r.leaf, r.subleaf]).toEqual([r.leaf, ANY_SUBLEAF]);
    }
  });

  test('a register given twice is an error that names it', () => {
    expect(() => encodeCpuidTable([...CPUID_POLICY, row(1, 'edx')])).toThrow('leaf 0x1 edx twice');
  });

  test('the page lists every hidden bit', () => {
    const page = toMarkdown();
    const hidden = CPUID_POLICY.flatMap((r) => [...r.hidden, ...r.optional, ...r.computed]);
    expect(page.split('\n').filter((l) => /^\| [0-9a-f]+(, \w+ \d+)? \| e.x \| \d+ \| [^|]+ \| /.test(l))).toHaveLength(
      hidden.length,
    );
    expect(page).toContain('| 1 | edx | 13 | PGE |');
  });
});
