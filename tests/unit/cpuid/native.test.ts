import { type NativeCpuidEntry, nativeCpuid } from '../../../shim/xen/cpuid-native';
import { CPUID_POLICY, domainCpuid } from '../../../shim/xen/cpuid-policy';

const ROWS = domainCpuid({ version: (4 << 16) | 17, tscKhz: 2_595_000 });

function entry(leaf: number, subleaf: number | undefined, regs: readonly number[]): NativeCpuidEntry {
  const [eax = 0, ebx = 0, ecx = 0, edx = 0] = regs;
  return { leaf, subleaf: subleaf ?? 0, hasSubleaves: subleaf !== undefined, eax, ebx, ecx, edx };
}

const ALL = 0xffffffff;
const INTEL = [0x20, 0x756e6547, 0x6c65746e, 0x49656e69];
const AMD = [0x10, 0x68747541, 0x444d4163, 0x69746e65];

/** A processor with AVX-512, protection keys and whatever else a bit can say. */
function host(vendor: readonly number[]): NativeCpuidEntry[] {
  return [
    entry(0, undefined, vendor),
    entry(1, undefined, [0x000606a6, 0x12345678, ALL, ALL]),
    entry(2, undefined, [1, 2, 3, 4]),
    entry(4, 0, [0xfc004121, 1, 2, 3]),
    entry(4, 1, [0xfc004122, 4, 5, 6]),
    entry(6, undefined, [ALL, ALL, ALL, ALL]),
    entry(7, 0, [5, ALL, ALL, ALL]),
    entry(7, 1, [ALL, ALL, ALL, ALL]),
    entry(0xb, 0, [1, 2, 3, 4]),
    entry(0xd, 0, [0x2e7, 2696, 2696, 0]),
    entry(0xd, 1, [0xf, 2696, 0x100, 0]),
    entry(0xd, 2, [256, 576, 0, 0]),
    entry(0xd, 5, [64, 1088, 0, 0]),
    entry(0xd, 6, [512, 1152, 0, 0]),
    entry(0xd, 7, [1024, 1664, 0, 0]),
    entry(0xd, 9, [8, 2688, 0, 0]),
    entry(0x40000000, undefined, [0x40000001, 0x4b4d564b, 0x564b4d56, 0x4d]),
    entry(0x80000000, undefined, [0x80000028, ...vendor.slice(1)]),
    entry(0x80000001, undefined, [ALL, ALL, ALL, ALL]),
    entry(0x80000008, undefined, [0x3934, ALL, ALL, ALL]),
  ];
}

const HYPERVISOR = [
  entry(0x40000000, undefined, [0x40000006, 0x7263694d, 0x666f736f, 0x76482074]),
  entry(0x40000001, undefined, [0x31237648, 0, 0, 0]),
];

function made(rows = ROWS, vendor: readonly number[] = INTEL, apicId = 3) {
  const entries = nativeCpuid(rows, host(vendor), { apicId, hypervisor: HYPERVISOR });
  const get = (leaf: number, subleaf = 0) => entries.find((e) => e.leaf === leaf && e.subleaf === subleaf);
  return { entries, get };
}

test('feature leaves are what the policy shows of the host', () => {
  const { get } = made();
  const row = (leaf: number, reg: string, subleaf = 0) =>
    CPUID_POLICY.find((r) => r.leaf === leaf && r.reg === reg && (leaf === 7 ? r.subleaf === subleaf : true));
  expect(get(1)?.ecx).toBe(((row(1, 'ecx')?.andMask ?? 0) | 0x80000000) >>> 0);
  expect(get(1)?.edx).toBe(row(1, 'edx')?.andMask);
  expect(get(7)?.ebx).toBe(row(7, 'ebx')?.andMask);
  expect(get(7, 1)?.eax).toBe(row(7, 'eax', 1)?.andMask);
  expect(get(0x80000001)?.edx).toBe(row(0x80000001, 'edx')?.andMask);
});

test('the hypervisor’s leaves are the engine’s; neither Xen’s nor the host’s are left', () => {
  const { entries } = made();
  expect(entries.filter((e) => e.leaf >= 0x40000000 && e.leaf < 0x80000000)).toEqual(HYPERVISOR);
});

test('largest leaves are those of the policy, smaller ones of the host stay', () => {
  const { get } = made();
  expect(get(0)).toMatchObject({ eax: 0xd, ebx: INTEL[1], ecx: INTEL[2], edx: INTEL[3] });
  expect(get(0x80000000)?.eax).toBe(0x80000021);
  expect(get(7)?.eax).toBe(2);
  const old = host(INTEL).map((e) => (e.leaf === 0 ? { ...e, eax: 7 } : e));
  expect(nativeCpuid(ROWS, old, { apicId: 0, hypervisor: [] }).find((e) => e.leaf === 0)?.eax).toBe(7);
});

test('hidden leaves, and those of another vendor, are not there', () => {
  const leaves = (vendor: readonly number[]) => new Set(made(ROWS, vendor).entries.map((e) => e.leaf));
  expect(leaves(INTEL).has(6)).toBe(false);
  expect(leaves(INTEL).has(0xb)).toBe(false);
  expect(leaves(INTEL).has(4)).toBe(true);
  expect(leaves(AMD).has(4)).toBe(false);
  expect(leaves(AMD).has(2)).toBe(false);
});

test('the APIC id is the VP’s, and there is no topology around it', () => {
  expect(made(ROWS, INTEL, 3).get(1)?.ebx).toBe(0x03005600);
  expect(made(ROWS, INTEL, 254).get(1)?.ebx).toBe(0xfe005600);
  expect(made().get(4)?.eax).toBe(0x0121);
});

test('SYSENTER is there on Intel only', () => {
  expect(((made().get(1)?.edx ?? 0) >>> 11) & 1).toBe(1);
  expect(((made(ROWS, AMD).get(1)?.edx ?? 0) >>> 11) & 1).toBe(0);
});

test('extended state is what the policy shows, sizes follow', () => {
  const { get } = made();
  expect(get(0xd)).toMatchObject({ eax: 0xe7, ebx: 576, ecx: 2688, edx: 0, hasSubleaves: true });
  expect(get(0xd, 1)).toMatchObject({ eax: 7, ebx: 576, ecx: 0, edx: 0 });
  expect(get(0xd, 9)).toBeUndefined();
  const noAvx512 = ROWS.map((r) => (r.leaf === 0xd && r.subleaf === 0 && r.reg === 'eax' ? { ...r, andMask: 7 } : r));
  expect(made(noAvx512).get(0xd)).toMatchObject({ eax: 7, ebx: 576, ecx: 832 });
  expect(made(noAvx512).get(0xd, 2)).toBeDefined();
  expect(made(noAvx512).get(0xd, 5)).toBeUndefined();
  const noXsave = ROWS.map((r) => (r.leaf === 1 && r.reg === 'ecx' ? { ...r, andMask: r.andMask & ~(1 << 26) } : r));
  expect(made(noXsave).entries.filter((e) => e.leaf === 0xd)).toEqual([]);
});

test('a processor without a leaf gets nothing of it, forced bits included', () => {
  const bare = host(INTEL).filter((e) => e.leaf !== 0x80000008);
  expect(nativeCpuid(ROWS, bare, { apicId: 0, hypervisor: [] }).find((e) => e.leaf === 0x80000008)).toBeUndefined();
});

test('entries are sorted and unique', () => {
  const keys = made().entries.map((e) => e.leaf * 2 ** 32 + e.subleaf);
  expect(keys).toEqual([...new Set(keys)].sort((a, b) => a - b));
});

test('impossible options are refused', () => {
  const run = (options: Partial<Parameters<typeof nativeCpuid>[2]>) => () =>
    nativeCpuid(ROWS, host(INTEL), { apicId: 0, hypervisor: [], ...options });
  expect(run({ apicId: 255 })).toThrow(RangeError);
  expect(run({ apicId: -1 })).toThrow(RangeError);
  expect(run({ apicId: 1.5 })).toThrow(RangeError);
  expect(run({ hypervisor: [entry(1, undefined, [0])] })).toThrow('0x1 is no leaf of a hypervisor');
});
