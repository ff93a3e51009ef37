/**
 * What the tests of several vCPUs run: a few modes for a few seconds each, or, with SMP_SECONDS (npm run test:smp-stress), all
 * of them for that long.
 */
export interface SmpMode {
  readonly ring: 1 | 3;
  readonly vcpus: number;
}

const asked = process.env['SMP_SECONDS'];
/** Of stress in each mode. */
export const SECONDS = Number(asked ?? 4);
export const SEED = Number(process.env['SMP_SEED'] ?? 1);
export const LONG = asked !== undefined;
/** For a test: booting, the stress, and a host that is busy with other things. */
export const TEST_MS = (SECONDS * 2 + 150) * 1000;

/** The modes of a short run, and those of a long one. */
export function modes<T extends SmpMode>(short: readonly T[], long: readonly T[]): readonly T[] {
  return LONG ? long : short;
}
