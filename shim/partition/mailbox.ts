/**
 * The shim's end of the trap module's signals: mailbox calls, ports with events for back ends, kicks and raised ports.
 *
 * A doorbell says nothing but "look": every VP's slot and the port bitmap are scanned, each request is copied once, and
 * its handler may answer at once or later. Requests are hostile input: unknown kinds and impossible states are ignored
 * or answered with -ENOSYS, and a slot is answered exactly once for each sequence number.
 *
 * Watching. A doorbell costs the guest an exit, and us a wake-up, which takes some 40 us where a processor of the host has
 * gone to sleep: more than most of what is asked for. So when rings follow one another closely, the `bell` word is looked
 * at for a while after each. It says WATCHED meanwhile, upon which the trap module takes a ring for being on its way, and
 * rings none. Between two short looks the event loop has its turn, so that nothing else waits. As the trap module's
 * poll_for_shim() (native/trap/events.c) in the other direction.
 *
 * Not where the host has no processor to spare for it. Kicks that go through another process (costlyKicks) need one as
 * well: if there is just one, a kick ends the watch. What is answered so soon is answered before the vCPU that asked has
 * gone to sleep, on the way to which it finds a raised port by itself; so while the bell is watched, such a kick waits for
 * that a little.
 */
import { TRAP, TRAP_BELL, TRAP_MBOX, TrapDomain, TrapMailbox, TrapVp } from '../../abi/trap';
import type { GuestMemory } from './guest-memory';
import type { TrapLayout } from './trap-layout';

/** One synchronous call of a VP, copied. */
export interface TrapCall {
  readonly vcpu: number;
  /** TRAP_CALL_*. */
  readonly kind: number;
  /** Hypercall number for TRAP_CALL_HYPERCALL. */
  readonly nr: number;
  /** Of the mailbox: one more for each call of the VP. */
  readonly seq: number;
  readonly args: readonly bigint[];
  /** MFN of the root that guest pointers are walked from. */
  readonly kernelL4: number;
  readonly rip: bigint;
}

export interface TrapReply {
  readonly result: bigint;
  /** TRAP_EFFECT_*. */
  readonly effects: number;
}

export interface MailboxHandlers {
  /** Answers a call. Undefined: never answered (the domain is ending). */
  call(call: TrapCall): TrapReply | undefined | Promise<TrapReply | undefined>;
  /** The guest notified these ports, ascending. */
  ports(ports: readonly number[]): void;
  /** A doorbell, or a call that took long, has been answered. A VP that parks or goes on rings as well. */
  rang?(): void;
}

const WATCHED = TRAP_BELL.TRAP_BELL_WATCHED;
/** Of one look; the event loop has its turn after it. */
const LOOK_MS = 0.02;
/**
 * How long a vCPU is given to find a raised port by itself, where kicks are costly. Emulated, it is some 40 us from a
 * request to its sleep; one that is kept busy by answers finds the next ones when it has done with them. The time is
 * doubled when it was enough, and halved when it was not: a vCPU that goes on computing is not to wait for its disk.
 */
const MIN_PATIENCE_MS = 0.06;
const MAX_PATIENCE_MS = 1;
/** Loads of the word between two readings of the clock. */
const LOADS = 16;
/** Rings in a millisecond that are found by watching. Who rings more is left to the doorbell, which has limits of its own. */
const FOUND_PER_MS = 32;

export interface WatchOptions {
  /** How long after a ring, or an answer, the next ring is looked out for, in ms. 0: not at all. */
  readonly ms: number;
  /** Processors of the host beyond those that the VPs need. */
  readonly spare: number;
  /** A kick goes through another process, and takes longer than a vCPU takes to go to sleep. */
  readonly costlyKicks: boolean;
}

const KICK = TrapVp.offsetOf('kick');
const RAISE_SEL = TrapVp.offsetOf('raise_sel');
const MBOX_STATE = TrapVp.offsetOf('mbox') + TrapMailbox.offsetOf('state');

export class Mailboxes {
  /** Calls answered, for statistics. */
  answered = 0;
  private closed = false;
  private held = false;
  private readonly bellGpa: number;
  private readonly watchMs: number;
  private readonly costlyKicks: boolean;
  private readonly watchesAfterKick: boolean;
  /** The bell says WATCHED, or 1, and is looked at again. */
  private watching: NodeJS.Immediate | undefined;
  /** When something was last done for the guest, of performance.now(). */
  private active = Number.NEGATIVE_INFINITY;
  /** vCPUs with raised ports that have not been kicked for them, and since when. */
  private readonly unkicked = new Set<number>();
  private unkickedSince = 0;
  private patience = MIN_PATIENCE_MS;
  /** Since the last ring, a VP has had to be woken. */
  private kicked = false;
  private millisecond = 0;
  private found = 0;

  constructor(
    private readonly memory: GuestMemory,
    private readonly layout: TrapLayout,
    private readonly wakeVp: (vp: number) => void,
    private readonly handlers: MailboxHandlers,
    watch: WatchOptions = { ms: 0, spare: 0, costlyKicks: false },
  ) {
    this.bellGpa = layout.domainGpa + TrapDomain.offsetOf('bell');
    this.watchMs = watch.spare > 0 ? watch.ms : 0;
    this.costlyKicks = watch.costlyKicks;
    this.watchesAfterKick = watch.spare > 1 || !watch.costlyKicks;
  }

  private vpGpa(vcpu: number): number {
    return this.layout.vpsGpa + vcpu * TrapVp.size;
  }

  /** The partition is ending: from now on nothing is looked at, answered or raised, so that its memory may go. */
  close(): void {
    this.closed = true;
  }

  /**
   * What lies there stays there until release(): for a domain whose VPs have all stopped. Ports are raised and VPs kicked
   * as ever; the VPs find that when they go on.
   */
  hold(): void {
    this.held = true;
    if (this.unkicked.size > 0) this.kickUnkicked();
    if (this.watching === undefined) return;
    clearImmediate(this.watching);
    this.watching = undefined;
    // A ring that is found here is served by release(); but what a VP has done, as parking, is to be told.
    if (this.memory.xchg32(this.bellGpa, 0) === 1) setImmediate(() => this.scan());
  }

  release(): void {
    this.held = false;
    this.scan();
  }

  /** What is not done yet of what the VPs asked for, in words; undefined: nothing. */
  pending(): string | undefined {
    const { memory, layout } = this;
    for (let vcpu = 0; vcpu < layout.nrVps; vcpu++) {
      const state = memory.load32(this.vpGpa(vcpu) + MBOX_STATE);
      if (state === TRAP_MBOX.TRAP_MBOX_REQUEST || state === TRAP_MBOX.TRAP_MBOX_TAKEN)
        return `a call of vCPU ${vcpu} is not answered`;
    }
    const sel = layout.domainGpa + TrapDomain.offsetOf('to_shim_sel');
    return memory.load64(sel) === 0n ? undefined : 'events for back ends are not served';
  }

  /** To be called on every doorbell. */
  scan(): void {
    const now = performance.now();
    // One that comes a little later would have been found: the doorbell takes its time.
    const close = now - this.active < 1.5 * this.watchMs;
    this.answer(this.watching !== undefined || (close && this.mayFind(now)));
  }

  private answer(watch: boolean): void {
    if (this.closed) return;
    // Before looking: whoever posts after this rings again, or is found.
    this.memory.xchg32(this.bellGpa, watch && !this.held ? WATCHED : 0);
    this.kicked = false;
    if (watch && !this.held) this.watching ??= setImmediate(this.look);
    if (!this.held) this.serveAll();
    if (!this.closed) this.handlers.rang?.();
    this.active = performance.now();
  }

  /** Looks out for a ring for a moment. */
  private readonly look = (): void => {
    this.watching = undefined;
    if (this.closed) return;
    const began = performance.now();
    const over = began - this.active >= this.watchMs || (this.kicked && !this.watchesAfterKick);
    if (this.unkicked.size > 0 && (over || began - this.unkickedSince >= this.patience)) this.kickUnkicked();
    if (over) {
      // A ring that came before this has been left to us.
      if (this.memory.cas32(this.bellGpa, WATCHED, 0) !== WATCHED) this.answer(false);
      return;
    }
    do {
      for (let i = 0; i < LOADS; i++) {
        if (this.memory.load32(this.bellGpa) === WATCHED) continue;
        this.answer(this.mayFind(began));
        return;
      }
      // A kick costs nothing where it is looked out for.
      for (const vcpu of this.unkicked) if (this.memory.load32(this.vpGpa(vcpu) + KICK) !== 0) this.kickUnkicked();
    } while (performance.now() - began < LOOK_MS);
    this.watching = setImmediate(this.look);
  };

  private kickUnkicked(): void {
    let found = true;
    for (const vcpu of this.unkicked) {
      const sel = this.vpGpa(vcpu) + RAISE_SEL;
      if (this.memory.load32(sel) === 0 && this.memory.load32(sel + 4) === 0) continue;
      found = false;
      this.kick(vcpu);
    }
    this.unkicked.clear();
    this.beMorePatient(found);
  }

  private beMorePatient(more: boolean): void {
    this.patience = more ? Math.min(MAX_PATIENCE_MS, this.patience * 2) : Math.max(MIN_PATIENCE_MS, this.patience / 2);
  }

  private mayFind(now: number): boolean {
    const millisecond = Math.floor(now);
    if (millisecond !== this.millisecond) this.found = 0;
    this.millisecond = millisecond;
    return ++this.found <= FOUND_PER_MS;
  }

  private serveAll(): void {
    const { memory, layout } = this;
    const ports = this.takePorts();
    if (ports.length > 0) this.handlers.ports(ports);
    for (let vcpu = 0; vcpu < layout.nrVps; vcpu++) {
      const state = this.vpGpa(vcpu) + MBOX_STATE;
      if (memory.load32(state) !== TRAP_MBOX.TRAP_MBOX_REQUEST) continue;
      memory.store32(state, TRAP_MBOX.TRAP_MBOX_TAKEN);
      this.serve(vcpu);
      if (this.closed) return;
    }
  }

  private takePorts(): number[] {
    const { memory, layout } = this;
    const base = layout.domainGpa;
    const ports: number[] = [];
    for (let half = 0; half < 2; half++) {
      const selAt = base + TrapDomain.offsetOf('to_shim_sel') + half * 4;
      if (memory.load32(selAt) === 0) continue;
      let sel = memory.xchg32(selAt, 0);
      while (sel !== 0) {
        const word = 31 - Math.clz32(sel & -sel);
        sel &= sel - 1;
        const index = half * 32 + word;
        for (let part = 0; part < 2; part++) {
          const at = base + TrapDomain.offsetOf('to_shim', index) + part * 4;
          let bits = memory.load32(at) === 0 ? 0 : memory.xchg32(at, 0);
          while (bits !== 0) {
            const bit = 31 - Math.clz32(bits & -bits);
            bits &= bits - 1;
            const port = index * 64 + part * 32 + bit;
            if (port > 0 && port < TRAP.TRAP_MAX_PORTS) ports.push(port);
          }
        }
      }
    }
    return ports;
  }

  private serve(vcpu: number): void {
    const at = this.vpGpa(vcpu) + TrapVp.offsetOf('mbox');
    const copy = this.memory.copyOut(at, TrapMailbox.size);
    const view = new DataView(copy.buffer, copy.byteOffset, copy.byteLength);
    const get = TrapMailbox.get;
    const seq = get.seq(view, 0);
    const args: bigint[] = [];
    for (let i = 0; i < 6; i++) args.push(get.args(view, 0, i));
    const l4 = get.kernel_l4(view, 0);
    // A call may take long.
    if (this.unkicked.size > 0) this.kickUnkicked();
    const answer = this.handlers.call({
      vcpu,
      kind: get.kind(view, 0),
      nr: get.nr(view, 0),
      seq,
      args,
      kernelL4: l4 < BigInt(this.layout.nrFrames) ? Number(l4) : 0,
      rip: get.rip(view, 0),
    });
    if (answer instanceof Promise) {
      const late = (reply: TrapReply | undefined): void => {
        this.reply(vcpu, seq, reply);
        if (!this.closed) this.handlers.rang?.();
      };
      // Not the guest's fault, but it must not wait for ever: -ENOSYS.
      answer.then(late, () => late({ result: -38n, effects: 0 }));
    } else this.reply(vcpu, seq, answer);
  }

  private reply(vcpu: number, seq: number, reply: TrapReply | undefined): void {
    if (reply === undefined || this.closed) return;
    const at = this.vpGpa(vcpu) + TrapVp.offsetOf('mbox');
    const { memory } = this;
    memory.store64(at + TrapMailbox.offsetOf('result'), BigInt.asUintN(64, reply.result));
    memory.store32(at + TrapMailbox.offsetOf('effects'), reply.effects);
    memory.store32(at + TrapMailbox.offsetOf('reply_seq'), seq);
    memory.store32(at + TrapMailbox.offsetOf('state'), TRAP_MBOX.TRAP_MBOX_REPLY);
    this.answered++;
    this.wake(vcpu);
  }

  /**
   * Makes `port` pending on `vcpu`: sets its bit and kicks, unless a kick is already on its way, or is left out for the
   * moment (see above).
   */
  raisePort(vcpu: number, port: number): void {
    if (this.closed || vcpu < 0 || vcpu >= this.layout.nrVps || port <= 0 || port >= TRAP.TRAP_MAX_PORTS) return;
    const base = this.vpGpa(vcpu);
    this.memory.or32(base + TrapVp.offsetOf('raise') + (port >> 5) * 4, 1 << (port & 31));
    const word = port >> 6;
    const before = this.memory.or32(base + RAISE_SEL + (word >> 5) * 4, 1 << (word & 31));
    if (this.watching === undefined || !this.costlyKicks || !this.isAwake(vcpu)) {
      this.kick(vcpu);
      return;
    }
    this.active = performance.now();
    if (this.unkicked.has(vcpu) && before === 0) {
      // It has found the last one.
      this.unkicked.delete(vcpu);
      this.beMorePatient(true);
    }
    if (this.unkicked.size === 0) this.unkickedSince = this.active;
    this.unkicked.add(vcpu);
  }

  /** It neither sleeps nor looks out for a kick. */
  private isAwake(vcpu: number): boolean {
    const base = this.vpGpa(vcpu);
    return this.memory.load32(base + KICK) === 0 && this.memory.load32(base + TrapVp.offsetOf('running')) !== 0;
  }

  /** Wakes a VP so that it looks at its state. */
  kick(vcpu: number): void {
    if (this.closed) return;
    this.active = performance.now();
    if (this.memory.xchg32(this.vpGpa(vcpu) + KICK, 1) === 0) this.wake(vcpu);
  }

  private wake(vcpu: number): void {
    this.kicked = true;
    this.wakeVp(vcpu);
  }
}
