/**
 * One hypercall as a handler sees it.
 */
import type { GuestVirtual } from '../guest-virtual';
import type { XenDomain } from '../xen-domain';

export interface HypercallCall {
  readonly vcpu: number;
  readonly nr: number;
  /** rdi, rsi, rdx, r10, r8, r9, as unsigned 64-bit values. */
  readonly args: readonly bigint[];
  readonly guest: GuestVirtual;
  /** Handlers OR in TRAP_EFFECT_*: what the trap module does before the guest goes on. */
  effects: number;
}

/** The value for RAX. A Promise costs the guest latency: only for work that must wait or be spread over turns. */
export type HypercallResult = number | bigint;
export type Handler = (d: XenDomain, c: HypercallCall) => HypercallResult | Promise<HypercallResult>;

/** Argument `i` where Xen's prototype says unsigned int. */
export function arg32(c: HypercallCall, i: number): number {
  return Number((c.args[i] ?? 0n) & 0xffff_ffffn);
}
export function arg64(c: HypercallCall, i: number): bigint {
  return c.args[i] ?? 0n;
}

/** Lets the event loop turn, in the middle of a long hypercall. Never resolves when the domain has ended meanwhile. */
export function nextTurn(d: XenDomain): Promise<void> {
  return new Promise((resolve) =>
    setImmediate(() => {
      if (!d.ended) resolve();
    }),
  );
}

/**
 * What one turn of the event loop gives to one hypercall, in ms of CPU time (a busy host must not change how a call is
 * answered): this much if the steps are short, and never more than MAX_SLICE_MS. The clock is looked at every
 * STEPS_PER_LOOK steps.
 */
const SLICE_MS = 20;
const MAX_SLICE_MS = 40;
const STEPS_PER_LOOK = 8;
/** Steps that are done at once unless they take very long, so that ordinary calls need no second turn. */
const STEPS_AT_ONCE = 512;

/**
 * Runs `step` for `from` to `to - 1` until it returns something, which becomes the result; `done` if it never does. As
 * much as fits into a slice of time is done at once; what is left is spread over turns of the event loop, because the
 * guest chooses the number of steps and, through its memory, their cost. `atOnce`: steps that ordinary calls take.
 */
export function inSlices<T>(
  d: XenDomain,
  from: number,
  to: number,
  step: (i: number) => T | undefined,
  done: T,
  atOnce = STEPS_AT_ONCE,
): T | Promise<T> {
  let next = from;
  const slice = (): T | undefined => {
    const start = process.cpuUsage();
    for (let steps = 1; next < to; steps++) {
      const result = step(next++);
      if (result !== undefined) return result;
      if (steps % STEPS_PER_LOOK !== 0) continue;
      const { user, system } = process.cpuUsage(start);
      const used = (user + system) / 1000;
      if (used > MAX_SLICE_MS || (used > SLICE_MS && steps >= atOnce)) return undefined;
    }
    return done;
  };
  const first = slice();
  if (first !== undefined) return first;
  return (async () => {
    for (;;) {
      await nextTurn(d);
      const result = slice();
      if (result !== undefined) return result;
    }
  })();
}
