/**
 * Which processor features a PV guest may see, and why the others are hidden (Xen PV ABI: CPUID).
 *
 * The policy is data: every feature register names each of its bits as visible, hidden with a reason, or reserved. The
 * trap module applies it to the processor's own answer (native/trap/cpuid.c) as `(hardware & andMask) | orBits`; leaves
 * that are not listed read as zeros. The same data becomes the table in docs/.
 *
 * Quirks: a guest's user space executes CPUID natively where the engine has no CPUID exits, and then sees the virtual
 * processor's own features; the engines choose a processor model that fits. What depends on the vCPU or on the moment
 * is the module's business: the APIC id, OSXSAVE, SEP (hidden on AMD, where SYSENTER does not exist in 64-bit mode) and
 * the largest leaf. XSAVE, and with it AVX and everything that needs YMM or larger registers, is hidden until the
 * module saves and restores XCR0.
 */
import { TrapCpuid } from '../../abi/trap';
import { XEN_CPUID } from '../../abi/xen/cpuid';

export type CpuidRegister = 'eax' | 'ebx' | 'ecx' | 'edx';

/** Entries that apply whatever ECX holds: leaves without subleaves, and those whose subleaves are all alike. */
export const ANY_SUBLEAF = 0xffffffff;

export interface CpuidBit {
  readonly bit: number;
  readonly name: string;
}

export interface HiddenBit extends CpuidBit {
  readonly reason: string;
}

/** One register of one leaf. Bits that are neither visible nor hidden by name are reserved, and hidden. */
export interface CpuidRow {
  readonly leaf: number;
  readonly subleaf: number;
  readonly reg: CpuidRegister;
  /** What of the hardware's value passes; unsigned 32-bit. */
  readonly andMask: number;
  readonly orBits: number;
  readonly visible: readonly CpuidBit[];
  readonly hidden: readonly HiddenBit[];
  /** What the register holds, when it is not a set of feature bits. */
  readonly doc?: string;
}

type VisibleSpec = Readonly<Record<number, string>>;
type HiddenSpec = Readonly<Record<number, readonly [name: string, reason: string]>>;

const CPL0 = 'the instruction needs CPL 0, where no PV kernel runs, and is not emulated';
const NO_MSR = 'its MSRs are not virtualised';
const NO_CR4 = 'its CR4 bit is not virtualised';
const NO_SUPERPAGES = 'PV page tables have no superpages';
const NO_XSAVE = 'needs register state that only XSAVE keeps, and XSAVE is hidden';
const SPEC_CTRL = 'its speculation-control MSR is not virtualised';
const PLATFORM = 'describes the host platform, which the guest does not have';
const TSX = 'transactional memory is disabled by microcode on most hosts and would vanish when the guest moves';
const TOPOLOGY = 'vCPUs have no host topology: each is a package of its own';

function mask(bits: readonly CpuidBit[]): number {
  return bits.reduce((m, b) => (m | (1 << b.bit)) >>> 0, 0);
}

function features(
  leaf: number,
  subleaf: number,
  reg: CpuidRegister,
  visibleSpec: VisibleSpec,
  hiddenSpec: HiddenSpec,
  forced: readonly number[] = [],
): CpuidRow {
  const visible = Object.entries(visibleSpec).map(([bit, name]) => ({ bit: Number(bit), name }));
  const hidden = Object.entries(hiddenSpec).map(([bit, [name, reason]]) => ({ bit: Number(bit), name, reason }));
  const orBits = forced.reduce((m, bit) => (m | (1 << bit)) >>> 0, 0);
  return { leaf, subleaf, reg, andMask: mask(visible), orBits, visible, hidden };
}

/** A register that is a number or a text: passes under `andMask`. */
function value(leaf: number, subleaf: number, reg: CpuidRegister, andMask: number, doc: string, orBits = 0): CpuidRow {
  return { leaf, subleaf, reg, andMask: andMask >>> 0, orBits: orBits >>> 0, visible: [], hidden: [], doc };
}

function wholeLeaf(leaf: number, subleaf: number, doc: string): CpuidRow[] {
  return (['eax', 'ebx', 'ecx', 'edx'] as const).map((reg) => value(leaf, subleaf, reg, 0xffffffff, doc));
}

/** AMD repeats these bits of leaf 1 EDX in leaf 0x80000001 EDX. */
const COMMON_1D_VISIBLE: VisibleSpec = {
  0: 'FPU',
  2: 'DE',
  4: 'TSC',
  5: 'MSR',
  6: 'PAE',
  7: 'MCE',
  8: 'CX8',
  9: 'APIC',
  14: 'MCA',
  15: 'CMOV',
  16: 'PAT',
  23: 'MMX',
  24: 'FXSR',
};
const COMMON_1D_HIDDEN: HiddenSpec = {
  1: ['VME', 'virtual-8086 mode does not exist in 64-bit mode, and its CR4 bits are not virtualised'],
  3: ['PSE', NO_SUPERPAGES],
  12: ['MTRR', 'memory types are the hypervisor’s; the MTRRs are not virtualised'],
  13: ['PGE', 'global pages are Xen’s tool for user mappings; CR4.PGE is not virtualised'],
  17: ['PSE36', NO_SUPERPAGES],
};

/** The policy for leaves that come from the hardware. */
export const CPUID_POLICY: readonly CpuidRow[] = [
  ...wholeLeaf(0, ANY_SUBLEAF, 'largest basic leaf (limited to the largest listed here) and vendor'),

  value(1, ANY_SUBLEAF, 'eax', 0x0fff3fff, 'family, model, stepping'),
  value(1, ANY_SUBLEAF, 'ebx', 0x0000ff00, 'CLFLUSH line size; the module adds the APIC id (twice the vCPU number)'),
  features(
    1,
    ANY_SUBLEAF,
    'ecx',
    {
      0: 'SSE3',
      1: 'PCLMULQDQ',
      9: 'SSSE3',
      13: 'CX16',
      19: 'SSE4.1',
      20: 'SSE4.2',
      22: 'MOVBE',
      23: 'POPCNT',
      25: 'AESNI',
      30: 'RDRAND',
      31: 'HYPERVISOR',
    },
    {
      2: ['DTES64', 'the debug store is not virtualised'],
      3: ['MONITOR', CPL0],
      4: ['DSCPL', 'the debug store is not virtualised'],
      5: ['VMX', 'no nested virtualization for PV guests'],
      6: ['SMX', CPL0],
      7: ['EST', NO_MSR],
      8: ['TM2', NO_MSR],
      10: ['CNXT-ID', PLATFORM],
      11: ['SDBG', NO_MSR],
      12: ['FMA', NO_XSAVE],
      14: ['XTPR', NO_MSR],
      15: ['PDCM', 'performance monitoring is not virtualised'],
      17: ['PCID', 'CR3 and CR4.PCIDE are the hypervisor’s'],
      18: ['DCA', PLATFORM],
      21: ['X2APIC', 'a PV guest has no APIC: interrupts are event channels'],
      24: ['TSC_DEADLINE', 'a PV guest has no APIC timer: timers are hypercalls'],
      26: ['XSAVE', 'the module does not manage XCR0 yet'],
      27: ['OSXSAVE', 'dynamic; follows XSAVE'],
      28: ['AVX', NO_XSAVE],
      29: ['F16C', NO_XSAVE],
    },
    [31],
  ),
  features(
    1,
    ANY_SUBLEAF,
    'edx',
    { ...COMMON_1D_VISIBLE, 11: 'SEP', 19: 'CLFLUSH', 25: 'SSE', 26: 'SSE2', 27: 'SS' },
    {
      ...COMMON_1D_HIDDEN,
      18: ['PSN', PLATFORM],
      21: ['DS', 'the debug store is not virtualised'],
      22: ['ACPI', NO_MSR],
      28: ['HTT', TOPOLOGY],
      29: ['TM1', NO_MSR],
      31: ['PBE', PLATFORM],
    },
  ),

  ...wholeLeaf(2, ANY_SUBLEAF, 'cache and TLB descriptors (Intel)'),

  value(4, ANY_SUBLEAF, 'eax', 0x00003fff, 'cache type and level; the fields for sharing are topology and hidden'),
  value(4, ANY_SUBLEAF, 'ebx', 0xffffffff, 'cache geometry (Intel)'),
  value(4, ANY_SUBLEAF, 'ecx', 0xffffffff, 'number of sets (Intel)'),
  value(4, ANY_SUBLEAF, 'edx', 0x00000007, 'cache properties (Intel)'),

  value(7, 0, 'eax', 0, 'largest subleaf: subleaves 1 and 2 are not shown'),
  features(
    7,
    0,
    'ebx',
    {
      0: 'FSGSBASE',
      3: 'BMI1',
      6: 'FDP_EXCPTN_ONLY',
      8: 'BMI2',
      9: 'ERMS',
      13: 'NO_FPU_SEL',
      18: 'RDSEED',
      19: 'ADX',
      23: 'CLFLUSHOPT',
      24: 'CLWB',
      29: 'SHA',
    },
    {
      1: ['TSC_ADJUST', NO_MSR],
      2: ['SGX', CPL0],
      4: ['HLE', TSX],
      5: ['AVX2', NO_XSAVE],
      7: ['SMEP', NO_CR4],
      10: ['INVPCID', CPL0],
      11: ['RTM', TSX],
      12: ['PQM', NO_MSR],
      14: ['MPX', NO_XSAVE],
      15: ['PQE', NO_MSR],
      16: ['AVX512F', NO_XSAVE],
      17: ['AVX512DQ', NO_XSAVE],
      20: ['SMAP', NO_CR4],
      21: ['AVX512_IFMA', NO_XSAVE],
      25: ['PROC_TRACE', NO_MSR],
      26: ['AVX512PF', NO_XSAVE],
      27: ['AVX512ER', NO_XSAVE],
      28: ['AVX512CD', NO_XSAVE],
      30: ['AVX512BW', NO_XSAVE],
      31: ['AVX512VL', NO_XSAVE],
    },
  ),
  features(
    7,
    0,
    'ecx',
    { 8: 'GFNI', 22: 'RDPID', 25: 'CLDEMOTE', 27: 'MOVDIRI', 28: 'MOVDIR64B' },
    {
      0: ['PREFETCHWT1', 'belongs to a processor line without PV support'],
      1: ['AVX512_VBMI', NO_XSAVE],
      2: ['UMIP', NO_CR4],
      3: ['PKU', NO_CR4],
      4: ['OSPKE', NO_CR4],
      5: [
        'WAITPKG',
        'UMWAIT and TPAUSE would stop the virtual processor behind the scheduler’s back; MSR not virtualised',
      ],
      6: ['AVX512_VBMI2', NO_XSAVE],
      7: ['CET_SS', NO_CR4],
      9: ['VAES', NO_XSAVE],
      10: ['VPCLMULQDQ', NO_XSAVE],
      11: ['AVX512_VNNI', NO_XSAVE],
      12: ['AVX512_BITALG', NO_XSAVE],
      13: ['TME', NO_MSR],
      14: ['AVX512_VPOPCNTDQ', NO_XSAVE],
      16: ['LA57', 'PV page tables have four levels'],
      23: ['KEY_LOCKER', NO_CR4],
      24: ['BUS_LOCK_DETECT', NO_MSR],
      29: ['ENQCMD', NO_MSR],
      30: ['SGX_LC', NO_MSR],
      31: ['PKS', NO_CR4],
    },
  ),
  features(
    7,
    0,
    'edx',
    { 4: 'FSRM', 10: 'MD_CLEAR', 14: 'SERIALIZE' },
    {
      2: ['AVX512_4VNNIW', NO_XSAVE],
      3: ['AVX512_4FMAPS', NO_XSAVE],
      5: ['UINTR', NO_CR4],
      8: ['AVX512_VP2INTERSECT', NO_XSAVE],
      9: ['SRBDS_CTRL', SPEC_CTRL],
      11: ['RTM_ALWAYS_ABORT', TSX],
      13: ['TSX_FORCE_ABORT', TSX],
      15: ['HYBRID', TOPOLOGY],
      16: ['TSXLDTRK', TSX],
      18: ['PCONFIG', CPL0],
      19: ['ARCH_LBR', NO_MSR],
      20: ['CET_IBT', NO_CR4],
      22: ['AMX_BF16', NO_XSAVE],
      23: ['AVX512_FP16', NO_XSAVE],
      24: ['AMX_TILE', NO_XSAVE],
      25: ['AMX_INT8', NO_XSAVE],
      26: ['IBRS_IBPB', SPEC_CTRL],
      27: ['STIBP', SPEC_CTRL],
      28: ['L1D_FLUSH', SPEC_CTRL],
      29: ['ARCH_CAPS', SPEC_CTRL],
      30: ['CORE_CAPS', NO_MSR],
      31: ['SSBD', SPEC_CTRL],
    },
  ),
  features(
    7,
    1,
    'eax',
    {},
    {
      4: ['AVX_VNNI', NO_XSAVE],
      5: ['AVX512_BF16', NO_XSAVE],
      6: ['LASS', NO_CR4],
      10: ['FZRM', 'subleaf 1 is not shown'],
      11: ['FSRS', 'subleaf 1 is not shown'],
      12: ['FSRCS', 'subleaf 1 is not shown'],
      17: ['FRED', NO_CR4],
      18: ['LKGS', CPL0],
      19: ['WRMSRNS', CPL0],
      20: ['NMI_SRC', 'comes with FRED'],
      21: ['AMX_FP16', NO_XSAVE],
      23: ['AVX_IFMA', NO_XSAVE],
      26: ['LAM', 'CR3 and CR4 are the hypervisor’s'],
      27: ['MSRLIST', CPL0],
    },
  ),

  features(
    0xd,
    1,
    'eax',
    {},
    {
      0: ['XSAVEOPT', NO_XSAVE],
      1: ['XSAVEC', NO_XSAVE],
      2: ['XGETBV1', NO_XSAVE],
      3: ['XSAVES', CPL0],
      4: ['XFD', NO_MSR],
    },
  ),

  ...wholeLeaf(0x80000000, ANY_SUBLEAF, 'largest extended leaf (limited to the largest listed here) and vendor'),
  value(0x80000001, ANY_SUBLEAF, 'eax', 0x0fff3fff, 'family, model, stepping (AMD)'),
  value(0x80000001, ANY_SUBLEAF, 'ebx', 0x0000ffff, 'brand id (AMD)'),
  features(
    0x80000001,
    ANY_SUBLEAF,
    'ecx',
    { 0: 'LAHF_LM', 5: 'ABM', 6: 'SSE4A', 7: 'MISALIGNSSE', 8: '3DNOWPREFETCH', 21: 'TBM' },
    {
      1: ['CMP_LEGACY', TOPOLOGY],
      2: ['SVM', 'no nested virtualization for PV guests'],
      3: ['EXTAPIC', 'a PV guest has no APIC'],
      4: ['CR8_LEGACY', CPL0],
      9: ['OSVW', NO_MSR],
      10: ['IBS', NO_MSR],
      11: ['XOP', NO_XSAVE],
      12: ['SKINIT', CPL0],
      13: ['WDT', PLATFORM],
      15: ['LWP', NO_XSAVE],
      16: ['FMA4', NO_XSAVE],
      17: ['TCE', 'its EFER bit is not virtualised'],
      19: ['NODEID_MSR', NO_MSR],
      22: ['TOPOEXT', TOPOLOGY],
      23: ['PERFCTR_CORE', NO_MSR],
      24: ['PERFCTR_NB', NO_MSR],
      26: ['DBEXT', NO_MSR],
      27: ['PTSC', NO_MSR],
      28: ['PERFCTR_LLC', NO_MSR],
      29: ['MONITORX', 'MWAITX would stop the virtual processor behind the scheduler’s back'],
      30: ['ADDR_MASK_EXT', NO_MSR],
    },
  ),
  features(
    0x80000001,
    ANY_SUBLEAF,
    'edx',
    {
      ...COMMON_1D_VISIBLE,
      11: 'SYSCALL',
      20: 'NX',
      22: 'MMXEXT',
      25: 'FFXSR',
      27: 'RDTSCP',
      29: 'LM',
      30: '3DNOWEXT',
      31: '3DNOW',
    },
    { ...COMMON_1D_HIDDEN, 19: ['MP', PLATFORM], 26: ['PAGE1GB', NO_SUPERPAGES] },
  ),
  ...[0x80000002, 0x80000003, 0x80000004].flatMap((leaf) => wholeLeaf(leaf, ANY_SUBLEAF, 'brand string')),
  ...wholeLeaf(0x80000005, ANY_SUBLEAF, 'L1 caches and TLBs (AMD)'),
  ...wholeLeaf(0x80000006, ANY_SUBLEAF, 'L2 and L3 caches'),
  features(
    0x80000007,
    ANY_SUBLEAF,
    'edx',
    {},
    {
      0: ['TS', PLATFORM],
      1: ['FID', NO_MSR],
      2: ['VID', NO_MSR],
      3: ['TTP', PLATFORM],
      4: ['TM', NO_MSR],
      7: ['HWPSTATE', NO_MSR],
      8: ['ITSC', 'the guest may be paused or moved; its clock is the pvclock'],
      9: ['CPB', NO_MSR],
      10: ['EFRO', NO_MSR],
    },
  ),
  value(0x80000008, ANY_SUBLEAF, 'eax', 0x0000ffff, 'physical and linear address bits'),
  features(
    0x80000008,
    ANY_SUBLEAF,
    'ebx',
    { 0: 'CLZERO', 2: 'RSTR_FP_ERR_PTRS' },
    {
      1: ['INST_RETIRED', NO_MSR],
      3: ['INVLPGB', CPL0],
      4: ['RDPRU', 'reads counters that are not virtualised'],
      8: ['MCOMMIT', NO_MSR],
      9: ['WBNOINVD', CPL0],
      12: ['IBPB', SPEC_CTRL],
      14: ['IBRS', SPEC_CTRL],
      15: ['STIBP', SPEC_CTRL],
      16: ['IBRS_ALWAYS', SPEC_CTRL],
      17: ['STIBP_ALWAYS', SPEC_CTRL],
      18: ['IBRS_FAST', SPEC_CTRL],
      19: ['IBRS_SAME_MODE', SPEC_CTRL],
      20: ['NO_LMSL', 'EFER.LMSLE is not virtualised'],
      23: ['PPIN', NO_MSR],
      24: ['SSBD', SPEC_CTRL],
      25: ['VIRT_SSBD', SPEC_CTRL],
      26: ['SSB_NO', SPEC_CTRL],
      27: ['CPPC', NO_MSR],
      28: ['PSFD', SPEC_CTRL],
      29: ['BTC_NO', SPEC_CTRL],
      30: ['IBPB_RET', SPEC_CTRL],
    },
  ),
  features(
    0x80000021,
    ANY_SUBLEAF,
    'eax',
    { 0: 'NO_NESTED_DBP', 2: 'LFENCE_SERIALIZING', 6: 'NULL_SELECTOR_CLEARS_BASE' },
    {
      1: ['FSGSKGS_NON_SERIALIZING', 'the bases are written by hypercall or emulation'],
      3: ['SMM_PAGE_CFG_LOCK', PLATFORM],
      7: ['UPPER_ADDRESS_IGNORE', 'its EFER bit is not virtualised'],
      8: ['AUTO_IBRS', 'its EFER bit is not virtualised'],
      9: ['NO_SMM_CTL_MSR', NO_MSR],
      13: ['PREFETCH_CTL_MSR', NO_MSR],
      17: ['CPUID_USER_DIS', NO_MSR],
    },
  ),
];

/** What the Xen leaves say about the domain. */
export interface XenCpuidOptions {
  /** Xen version shown, as XENVER_version encodes it: (major << 16) | minor. */
  readonly version: number;
  /** Ticks per millisecond of the guest's TSC, and of the host's. */
  readonly tscKhz: number;
  readonly hostTscKhz?: number;
  /** XEN_DOMCTL tsc_mode: 0 default, 1 always emulate, 2 never emulate. */
  readonly tscMode?: number;
  /** RDTSC executes natively (false: trapped and emulated). */
  readonly tscNative?: boolean;
  /** +1 whenever the guest is restored. */
  readonly incarnation?: number;
  /**
   * Bits of the largest machine address, 39 to 44: with more, a frame number would not fit a version 1 grant entry and
   * guests would insist on version 2.
   */
  readonly machineAddressBits?: number;
}

/** pvclock's scale for a TSC frequency: ns = ((ticks << shift) * mul) >> 32, with mul in [2^31, 2^32). */
export function tscScale(tscKhz: number): { mul: number; shift: number } {
  let hz = BigInt(tscKhz) * 1000n;
  let shift = 0;
  if (hz <= 0n) throw new RangeError(`TSC frequency ${tscKhz} kHz is not positive`);
  while (hz > 2_000_000_000n) {
    hz >>= 1n;
    shift--;
  }
  while (hz <= 1_000_000_000n) {
    hz <<= 1n;
    shift++;
  }
  return { mul: Number((1_000_000_000n << 32n) / hz), shift };
}

/** Xen's own leaves, 0x40000000 on. Nothing of them comes from the hardware. RangeError for a width without grants v1. */
export function xenLeaves(options: XenCpuidOptions): CpuidRow[] {
  const { version, tscKhz, hostTscKhz = tscKhz, tscMode = 0, tscNative = true, incarnation = 0 } = options;
  const width = options.machineAddressBits ?? 40;
  if (width < 39 || width > 44) throw new RangeError(`machine address width ${width} is not within 39 to 44 bits`);
  const scale = tscScale(tscKhz);
  const base = XEN_CPUID.XEN_CPUID_FIRST_LEAF;
  const constant = (leaf: number, subleaf: number, regs: Partial<Record<CpuidRegister, number>>, doc: string) =>
    (['eax', 'ebx', 'ecx', 'edx'] as const).map((reg) => value(base + leaf, subleaf, reg, 0, doc, regs[reg] ?? 0));

  return [
    ...constant(
      0,
      ANY_SUBLEAF,
      {
        eax: base + XEN_CPUID.XEN_CPUID_MAX_NUM_LEAVES,
        ebx: XEN_CPUID.XEN_CPUID_SIGNATURE_EBX,
        ecx: XEN_CPUID.XEN_CPUID_SIGNATURE_ECX,
        edx: XEN_CPUID.XEN_CPUID_SIGNATURE_EDX,
      },
      'largest Xen leaf and "XenVMMXenVMM"',
    ),
    ...constant(1, ANY_SUBLEAF, { eax: version }, 'Xen version'),
    ...constant(
      2,
      ANY_SUBLEAF,
      { eax: 1, ebx: base, ecx: XEN_CPUID.XEN_CPUID_FEAT1_MMU_PT_UPDATE_PRESERVE_AD },
      'hypercall pages, their MSR, features',
    ),
    ...constant(
      3,
      0,
      { eax: (tscNative ? 0 : 1) | 2, ebx: tscMode, ecx: tscKhz, edx: incarnation },
      'TSC: emulated, reliable; mode; guest kHz; incarnation',
    ),
    ...constant(3, 1, { ecx: scale.mul, edx: scale.shift }, 'TSC: offset, multiplier, shift'),
    ...constant(3, 2, { eax: hostTscKhz }, 'TSC: host kHz'),
    ...constant(5, 0, { ebx: width & XEN_CPUID.XEN_CPUID_MACHINE_ADDRESS_WIDTH_MASK }, 'machine address width'),
  ];
}

/** The rows of a domain: the policy, and Xen's leaves. */
export function domainCpuid(options: XenCpuidOptions): CpuidRow[] {
  return [...CPUID_POLICY, ...xenLeaves(options)];
}

const REG_INDEX: Readonly<Record<CpuidRegister, number>> = { eax: 0, ebx: 1, ecx: 2, edx: 3 };

/** `struct trap_cpuid` entries, one for each leaf and subleaf. Error when a register is given twice. */
export function encodeCpuidTable(policy: readonly CpuidRow[]): Buffer {
  const leaves = new Map<string, CpuidRow[]>();
  for (const row of policy) {
    const key = `${row.leaf}/${row.subleaf}`;
    const rows = leaves.get(key) ?? [];
    if (rows.some((other) => other.reg === row.reg)) {
      throw new Error(`CPUID policy gives leaf 0x${leafName(row)} ${row.reg} twice`);
    }
    rows.push(row);
    leaves.set(key, rows);
  }
  const table = Buffer.alloc(leaves.size * TrapCpuid.size);
  const view = new DataView(table.buffer, table.byteOffset, table.byteLength);
  let at = 0;
  for (const rows of leaves.values()) {
    TrapCpuid.set.leaf(view, at, rows[0].leaf);
    TrapCpuid.set.subleaf(view, at, rows[0].subleaf);
    for (const row of rows) {
      TrapCpuid.set.and_mask(view, at, row.andMask, REG_INDEX[row.reg]);
      TrapCpuid.set.or_bits(view, at, row.orBits, REG_INDEX[row.reg]);
    }
    at += TrapCpuid.size;
  }
  return table;
}

function leafName(row: CpuidRow): string {
  const sub = row.subleaf === ANY_SUBLEAF ? '' : `, subleaf ${row.subleaf}`;
  return `${row.leaf.toString(16)}${sub}`;
}

/** The policy as a page of documentation. */
export function toMarkdown(policy: readonly CpuidRow[] = CPUID_POLICY): string {
  const lines = [
    '# CPUID as a guest sees it',
    '',
    'Generated from shim/xen/cpuid-policy.ts. A kernel gets these answers through the forced-emulation prefix. Visible',
    'bits are shown if the processor has them; leaves and bits that are not listed read as zeros.',
    '',
    '## Visible',
    '',
    '| leaf | register | content |',
    '|---|---|---|',
  ];
  for (const row of policy) {
    const names = row.visible.map((b) => ((row.orBits >>> b.bit) & 1 ? `**${b.name}** (always)` : b.name)).join(', ');
    if (names) lines.push(`| ${leafName(row)} | ${row.reg} | ${names} |`);
    else if (row.andMask || row.orBits) lines.push(`| ${leafName(row)} | ${row.reg} | ${row.doc ?? ''} |`);
  }
  lines.push('', '## Hidden, and why', '', '| leaf | register | bit | feature | reason |', '|---|---|---|---|---|');
  for (const row of policy) {
    for (const b of row.hidden) lines.push(`| ${leafName(row)} | ${row.reg} | ${b.bit} | ${b.name} | ${b.reason} |`);
  }
  return `${lines.join('\n')}\n`;
}
