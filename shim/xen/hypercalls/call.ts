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

/** Lets the event loop turn, in the middle of a long hypercall. */
export function nextTurn(): Promise<void> {
  return new Promise((resolve) => setImmediate(resolve));
}
