/**
 * Reads the trap module's trace ring (abi/trap: TrapTrace at trap_domain.trace_gpa, written while TRAP_DOM_TRACE is set).
 *
 * The module takes an index with a locked increment of trace_next, clears the slot's seq, fills the slot and sets seq to
 * index + 1. It never waits for us: a slot's next owner overwrites it. Slots are copied first, then trace_next is read
 * again; a slot that nobody had taken by then was copied whole, every other one is counted as lost.
 *
 * Quirks: the ring can be written by a guest on some engines. Whatever it holds costs one pass over the ring at most,
 * and becomes numbers in a trace. Indexes are 32 bits wide and wrap.
 */
import { TRAP_DOM, TrapDomain, TrapTrace } from '../../abi/trap';
import type { GuestMemory } from '../partition/guest-memory';

export interface TraceRecord {
  /** TRAP_TRACE_*. */
  readonly kind: number;
  readonly vcpu: number;
  /** TSC at the beginning. */
  readonly tsc: bigint;
  /** TSC ticks until the end; 0 for what has no duration. */
  readonly cycles: bigint;
  readonly nr: number;
  readonly args: readonly bigint[];
  readonly result: bigint;
  readonly rip: bigint;
  /** Mask of 1 << TRAP_HV_*. */
  readonly hv: number;
  /** The mailbox's sequence number if the shim answered, else 0. */
  readonly callSeq: number;
}

export interface TraceBatch {
  readonly records: readonly TraceRecord[];
  /** Records that were overwritten before we came, all older than `records`. */
  readonly lost: number;
  /** Whether the ring holds more already. */
  readonly more: boolean;
}

/** How guest time follows from the TSC. */
export interface TraceClock {
  readonly hz: number;
  /** A TSC value, and the domain's system time then, ns. */
  readonly tsc: bigint;
  readonly systemTime: bigint;
}

/** The part of TrapLayout that is needed. */
export interface TraceRingPlace {
  readonly domainGpa: number;
  readonly traceGpa: number;
}

const ARGS = 5;

function distance(from: number, to: number): number {
  return (to - from) >>> 0;
}

export class TraceRing {
  private next = 0;
  private readonly nextGpa: number;
  private readonly flagsGpa: number;

  /** `entries` as trap_domain.trace_entries was set: a power of two. */
  constructor(
    private readonly memory: GuestMemory,
    private readonly place: TraceRingPlace,
    private readonly entries: number,
  ) {
    this.nextGpa = place.domainGpa + TrapDomain.offsetOf('trace_next');
    this.flagsGpa = place.domainGpa + TrapDomain.offsetOf('flags');
  }

  /** Switches recording on or off. What was recorded before the switch to on and not read is forgotten. */
  enable(on: boolean): void {
    if (on) {
      if ((this.memory.load32(this.flagsGpa) & TRAP_DOM.TRAP_DOM_TRACE) === 0)
        this.next = this.memory.load32(this.nextGpa);
      this.memory.or32(this.flagsGpa, TRAP_DOM.TRAP_DOM_TRACE);
    } else {
      this.memory.and32(this.flagsGpa, ~TRAP_DOM.TRAP_DOM_TRACE);
    }
  }

  /** Takes at most `max` records out. */
  read(max: number): TraceBatch {
    const { memory, entries } = this;
    const limit = Math.min(max, entries);
    let lost = 0;
    const end = memory.load32(this.nextGpa);
    if (distance(this.next, end) > entries) {
      lost = distance(this.next, end) - entries;
      this.next = (end - entries) >>> 0;
    }
    const first = this.next;
    const count = Math.min(distance(first, end), limit);
    const copy = this.copy(first, count);
    // Owners of slots that were taken while we copied have an index below this.
    const taken = memory.load32(this.nextGpa);
    const view = new DataView(copy.buffer, copy.byteOffset, copy.byteLength);
    const records: TraceRecord[] = [];
    let done = 0;
    for (; done < count; done++) {
      const index = (first + done) >>> 0;
      const at = done * TrapTrace.size;
      if (distance(index, taken) > entries) {
        lost++;
        continue;
      }
      // Not finished yet: the next read gets it, or finds it overwritten.
      if (TrapTrace.get.seq(view, at) !== BigInt(index) + 1n) break;
      records.push(decode(view, at));
    }
    this.next = (first + done) >>> 0;
    return { records, lost, more: done === count && distance(this.next, taken) > 0 };
  }

  private copy(first: number, count: number): Buffer {
    const slot = first & (this.entries - 1);
    const straight = Math.min(count, this.entries - slot);
    const at = (n: number): number => this.place.traceGpa + n * TrapTrace.size;
    const head = this.memory.copyOut(at(slot), straight * TrapTrace.size);
    if (straight === count) return head;
    return Buffer.concat([head, this.memory.copyOut(at(0), (count - straight) * TrapTrace.size)]);
  }

  /** The domain's clock as it is now; undefined before the trap module has set it. */
  clock(): TraceClock | undefined {
    const { memory, place } = this;
    const at = (field: 'tsc_hz' | 'time_tsc' | 'time_offset'): bigint =>
      memory.load64(place.domainGpa + TrapDomain.offsetOf(field));
    const hz = Number(at('tsc_hz'));
    const tsc = at('time_tsc');
    if (tsc === 0n || !(hz >= 1e6 && hz <= 1e11)) return undefined;
    return { hz, tsc, systemTime: at('time_offset') };
  }
}

function decode(view: DataView, at: number): TraceRecord {
  const get = TrapTrace.get;
  const args: bigint[] = [];
  for (let i = 0; i < ARGS; i++) args.push(get.args(view, at, i));
  return {
    kind: get.kind(view, at),
    vcpu: get.vcpu(view, at),
    tsc: get.tsc(view, at),
    cycles: get.cycles(view, at),
    nr: get.nr(view, at),
    args,
    result: get.result(view, at),
    rip: get.rip(view, at),
    hv: get.hv(view, at),
    callSeq: get.call_seq(view, at),
  };
}
