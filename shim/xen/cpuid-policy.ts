/**
 * Which processor features a PV guest may see, and why the others are hidden (Xen PV ABI: CPUID).
 *
 * The policy is data: every register of every shown leaf says of each of its 32 bits what becomes of it: shown where the
 * processor has it, shown on request, computed, hidden with a reason, or reserved. It follows what Xen 4.17 shows a PV
 * guest; where it shows less, the reason says what is missing here. The trap module applies it to the processor's own
 * answer (native/trap/cpuid.c) as `(hardware & andMask) | orBits`; leaves that are not listed read as zeros. The same
 * data becomes the page in docs/, and the CPUID of engines that can set it (cpuid-native.ts).
 *
 * Quirks: a guest's user space executes CPUID natively where the engine has no CPUID exits, and then sees the virtual
 * processor's own features. What depends on the vCPU or on the moment is the module's business: the APIC id, OSXSAVE,
 * SEP (hidden on AMD, where SYSENTER does not exist in 64-bit mode), sizes of the XSAVE area and the largest leaf.
 */
import { TRAP_CPUID, TrapCpuid } from '../../abi/trap';
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

/** One register of one leaf. */
export interface CpuidRow {
  readonly leaf: number;
  readonly subleaf: number;
  readonly reg: CpuidRegister;
  /** What of the hardware's value passes; unsigned 32-bit. */
  readonly andMask: number;
  readonly orBits: number;
  readonly visible: readonly CpuidBit[];
  readonly hidden: readonly HiddenBit[];
  /** Hidden, with the reason, unless the guest's configuration asks for them. */
  readonly optional: readonly HiddenBit[];
  /** Made by the trap module; `reason` says how. */
  readonly computed: readonly HiddenBit[];
  /** Bits without a meaning (unsigned 32-bit): hidden. */
  readonly reserved: number;
  /** The leaf reads as zeros on processors that are not Intel's. */
  readonly intelOnly: boolean;
  /** What the register holds, when it is not a set of feature bits. */
  readonly doc?: string;
}

type VisibleSpec = Readonly<Record<number, string>>;
type HiddenSpec = Readonly<Record<number, readonly [name: string, reason: string]>>;

interface FeatureSpec {
  readonly shown?: VisibleSpec;
  readonly hidden?: HiddenSpec;
  readonly optional?: HiddenSpec;
  readonly computed?: HiddenSpec;
  /** Shown bits that are set whatever the processor says. */
  readonly forced?: readonly number[];
  /** Such as '10, 13-16'. */
  readonly reserved?: string;
}

const CPL0 = 'the instruction needs CPL 0, where no PV kernel runs, and is not emulated';
const NO_MSR = 'its MSRs are not virtualised';
const NO_CR4 = 'its CR4 bit is not virtualised';
const NO_SUPERPAGES = 'PV page tables have no superpages';
const NO_MPX = 'memory protection extensions are gone from processors and kernels; Xen hides them from PV guests';
const NO_AMX = 'Xen 4.17 does not manage AMX state';
const NEWER = 'Xen 4.17 does not know it';
const SPEC_CTRL =
  'its speculation-control MSR is not virtualised (Xen shows some of these to PV guests): the hypervisor protects itself, and the guest gets no control';
const PLATFORM = 'describes the host platform, which the guest does not have';
const TOPOLOGY = 'vCPUs have no host topology: each is a package of its own';
const NO_PERFMON = 'performance monitoring is not virtualised';
const OPT_IN = 'Xen shows it on request only';

function mask(bits: readonly CpuidBit[]): number {
  return bits.reduce((m, b) => (m | (1 << b.bit)) >>> 0, 0);
}

function bitRanges(text: string): number {
  let bits = 0;
  for (const part of text.split(',')) {
    const [from, to = from] = part.split('-').map(Number) as [number, number?];
    for (let bit = from; bit <= to; bit++) bits = (bits | (1 << bit)) >>> 0;
  }
  return bits;
}

function reasons(spec: HiddenSpec = {}): HiddenBit[] {
  return Object.entries(spec).map(([bit, [name, reason]]) => ({ bit: Number(bit), name, reason }));
}

function features(leaf: number, subleaf: number, reg: CpuidRegister, spec: FeatureSpec): CpuidRow {
  const visible = Object.entries(spec.shown ?? {}).map(([bit, name]) => ({ bit: Number(bit), name }));
  return {
    leaf,
    subleaf,
    reg,
    andMask: mask(visible),
    orBits: (spec.forced ?? []).reduce((m, bit) => (m | (1 << bit)) >>> 0, 0),
    visible,
    hidden: reasons(spec.hidden),
    optional: reasons(spec.optional),
    computed: reasons(spec.computed),
    reserved: spec.reserved === undefined ? 0 : bitRanges(spec.reserved),
    intelOnly: false,
  };
}

const NO_BITS = { visible: [], hidden: [], optional: [], computed: [], reserved: 0, intelOnly: false };

/** A register that is a number or a text: passes under `andMask`. */
function value(leaf: number, subleaf: number, reg: CpuidRegister, andMask: number, doc: string, orBits = 0): CpuidRow {
  return { ...NO_BITS, leaf, subleaf, reg, andMask: andMask >>> 0, orBits: orBits >>> 0, doc };
}

function wholeLeaf(leaf: number, subleaf: number, doc: string): CpuidRow[] {
  return (['eax', 'ebx', 'ecx', 'edx'] as const).map((reg) => value(leaf, subleaf, reg, 0xffffffff, doc));
}

function intelOnly(rows: readonly CpuidRow[]): CpuidRow[] {
  return rows.map((row) => ({ ...row, intelOnly: true }));
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

/** The caches of leaf 4; the processor ends the list with an empty one. */
const CACHES = [0, 1, 2, 3, 4];

/** Components of extended state that have a subleaf of leaf 0xd. */
const COMPONENTS: Readonly<Record<number, string>> = {
  2: 'AVX: upper halves of YMM0 to YMM15',
  5: 'AVX-512: mask registers',
  6: 'AVX-512: upper halves of ZMM0 to ZMM15',
  7: 'AVX-512: ZMM16 to ZMM31',
};

/** The policy for leaves that come from the hardware. */
export const CPUID_POLICY: readonly CpuidRow[] = [
  ...wholeLeaf(0, ANY_SUBLEAF, 'largest basic leaf (limited to the largest listed here) and vendor'),

  value(1, ANY_SUBLEAF, 'eax', 0x0fff3fff, 'family, model, stepping'),
  value(1, ANY_SUBLEAF, 'ebx', 0x0000ff00, 'CLFLUSH line size; the module adds the APIC id (twice the vCPU number)'),
  features(1, ANY_SUBLEAF, 'ecx', {
    shown: {
      0: 'SSE3',
      1: 'PCLMULQDQ',
      9: 'SSSE3',
      12: 'FMA',
      13: 'CX16',
      19: 'SSE4.1',
      20: 'SSE4.2',
      22: 'MOVBE',
      23: 'POPCNT',
      25: 'AESNI',
      26: 'XSAVE',
      28: 'AVX',
      29: 'F16C',
      30: 'RDRAND',
      31: 'HYPERVISOR',
    },
    forced: [31],
    computed: {
      27: ['OSXSAVE', 'the guest’s CR4.OSXSAVE; a kernel that uses the forced-emulation prefix sees it set with XSAVE'],
    },
    hidden: {
      2: ['DTES64', 'the debug store is not virtualised'],
      3: ['MONITOR', CPL0],
      4: ['DSCPL', 'the debug store is not virtualised'],
      5: ['VMX', 'no nested virtualization for PV guests'],
      6: ['SMX', CPL0],
      7: ['EST', NO_MSR],
      8: ['TM2', NO_MSR],
      10: ['CNXT-ID', PLATFORM],
      11: ['SDBG', NO_MSR],
      14: ['XTPR', NO_MSR],
      15: ['PDCM', NO_PERFMON],
      17: ['PCID', 'CR3 and CR4.PCIDE are the hypervisor’s'],
      18: ['DCA', PLATFORM],
      21: ['X2APIC', 'a PV guest has no APIC: interrupts are event channels'],
      24: ['TSC_DEADLINE', 'a PV guest has no APIC timer: timers are hypercalls'],
    },
    reserved: '16',
  }),
  features(1, ANY_SUBLEAF, 'edx', {
    shown: { ...COMMON_1D_VISIBLE, 11: 'SEP', 19: 'CLFLUSH', 22: 'ACPI', 25: 'SSE', 26: 'SSE2', 27: 'SS' },
    hidden: {
      ...COMMON_1D_HIDDEN,
      18: ['PSN', PLATFORM],
      21: ['DS', 'the debug store is not virtualised'],
      28: ['HTT', TOPOLOGY],
      29: ['TM1', NO_MSR],
      30: ['IA64', 'the processor is not an Itanium'],
      31: ['PBE', PLATFORM],
    },
    reserved: '10, 20',
  }),

  ...intelOnly(wholeLeaf(2, ANY_SUBLEAF, 'cache and TLB descriptors (Intel)')),

  ...CACHES.flatMap((cache) =>
    intelOnly([
      value(4, cache, 'eax', 0x00003fff, 'cache type and level; the fields for sharing are topology and hidden'),
      value(4, cache, 'ebx', 0xffffffff, 'cache geometry (Intel)'),
      value(4, cache, 'ecx', 0xffffffff, 'number of sets (Intel)'),
      value(4, cache, 'edx', 0x00000007, 'cache properties (Intel)'),
    ]),
  ),

  value(7, 0, 'eax', 0xffffffff, 'largest subleaf (limited to the largest listed here)'),
  features(7, 0, 'ebx', {
    shown: {
      0: 'FSGSBASE',
      3: 'BMI1',
      5: 'AVX2',
      6: 'FDP_EXCPTN_ONLY',
      8: 'BMI2',
      9: 'ERMS',
      11: 'RTM',
      13: 'NO_FPU_SEL',
      16: 'AVX512F',
      17: 'AVX512DQ',
      18: 'RDSEED',
      19: 'ADX',
      21: 'AVX512_IFMA',
      23: 'CLFLUSHOPT',
      24: 'CLWB',
      26: 'AVX512PF',
      27: 'AVX512ER',
      28: 'AVX512CD',
      29: 'SHA',
      30: 'AVX512BW',
      31: 'AVX512VL',
    },
    optional: { 4: ['HLE', OPT_IN] },
    hidden: {
      1: ['TSC_ADJUST', NO_MSR],
      2: ['SGX', CPL0],
      7: ['SMEP', NO_CR4],
      10: ['INVPCID', CPL0],
      12: ['PQM', NO_MSR],
      14: ['MPX', NO_MPX],
      15: ['PQE', NO_MSR],
      20: ['SMAP', NO_CR4],
      25: ['PROC_TRACE', NO_MSR],
    },
    reserved: '22',
  }),
  features(7, 0, 'ecx', {
    shown: {
      0: 'PREFETCHWT1',
      1: 'AVX512_VBMI',
      6: 'AVX512_VBMI2',
      8: 'GFNI',
      9: 'VAES',
      10: 'VPCLMULQDQ',
      11: 'AVX512_VNNI',
      12: 'AVX512_BITALG',
      14: 'AVX512_VPOPCNTDQ',
      22: 'RDPID',
      25: 'CLDEMOTE',
      27: 'MOVDIRI',
      28: 'MOVDIR64B',
    },
    hidden: {
      2: ['UMIP', NO_CR4],
      3: ['PKU', 'protection keys are bits of page-table entries that Xen keeps from PV guests'],
      4: ['OSPKE', NO_CR4],
      5: [
        'WAITPKG',
        'UMWAIT and TPAUSE would stop the virtual processor behind the scheduler’s back; MSR not virtualised',
      ],
      7: ['CET_SS', NO_CR4],
      13: ['TME', NO_MSR],
      16: ['LA57', 'PV page tables have four levels'],
      17: ['MAWAU', NO_MPX],
      18: ['MAWAU', NO_MPX],
      19: ['MAWAU', NO_MPX],
      20: ['MAWAU', NO_MPX],
      21: ['MAWAU', NO_MPX],
      23: ['KEY_LOCKER', NO_CR4],
      24: ['BUS_LOCK_DETECT', NO_MSR],
      29: ['ENQCMD', NO_MSR],
      30: ['SGX_LC', NO_MSR],
      31: ['PKS', NO_CR4],
    },
    reserved: '15, 26',
  }),
  features(7, 0, 'edx', {
    shown: { 2: 'AVX512_4VNNIW', 3: 'AVX512_4FMAPS', 4: 'FSRM', 10: 'MD_CLEAR', 14: 'SERIALIZE' },
    optional: { 8: ['AVX512_VP2INTERSECT', OPT_IN], 16: ['TSXLDTRK', OPT_IN] },
    hidden: {
      1: ['SGX_KEYS', CPL0],
      5: ['UINTR', NO_CR4],
      9: ['SRBDS_CTRL', SPEC_CTRL],
      11: ['RTM_ALWAYS_ABORT', 'such a processor does not show RTM, and its control MSR is not virtualised'],
      13: ['TSX_FORCE_ABORT', NO_MSR],
      15: ['HYBRID', TOPOLOGY],
      18: ['PCONFIG', CPL0],
      19: ['ARCH_LBR', NO_MSR],
      20: ['CET_IBT', NO_CR4],
      22: ['AMX_BF16', NO_AMX],
      23: ['AVX512_FP16', NEWER],
      24: ['AMX_TILE', NO_AMX],
      25: ['AMX_INT8', NO_AMX],
      26: ['IBRS_IBPB', SPEC_CTRL],
      27: ['STIBP', SPEC_CTRL],
      28: ['L1D_FLUSH', SPEC_CTRL],
      29: ['ARCH_CAPS', SPEC_CTRL],
      30: ['CORE_CAPS', NO_MSR],
      31: ['SSBD', SPEC_CTRL],
    },
    reserved: '0, 6-7, 12, 17, 21',
  }),
  features(7, 1, 'eax', {
    shown: { 4: 'AVX_VNNI', 5: 'AVX512_BF16', 10: 'FZRM', 11: 'FSRS', 12: 'FSRCS' },
    hidden: {
      0: ['SHA512', NEWER],
      1: ['SM3', NEWER],
      2: ['SM4', NEWER],
      3: ['RAO_INT', NEWER],
      6: ['LASS', NO_CR4],
      7: ['CMPCCXADD', NEWER],
      8: ['ARCH_PERFMON_EXT', NO_PERFMON],
      17: ['FRED', NO_CR4],
      18: ['LKGS', CPL0],
      19: ['WRMSRNS', CPL0],
      20: ['NMI_SRC', 'comes with FRED'],
      21: ['AMX_FP16', NO_AMX],
      22: ['HRESET', CPL0],
      23: ['AVX_IFMA', NEWER],
      26: ['LAM', 'CR3 and CR4 are the hypervisor’s'],
      27: ['MSRLIST', CPL0],
      30: ['INVD_DISABLE', PLATFORM],
      31: ['MOVRS', NEWER],
    },
    reserved: '9, 13-16, 24-25, 28-29',
  }),
  features(7, 1, 'ebx', {
    hidden: { 0: ['INTEL_PPIN', NO_MSR], 1: ['PBNDKB', CPL0], 3: ['CPUID_MAX_LIMIT_REMOVED', PLATFORM] },
    reserved: '2, 4-31',
  }),
  features(7, 1, 'ecx', { reserved: '0-31' }),
  features(7, 1, 'edx', {
    hidden: {
      4: ['AVX_VNNI_INT8', NEWER],
      5: ['AVX_NE_CONVERT', NEWER],
      8: ['AMX_COMPLEX', NO_AMX],
      10: ['AVX_VNNI_INT16', NEWER],
      13: ['UTMR', NO_MSR],
      14: ['PREFETCHI', NEWER],
      15: ['USER_MSR', NO_MSR],
      17: ['UIRET_UIF', NO_CR4],
      18: ['CET_SSS', NO_CR4],
      19: ['AVX10', NEWER],
      21: ['APX_F', NEWER],
      23: ['MWAIT', CPL0],
    },
    reserved: '0-3, 6-7, 9, 11-12, 16, 20, 22, 24-31',
  }),
  features(7, 2, 'eax', { reserved: '0-31' }),
  features(7, 2, 'ebx', { reserved: '0-31' }),
  features(7, 2, 'ecx', { reserved: '0-31' }),
  features(7, 2, 'edx', {
    shown: { 5: 'MCDT_NO' },
    hidden: {
      0: ['INTEL_PSFD', SPEC_CTRL],
      1: ['IPRED_CTRL', SPEC_CTRL],
      2: ['RRSBA_CTRL', SPEC_CTRL],
      3: ['DDP_CTRL', SPEC_CTRL],
      4: ['BHI_CTRL', SPEC_CTRL],
      6: ['UC_LOCK_DISABLE', NO_MSR],
      7: ['MONITOR_MITG_NO', CPL0],
    },
    reserved: '8-31',
  }),

  features(0xd, 0, 'eax', {
    shown: {
      0: 'XSTATE_X87',
      1: 'XSTATE_SSE',
      2: 'XSTATE_AVX',
      5: 'XSTATE_OPMASK',
      6: 'XSTATE_ZMM_HI256',
      7: 'XSTATE_HI16_ZMM',
    },
    hidden: {
      3: ['XSTATE_BNDREGS', NO_MPX],
      4: ['XSTATE_BNDCSR', NO_MPX],
      8: ['XSTATE_PT', 'supervisor state: needs XSAVES'],
      9: ['XSTATE_PKRU', 'follows PKU'],
      10: ['XSTATE_PASID', 'supervisor state: needs XSAVES'],
      11: ['XSTATE_CET_U', 'supervisor state: needs XSAVES'],
      12: ['XSTATE_CET_S', 'supervisor state: needs XSAVES'],
      13: ['XSTATE_HDC', 'supervisor state: needs XSAVES'],
      14: ['XSTATE_UINTR', 'supervisor state: needs XSAVES'],
      15: ['XSTATE_LBR', 'supervisor state: needs XSAVES'],
      16: ['XSTATE_HWP', 'supervisor state: needs XSAVES'],
      17: ['XSTATE_TILECFG', NO_AMX],
      18: ['XSTATE_TILEDATA', NO_AMX],
      19: ['XSTATE_APX', NEWER],
    },
    reserved: '20-31',
  }),
  value(0xd, 0, 'ebx', 0, 'computed: bytes of an XSAVE area for what XCR0 enables now'),
  value(0xd, 0, 'ecx', 0, 'computed: bytes of an XSAVE area for all that is shown'),
  features(0xd, 0, 'edx', {
    hidden: { 30: ['XSTATE_LWP', 'follows LWP'] },
    reserved: '0-29, 31',
  }),
  features(0xd, 1, 'eax', {
    shown: { 0: 'XSAVEOPT', 1: 'XSAVEC', 2: 'XGETBV1' },
    hidden: { 3: ['XSAVES', CPL0], 4: ['XFD', NO_MSR] },
    reserved: '5-31',
  }),
  value(0xd, 1, 'ebx', 0, 'computed: bytes of a compacted area for what XCR0 enables now, with XSAVEC'),
  value(0xd, 1, 'ecx', 0, 'zero: supervisor state needs XSAVES'),
  value(0xd, 1, 'edx', 0, 'zero: supervisor state needs XSAVES'),
  ...Object.entries(COMPONENTS).flatMap(([component, name]) => [
    value(0xd, Number(component), 'eax', 0xffffffff, `${name}: size, where it is shown`),
    value(0xd, Number(component), 'ebx', 0xffffffff, `${name}: offset, where it is shown`),
    value(0xd, Number(component), 'ecx', 0x00000002, `${name}: alignment in compacted areas`),
    value(0xd, Number(component), 'edx', 0, 'zero'),
  ]),

  ...wholeLeaf(0x80000000, ANY_SUBLEAF, 'largest extended leaf (limited to the largest listed here) and vendor'),
  value(0x80000001, ANY_SUBLEAF, 'eax', 0x0fff3fff, 'family, model, stepping (AMD)'),
  value(0x80000001, ANY_SUBLEAF, 'ebx', 0x0000ffff, 'brand id (AMD)'),
  features(0x80000001, ANY_SUBLEAF, 'ecx', {
    shown: {
      0: 'LAHF_LM',
      5: 'ABM',
      6: 'SSE4A',
      7: 'MISALIGNSSE',
      8: '3DNOWPREFETCH',
      11: 'XOP',
      16: 'FMA4',
      21: 'TBM',
    },
    hidden: {
      1: ['CMP_LEGACY', TOPOLOGY],
      2: ['SVM', 'no nested virtualization for PV guests'],
      3: ['EXTAPIC', 'a PV guest has no APIC'],
      4: ['CR8_LEGACY', CPL0],
      9: ['OSVW', NO_MSR],
      10: ['IBS', NO_MSR],
      12: ['SKINIT', CPL0],
      13: ['WDT', PLATFORM],
      15: ['LWP', NO_MSR],
      17: ['TCE', 'its EFER bit is not virtualised'],
      19: ['NODEID_MSR', NO_MSR],
      22: ['TOPOEXT', TOPOLOGY],
      23: ['PERFCTR_CORE', NO_PERFMON],
      24: ['PERFCTR_NB', NO_PERFMON],
      26: ['DBEXT', 'its MSRs are not virtualised (Xen has them)'],
      27: ['PTSC', NO_MSR],
      28: ['PERFCTR_LLC', NO_PERFMON],
      29: ['MONITORX', 'MWAITX would stop the virtual processor behind the scheduler’s back'],
      30: ['ADDR_MASK_EXT', NO_MSR],
    },
    reserved: '14, 18, 20, 25, 31',
  }),
  features(0x80000001, ANY_SUBLEAF, 'edx', {
    shown: {
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
    hidden: { ...COMMON_1D_HIDDEN, 19: ['MP', PLATFORM], 26: ['PAGE1GB', NO_SUPERPAGES] },
    reserved: '10, 18, 21, 28',
  }),
  ...[0x80000002, 0x80000003, 0x80000004].flatMap((leaf) => wholeLeaf(leaf, ANY_SUBLEAF, 'brand string')),
  ...wholeLeaf(0x80000005, ANY_SUBLEAF, 'L1 caches and TLBs (AMD)'),
  ...wholeLeaf(0x80000006, ANY_SUBLEAF, 'L2 and L3 caches'),
  value(0x80000007, ANY_SUBLEAF, 'eax', 0, 'zero'),
  value(0x80000007, ANY_SUBLEAF, 'ebx', 0, 'zero: machine-check features are the host’s'),
  value(0x80000007, ANY_SUBLEAF, 'ecx', 0, 'zero'),
  features(0x80000007, ANY_SUBLEAF, 'edx', {
    optional: {
      8: [
        'ITSC',
        'the guest may be moved, and its clock is the pvclock; Xen shows it to guests that stay (nomigrate=1, or cpuid="host,invtsc=1")',
      ],
    },
    hidden: {
      0: ['TS', PLATFORM],
      1: ['FID', NO_MSR],
      2: ['VID', NO_MSR],
      3: ['TTP', PLATFORM],
      4: ['HTC', NO_MSR],
      5: ['STC', NO_MSR],
      6: ['100MHZSTEPS', NO_MSR],
      7: ['HWPSTATE', NO_MSR],
      9: ['CPB', NO_MSR],
      10: ['EFRO', NO_MSR],
      11: ['PFI', NO_MSR],
      12: ['PROC_ACCUMULATOR', NO_MSR],
    },
    reserved: '13-31',
  }),
  value(
    0x80000008,
    ANY_SUBLEAF,
    'eax',
    0xff,
    'physical address bits; 48 linear ones, whatever LA57 would give',
    48 << 8,
  ),
  features(0x80000008, ANY_SUBLEAF, 'ebx', {
    shown: { 0: 'CLZERO', 2: 'RSTR_FP_ERR_PTRS', 26: 'SSB_NO', 29: 'BTC_NO' },
    hidden: {
      1: ['INST_RETIRED', NO_MSR],
      3: ['INVLPGB', CPL0],
      4: ['RDPRU', 'reads counters that are not virtualised'],
      6: ['MBE', NO_MSR],
      8: ['MCOMMIT', NO_MSR],
      9: ['WBNOINVD', CPL0],
      12: ['IBPB', SPEC_CTRL],
      13: ['INT_WBINVD', CPL0],
      14: ['IBRS', SPEC_CTRL],
      15: ['AMD_STIBP', SPEC_CTRL],
      16: ['IBRS_ALWAYS', SPEC_CTRL],
      17: ['STIBP_ALWAYS', SPEC_CTRL],
      18: ['IBRS_FAST', SPEC_CTRL],
      19: ['IBRS_SAME_MODE', SPEC_CTRL],
      20: ['NO_LMSL', 'EFER.LMSLE is not virtualised'],
      21: ['INVLPGB_NESTED', CPL0],
      23: ['PPIN', NO_MSR],
      24: ['AMD_SSBD', SPEC_CTRL],
      25: ['VIRT_SSBD', SPEC_CTRL],
      27: ['CPPC', NO_MSR],
      28: ['PSFD', SPEC_CTRL],
      30: ['IBPB_RET', SPEC_CTRL],
    },
    reserved: '5, 7, 10-11, 22, 31',
  }),
  value(0x80000008, ANY_SUBLEAF, 'ecx', 0, `zero: ${TOPOLOGY}`),
  value(0x80000008, ANY_SUBLEAF, 'edx', 0, 'zero: limits of INVLPGB and RDPRU, which are hidden'),
  features(0x80000021, ANY_SUBLEAF, 'eax', {
    shown: { 0: 'NO_NESTED_DBP', 2: 'LFENCE_SERIALIZING', 6: 'NULL_SELECTOR_CLEARS_BASE', 29: 'SRSO_NO' },
    hidden: {
      1: ['FSGSKGS_NON_SERIALIZING', 'the bases are written by hypercall or emulation'],
      3: ['SMM_PAGE_CFG_LOCK', PLATFORM],
      7: ['UPPER_ADDRESS_IGNORE', 'its EFER bit is not virtualised'],
      8: ['AUTO_IBRS', 'its EFER bit is not virtualised'],
      9: ['NO_SMM_CTL_MSR', NO_MSR],
      10: ['AMD_FSRS', NEWER],
      11: ['AMD_FSRC', NEWER],
      13: ['PREFETCH_CTL_MSR', NO_MSR],
      17: ['CPUID_USER_DIS', NO_MSR],
      18: ['EPSF', SPEC_CTRL],
      27: ['SBPB', SPEC_CTRL],
      28: ['IBPB_BRTYPE', SPEC_CTRL],
      30: ['SRSO_USER_KERNEL_NO', NEWER],
    },
    reserved: '4-5, 12, 14-16, 19-26, 31',
  }),
  value(0x80000021, ANY_SUBLEAF, 'ebx', 0, 'zero: microcode is the host’s'),
  value(0x80000021, ANY_SUBLEAF, 'ecx', 0, 'zero'),
  value(0x80000021, ANY_SUBLEAF, 'edx', 0, 'zero'),
];

/** Leaves that processors have and guests read as zeros. */
export const HIDDEN_LEAVES: readonly (readonly [leaves: string, content: string, reason: string])[] = [
  ['3', 'processor serial number', PLATFORM],
  ['5', 'MONITOR and MWAIT', CPL0],
  ['6', 'thermal and power management', NO_MSR],
  ['7, from subleaf 3 on', 'features', NEWER],
  ['9', 'direct cache access', PLATFORM],
  ['a, 23', 'performance monitoring', NO_PERFMON],
  [
    'b, 1f, 8000001e, 80000026',
    'processor topology',
    `${TOPOLOGY}; a PV guest of Xen without an x2APIC reads zeros too`,
  ],
  ['d, other subleaves', 'extended state', 'the component is hidden'],
  ['f, 10, 80000020', 'cache and bandwidth monitoring and allocation', NO_MSR],
  ['12', 'SGX', CPL0],
  ['14', 'processor trace', NO_MSR],
  ['15, 16', 'frequencies of TSC, core and bus', 'time comes from the pvclock, and Xen shows none of it'],
  ['17', 'system-on-chip vendor', PLATFORM],
  ['18', 'address translation parameters', NEWER],
  ['19', 'key locker', NO_CR4],
  ['1a', 'kind of a hybrid processor’s core', TOPOLOGY],
  ['1b', 'PCONFIG', CPL0],
  ['1c', 'last branch records', NO_MSR],
  ['1d, 1e', 'AMX tiles', NO_AMX],
  ['20', 'history reset', CPL0],
  ['24', 'AVX10', NEWER],
  ['8000000a', 'SVM', 'no nested virtualization for PV guests'],
  ['80000019', 'TLB entries for 1 GiB pages', NO_SUPERPAGES],
  ['8000001a', 'performance hints', 'Xen shows none to PV guests'],
  ['8000001b', 'instruction-based sampling', NO_MSR],
  ['8000001c', 'lightweight profiling', NO_MSR],
  ['8000001d', 'cache topology (AMD)', TOPOLOGY],
  ['8000001f, 80000023', 'memory encryption', PLATFORM],
  ['80000022', 'performance monitoring', NO_PERFMON],
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
    TrapCpuid.set.flags(view, at, rows[0].intelOnly ? TRAP_CPUID.TRAP_CPUID_INTEL : 0);
    for (const row of rows) {
      TrapCpuid.set.and_mask(view, at, row.andMask, REG_INDEX[row.reg]);
      TrapCpuid.set.or_bits(view, at, row.orBits, REG_INDEX[row.reg]);
    }
    at += TrapCpuid.size;
  }
  return table;
}

/** The processor's own value of a row's register, from the table as the trap module has completed it. */
export function hardwareValue(table: DataView, row: CpuidRow): number {
  for (let at = 0; at + TrapCpuid.size <= table.byteLength; at += TrapCpuid.size) {
    if (TrapCpuid.get.leaf(table, at) === row.leaf && TrapCpuid.get.subleaf(table, at) === row.subleaf) {
      return TrapCpuid.get.hardware(table, at, REG_INDEX[row.reg]);
    }
  }
  return 0;
}

export function leafName(row: Pick<CpuidRow, 'leaf' | 'subleaf'>): string {
  const sub = row.subleaf === ANY_SUBLEAF ? '' : `, subleaf ${row.subleaf}`;
  return `${row.leaf.toString(16)}${sub}`;
}

function bitList(bits: number): string {
  const runs: string[] = [];
  for (let bit = 0; bit < 32; bit++) {
    if (!((bits >>> bit) & 1)) continue;
    let last = bit;
    while (last < 31 && (bits >>> (last + 1)) & 1) last++;
    runs.push(last === bit ? `${bit}` : `${bit}-${last}`);
    bit = last;
  }
  return runs.join(', ');
}

/** The policy as a page of documentation. */
export function toMarkdown(policy: readonly CpuidRow[] = CPUID_POLICY): string {
  const lines = [
    '# CPUID as a guest sees it',
    '',
    'Generated from shim/xen/cpuid-policy.ts. A kernel gets these answers through the forced-emulation prefix. It follows',
    'what Xen 4.17 shows a PV guest. Three things are put together: what the processor of the engine has (the trap module',
    'asks it at start), this policy, and `cpuid=` of the configuration file. A feature that is hidden takes along those that',
    'need it (shim/xen/cpuid-dependencies.ts). Leaves that are not listed read as zeros.',
    '',
    '## Shown, if the processor has it',
    '',
    '| leaf | register | content |',
    '|---|---|---|',
  ];
  for (const row of policy) {
    const names = row.visible.map((b) => ((row.orBits >>> b.bit) & 1 ? `**${b.name}** (always)` : b.name)).join(', ');
    const vendor = row.intelOnly ? '; zeros on other processors' : '';
    if (names) lines.push(`| ${leafName(row)} | ${row.reg} | ${names} |`);
    else if (row.doc !== undefined) lines.push(`| ${leafName(row)} | ${row.reg} | ${row.doc}${vendor} |`);
  }
  const listed = (title: string, of: (row: CpuidRow) => readonly HiddenBit[], last: string): void => {
    lines.push('', `## ${title}`, '', `| leaf | register | bit | feature | ${last} |`, '|---|---|---|---|---|');
    for (const row of policy) {
      for (const b of of(row)) lines.push(`| ${leafName(row)} | ${row.reg} | ${b.bit} | ${b.name} | ${b.reason} |`);
    }
  };
  listed('Computed', (row) => row.computed, 'how');
  listed('Shown if the configuration asks for it', (row) => row.optional, 'why not otherwise');
  listed('Hidden, and why', (row) => row.hidden, 'reason');
  lines.push('', '## Reserved bits, hidden', '', '| leaf | register | bits |', '|---|---|---|');
  for (const row of policy) {
    if (row.reserved !== 0) lines.push(`| ${leafName(row)} | ${row.reg} | ${bitList(row.reserved)} |`);
  }
  lines.push('', '## Leaves that are hidden whole', '', '| leaf | content | reason |', '|---|---|---|');
  for (const row of HIDDEN_LEAVES) lines.push(`| ${row.join(' | ')} |`);
  return `${lines.join('\n')}\n`;
}
