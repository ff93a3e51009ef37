/**
 * One partition that runs cases of tests/hyperv, and the host's part in them: it names the case, answers what the image
 * asks, and looks after the time.
 *
 * The image is the trap module with another main program, put into the partition by the module's own loader. Its block
 * (struct hvtest_block, tests/hyperv/hvtest.h) lies at the start of the domain's memory.
 */
import { readFileSync } from 'node:fs';
import path from 'node:path';
import { TRAP_CRASH, TRAP_MBOX, TrapCrash, TrapVp } from '../../../abi/trap';
import { TscClock } from '../../../shim/domain/tsc-clock';
import { type ChosenEngine, chooseEngine } from '../../../shim/partition/engines';
import type { GuestMemory } from '../../../shim/partition/guest-memory';
import { readClocks } from '../../../shim/partition/host';
import { Mailboxes, type TrapCall, type TrapReply } from '../../../shim/partition/mailbox';
import { packageRoot } from '../../../shim/partition/native-files';
import type { Partition, PartitionExit, VpExits } from '../../../shim/partition/partition';
import { ramRegions } from '../../../shim/partition/ram-layout';
import { parseTrapImage, type TrapImage } from '../../../shim/partition/trap-image';
import { type TrapLayout, trapLayout } from '../../../shim/partition/trap-layout';
import { loadTrapModule } from '../../../shim/partition/trap-loader';

/** struct hvtest_block. */
const BLOCK = {
  magic: 0,
  request: 4,
  finished: 8,
  outcome: 12,
  logLength: 16,
  ask: 20,
  askVp: 24,
  askUs: 28,
  asked: 32,
  answered: 36,
  answer: 40,
  scale: 48,
  name: 56,
  nameSize: 64,
  doing: 120,
  doingSize: 32,
  log: 0x1000,
  logSize: 0x3000,
} as const;
const MAGIC = 0x74737668;
const OUTCOMES = ['nothing', 'done', 'fault', 'timeout', 'unknown'] as const;
const ASK = { echo: 1, clock: 2, kick: 3 } as const;

/** The block and the pages behind it. */
const DOMAIN_FRAMES = 256;

export interface CaseResult {
  readonly case: string;
  readonly engine: string;
  readonly vps: number;
  /**
   * done: the facts are complete. fault: an exception. timeout: a condition did not hold in time. hang: nothing was heard;
   * lost-wake-up: nothing was heard until every VP was kicked. crash: the module's own crash. end: the partition ended.
   */
  readonly outcome: 'done' | 'fault' | 'timeout' | 'unknown' | 'nothing' | 'hang' | 'lost-wake-up' | 'crash' | 'end';
  /** " key=value" for each fact, " ~key=value" for each measurement. */
  readonly text: string;
  /** In words, when it was not done. */
  readonly why: string;
  readonly ms: number;
  /** Exits to user space while the case ran, by reason, of all VPs. */
  readonly exits: Readonly<Record<string, number>>;
}

let image: TrapImage | undefined;

function testImage(): TrapImage {
  image ??= parseTrapImage(readFileSync(path.join(packageRoot(), 'build', 'tests', 'hyperv', 'hvtest.elf')));
  return image;
}

const clock = new TscClock();

const delay = (ms: number): Promise<void> => new Promise((resolve) => setTimeout(resolve, ms));

function sum(all: readonly VpExits[] | undefined): Record<string, number> {
  const total: Record<string, number> = {};
  for (const { toProcess } of all ?? [])
    for (const [name, count] of Object.entries(toProcess)) total[name] = (total[name] ?? 0) + count;
  return total;
}

export class CaseMachine {
  private readonly memory: GuestMemory;
  private readonly mailboxes: Mailboxes;
  private readonly block: number;
  private answered = 0;
  private exit: PartitionExit | undefined;
  private crash: string | undefined;
  private wake: (() => void) | undefined;

  private constructor(
    private readonly engine: string,
    private readonly partition: Partition,
    private readonly layout: TrapLayout,
  ) {
    this.memory = partition.memory;
    this.block = (layout.domainRuns[0]?.mfn ?? 0) * 4096;
    this.mailboxes = new Mailboxes(this.memory, layout, (vp) => partition.kick(vp), {
      call: (call) => this.call(call),
      ports: () => undefined,
    });
  }

  /** Starts a partition and waits for its image. */
  static async start(engine: 'qemu' | 'kvm', vps: number, force: boolean): Promise<CaseMachine> {
    const chosen: ChosenEngine = await chooseEngine(engine, force);
    const trap = testImage();
    const layout = trapLayout({ nrVps: vps, imageSize: trap.size, domainFrames: DOMAIN_FRAMES, ramRegions });
    const partition = await chosen.create({ memoryBytes: layout.memoryBytes, vpCount: vps, name: 'hvtest' });
    const machine = new CaseMachine(engine, partition, layout);
    try {
      loadTrapModule(partition.memory, layout, trap, {
        engine: partition.trapEngine,
        guestRing: 3,
        isolateUserRoots: false,
        trace: false,
        domid: 1,
        tscHz: await clock.frequency(),
        cpuid: Buffer.alloc(0),
        cpuidCount: 0,
        portsNr: 64,
        rip: 0n,
        rsp: 0n,
        rsi: BigInt(machine.block),
        l4Mfn: 0,
        coldOps: [],
      });
      await partition.start({
        doorbell: () => machine.doorbell(),
        exit: (exit) => {
          machine.exit = exit;
          machine.wake?.();
        },
      });
      const ready = await machine.until(() => machine.get('magic') === MAGIC, 30_000);
      if (!ready) throw new Error(`the image does not start: ${machine.state()}`);
    } catch (error) {
      await machine.end();
      throw error;
    }
    return machine;
  }

  private get(field: keyof typeof BLOCK): number {
    return this.memory.load32(this.block + BLOCK[field]) >>> 0;
  }

  private doorbell(): void {
    this.mailboxes.scan();
    const asked = this.get('asked');
    if (asked !== this.answered) {
      this.answered = asked;
      this.answer(this.get('ask'), this.get('askVp'));
    }
    this.wake?.();
  }

  private answer(what: number, vp: number): void {
    const at = this.block;
    if (what === ASK.clock) this.memory.setU64(at + BLOCK.answer, readClocks().monotonicRawNs);
    this.memory.store32(at + BLOCK.answered, this.answered);
    if (what === ASK.kick || what === ASK.echo || what === ASK.clock) this.mailboxes.kick(vp);
  }

  private call(call: TrapCall): TrapReply | undefined {
    if (call.kind !== TRAP_MBOX.TRAP_CALL_CRASH) return { result: 0n, effects: 0 };
    const at = this.layout.vpsGpa + call.vcpu * TrapVp.size + TrapVp.offsetOf('crash');
    const bytes = this.memory.copyOut(at + TrapCrash.offsetOf('text'), 224);
    const reason = this.memory.getU32(at + TrapCrash.offsetOf('reason'));
    const name = Object.entries(TRAP_CRASH).find(([, value]) => value === reason)?.[0] ?? `${reason}`;
    this.crash = `${name}: ${Buffer.from(bytes).toString('latin1').replace(/\0.*$/s, '')}`;
    this.wake?.();
    return undefined;
  }

  /** False when `ms` are over first, or the partition has ended or crashed. */
  private async until(condition: () => boolean, ms: number): Promise<boolean> {
    const deadline = performance.now() + ms;
    while (!condition()) {
      const left = deadline - performance.now();
      if (left <= 0 || this.exit !== undefined || this.crash !== undefined) return condition();
      await Promise.race([
        new Promise<void>((resolve) => {
          this.wake = resolve;
        }),
        delay(Math.min(left, 250)),
      ]);
    }
    return true;
  }

  /** What the VPs were about. */
  private state(): string {
    const vps = Array.from({ length: this.layout.nrVps }, (_, vp) => {
      const at = this.block + BLOCK.doing + vp * BLOCK.doingSize;
      const text = Buffer.from(this.memory.copyOut(at, BLOCK.doingSize)).toString('latin1').replace(/\0.*$/s, '');
      const base = this.layout.vpsGpa + vp * TrapVp.size;
      const mailbox = this.memory.getU32(base + TrapVp.offsetOf('mbox'));
      return `VP ${vp}: ${text === '' ? 'not started' : text}, mailbox ${mailbox}`;
    });
    return vps.join('; ');
  }

  private log(): string {
    const length = Math.min(this.get('logLength'), BLOCK.logSize - 1);
    return Buffer.from(this.memory.copyOut(this.block + BLOCK.log, length)).toString('latin1');
  }

  /** Can another case run here? */
  get usable(): boolean {
    return this.exit === undefined && this.crash === undefined && !this.tainted;
  }
  private tainted = false;

  /** Runs one case; `scale` is the number of its rounds in thousandths of the whole. */
  async run(name: string, scale: number, timeoutMs: number): Promise<CaseResult> {
    const start = performance.now();
    const before = sum(this.partition.exits());
    const bytes = Buffer.alloc(BLOCK.nameSize);
    bytes.write(name.slice(0, BLOCK.nameSize - 1), 'latin1');
    this.memory.copyIn(this.block + BLOCK.name, bytes);
    this.memory.setU32(this.block + BLOCK.scale, scale);
    this.memory.setU32(this.block + BLOCK.asked, 0);
    this.memory.setU32(this.block + BLOCK.answered, 0);
    this.answered = 0;
    const request = (this.get('request') + 1) >>> 0;
    this.memory.store32(this.block + BLOCK.request, request);
    this.mailboxes.kick(0);
    const finished = (): boolean => this.get('finished') === request;
    let outcome: CaseResult['outcome'];
    let why = '';
    if (await this.until(finished, timeoutMs)) {
      outcome = OUTCOMES[this.get('outcome')] ?? 'nothing';
      if (outcome !== 'done') why = this.state();
    } else if (this.crash !== undefined) {
      outcome = 'crash';
      why = this.crash;
    } else if (this.exit !== undefined) {
      outcome = 'end';
      why = `${this.exit.message}; ${this.state()}`;
    } else {
      why = `after ${Math.round(timeoutMs / 1000)} s: ${this.state()}`;
      for (let vp = 0; vp < this.layout.nrVps; vp++) this.partition.kick(vp);
      outcome = (await this.until(finished, 5000)) ? 'lost-wake-up' : 'hang';
    }
    if (outcome !== 'done') this.tainted = true;
    const after = sum(this.partition.exits());
    return {
      case: name,
      engine: this.engine,
      vps: this.layout.nrVps,
      outcome,
      text: this.log(),
      why,
      ms: Math.round(performance.now() - start),
      exits: Object.fromEntries(
        Object.entries(after)
          .map(([reason, count]) => [reason, count - (before[reason] ?? 0)] as const)
          .filter(([, count]) => count > 0),
      ),
    };
  }

  async end(): Promise<void> {
    this.mailboxes.close();
    await this.partition.stop();
    await this.memory.release();
  }
}
