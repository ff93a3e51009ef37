/**
 * Which processor features need which others, so that hiding one leaves nothing behind that cannot work: as Xen's tools
 * do it (xen-cpuid's deep dependencies), in our words and for the features that a PV guest may see.
 *
 * Quirk: components of XCR0 are features here too; the trap module takes from them what XSETBV may enable.
 */

/** Feature -> what directly needs it. Names are the policy's. */
const NEEDED_BY: Readonly<Record<string, readonly string[]>> = {
  FXSR: ['FFXSR', 'SSE'],
  SSE: ['SSE2', 'MISALIGNSSE'],
  SSE2: ['SSE3', 'AESNI', 'PCLMULQDQ', 'SHA', 'GFNI'],
  SSE3: ['SSSE3', 'SSE4A'],
  SSSE3: ['SSE4.1'],
  'SSE4.1': ['SSE4.2'],
  'SSE4.2': ['AVX'],
  AESNI: ['VAES'],
  PCLMULQDQ: ['VPCLMULQDQ'],
  XSAVE: ['XSAVEOPT', 'XSAVEC', 'XGETBV1', 'AVX', 'XSTATE_X87', 'XSTATE_SSE'],
  AVX: ['AVX2', 'FMA', 'FMA4', 'F16C', 'XOP', 'VAES', 'VPCLMULQDQ', 'XSTATE_AVX'],
  AVX2: ['AVX512F', 'AVX_VNNI'],
  AVX512F: [
    'AVX512DQ',
    'AVX512_IFMA',
    'AVX512PF',
    'AVX512ER',
    'AVX512CD',
    'AVX512BW',
    'AVX512VL',
    'AVX512_VNNI',
    'AVX512_VPOPCNTDQ',
    'AVX512_4VNNIW',
    'AVX512_4FMAPS',
    'XSTATE_OPMASK',
    'XSTATE_ZMM_HI256',
    'XSTATE_HI16_ZMM',
  ],
  AVX512BW: ['AVX512_VBMI', 'AVX512_VBMI2', 'AVX512_BITALG', 'AVX512_BF16', 'AVX512_VP2INTERSECT'],
  RTM: ['TSXLDTRK'],
  MMX: ['3DNOW', 'MMXEXT'],
  '3DNOW': ['3DNOWEXT'],
};

/** The features that cannot work without `name`, directly or not; without `name` itself. */
export function dependents(name: string): ReadonlySet<string> {
  const found = new Set<string>();
  const visit = (one: string): void => {
    for (const next of NEEDED_BY[one] ?? []) {
      if (found.has(next)) continue;
      found.add(next);
      visit(next);
    }
  };
  visit(name);
  return found;
}

/** Every name in the table, for its test. */
export function dependencyNames(): string[] {
  return Object.entries(NEEDED_BY).flatMap(([name, needs]) => [name, ...needs]);
}
