/**
 * The contract of Partition (shim/partition/partition.ts): what is true of every engine. contract(engine) defines the
 * tests for one; what an engine has beyond that is tested in its own file.
 *
 * The guest is tests/e2e/partition/guest; it has the trap module's protocols for doorbell, kick and calls, on each
 * engine with that engine's means. Rounds are fewer where code is slow, and every wait ends the test if it is for ever.
 */
import { readdirSync, readFileSync } from 'node:fs';
import { HIGH_RAM_START, LOW_RAM_LIMIT } from '../../../shim/partition/ram-layout';
import { answerTo, GUEST, GuestControl } from './guest/abi';
import { type CreatePartition, delay, Machine, type MachineOptions, tscHz } from './machine';
import { type Ending, runOwner } from './owner';

const MIB = 2 ** 20;
const COUNTER = GUEST.GUEST_CONTROL + GuestControl.offsetOf('counter');
/** RAM that nothing uses. */
const SCRATCH = 0x200_0000;

export interface EngineUnderTest {
  readonly name: string;
  readonly create: CreatePartition;
  /** For a child process: module below dist/shim/partition, class, options. */
  readonly owner: { readonly module: string; readonly className: string; readonly options: Record<string, unknown> };
  /** 1: QEMU on a quiet machine; less where code or exits are slower. */
  readonly speed: number;
  /** Of the doorbell's protocol in one test. */
  readonly bellRounds: number;
  /** Do kicks arrive at the VP that they name, or all at VP 0? */
  readonly kicksEachVp: boolean;
  /** Most of the main thread's time that a guest may take which does nothing but ring the doorbell. */
  readonly floodShare: number;
  /** Why a triple fault cannot be had here; absent where it can. */
  readonly noTripleFault?: string;
  /** Most of the memory that a test may ask for (it is touched in few places). */
  readonly mostMemory: number;
}

/** Small deterministic random numbers, so that a failure can be had again. */
function randoms(seed: number): (below: number) => number {
  let state = seed >>> 0;
  return (below) => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return Math.floor((state / 2 ** 32) * below);
  };
}

function median(values: readonly number[]): number {
  return [...values].sort((a, b) => a - b)[Math.floor(values.length / 2)] ?? Number.NaN;
}

/** CPU time of the thread that asks, in ms, from Windows: GetThreadTimes(GetCurrentThread(), ...), in units of 100 ns. */
function windowsThreadMs(): number {
  const ffi = require('ffi-napi') as typeof import('ffi-napi');
  const pointers = ['pointer', 'pointer', 'pointer', 'pointer'];
  const kernel32 = ffi.Library('kernel32', {
    GetThreadTimes: ['int32', ['int64', ...pointers]],
  } as never) as unknown as {
    GetThreadTimes(thread: number, ...times: Buffer[]): number;
  };
  const times = Array.from({ length: 4 }, () => Buffer.alloc(8));
  const CURRENT_THREAD = -2;
  if (kernel32.GetThreadTimes(CURRENT_THREAD, ...times) === 0) throw new Error('GetThreadTimes fails');
  const [, , kernel, user] = times.map((time) => Number(time.readBigUInt64LE()));
  return ((kernel ?? 0) + (user ?? 0)) / 10_000;
}

/** CPU time of this process's main thread so far, in ms: not that of VPs' threads. */
export function mainThreadMs(): number {
  if (process.platform === 'win32') return windowsThreadMs();
  const fields = readFileSync(`/proc/self/task/${process.pid}/stat`, 'utf8').split(') ')[1]?.split(' ') ?? [];
  return (Number(fields[11]) + Number(fields[12])) * 10;
}

interface Resources {
  readonly threads: number;
  readonly descriptors: number;
  /** Mappings of guest memory, kvm_run and such, by what they are of. */
  readonly mappings: number;
  readonly anonymousMb: number;
}

function resources(): Resources {
  let mappings = 0;
  let anonymous = 0;
  for (const line of readFileSync('/proc/self/maps', 'utf8').split('\n')) {
    const [, from, to, file] = /^([0-9a-f]+)-([0-9a-f]+) \S+ \S+ \S+ \S+\s*(.*)$/.exec(line) ?? [];
    if (from === undefined || to === undefined) continue;
    if (/kvm|memfd|xenlighten-/.test(file ?? '') && !(file ?? '').endsWith('.node')) mappings++;
    else if (file === '') anonymous += Number(BigInt(`0x${to}`) - BigInt(`0x${from}`));
  }
  return {
    threads: readdirSync('/proc/self/task').length,
    descriptors: readdirSync('/proc/self/fd').length,
    mappings,
    anonymousMb: anonymous / MIB,
  };
}

export function contract(engine: EngineUnderTest): void {
  const machines: Machine[] = [];
  const machine = (options: MachineOptions = {}): Machine => {
    const made = new Machine(engine.create, options);
    machines.push(made);
    return made;
  };
  /** A test that needs a triple fault. */
  const tripleFault =
    engine.noTripleFault === undefined
      ? test
      : (title: string, _body: () => Promise<void>) => test.skip(`${title}: ${engine.noTripleFault}`, () => undefined);
  const rounds = (count: number): number => Math.max(1, Math.round(count * engine.speed));
  afterEach(async () => {
    for (const made of machines.splice(0)) await made.end();
  });

  /** Answers calls as they are found at a doorbell. */
  const answerCalls = (m: Machine, how: (vp: number, reply: () => void) => void = (_, reply) => reply()): void => {
    const seen = Array.from({ length: m.vpCount }, () => 0n);
    m.onDoorbell = () => {
      for (let vp = 0; vp < m.vpCount; vp++) {
        const request = m.get(vp, 'request');
        if (request === seen[vp]) continue;
        seen[vp] = request;
        how(vp, () => {
          m.set(vp, 'answer', answerTo(m.get(vp, 'question')));
          m.set(vp, 'reply', request);
          m.kick(vp);
        });
      }
    };
  };

  describe('start', () => {
    test.each([1, 2, 4, 8])(
      'with %d VPs each begins at the entry with the boot argument and its index, and rings',
      async (vpCount) => {
        const m = await machine({ vpCount }).boot();
        for (let vp = 0; vp < vpCount; vp++) {
          expect(m.get(vp, 'argument')).toBe(BigInt(GUEST.GUEST_CONTROL));
          expect(m.get32(vp, 'index')).toBe(vp);
          expect(m.get32(vp, 'vp_index')).toBe(vp);
        }
        // The ring is sent when the VP is up, and may come a little after that has been seen in memory.
        await m.until(() => m.doorbells > 0);
        const { engine: name, summary } = m.partition.describe();
        expect(m.partition.describe()).toMatchObject({ vpCount, memoryBytes: 64 * MIB });
        expect(name).toBe(m.partition.engine);
        expect(summary).toMatch(/\S/);
      },
    );

    test('a partition starts only once', async () => {
      const m = await machine().boot();
      await expect(m.start()).rejects.toThrow('started before');
      await m.run(0, 'COMMAND_STORE', SCRATCH, 1);
    });

    test('prepare() runs nothing, may come twice, and is not needed', async () => {
      const m = machine();
      m.partition.prepare();
      m.partition.prepare();
      await delay(100);
      expect(m.get32(0, 'alive')).toBe(0);
      expect(m.doorbells).toBe(0);
      // What is written to memory until start() is what the VPs find.
      m.set(0, 'wanted', 5n);
      await m.boot();
      m.partition.prepare();
      await m.run(0, 'COMMAND_STORE', SCRATCH, 1);
      await m.poll(() => m.get(0, 'seen') === 5n);
    });

    test.each([0, -1, 1.5, 65, Number.NaN])('%d VPs are refused, with the number that is possible', (vpCount) => {
      expect(() => engine.create({ memoryBytes: 64 * MIB, vpCount })).toThrow(
        /virtual processors: the \w+ engine runs 1 to 64/,
      );
    });

    test('64 VPs start', async () => {
      const m = machine({ vpCount: 64 });
      await m.boot();
      expect(m.every((vp) => m.get32(vp, 'index') === vp)).toBe(true);
    });

    test('two partitions at once do not disturb each other', async () => {
      const pair = [machine({ vpCount: 2 }), machine({ vpCount: 2 })];
      await Promise.all(pair.map((m) => m.boot()));
      for (const m of pair) answerCalls(m);
      const wrong = await Promise.all(
        pair.flatMap((m) => [0, 1].map((vp) => m.run(vp, 'COMMAND_CALLS', rounds(500), 0, vp))),
      );
      expect(wrong.map(([w]) => w)).toEqual([0n, 0n, 0n, 0n]);
      await pair[0]?.partition.stop();
      expect(await pair[1]?.run(1, 'COMMAND_CALLS', 10, 0, 9)).toMatchObject([0n, {}, {}, {}]);
    });
  });

  describe('memory', () => {
    const size = Math.min(6 * 2 ** 30, engine.mostMemory);
    const high = size - 3 * 2 ** 30;
    test.each([
      ['in the first GiB', 2 ** 30 - 8],
      ['at the last u64 below the hole', LOW_RAM_LIMIT - 8],
      ['at 4 GiB', HIGH_RAM_START],
      ['at the last u64', HIGH_RAM_START + high - 8],
      ['across two windows', HIGH_RAM_START + 2 ** 30 - 4],
    ])('a store %s lands where GuestMemory reads it', async (_, gpa) => {
      const m = await machine({ memoryBytes: size }).boot();
      expect(m.memory.getU64(gpa)).toBe(0n);
      await m.run(0, 'COMMAND_STORE', gpa, 0x1122_3344_5566_7788n);
      expect(m.memory.getU64(gpa)).toBe(0x1122_3344_5566_7788n);
    });

    test("the host's atomics and the locked instructions of all VPs do not lose each other's additions", async () => {
      const m = await machine({ vpCount: 2 }).boot();
      const each = Math.max(20_000, Math.round(5_000_000 * engine.speed));
      let host = 0;
      let guest = 0;
      // Additions of the host between which the guest made some: where processors are few, they come in one round or not.
      let mixed = 0;
      for (let round = 0; mixed < 200 && round < 60; round++) {
        for (const vp of [0, 1]) m.post(vp, 'COMMAND_HAMMER', each);
        let last = m.memory.getU32(COUNTER);
        while (!m.every((vp) => m.get(vp, 'command') === 0n)) {
          const before = m.memory.add32(COUNTER, 1);
          host++;
          if (before !== last) mixed++;
          last = before + 1;
        }
        for (const vp of [0, 1]) await m.done(vp);
        guest += 2 * each;
      }
      expect(mixed).toBeGreaterThanOrEqual(200);
      expect(m.memory.getU32(COUNTER)).toBe((guest + host) % 2 ** 32);
    });

    test('memory outlives the VPs until it is released', async () => {
      const m = await machine().boot();
      await m.partition.stop();
      expect(m.get32(0, 'alive')).toBe(1);
      await m.memory.release();
      expect(() => m.get32(0, 'alive')).toThrow('was released');
    });

    test('memory that is released while VPs run is unmapped only when they have left', async () => {
      const m = await machine().boot();
      m.post(0, 'COMMAND_SPIN');
      await delay(20);
      const released = m.memory.release();
      await m.partition.stop();
      await released;
      expect(m.gone?.reason).toBe('stopped');
    });
  });

  describe('doorbell', () => {
    test('rings merge, but one after the look began is never lost', async () => {
      const m = await machine().boot();
      m.onDoorbell = () => m.set(0, 'consumed', m.get(0, 'produced'));
      const before = m.doorbells;
      await m.run(0, 'COMMAND_PRODUCE', engine.bellRounds, 1);
      expect(m.get(0, 'consumed')).toBe(BigInt(engine.bellRounds));
      // Merged: fewer looks than rounds; but more than a few, or there was no race.
      expect(m.doorbells - before).toBeLessThan(engine.bellRounds);
      expect(m.doorbells - before).toBeGreaterThan(50);
    });

    test('several VPs ring one bell', async () => {
      const vpCount = 4;
      const m = await machine({ vpCount }).boot();
      m.onDoorbell = () => {
        for (let vp = 0; vp < vpCount; vp++) m.set(vp, 'consumed', m.get(vp, 'produced'));
      };
      const each = Math.round(engine.bellRounds / 10);
      await Promise.all(Array.from({ length: vpCount }, (_, vp) => m.run(vp, 'COMMAND_PRODUCE', each, 100 + vp)));
      expect(m.every((vp) => m.get(vp, 'consumed') === BigInt(each))).toBe(true);
    });

    describe('a VP that rings without end', () => {
      let share: number | undefined;

      test('the event loop stays alive, and another VP is served', async () => {
        const m = await machine({ vpCount: 2 }).boot();
        m.post(0, 'COMMAND_FLOOD');
        await m.poll(() => m.get(0, 'progress') > 0n);
        const rings = m.get(0, 'progress');
        const calls = m.doorbells;
        const cpu = mainThreadMs();
        const start = performance.now();
        let latest = 0;
        while (performance.now() - start < 2000) {
          const before = performance.now();
          await delay(10);
          latest = Math.max(latest, performance.now() - before - 10);
        }
        const ms = performance.now() - start;
        const used = (mainThreadMs() - cpu) / ms;
        share = used;
        process.stderr.write(
          `${engine.name}: doorbell flood: ${Math.round((Number(m.get(0, 'progress') - rings) / ms) * 1000)} rings/s, ` +
            `${Math.round(((m.doorbells - calls) / ms) * 1000)} calls/s, main thread ${(used * 100).toFixed(0)} %, ` +
            `timers at most ${latest.toFixed(0)} ms late\n`,
        );
        // The other VP is served meanwhile.
        answerCalls(m);
        expect((await m.run(1, 'COMMAND_CALLS', 20, 0, 3))[0]).toBe(0n);
        m.haltSpinning();
        await m.done(0);
        expect(latest).toBeLessThan(500);
      });

      test('it costs this process little', () => expect(share).toBeLessThan(engine.floodShare));
    });
  });

  describe('kick', () => {
    const vpCount = 4;
    test.each(['halts', 'runs'])(
      'each VP that %s is interrupted by its kicks; they merge, the last counts',
      async (what) => {
        const m = await machine({ vpCount }).boot();
        const random = randoms(7);
        for (let vp = 0; vp < vpCount; vp++) {
          if (what === 'runs') m.post(vp, 'COMMAND_SPIN');
          m.memory.store32(m.at(vp, 'ring_on_kick'), 1);
          let wanted = 0n;
          for (let round = 0; round < rounds(200); round++) {
            // A burst, of which any number may merge.
            for (let kicks = 1 + random(4); kicks > 0; kicks--) {
              m.set(vp, 'wanted', ++wanted);
              if (engine.kicksEachVp && random(2) === 0) m.partition.kick(vp);
              else m.kick(vp);
            }
            if (random(3) === 0) await delay(0);
            const last = wanted;
            await m.until(() => m.get(vp, 'seen') === last);
          }
          expect(m.get(vp, 'kicks')).toBeGreaterThan(0n);
          m.haltSpinning();
          await m.done(vp);
          m.haltSpinning(false);
        }
      },
    );

    const eachVp = engine.kicksEachVp ? test : test.skip;
    eachVp(`kicks reach no other VP${engine.kicksEachVp ? '' : ': here all arrive at VP 0'}`, async () => {
      const m = await machine({ vpCount: 3 }).boot();
      await delay(100);
      const before = [0, 1, 2].map((vp) => m.get(vp, 'kicks'));
      for (let i = 0; i < 20; i++) {
        m.partition.kick(1);
        await delay(2);
      }
      await m.poll(() => m.get(1, 'kicks') > (before[1] ?? 0n));
      expect([m.get(0, 'kicks'), m.get(2, 'kicks')]).toEqual([before[0], before[2]]);
    });

    test('to a partition that has not started, or has ended, or to a VP that does not exist: nothing, or a RangeError', async () => {
      const m = machine();
      m.partition.kick(0);
      await m.boot();
      expect(() => m.partition.kick(1)).toThrow(RangeError);
      expect(() => m.partition.kick(-1)).toThrow(RangeError);
      await m.partition.stop();
      m.partition.kick(0);
      expect((await m.exit).reason).toBe('stopped');
    });

    test('10000 in one turn neither block nor get lost as a whole', async () => {
      const m = await machine().boot();
      const before = performance.now();
      for (let i = 0; i < 10_000; i++) m.partition.kick(0);
      expect(performance.now() - before).toBeLessThan(5000);
      await m.run(0, 'COMMAND_STORE', SCRATCH, 1);
      expect(m.memory.getU64(SCRATCH)).toBe(1n);
    });
  });

  describe('calls to the shim', () => {
    test('round trips: every answer is the right one', async () => {
      const m = await machine().boot();
      answerCalls(m);
      const hz = await tscHz();
      const count = rounds(2000);
      const [wrong] = await m.run(0, 'COMMAND_CALLS', count, 0, 1);
      const times = Array.from(
        { length: Math.min(count, GUEST.GUEST_TIMES) },
        (_, i) => (m.memory.getU64Number(GUEST.GUEST_AREAS + GUEST.GUEST_PAGE_TIMES + i * 8) / hz) * 1e6,
      );
      process.stderr.write(
        `${engine.name}: call: median ${median(times).toFixed(0)} us, min ${Math.min(...times).toFixed(0)}\n`,
      );
      expect(wrong).toBe(0n);
      expect(median(times)).toBeLessThan(5000);
    });

    test('an answer that comes before the VP waits is not missed', async () => {
      // The VP rings as soon as its request is written, and again by waiting.
      const m = await machine({ vpCount: 2 }).boot();
      answerCalls(m);
      const wrong = await Promise.all([0, 1].map((vp) => m.run(vp, 'COMMAND_CALLS', rounds(3000), 1, vp)));
      expect(wrong.map(([w]) => w)).toEqual([0n, 0n]);
    });

    test('kicks before, while and after a call do not end it without its answer', async () => {
      const m = await machine().boot();
      const random = randoms(3);
      answerCalls(m, (vp, reply) => {
        const kicks = random(4);
        for (let i = 0; i < kicks; i++) m.partition.kick(vp);
        if (random(2) === 0) reply();
        else
          setTimeout(() => {
            m.partition.kick(vp);
            reply();
            m.partition.kick(vp);
          }, random(3));
      });
      expect((await m.run(0, 'COMMAND_CALLS', rounds(500), 0, 5))[0]).toBe(0n);
    });

    test('a call waits as long as it takes', async () => {
      const m = await machine().boot();
      const replies: (() => void)[] = [];
      answerCalls(m, (_, reply) => replies.push(reply));
      m.post(0, 'COMMAND_CALLS', 1, 0, 1);
      await m.poll(() => replies.length === 1);
      await delay(200);
      expect(m.get(0, 'progress')).toBe(0n);
      replies[0]?.();
      expect((await m.done(0))[0]).toBe(0n);
    });

    test('a storm of kicks while all VPs call', async () => {
      const vpCount = 4;
      const m = await machine({ vpCount }).boot();
      const random = randoms(11);
      answerCalls(m, (_, reply) => {
        if (random(3) > 0) reply();
        else setTimeout(reply, random(2));
      });
      let storming = true;
      const storm = (async () => {
        while (storming) {
          for (let i = 0; i < 20; i++) m.partition.kick(random(vpCount));
          await new Promise((resolve) => setImmediate(resolve));
        }
      })();
      const wrong = await Promise.all(
        Array.from({ length: vpCount }, (_, vp) => m.run(vp, 'COMMAND_CALLS', rounds(400), 0, vp)),
      );
      storming = false;
      await storm;
      expect(wrong.map(([w]) => w)).toEqual([0n, 0n, 0n, 0n]);
    });
  });

  describe('timers and IPIs', () => {
    test.each([
      ['a halted VP', 0],
      ['a running VP', 1],
    ])('a one-shot interrupts %s in time: never early, and not much late', async (_, spin) => {
      const m = await machine({ vpCount: 2 }).boot();
      const hz = await tscHz();
      for (const deltaUs of [100, 1000, 10_000]) {
        const count = 10;
        await m.run(1, 'COMMAND_TIMER', count, deltaUs * 10, spin);
        const area = GUEST.GUEST_AREAS + GUEST.GUEST_AREA_SIZE + GUEST.GUEST_PAGE_TIMES;
        const us = Array.from({ length: count }, (__, i) => (m.memory.getU64Number(area + i * 8) / hz) * 1e6);
        expect(Math.min(...us)).toBeGreaterThan(deltaUs * 0.98 - 5);
        expect(median(us)).toBeLessThan(deltaUs + 100_000);
      }
    });

    test('one in the past fires at once', async () => {
      const m = await machine().boot();
      const before = performance.now();
      await m.run(0, 'COMMAND_TIMER', 5, -1_000_000, 0);
      expect(m.get(0, 'timers')).toBe(5n);
      expect(performance.now() - before).toBeLessThan(5000);
    });

    test('setting it anew replaces the old deadline; stopping it leaves none', async () => {
      const m = await machine().boot();
      const hz = await tscHz();
      const ticks = (ms: number) => Math.round((hz * ms) / 1000);
      // Far, then near; near, then far.
      expect((await m.run(0, 'COMMAND_TIMER_REARM', 20_000_000, 50_000, ticks(200)))[0]).toBe(1n);
      expect((await m.run(0, 'COMMAND_TIMER_REARM', 1_000_000, 20_000_000, ticks(300)))[0]).toBe(0n);
      expect((await m.run(0, 'COMMAND_TIMER_STOP', 1_000_000, 0, ticks(300)))[0]).toBe(0n);
    });

    test.each([
      ['halted', 0],
      ['running', 1],
    ])('IPIs between %s VPs, all at once: none is lost', async (_, spin) => {
      const vpCount = 4;
      const m = await machine({ vpCount }).boot();
      const count = rounds(spin === 1 ? 500 : 2000);
      const all = Array.from({ length: vpCount }, (__, vp) => vp);
      await Promise.all(all.map((vp) => m.run(vp, 'COMMAND_IPIS', (vp + 1) % vpCount, count, spin)));
      expect(all.map((vp) => m.get(vp, 'pongs'))).toEqual(all.map(() => BigInt(count)));
    });
  });

  describe('stop', () => {
    const once = async (m: Machine): Promise<void> => {
      let exits = 0;
      m.exit.then(() => exits++);
      await m.partition.stop();
      expect(m.gone?.reason).toBe('stopped');
      await m.partition.stop();
      expect(exits).toBe(1);
      // Nothing runs on: what a VP would change stays as it is.
      const before = Array.from({ length: m.vpCount }, (_, vp) => m.get(vp, 'progress'));
      await delay(20);
      expect(Array.from({ length: m.vpCount }, (_, vp) => m.get(vp, 'progress'))).toEqual(before);
    };

    test.each([1, 4])('%d running VPs', async (vpCount) => {
      const m = await machine({ vpCount }).boot();
      for (let vp = 0; vp < vpCount; vp++) m.post(vp, 'COMMAND_SPIN');
      await delay(50);
      await once(m);
    });

    test.each([1, 4])('%d halted VPs', async (vpCount) => {
      const m = await machine({ vpCount }).boot();
      await delay(50);
      await once(m);
    });

    test('VPs that wait for an answer, that ring, that send IPIs', async () => {
      const m = await machine({ vpCount: 4 }).boot();
      m.post(0, 'COMMAND_CALLS', 1, 0, 1);
      m.post(1, 'COMMAND_FLOOD');
      m.post(2, 'COMMAND_IPIS', 3, 2 ** 40, 0);
      await m.poll(() => m.get(2, 'progress') > 10n && m.get(0, 'request') === 1n);
      await once(m);
    });

    test('while it is kicked', async () => {
      const m = await machine({ vpCount: 2 }).boot();
      let stopped = false;
      const storm = (async () => {
        while (!stopped) {
          for (let i = 0; i < 50; i++) m.partition.kick(i & 1);
          await new Promise((resolve) => setImmediate(resolve));
        }
      })();
      await delay(20);
      await m.partition.stop();
      stopped = true;
      await storm;
      await once(m);
    });

    test('at any moment after start()', async () => {
      const random = randoms(5);
      for (let i = 0; i < 12; i++) {
        const m = machine({ vpCount: 1 + random(4) });
        await m.start();
        await delay(random(40));
        await once(m);
        await m.memory.release();
      }
    });

    test.each([false, true])(
      'before start(), prepared: %s: start() rejects, and nothing is called',
      async (prepared) => {
        const m = machine();
        if (prepared) m.partition.prepare();
        await m.partition.stop();
        await expect(m.start()).rejects.toThrow('stopped before it had started');
        await delay(20);
        expect(m.gone).toBeUndefined();
      },
    );

    test('right after start(), without waiting for it: start() rejects, or the partition ends as stopped', async () => {
      const m = machine();
      const started = m.start().then(
        () => 'started',
        (error: Error) => error.message,
      );
      await m.partition.stop();
      const outcome = await started;
      if (outcome === 'started') expect((await m.exit).reason).toBe('stopped');
      else expect(outcome).toMatch('stopped before it had started');
      await m.memory.release();
    });

    tripleFault('of a partition that has ended by itself', async () => {
      const m = await machine().boot();
      m.post(0, 'COMMAND_TRIPLE_FAULT');
      expect((await m.exit).reason).toBe('triple-fault');
      await m.partition.stop();
      expect(m.gone?.reason).toBe('triple-fault');
    });
  });

  describe('ends', () => {
    tripleFault('a triple fault of any VP is recognised', async () => {
      for (const vp of [0, 1]) {
        const m = await machine({ vpCount: 2 }).boot();
        m.post(1 - vp, 'COMMAND_SPIN');
        m.post(vp, 'COMMAND_TRIPLE_FAULT');
        const exit = await m.exit;
        expect(exit.reason).toBe('triple-fault');
        expect(exit.message).toMatch(/virtual processor.* shut down by a triple fault/);
      }
    });

    (process.platform === 'linux' ? test : test.skip)(
      '20 partitions leave no thread, descriptor, mapping or process behind',
      async () => {
        const one = async (): Promise<void> => {
          const m = new Machine(engine.create, { vpCount: 2 });
          await m.boot();
          answerCalls(m);
          await m.run(1, 'COMMAND_CALLS', 3, 0, 1);
          await m.end();
        };
        await one();
        await delay(100);
        const before = resources();
        for (let i = 0; i < 20; i++) await one();
        await delay(100);
        const after = resources();
        expect({ ...after, anonymousMb: 0 }).toEqual({ ...before, anonymousMb: 0 });
        // The heap may grow; the memory of a partition is 64 MiB.
        expect(after.anonymousMb - before.anonymousMb).toBeLessThan(64);
        const children = readFileSync(`/proc/self/task/${process.pid}/children`, 'utf8').trim().split(' ');
        expect(children.filter((pid) => pid !== '' && isEngine(pid))).toEqual([]);
      },
    );

    test.each<[string, Ending, number]>([
      ['process.exit(7)', 'exit', 7],
      ['an uncaught exception', 'throw', 1],
      ['a rejected promise', 'reject', 1],
      ['the end of a worker thread that owns it', 'worker-exit', 5],
      ['the termination of a worker thread that owns it', 'worker-terminate', 6],
    ])(
      '%s while VPs run: the exit status is kept, nothing hangs or crashes, nothing is left',
      async (_, ending, status) => {
        for (const code of ['spin', 'halt', 'ring'] as const) {
          const ended = await runOwner({ ...engine.owner, ending, code, vpCount: 2 });
          expect({ code, status: ended.status, signal: ended.signal }).toEqual({ code, status, signal: null });
          if (ending !== 'throw' && ending !== 'reject') expect(ended.stderr).toBe('');
          else expect(ended.stderr).toMatch(/Error: on purpose/);
          expect(ended.left).toEqual([]);
        }
      },
    );
  });
}

function isEngine(pid: string): boolean {
  try {
    return readFileSync(`/proc/${pid}/cmdline`, 'utf8').includes('xenlighten-');
  } catch {
    return false;
  }
}
