/**
 * Trace records as events of the Chrome/Perfetto trace format (JSON Trace Event Format: "X" complete, "i" instant, "M"
 * metadata events).
 *
 * Requests of disks are "b" and "e" events with an event for each stage inside. Their lengths are measured; their place
 * in the domain's time is right to about a millisecond.
 *
 * Times are microseconds of the domain's system time, which is what the guest's kernel prints in its log. One process
 * for the domain, one thread for each vCPU; a call that the shim answered contains a slice "shim" for the time that the
 * shim worked on it. Its length is measured; its place within the call is not known and drawn in the middle.
 */
import { TRAP_TRACE } from '../../abi/trap';
import { errnoName } from '../../abi/xen/errno';
import { hypercall, opName, subopFromArgs } from '../../abi/xen/hypercalls';
import type { RequestTimes } from './blkif/queue';
import { hyperVNames } from './hyperv-operations';
import type { TraceClock, TraceRecord } from './trace-ring';

export interface TraceEvent {
  readonly name: string;
  readonly ph: 'X' | 'i' | 'M' | 'b' | 'e';
  readonly pid: number;
  readonly tid: number;
  /** Microseconds. */
  readonly ts?: number;
  readonly dur?: number;
  readonly cat?: string;
  /** Of "b" and "e" events, which may overlap: those with the same id belong together. */
  readonly id?: number;
  /** Scope of an instant event: thread or global. */
  readonly s?: 't' | 'g';
  readonly args?: Readonly<Record<string, unknown>>;
}

const EXCEPTIONS: Readonly<Record<number, string>> = {
  0: '#DE',
  1: '#DB',
  2: 'NMI',
  3: '#BP',
  4: '#OF',
  5: '#BR',
  6: '#UD',
  7: '#NM',
  10: '#TS',
  11: '#NP',
  12: '#SS',
  13: '#GP',
  14: '#PF',
  16: '#MF',
  17: '#AC',
  19: '#XM',
  128: 'int 0x80',
};
/** VEC_* of native/trap/trap.h. */
const INTERRUPTS: Readonly<Record<number, string>> = { 240: 'kick', 241: 'timer', 242: 'IPI' };

const MAX_ERRNO = 4095n;

function hex(value: bigint): string {
  return `0x${value.toString(16)}`;
}

/** "-EINVAL" for what is an error number, a number where it fits, else hexadecimal digits. */
export function resultText(result: bigint): string | number {
  if (result < 0n && result >= -MAX_ERRNO) {
    return `-${errnoName(Number(result))}`;
  }
  return result >= 0n && result <= 0xffff_ffffn ? Number(result) : hex(BigInt.asUintN(64, result));
}

/** Arguments by their declared names; addresses, frames and large numbers in hexadecimal digits. */
export function hypercallArguments(nr: number, args: readonly bigint[]): Record<string, string | number> {
  const declared = hypercall(nr)?.args ?? args.map((_, i) => ({ name: `arg${i}`, type: 'value' as const }));
  const out: Record<string, string | number> = {};
  declared.forEach(({ name, type }, i) => {
    const value = args[i];
    if (value === undefined) return;
    out[name] = type === 'value' && value <= 0xffff_ffffn ? Number(value) : hex(value);
  });
  return out;
}

const DISK_OPERATIONS: Readonly<Record<number, string>> = { 0: 'read', 1: 'write' };

/**
 * A request of a disk with its stages, which follow one another. `began`: microseconds of system time at `times.noticed`.
 */
export function diskEvents(disk: string, times: RequestTimes, id: number, pid: number, began: number): TraceEvent[] {
  const { operation, sector, bytes, noticed, taken, submitted, done, answered, ok } = times;
  const common = { cat: 'disk', pid, tid: 0, id };
  const toSystemTime = (ms: number): number => Math.round((began + (ms - noticed) * 1000) * 1000) / 1000;
  const span = (name: string, from: number, to: number, args?: TraceEvent['args']): TraceEvent[] => [
    { name, ph: 'b', ...common, ts: toSystemTime(from), ...(args === undefined ? {} : { args }) },
    { name, ph: 'e', ...common, ts: toSystemTime(to) },
  ];
  const us = (from: number, to: number): number => Math.round((to - from) * 1e6) / 1000;
  const [begin, end] = span(`${disk} ${DISK_OPERATIONS[operation] ?? `operation ${operation}`}`, noticed, answered, {
    sector,
    bytes,
    ok,
    ringUs: us(noticed, taken),
    submitUs: us(taken, submitted),
    hostUs: us(submitted, done),
    answerUs: us(done, answered),
  }) as [TraceEvent, TraceEvent];
  return [
    begin,
    ...span('ring and grants', noticed, taken),
    ...span('vstor, SCSI, begin of I/O', taken, submitted),
    ...span('host I/O', submitted, done),
    ...span('response', done, answered),
    end,
  ];
}

/** Turns records into events. */
export class TraceFormatter {
  /** `clock` holds for the whole trace: one scale, so that order is kept. */
  constructor(
    private readonly clock: TraceClock,
    private readonly pid: number,
  ) {}

  private micros(ticks: bigint): number {
    // Three decimals: the format's clock counts nanoseconds.
    return Math.round((Number(ticks) * 1e9) / this.clock.hz) / 1000;
  }

  /** Microseconds of the domain's system time. */
  time(tsc: bigint): number {
    return this.micros(BigInt.asIntN(64, tsc - this.clock.tsc)) + Number(this.clock.systemTime) / 1000;
  }

  metadata(name: string, vcpus: number): TraceEvent[] {
    const { pid } = this;
    const events: TraceEvent[] = [{ name: 'process_name', ph: 'M', pid, tid: 0, args: { name } }];
    for (let v = 0; v < vcpus; v++) {
      events.push({ name: 'thread_name', ph: 'M', pid, tid: v, args: { name: `vCPU ${v}` } });
    }
    return events;
  }

  /** A gap in the trace. */
  lost(count: number, ts: number): TraceEvent {
    return { name: 'records lost', ph: 'i', s: 'g', cat: 'trace', pid: this.pid, tid: 0, ts, args: { count } };
  }

  /** `shimMs` is the time that the shim worked on the call, if it answered and the time is known. */
  events(r: TraceRecord, shimMs: number | undefined): TraceEvent[] {
    const { pid } = this;
    const ts = this.time(r.tsc);
    const common = { pid, tid: r.vcpu, ts };
    const hyperv = hyperVNames(r.hv);
    switch (r.kind) {
      case TRAP_TRACE.TRAP_TRACE_HYPERCALL: {
        const dur = this.micros(r.cycles);
        const cold = r.callSeq !== 0;
        const args = {
          ...hypercallArguments(r.nr, r.args),
          result: resultText(r.result),
          where: cold ? 'shim' : 'module',
          hyperv,
          rip: hex(r.rip),
        };
        const name = opName(r.nr, subopFromArgs(r.nr, r.args));
        if (shimMs === undefined) return [{ name, cat: 'hypercall', ph: 'X', ...common, dur, args }];
        const shimUs = Math.min(Math.round(shimMs * 1e6) / 1000, dur);
        return [
          { name, cat: 'hypercall', ph: 'X', ...common, dur, args: { ...args, shimUs } },
          { name: 'shim', cat: 'shim', ph: 'X', ...common, ts: ts + (dur - shimUs) / 2, dur: shimUs },
        ];
      }
      case TRAP_TRACE.TRAP_TRACE_EXCEPTION: {
        const name = EXCEPTIONS[r.nr] ?? `exception ${r.nr}`;
        const args = {
          errorCode: Number((r.args[0] ?? 0n) & 0xffff_ffffn),
          ...(r.nr === 14 ? { address: hex(r.args[1] ?? 0n) } : {}),
          bounced: r.result !== 0n,
          hyperv,
          rip: hex(r.rip),
        };
        return [{ name, cat: 'exception', ph: 'X', ...common, dur: this.micros(r.cycles), args }];
      }
      case TRAP_TRACE.TRAP_TRACE_UPCALL:
        return [{ name: 'event upcall', cat: 'event', ph: 'i', s: 't', ...common, args: { rip: hex(r.rip) } }];
      case TRAP_TRACE.TRAP_TRACE_INTERRUPT: {
        const name = `${INTERRUPTS[r.nr] ?? `vector ${r.nr}`} interrupt`;
        return [{ name, cat: 'interrupt', ph: 'i', s: 't', ...common, args: { hyperv } }];
      }
      default:
        return [{ name: `record of kind ${r.kind}`, cat: 'trace', ph: 'i', s: 't', ...common }];
    }
  }
}
