/**
 * How a VP starts where the engine sets its registers: 64-bit mode, ring 0, flat segments, interrupts off (the state that
 * native/trap expects; there is no firmware).
 */

/** CR0: PG, AM, WP, NE, ET, MP, PE; CR4: PAE, OSFXSR, OSXMMEXCPT; EFER: SCE, LME, LMA, NXE. */
export const LONG_MODE = { cr0: 0x8005_0033, cr4: 0x620, efer: 0xd01, rflags: 2 } as const;

/** Selectors of the segments that are loaded; there is no GDT behind them. */
export const SELECTORS = { code: 0x08, data: 0x10, task: 0x18 } as const;

export interface InitialRegisters {
  readonly cr3: number;
  readonly rip: bigint;
  readonly rdi: number;
  readonly rsi: number;
}
