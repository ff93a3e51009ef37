/**
 * The CPUID that a virtual processor itself should have, for engines that can set it (KVM_SET_CPUID2, WHP's CPUID
 * results): user space of a PV guest executes CPUID natively, and should see there what the policy says.
 *
 * Pure: takes the rows of a domain and what the host offers, gives a table of entries. It differs from what the kernel
 * sees through the forced-emulation prefix (native/trap/cpuid.c) in three ways: leaves from 0x40000000 on are the
 * engine's hypervisor's, without which the partition has no Hyper-V interface; the APIC id is the VP's real one; OSXSAVE
 * and the sizes that depend on XCR0 are left to the engine, which keeps them up to date (here they are as at reset).
 *
 * Nothing is added for the trap module: it needs no feature that the policy hides.
 */
import { ANY_SUBLEAF, type CpuidRegister, type CpuidRow } from './cpuid-policy';

export interface NativeCpuidEntry {
  readonly leaf: number;
  readonly subleaf: number;
  /** The leaf has subleaves: ECX counts (KVM_CPUID_FLAG_SIGNIFCANT_INDEX). */
  readonly hasSubleaves: boolean;
  readonly eax: number;
  readonly ebx: number;
  readonly ecx: number;
  readonly edx: number;
}

export interface NativeCpuidOptions {
  /** APIC id of the VP, 0 to 254. */
  readonly apicId: number;
  /** Entries of the hypervisor's leaves, 0x40000000 to 0x4fffffff. */
  readonly hypervisor: readonly NativeCpuidEntry[];
}

type Registers = Record<CpuidRegister, number>;

const EXTENDED = 0x80000000;
const HYPERVISOR = 0x40000000;
const XSAVE = 1 << 26;
const SEP = 1 << 11;
const COMPACT = 1 << 1;
/** Legacy region and header of an XSAVE area. */
const XSAVE_LEGACY = 576;

const rangeOf = (leaf: number): number => (leaf & 0xc0000000) >>> 0;
const isXenLeaf = (row: CpuidRow): boolean => rangeOf(row.leaf) === HYPERVISOR;

/** The entries of one VP. RangeError for an APIC id or for hypervisor leaves that are none. */
export function nativeCpuid(
  rows: readonly CpuidRow[],
  host: readonly NativeCpuidEntry[],
  options: NativeCpuidOptions,
): NativeCpuidEntry[] {
  if (!Number.isInteger(options.apicId) || options.apicId < 0 || options.apicId > 254) {
    throw new RangeError(`APIC id ${options.apicId} is not within 0 to 254`);
  }
  for (const { leaf } of options.hypervisor) {
    if (rangeOf(leaf) !== HYPERVISOR) throw new RangeError(`0x${leaf.toString(16)} is no leaf of a hypervisor`);
  }
  const hostEntry = (leaf: number, subleaf: number): NativeCpuidEntry | undefined =>
    host.find((e) => e.leaf === leaf && (!e.hasSubleaves || subleaf === ANY_SUBLEAF || e.subleaf === subleaf));
  const isIntel = hostEntry(0, ANY_SUBLEAF)?.ecx === 0x6c65746e;

  const leaves = new Map<string, { row: CpuidRow; regs: Registers }>();
  for (const row of rows) {
    if (isXenLeaf(row)) continue;
    const key = `${row.leaf}/${row.subleaf}`;
    const entry = row.intelOnly && !isIntel ? undefined : hostEntry(row.leaf, row.subleaf);
    const known = leaves.get(key) ?? { row, regs: { eax: 0, ebx: 0, ecx: 0, edx: 0 } };
    // What the processor does not have at all stays zero, forced bits included.
    if (entry !== undefined) known.regs[row.reg] = ((entry[row.reg] & row.andMask) | row.orBits) >>> 0;
    leaves.set(key, known);
  }
  const get = (leaf: number, subleaf = ANY_SUBLEAF): Registers | undefined => leaves.get(`${leaf}/${subleaf}`)?.regs;

  const listed = [...leaves.values()].map((l) => l.row);
  for (const first of [0, EXTENDED]) {
    const regs = get(first);
    if (regs === undefined) continue;
    const last = Math.max(...listed.filter((r) => rangeOf(r.leaf) === first).map((r) => r.leaf));
    regs.eax = Math.min(regs.eax, last);
  }
  const features = get(7, 0);
  if (features !== undefined) {
    features.eax = Math.min(features.eax, Math.max(...listed.filter((r) => r.leaf === 7).map((r) => r.subleaf)));
  }
  const basic = get(1);
  if (basic !== undefined) {
    basic.ebx = ((basic.ebx & 0x00ffffff) | (options.apicId << 24)) >>> 0;
    if (!isIntel) basic.edx = (basic.edx & ~SEP) >>> 0;
  }
  extendedState(get, (basic?.ecx ?? 0) & XSAVE ? (get(0xd, 0)?.eax ?? 0) : 0);

  const made = [...leaves.values()].map(({ row, regs }) => ({
    leaf: row.leaf,
    subleaf: row.subleaf === ANY_SUBLEAF ? 0 : row.subleaf,
    hasSubleaves: row.subleaf !== ANY_SUBLEAF,
    ...regs,
  }));
  const isEmpty = (e: NativeCpuidEntry): boolean => (e.eax | e.ebx | e.ecx | e.edx) === 0;
  return [...made.filter((e) => !isEmpty(e)), ...options.hypervisor].sort(
    (a, b) => a.leaf - b.leaf || a.subleaf - b.subleaf,
  );
}

/** Leaf 0xd, for the components that are shown; zeros where XSAVE is not. */
function extendedState(get: (leaf: number, subleaf: number) => Registers | undefined, shown: number): void {
  const area = get(0xd, 0);
  const extensions = get(0xd, 1);
  const clear = (regs: Registers | undefined): void => {
    if (regs !== undefined) Object.assign(regs, { eax: 0, ebx: 0, ecx: 0, edx: 0 });
  };
  let size = XSAVE_LEGACY;
  for (let component = 2; component < 32; component++) {
    const part = get(0xd, component);
    if (part === undefined) continue;
    if ((shown >>> component) & 1) size = Math.max(size, part.eax + part.ebx);
    else clear(part);
  }
  if (shown === 0) {
    clear(area);
    clear(extensions);
    return;
  }
  if (area !== undefined) Object.assign(area, { ebx: XSAVE_LEGACY, ecx: size });
  if (extensions !== undefined) extensions.ebx = extensions.eax & COMPACT ? XSAVE_LEGACY : 0;
}
