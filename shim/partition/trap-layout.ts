/**
 * Where everything of the trap module lies in a partition's RAM, and which frames are left for the domain.
 *
 * A pure function of sizes. Reserved frames come first (from 1 MiB, beyond the reset ROM's shadow), domain frames
 * behind them from a 2 MiB boundary, split at the hole below 4 GiB. MFN = guest-physical frame number, and since domain
 * memory never starts at MFN 0, pfn and mfn always differ: code that mixes them up does not survive its first test.
 */
import { TRAP, TRAP_HV_PAGE, TrapDomain, TrapTrace, TrapVp } from '../../abi/trap';
import type { RamRegion } from './guest-memory';

const PAGE = 4096;
const MIB = 2 ** 20;
const LARGE_PAGE = 2 * MIB;
/** L1 tables for the descriptor windows, L1 tables for the VP areas: for TRAP_MAX_VPS VPs. */
export const PERDOMAIN_L1_PAGES = (TRAP.TRAP_MAX_VPS * 32) / 512;
/** A power of two; the ring's pages are touched only while a trace runs. */
export const TRACE_ENTRIES = 65536;
/** Pages of the shim's own, for what it asks of VSPs (shim/domain/disks). */
export const SHIM_PAGES = 128;
/** 128 entries of struct trap_cpuid. */
export const CPUID_TABLE_BYTES = 2 * PAGE;

export interface TrapLayoutInput {
  readonly nrVps: number;
  /** Bytes of the trap module's image. */
  readonly imageSize: number;
  /** Frames of the domain at most (maxmem). */
  readonly domainFrames: number;
  /** Where the engine puts that much RAM. */
  readonly ramRegions: (bytes: number) => RamRegion[];
}

export interface FrameRun {
  readonly mfn: number;
  readonly count: number;
}

export interface TrapLayout {
  /** RAM to give the partition, a multiple of 1 MiB. */
  readonly memoryBytes: number;
  readonly regions: readonly RamRegion[];
  readonly nrVps: number;
  /** Highest MFN + 1. */
  readonly nrFrames: number;
  /** The hole below 4 GiB in MFNs; both nrFrames when there is none. */
  readonly hole: { readonly start: number; readonly end: number };
  readonly imageGpa: number;
  readonly domainGpa: number;
  readonly vpsGpa: number;
  /** Page tables and per-VP pages, handed out in order by the loader. */
  readonly tablesGpa: number;
  readonly tablesPages: number;
  readonly perdomainL1Gpa: number;
  readonly reservedGdtGpa: number;
  readonly cpuidGpa: number;
  readonly sharedInfoGpa: number;
  readonly grantFramesGpa: number;
  readonly grantStatusGpa: number;
  /** Pages that the TLFS wants from a guest (TRAP_HV_PAGE_*). */
  readonly hvPagesGpa: number;
  readonly shimPagesGpa: number;
  readonly traceGpa: number;
  readonly frameInfoGpa: number;
  readonly m2pGpa: number;
  /** Bytes mapped as M2P, a multiple of 2 MiB. */
  readonly m2pSize: number;
  /** The domain's frames, in pfn order. */
  readonly domainRuns: readonly FrameRun[];
}

function roundUp(n: number, to: number): number {
  return Math.ceil(n / to) * to;
}

/** Pages for the module's own tables and VP areas; generous, untouched pages cost nothing. */
function tablePages(nrVps: number, nrFrames: number): number {
  const directMapL2 = Math.ceil(nrFrames / 2 ** 18) + 2;
  const imageAndFixed = 64;
  return imageAndFixed + directMapL2 + nrVps * 16;
}

/** Lays a partition out. RangeError when `domainFrames` is no size of a domain. */
export function trapLayout(input: TrapLayoutInput): TrapLayout {
  const { nrVps, domainFrames } = input;
  if (!Number.isSafeInteger(domainFrames) || domainFrames <= 0) throw new RangeError(`${domainFrames} domain frames`);
  // Tables that grow with RAM are part of RAM: grow the estimate until it fits.
  let memoryBytes = roundUp(domainFrames * PAGE, MIB) + 8 * MIB;
  for (;;) {
    const regions = input.ramRegions(memoryBytes);
    const last = regions.at(-1) as RamRegion;
    const nrFrames = (last.gpa + last.size) / PAGE;
    const first = regions[0] as RamRegion;
    const hole =
      regions.length > 1
        ? { start: (first.gpa + first.size) / PAGE, end: (regions[1] as RamRegion).gpa / PAGE }
        : { start: nrFrames, end: nrFrames };
    let next = MIB;
    const take = (bytes: number, align = PAGE): number => {
      const at = roundUp(next, align);
      next = at + roundUp(bytes, PAGE);
      return at;
    };
    const m2pSize = roundUp(nrFrames * 8, LARGE_PAGE);
    const tablesPages = tablePages(nrVps, nrFrames);
    const layout = {
      memoryBytes,
      regions,
      nrVps,
      nrFrames,
      hole,
      imageGpa: take(input.imageSize),
      domainGpa: take(TrapDomain.size),
      vpsGpa: take(TrapVp.size * nrVps),
      tablesGpa: take(tablesPages * PAGE),
      tablesPages,
      perdomainL1Gpa: take(PERDOMAIN_L1_PAGES * PAGE),
      reservedGdtGpa: take(nrVps * PAGE),
      cpuidGpa: take(CPUID_TABLE_BYTES),
      sharedInfoGpa: take(PAGE),
      grantFramesGpa: take(TRAP.TRAP_MAX_GRANT_FRAMES * PAGE),
      grantStatusGpa: take((TRAP.TRAP_MAX_GRANT_FRAMES / 8) * PAGE),
      hvPagesGpa: take((nrVps * TRAP_HV_PAGE.TRAP_HV_PAGES_PER_VP + 1) * PAGE),
      shimPagesGpa: take(SHIM_PAGES * PAGE),
      traceGpa: take(TRACE_ENTRIES * TrapTrace.size),
      frameInfoGpa: take(nrFrames * 8),
      m2pGpa: take(m2pSize, LARGE_PAGE),
      m2pSize,
    };
    const domainStart = roundUp(next, LARGE_PAGE);
    const domainRuns: FrameRun[] = [];
    let left = domainFrames;
    for (const region of regions) {
      const from = Math.max(region.gpa, domainStart) / PAGE;
      const count = Math.min(left, (region.gpa + region.size) / PAGE - from);
      if (count > 0) {
        domainRuns.push({ mfn: from, count });
        left -= count;
      }
    }
    if (left <= 0) return { ...layout, domainRuns };
    memoryBytes += roundUp(left * PAGE, MIB);
  }
}
