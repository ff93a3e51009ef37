/**
 * Two worlds that must stay equal. In both, tests/native/twins.c runs the trap module's C files on memory that this
 * process shares, and a XenDomain answers what the module sends to the shim. In the first world the module answers all
 * that it can itself; in the second every hypercall is cold (`--cold all`), so that the TypeScript versions run.
 *
 * A step is a hypercall, or something that happens to both worlds alike: a store of the guest, a page fault in the LDT
 * window, time. After each step the results and all of memory are compared, but for what is no state of the domain:
 * see `MASKED` and `FRAME_INFO_IGNORED`.
 */
import { execFileSync, spawn } from 'node:child_process';
import { closeSync, mkdtempSync, openSync, readSync, rmSync, writeSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { TRAP_COUNT, TRAP_DOM, TRAP_FI, TRAP_VA, TrapDomain, TrapVp } from '../../../../abi/trap';
import { DOMID } from '../../../../abi/xen/domid';
import { hypercallName } from '../../../../abi/xen/hypercalls';
import { SharedInfo } from '../../../../abi/xen/shared-info';
import { parseColdList } from '../../../../shim/domain/cold';
import { GuestMemory } from '../../../../shim/partition/guest-memory';
import { dispatch, type HypercallReply } from '../../../../shim/xen/hypercalls/dispatch';
import { MemoryTrapState } from '../../../../shim/xen/trap-state';
import { XenDomain } from '../../../../shim/xen/xen-domain';

export const PAGE = 4096;
export const DOMID_TEST = 7;

/** Frames of the partition: two regions of RAM with a hole between them. */
const LOW = 128;
const HOLE = 16;
const HIGH = 64;
export const NR_FRAMES = LOW + HOLE + HIGH;
export const HOLE_FRAME = LOW + 3;
export const FRAMES = {
  moduleL4: 1,
  userL3: 2,
  moduleL3: 3, // and the next three: slots 256, 260, 261, 262
  perdomainL1: 11,
  reservedGdt: 12, // one for each VP
  sharedInfo: 14,
  grant: 15,
  m2p: 16,
  frameInfo: 17,
  domain: 18,
  vps: 34,
  unowned: 70,
} as const;
const FIRST_DOMAIN_FRAME = 72;
export const NR_PAGES = LOW - FIRST_DOMAIN_FRAME + 32;
/** MFN of a page of the domain. */
export function mfn(pfn: number): number {
  const low = LOW - FIRST_DOMAIN_FRAME;
  return pfn < low ? FIRST_DOMAIN_FRAME + pfn : LOW + HOLE + pfn - low;
}

/** The domain's pages by role. Tables b and c are built, but nothing refers to them yet. */
export const PFN = {
  l4a: 0,
  l3a: 1,
  l2a: 2,
  l1a: 3,
  l1scratch: 4,
  l4b: 5,
  l3b: 6,
  l2b: 7,
  l1b: 8,
  l4c: 9,
  l3c: 10,
  l2c: 11,
  l1c: 12,
  spare: 13, // 8 pages of zeroes
  data: 21, // 8 pages
  gdt: 29, // 2 pages of descriptors
  ldt: 31,
  fifoControl: 32, // 2
  fifoArray: 34, // 2
  arguments: 40, // 2
  count: NR_PAGES,
} as const;

export const VA_BASE = 0xffff888000000000n;
export const ARGUMENTS_VA = VA_BASE + BigInt(PFN.arguments * PAGE);
/** What the second L1 of the first tree maps: nothing, at first. */
export const SCRATCH_VA = VA_BASE + 0x200000n;
export const LDT_VA = VA_BASE + BigInt(PFN.ldt * PAGE);

const P = 1n;
const RW = 2n;
const US = 4n;
const AD = 0x60n;
const pte = (frame: number, flags: bigint): bigint => (BigInt(frame) << 12n) | flags;

export interface Options {
  readonly ring: 1 | 3;
  readonly isolate: boolean;
  readonly vcpus: 1 | 2;
}

/** Two vCPUs at most are served. */
export type Step =
  /** `memory` is at ARGUMENTS_VA when the call is made. */
  | { readonly kind: 'call'; vcpu: number; nr: number; args: readonly bigint[]; memory: Uint8Array; text?: string }
  /** The guest's own store, by physical address; only where it could have a writable mapping. */
  | { readonly kind: 'store'; pfn: number; slot: number; value: bigint }
  /** Sets and clears bits of a 32-bit word of shared memory, as the guest's event code does. */
  | { readonly kind: 'bits'; gpa: number; set: number; clear: number }
  | { readonly kind: 'ldt'; vcpu: number; offset: number }
  | { readonly kind: 'pte'; vcpu: number; pfn: number; slot: number; value: bigint }
  | { readonly kind: 'time'; ns: number };

const COMMAND = { RESET: 1, ROOT: 2, CALL: 3, ANSWER: 4, SETTLE: 5, LDT_FAULT: 6, PTE_WRITE: 7 } as const;
const OUTCOME = { DONE: 1, TO_SHIM: 2, CRASHED: 3 } as const;
const REQUEST_WORDS = 10;
const REPLY_WORDS = 16;

/** Ranges of memory that are not compared: [GPA, bytes]. */
function masked(vcpus: number): (readonly [number, number])[] {
  const domain = FRAMES.domain * PAGE;
  const list: (readonly [number, number])[] = [
    // Compared word by word.
    [FRAMES.frameInfo * PAGE, PAGE],
    // How the module tells the shim of a notification; what arrives is compared.
    [domain + TrapDomain.offsetOf('bell'), 4],
    [domain + TrapDomain.offsetOf('to_shim_sel'), 8],
    [domain + TrapDomain.offsetOf('to_shim'), 64 * 8],
    // The one difference between the worlds.
    [domain + TrapDomain.offsetOf('cold_ops'), 64 * 8],
  ];
  for (let v = 0; v < vcpus; v++) {
    const vp = FRAMES.vps * PAGE + v * TrapVp.size;
    // Mailbox and signals; counters and the last calls.
    list.push([vp, TrapVp.offsetOf('vcpu_id')]);
    list.push([vp + TrapVp.offsetOf('last_next'), TrapVp.size - TrapVp.offsetOf('last_next')]);
  }
  return list;
}

/**
 * The module marks a frame whose last writable mapping has gone, and flushes TLBs only if the frame becomes a table
 * before the next flush. The TypeScript version flushes at once and needs no mark. A frame that may have been executable is
 * marked by whoever thinks that the entry is one of a table: they drop tables at different moments.
 */
const FRAME_INFO_IGNORED = TRAP_FI.TRAP_FI_STALE_RW | TRAP_FI.TRAP_FI_EPOCH_MASK | TRAP_FI.TRAP_FI_EXECUTABLE;

/** The program died: a bug of the C side. */
export class ProgramEnded extends Error {}

class World {
  readonly memory: GuestMemory;
  trap!: MemoryTrapState;
  domain!: XenDomain;
  now = 0n;
  /** Back ends told since the last comparison, and what the log said. */
  notified: number[] = [];
  readonly errors: string[] = [];
  private requests = -1;
  private replies = -1;
  private readonly request = new BigUint64Array(REQUEST_WORDS);
  private readonly reply = new BigUint64Array(REPLY_WORDS);

  constructor(
    private readonly program: string,
    private readonly dir: string,
    readonly name: string,
    readonly cold: boolean,
  ) {
    this.memory = GuestMemory.create([
      { gpa: 0, size: LOW * PAGE },
      { gpa: (LOW + HOLE) * PAGE, size: HIGH * PAGE },
    ]);
    this.start();
  }

  private start(): void {
    const pipes = ['requests', 'replies'].map((end) => join(this.dir, `${this.name}-${end}`));
    for (const path of pipes) rmSync(path, { force: true });
    execFileSync('mkfifo', pipes);
    const ram = `/proc/${process.pid}/fd/${this.memory.fd}`;
    const numbers = [LOW, HOLE, HIGH, FRAMES.domain * PAGE].map(String);
    spawn(this.program, [ram, ...pipes, ...numbers], { stdio: ['ignore', 'inherit', 'inherit'] });
    this.requests = openSync(pipes[0] as string, 'w');
    this.replies = openSync(pipes[1] as string, 'r');
  }

  /** The program ends when its pipes do, or by its own alarm. */
  close(): void {
    closeSync(this.requests);
    closeSync(this.replies);
  }
  async end(): Promise<void> {
    this.close();
    await this.memory.release();
  }

  private tell(command: number, vcpu: number, nr: bigint, args: readonly bigint[]): void {
    this.request.set([BigInt(command), BigInt(vcpu), nr, ...[0, 1, 2, 3, 4, 5].map((i) => args[i] ?? 0n), this.now]);
    writeSync(this.requests, new Uint8Array(this.request.buffer));
    const bytes = new Uint8Array(this.reply.buffer);
    for (let got = 0; got < bytes.length; ) {
      const n = readSync(this.replies, bytes, got, bytes.length - got, null);
      if (n <= 0) {
        this.close();
        this.start();
        throw new ProgramEnded(`the C program (${this.name}) died in command ${command}, hypercall ${nr}`);
      }
      got += n;
    }
    this.flushes += this.reply[9] as bigint;
  }

  /** Runs a command to its end; the shim's part of it is answered here. Undefined: the domain crashed. */
  run(command: number, vcpu: number, nr = 0, args: readonly bigint[] = []): bigint | undefined {
    this.tell(command, vcpu, BigInt(nr), args);
    while (this.reply[0] === BigInt(OUTCOME.TO_SHIM)) {
      const answer = this.answer(vcpu, Number(this.reply[2]! & 0xffff_ffffn), [...this.reply.slice(3, 9)]);
      this.tell(COMMAND.ANSWER, vcpu, 0n, [BigInt.asUintN(64, answer.result), BigInt(answer.effects)]);
    }
    return this.reply[0] === BigInt(OUTCOME.CRASHED) ? undefined : BigInt.asIntN(64, this.reply[1] as bigint);
  }

  private answer(vcpu: number, nr: number, args: bigint[]): HypercallReply {
    const kernelL4 = Number(this.trap.getVp(vcpu, 'kernel_l4'));
    const reply = dispatch(this.domain, { vcpu, nr, args, kernelL4 });
    if (reply instanceof Promise) throw new Error(`${hypercallName(nr)} is not answered at once`);
    return reply;
  }

  /** Kicks, timers and notifications that are due. */
  settle(): void {
    this.run(COMMAND.SETTLE, 0);
    for (let word = 0; word < 64; word++) {
      const bits = this.trap.getDomain('to_shim', word);
      if (bits === 0n) continue;
      this.trap.setDomain('to_shim', 0n, word);
      for (let bit = 0; bit < 64; bit++) {
        if (((bits >> BigInt(bit)) & 1n) === 1n) this.domain.evtchn.notifyBackend(word * 64 + bit);
      }
    }
    this.trap.setDomain('to_shim_sel', 0n);
    this.trap.setDomain('bell', 0);
  }

  /** Complete TLB flushes since the last look, of any vCPU. */
  takeFlushes(): bigint {
    const { flushes } = this;
    this.flushes = 0n;
    return flushes;
  }
  private flushes = 0n;
  /** Tables that were validated so far. */
  get validations(): bigint {
    let sum = 0n;
    for (let v = 0; v < this.trap.nrVps; v++) sum += this.trap.getVp(v, 'misc_count', TRAP_COUNT.TRAP_COUNT_VALIDATE);
    return sum;
  }

  /** Roots and deadlines that the processors have now. */
  get processors(): string {
    return [...this.reply.slice(10)].map((word) => word.toString(16)).join(' ');
  }

  reset(options: Options): void {
    const { memory } = this;
    memory.fill(0, LOW * PAGE, 0);
    memory.fill((LOW + HOLE) * PAGE, HIGH * PAGE, 0);
    this.now = 1_000_000_000n;
    this.notified = [];
    const trap = new MemoryTrapState(memory, FRAMES.domain * PAGE, FRAMES.vps * PAGE, options.vcpus);
    this.trap = trap;
    writeModule(memory, trap, options, this.cold);
    writeDomain(memory);
    this.domain = new XenDomain({
      domid: DOMID_TEST,
      memory,
      trap,
      nrPages: NR_PAGES,
      maxPages: NR_PAGES,
      grantFrameMfn: () => FRAMES.grant,
      grantStatusFrameMfn: () => FRAMES.grant,
      host: {
        onConsoleWrite: () => undefined,
        onShutdown: () => undefined,
        raisePort: (vcpu, port) => {
          trap.orVp(vcpu, 'raise', port >> 6, 1n << BigInt(port & 63));
          trap.orVp(vcpu, 'raise_sel', 0, 1n << BigInt(port >> 6));
        },
        kick: () => undefined,
        systemTime: () => this.now,
        log: {
          warn: () => undefined,
          error: (fields, message) =>
            this.errors.push(`${message}: ${String((fields as { err?: Error }).err?.stack ?? '')}`),
        },
      },
    });
    // Two ports with back ends, as every domain has, and one that waits for another domain.
    for (let i = 0; i < 2; i++) {
      const port = this.domain.evtchn.allocUnboundForBackend();
      this.domain.evtchn.connectBackend(port, () => this.notified.push(port));
    }
    this.domain.evtchn.allocUnbound(DOMID.DOMID_SELF, 3);
    this.run(COMMAND.RESET, 0);
    for (let v = 0; v < options.vcpus; v++) {
      const rc = this.run(COMMAND.ROOT, v, 0, [BigInt(mfn(PFN.l4a))]);
      if (rc !== 0n) throw new Error(`the initial root is refused: ${rc}`);
    }
  }
}

function writeModule(memory: GuestMemory, trap: MemoryTrapState, options: Options, cold: boolean): void {
  const set = (field: Parameters<typeof trap.setDomain>[0], value: number | bigint) =>
    trap.setDomain(field, value as never);
  set('nr_vps', options.vcpus);
  set('guest_ring', options.ring);
  set('flags', options.isolate ? TRAP_DOM.TRAP_DOM_ISOLATE_USER : 0);
  set('domid', DOMID_TEST);
  set('nr_frames', BigInt(NR_FRAMES));
  set('hole_start', BigInt(LOW));
  set('hole_end', BigInt(LOW + HOLE));
  set('m2p_gpa', BigInt(FRAMES.m2p * PAGE));
  set('frame_info_gpa', BigInt(FRAMES.frameInfo * PAGE));
  set('shared_info_gpa', BigInt(FRAMES.sharedInfo * PAGE));
  set('vps_gpa', BigInt(FRAMES.vps * PAGE));
  set('module_l4', BigInt(FRAMES.moduleL4));
  set('user_l3_module', BigInt(FRAMES.userL3));
  set('perdomain_l1_gpa', BigInt(FRAMES.perdomainL1 * PAGE));
  set('reserved_gdt_gpa', BigInt(FRAMES.reservedGdt * PAGE));
  set('ports_nr', 1024);
  // The clock then counts TSC ticks as nanoseconds.
  set('tsc_hz', 1_000_000_000n);
  if (cold) for (const [nr, mask] of parseColdList('all')) trap.setDomain('cold_ops', mask, nr);
  const slots = [TRAP_VA.TRAP_L4_M2P, TRAP_VA.TRAP_L4_PERDOMAIN, TRAP_VA.TRAP_L4_MODULE, TRAP_VA.TRAP_L4_DIRECTMAP];
  slots.forEach((slot, i) => {
    memory.setU64(FRAMES.moduleL4 * PAGE + slot * 8, pte(FRAMES.moduleL3 + i, P | RW | AD));
  });
  const owner = (frame: number, o: number) =>
    memory.setU64(FRAMES.frameInfo * PAGE + frame * 8, BigInt(o) << BigInt(TRAP_FI.TRAP_FI_OWNER_SHIFT));
  owner(FRAMES.sharedInfo, TRAP_FI.TRAP_FI_OWNER_XEN);
  owner(FRAMES.grant, TRAP_FI.TRAP_FI_OWNER_XEN);
  owner(FRAMES.m2p, TRAP_FI.TRAP_FI_OWNER_XEN_RO);
  for (let frame = 0; frame < NR_FRAMES; frame++) memory.setU64(FRAMES.m2p * PAGE + frame * 8, (1n << 64n) - 1n);
  for (let pfn = 0; pfn < NR_PAGES; pfn++) {
    owner(mfn(pfn), TRAP_FI.TRAP_FI_OWNER_DOMAIN);
    memory.setU64(FRAMES.m2p * PAGE + mfn(pfn) * 8, BigInt(pfn));
  }
  for (let v = 0; v < options.vcpus; v++) {
    trap.setVp(v, 'vcpu_id', v);
    trap.setVp(v, 'initialised', 1);
    trap.setVp(v, 'online', 1);
    trap.setVp(v, 'vcpu_info_gpa', BigInt(FRAMES.sharedInfo * PAGE + SharedInfo.offsetOf('vcpu_info', v)));
  }
}

function writeDomain(memory: GuestMemory): void {
  const at = (table: number, slot: number, entry: bigint) => memory.setU64(mfn(table) * PAGE + slot * 8, entry);
  const table = (pfn: number) => pte(mfn(pfn), P | RW | US | AD);
  at(PFN.l4a, 273, table(PFN.l3a));
  at(PFN.l3a, 0, table(PFN.l2a));
  at(PFN.l2a, 0, table(PFN.l1a));
  at(PFN.l2a, 1, table(PFN.l1scratch));
  for (let pfn = 0; pfn < NR_PAGES; pfn++) {
    const readOnly = pfn <= PFN.l1c || (pfn >= PFN.gdt && pfn <= PFN.ldt);
    at(PFN.l1a, pfn, pte(mfn(pfn), P | AD | (readOnly ? 0n : RW)));
  }
  // A second root that shares the first one's half, and has something of its own.
  at(PFN.l4b, 273, table(PFN.l3a));
  at(PFN.l4b, 0, table(PFN.l3b));
  at(PFN.l3b, 0, table(PFN.l2b));
  at(PFN.l2b, 0, table(PFN.l1b));
  for (let i = 0; i < 4; i++) at(PFN.l1b, i, pte(mfn(PFN.data + i), P | AD | US | (i & 1 ? RW : 0n)));
  // And one as a process's: nothing but user space.
  at(PFN.l4c, 0, table(PFN.l3c));
  at(PFN.l3c, 0, table(PFN.l2c));
  at(PFN.l2c, 0, table(PFN.l1c));
  for (let i = 0; i < 4; i++) at(PFN.l1c, i, pte(mfn(PFN.data + 2 + i), P | AD | US | (i & 1 ? RW : 0n)));
  for (const page of [PFN.gdt, PFN.gdt + 1, PFN.ldt]) {
    at(page, 1, 0x00af9b000000ffffn);
    at(page, 2, 0x00cf93000000ffffn);
    at(page, 3, 0x00cff3000000ffffn);
  }
}

function words(bytes: Uint8Array): BigUint64Array {
  return new BigUint64Array(bytes.buffer, bytes.byteOffset, bytes.length / 8);
}

export class Twins {
  private readonly worlds: readonly [World, World];
  private options: Options = { ring: 3, isolate: false, vcpus: 1 };
  /** Pieces of memory that are compared: [GPA, length]. */
  private compared: (readonly [number, number])[] = [];
  private readonly dir = mkdtempSync(join(tmpdir(), 'xenlighten-twins-'));
  /** Results by hypercall: how often 0, how often an error. */
  readonly seen = new Map<string, number>();

  constructor(program: string) {
    this.worlds = [new World(program, this.dir, 'hot', false), new World(program, this.dir, 'cold', true)];
  }
  async end(): Promise<void> {
    for (const world of this.worlds) await world.end();
    rmSync(this.dir, { recursive: true, force: true });
  }

  private get memory(): GuestMemory {
    return this.worlds[0].memory;
  }
  frameInfo(frame: number): bigint {
    return this.memory.getU64(FRAMES.frameInfo * PAGE + frame * 8);
  }

  reset(options: Options): void {
    this.options = options;
    const holes = masked(options.vcpus).sort((a, b) => a[0] - b[0]);
    const compared: [number, number][] = [];
    for (const region of this.memory.regions) {
      let from = region.gpa;
      for (const [gpa, length] of holes) {
        if (gpa < region.gpa || gpa >= region.gpa + region.size) continue;
        if (gpa > from) compared.push([from, gpa - from]);
        from = gpa + length;
      }
      compared.push([from, region.gpa + region.size - from]);
    }
    this.compared = compared.filter(([, length]) => length > 0);
    for (const world of this.worlds) {
      world.reset(options);
      world.settle();
    }
    const first = this.difference();
    if (first !== undefined) throw new Error(`the worlds differ before the first step: ${first}`);
  }

  /** Runs a step in both worlds. A difference, in words. */
  step(step: Step): string | undefined {
    const [hot, cold] = this.worlds;
    const validations = hot.validations;
    const results = this.worlds.map((world) => this.one(world, step));
    for (const world of this.worlds) world.settle();
    const [flushed, coldFlushed] = this.worlds.map((world) => world.takeFlushes()) as [bigint, bigint];
    if (step.kind === 'call') {
      const key = `${hypercallName(step.nr)} ${results[0] === undefined || results[0] < 0n ? 'error' : 'ok'}`;
      this.seen.set(key, (this.seen.get(key) ?? 0) + 1);
    }
    const wrong = cold.errors.splice(0).concat(hot.errors.splice(0));
    if (wrong.length > 0) return `error in the shim: ${wrong.join('\n')}`;
    if (results[0] !== results[1]) return `result ${results[0]} in C, ${results[1]} in TypeScript`;
    // The module may owe a flush from an earlier step when a frame becomes a table; TypeScript has paid it then.
    const late = hot.validations !== validations || step.kind === 'ldt' || /^set_gdt/.test(stepText(step));
    if (flushed > 0n && coldFlushed === 0n && !late) return 'a TLB flush in C, none in TypeScript';
    return this.difference();
  }

  private one(world: World, step: Step): bigint | undefined {
    switch (step.kind) {
      case 'call':
        // The pages of arguments stay ordinary pages: no step makes tables of them.
        world.memory.copyIn(mfn(PFN.arguments) * PAGE, step.memory);
        return world.run(COMMAND.CALL, step.vcpu % this.options.vcpus, step.nr, step.args);
      case 'store': {
        const type = (world.memory.getU64(FRAMES.frameInfo * PAGE + mfn(step.pfn) * 8) & 0xf0000000n) >> 28n;
        if (type !== 0n && type !== BigInt(TRAP_FI.TRAP_FI_WRITABLE)) return 0n;
        world.memory.setU64(mfn(step.pfn) * PAGE + step.slot * 8, step.value);
        return 0n;
      }
      case 'bits': {
        const old = world.memory.load32(step.gpa);
        world.memory.store32(step.gpa, ((old & ~step.clear) | step.set) >>> 0);
        return 0n;
      }
      case 'ldt':
        return world.run(COMMAND.LDT_FAULT, step.vcpu % this.options.vcpus, 0, [BigInt(step.offset)]);
      case 'pte': {
        const at = mfn(step.pfn) * PAGE + step.slot * 8;
        const args = [BigInt(mfn(step.pfn)), BigInt(step.slot * 8), world.memory.getU64(at), step.value];
        return world.run(COMMAND.PTE_WRITE, step.vcpu % this.options.vcpus, 0, args);
      }
      case 'time':
        world.now += BigInt(step.ns);
        return 0n;
    }
  }

  private difference(): string | undefined {
    const [hot, cold] = this.worlds;
    const info = FRAMES.frameInfo * PAGE;
    for (let frame = 0; frame < NR_FRAMES; frame++) {
      const [a, b] = this.worlds.map((w) => w.memory.getU64(info + frame * 8) & ~FRAME_INFO_IGNORED) as [
        bigint,
        bigint,
      ];
      if (a !== b) return `frame_info[${frameName(frame)}] is ${a.toString(16)} in C, ${b.toString(16)} in TypeScript`;
    }
    for (const [gpa, length] of this.compared) {
      const a = hot.memory.ranges(gpa, length)[0]!.buffer;
      const b = cold.memory.ranges(gpa, length)[0]!.buffer;
      if (Buffer.compare(a, b) === 0) continue;
      const at = a.findIndex((byte, i) => byte !== b[i]);
      const word = (bytes: Uint8Array) =>
        words(Uint8Array.from(bytes.subarray(at & ~7, (at & ~7) + 8)))[0]?.toString(16);
      return `${placeName(gpa + (at & ~7))} is ${word(a)} in C, ${word(b)} in TypeScript`;
    }
    if (hot.processors !== cold.processors)
      return `processors: ${hot.processors} in C, ${cold.processors} in TypeScript`;
    const told = this.worlds.map((world) => world.notified.splice(0).join(' '));
    if (told[0] !== told[1]) return `back ends told: ${told[0]} in C, ${told[1]} in TypeScript`;
    return undefined;
  }
}

function stepText(step: Step): string {
  return step.kind === 'call' ? (step.text ?? '') : '';
}

/** A frame by its role, for messages. */
export function frameName(frame: number): string {
  for (let pfn = 0; pfn < NR_PAGES; pfn++) {
    if (mfn(pfn) !== frame) continue;
    const names = Object.entries(PFN).filter(([, first]) => first <= pfn) as [string, number][];
    const [name, first] = names.at(-1)!;
    return first === pfn ? name : `${name}+${pfn - first}`;
  }
  const fixed = Object.entries(FRAMES).find(([, first]) => first === frame);
  return fixed?.[0] ?? `frame ${frame}`;
}

function placeName(gpa: number): string {
  for (const [block, start, size, type] of [
    ['trap_domain', FRAMES.domain * PAGE, TrapDomain.size, TrapDomain],
    ['trap_vp[0]', FRAMES.vps * PAGE, TrapVp.size, TrapVp],
    ['trap_vp[1]', FRAMES.vps * PAGE + TrapVp.size, TrapVp.size, TrapVp],
  ] as const) {
    if (gpa < start || gpa >= start + size) continue;
    const fields = Object.entries(type.fields as Record<string, { offset: number }>).filter(
      ([, f]) => f.offset <= gpa - start,
    );
    const [field, { offset }] = fields.sort((x, y) => x[1].offset - y[1].offset).at(-1)!;
    return `${block}.${field}+0x${(gpa - start - offset).toString(16)}`;
  }
  return `${frameName(Math.floor(gpa / PAGE))} offset 0x${(gpa % PAGE).toString(16)}`;
}
