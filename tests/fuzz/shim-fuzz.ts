/**
 * The in-process fuzzer: plays the trap module and the guest behind it, against the shim's own code.
 *
 * Oracles: no exception and no rejection escapes; every request is answered or the domain ends; a turn of the shim
 * takes less than STALL_MS; frames that are nobody's business stay as they are; the heap does not grow with the number
 * of cases; no handler fails in a way that it did not expect (logged as an error).
 */
import { setImmediate as turn } from 'node:timers/promises';
import { TrapMailbox, TrapVp } from '../../abi/trap';
import { heapInUse } from './heap';
import { flipWhileReading, floodPorts, scribble, scribbleModule, scribbleTables } from './hostile';
import { Random } from './random';
import { Requests } from './requests';
import { broken, makeWorld, PAGE, type World } from './world';

export interface ShimFuzzOptions {
  readonly seed: number;
  /** Wall time to spend; the run in progress is finished. */
  readonly seconds: number;
  /** A turn of the event loop that the shim may take, in ms of CPU time. */
  readonly stallMs: number;
  /** Runs (domains) at most. */
  readonly runs?: number;
  readonly log?: (text: string) => void;
}

export interface ShimFuzzResult {
  runs: number;
  cases: number;
  answered: number;
  ended: number;
  /** Longest turn, in ms of CPU time. */
  slowest: number;
  slowestCase: string;
  /** What went wrong, with the seed that repeats it. */
  problems: string[];
}

/** Runs before the heap is measured for the first time, and bytes that it may grow by from then on. */
const WARM_UP = 5;
const HEAP_GROWTH = 24 * 1024 * 1024;

/** Requests of one domain. */
const CASES = 400;
/** Turns of the event loop that a request may need, beyond which it counts as not answered. */
const TURNS = 3000;

function describe(world: World, vcpu: number): string {
  const at = world.vp(vcpu) + TrapVp.offsetOf('mbox');
  const v = world.memory.view(at, TrapMailbox.size);
  const args = [0, 1, 2, 3, 4].map((i) => TrapMailbox.get.args(v, 0, i).toString(16));
  return `kind ${TrapMailbox.get.kind(v, 0)} hypercall ${TrapMailbox.get.nr(v, 0)} (${args.join(', ')}) vcpu ${vcpu}`;
}

async function run(seed: number, result: ShimFuzzResult, options: ShimFuzzOptions): Promise<void> {
  const random = new Random(seed);
  const ring = random.oneIn(2) ? 1 : 3;
  const world = makeWorld({ ring, vcpus: random.pick([1, 1, 2, 4]) });
  const requests = new Requests(random, world);
  // In half of the runs the guest has taken over the trap module, as it can at ring 1.
  const module = ring === 1 && random.oneIn(2);
  const tables = ring === 1;
  const { layout, memory } = world;
  const inDomain = (gpa: number): boolean => gpa >= world.base * PAGE;
  const inShared = (gpa: number): boolean => gpa >= layout.sharedInfoGpa && gpa < layout.traceGpa;
  const inBlocks = (gpa: number): boolean => gpa >= layout.domainGpa && gpa < layout.tablesGpa;
  const isTable = (gpa: number): boolean => gpa >= world.gpa(8) && gpa < world.gpa(13);
  const stopFlipping = random.oneIn(3)
    ? () => undefined
    : flipWhileReading(memory, random, random.pick([20, 100, 1000]), (gpa) => {
        if (module && inBlocks(gpa)) return true;
        return (inDomain(gpa) && (tables || !isTable(gpa))) || inShared(gpa);
      });
  const problem = (text: string): void => {
    if (result.problems.length < 20) result.problems.push(`seed ${seed}: ${text}`);
  };
  const timed = <T>(what: () => string, act: () => T): T => {
    const before = process.cpuUsage();
    const start = performance.now();
    const value = act();
    const wall = performance.now() - start;
    if (wall > options.stallMs / 4) {
      const used = process.cpuUsage(before);
      const cpu = Math.min(wall, (used.user + used.system) / 1000);
      if (cpu > result.slowest && world.domain.xen.shutdownReason === undefined) {
        result.slowest = cpu;
        result.slowestCase = `seed ${seed}: ${what()}`;
      }
      // A lock that is not given back is waited for, once: then the domain is crashed.
      const crashed = world.domain.xen.shutdownReason !== undefined;
      if (cpu > options.stallMs && !crashed) problem(`a turn of ${cpu.toFixed(0)} ms: ${what()}`);
    }
    return value;
  };
  try {
    for (let i = 0; i < CASES && world.end.value === undefined; i++) {
      for (let n = random.below(4); n > 0; n--) scribble(world, random, requests);
      if (tables && random.oneIn(12)) scribbleTables(world, random, requests);
      if (random.oneIn(16)) floodPorts(world, random);
      const vcpu = random.below(world.nrVps);
      requests.post(vcpu);
      const said = describe(world, vcpu);
      if (module) for (let n = random.below(4); n > 0; n--) scribbleModule(world, random, requests);
      const answered = world.answered();
      result.cases++;
      timed(
        () => said,
        () => world.doorbell(),
      );
      const taken = memory.getU32(world.vp(vcpu)) !== 1;
      for (let turns = 0; taken && world.answered() === answered; turns++) {
        if (world.end.value !== undefined) break;
        if (turns > TURNS) {
          // Long work is fine while it makes progress and lets others run: end it as a user would.
          if (module || /hypercall (18|20|12|1|13) /.test(said)) break;
          problem(`not answered: ${said}`);
          break;
        }
        await turn();
      }
      result.answered += world.answered() - answered;
      if (world.errors.length > 0) {
        for (const error of world.errors.splice(0)) {
          const parsed = JSON.parse(error) as { msg: string; err?: { stack?: string } };
          problem(`${parsed.msg}: ${parsed.err?.stack?.split('\n').slice(0, 6).join(' | ')} after ${said}`);
        }
      }
    }
  } catch (error) {
    problem(`escaped: ${(error as Error).stack}`);
  }
  stopFlipping();
  if (world.end.value !== undefined) result.ended++;
  else {
    const changed = broken(world);
    if (changed.length > 0) problem(`changed: ${changed.join(', ')}`);
  }
  await world.domain.destroy();
  await turn();
  result.runs++;
}

/** Runs until the time is over. Resolves with what was found; never rejects. */
export async function fuzzShim(options: ShimFuzzOptions): Promise<ShimFuzzResult> {
  const result: ShimFuzzResult = {
    runs: 0,
    cases: 0,
    answered: 0,
    ended: 0,
    slowest: 0,
    slowestCase: '',
    problems: [],
  };
  const rejected = (reason: unknown): void => {
    result.problems.push(`escaped rejection or exception: ${(reason as Error)?.stack ?? reason}`);
  };
  process.on('unhandledRejection', rejected);
  process.on('uncaughtException', rejected);
  try {
    const until = Date.now() + options.seconds * 1000;
    let early = 0;
    for (let i = 0; i < (options.runs ?? Number.POSITIVE_INFINITY) && Date.now() < until; i++) {
      await run(options.seed + i, result, options);
      if (i === WARM_UP) early = await heapInUse();
    }
    await turn();
    const growth = early === 0 ? 0 : (await heapInUse()) - early;
    if (growth > HEAP_GROWTH) result.problems.push(`the heap grew by ${growth} bytes in ${result.runs} runs`);
  } finally {
    process.off('unhandledRejection', rejected);
    process.off('uncaughtException', rejected);
  }
  options.log?.(
    `shim: ${result.runs} domains, ${result.cases} cases, ${result.answered} answered, slowest ${result.slowest.toFixed(1)} ms`,
  );
  return result;
}
