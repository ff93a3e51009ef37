/**
 * Guests of the kvm engine that mean harm: each answer is a status of the TLFS or an exception in the guest, the host's
 * main thread has next to nothing to do with it, and the other VPs go on.
 */
import { HV_STATUS, HVCALL } from '../../../abi/hyperv';
import { TRAP_HV_PORT } from '../../../abi/trap';
import { KvmPartition } from '../../../shim/partition/kvm/kvm-partition';
import { mainThreadMs } from './contract';
import { GUEST } from './guest/abi';
import { delay, Machine, type MachineOptions } from './machine';

const INPUT = GUEST.GUEST_AREAS + GUEST.GUEST_PAGE_INPUT;
const FAST = 0x1_0000n;

export function kvmHostile(hyperv: boolean, speed: number, floodShare: number): void {
  const machines: Machine[] = [];
  const machine = (options: MachineOptions = {}): Machine => {
    const made = new Machine((given) => new KvmPartition({ ...given, hyperv }), options);
    machines.push(made);
    return made;
  };
  afterEach(async () => {
    for (const made of machines.splice(0)) await made.end();
  });

  /** Runs a command on VP 1 to its end while VP 0 works; fails if the main thread was busy with it. */
  const harmless = async (
    m: Machine,
    ...command: Parameters<Machine['run']> extends [number, ...infer R] ? R : never
  ) => {
    const cpu = mainThreadMs();
    const start = performance.now();
    const results = await m.run(1, ...command);
    const ms = performance.now() - start;
    expect(mainThreadMs() - cpu).toBeLessThan(floodShare * ms + 100);
    expect(m.gone).toBeUndefined();
    for (const vp of [0, 1]) await m.run(vp, 'COMMAND_STORE', 0x200_0000, vp);
    return results;
  };

  describe('that mean harm', () => {
    test('random ports and addresses without RAM read as absent', async () => {
      const m = await machine({ vpCount: 2 }).boot();
      await harmless(m, 'COMMAND_FUZZ_IO', 1, Math.round(20_000 * speed));
    });

    test('the doorbell port, rung without end, costs the main thread a part of its time', async () => {
      const m = await machine({ vpCount: 2 }).boot();
      m.post(1, 'COMMAND_FLOOD', TRAP_HV_PORT.TRAP_BELL_PORT);
      await m.poll(() => m.get(1, 'progress') > 0n);
      const [cpu, calls, start] = [mainThreadMs(), m.doorbells, performance.now()];
      await delay(2000);
      const ms = performance.now() - start;
      const used = (mainThreadMs() - cpu) / ms;
      process.stderr.write(
        `kvm port flood: ${Math.round(((m.doorbells - calls) / ms) * 1000)} calls/s, main thread ${(used * 100).toFixed(0)} %\n`,
      );
      await m.run(0, 'COMMAND_STORE', 0x200_0000, 1);
      m.haltSpinning();
      await m.done(1);
      expect(used).toBeLessThan(floodShare);
    });

    if (!hyperv) return;

    test('messages and events that cannot be: the status says what is wrong', async () => {
      const m = await machine().boot();
      const status = async (word: number | bigint, rdx: number | bigint, r8: number | bigint = 0): Promise<bigint> => {
        const [rax, fault] = await m.run(0, 'COMMAND_HYPERCALL', word, rdx, r8);
        expect(fault).toBe(0n);
        return (rax ?? 0n) & 0xffffn;
      };
      const post = HVCALL.HVCALL_POST_MESSAGE;
      const signal = HVCALL.HVCALL_SIGNAL_EVENT;
      const S = HV_STATUS;
      const expected: [string, bigint, number][] = [
        ['no connection', await status(post, INPUT), S.HV_STATUS_INVALID_CONNECTION_ID],
        ['not aligned', await status(post, INPUT + 4), S.HV_STATUS_INVALID_ALIGNMENT],
        ['across pages', await status(post, INPUT + 0x1000 - 248), S.HV_STATUS_INVALID_HYPERCALL_INPUT],
        ['in registers', await status(BigInt(post) | FAST, 1), S.HV_STATUS_INVALID_HYPERCALL_INPUT],
        ['in the hole', await status(post, 0xd000_0000), S.HV_STATUS_INVALID_HYPERCALL_INPUT],
        ['no address', await status(post, 0xffff_ffff_ffff_f000n), S.HV_STATUS_INVALID_HYPERCALL_INPUT],
        ['an unknown port', await status(BigInt(signal) | FAST, 77), S.HV_STATUS_INVALID_CONNECTION_ID],
        [
          'an unknown flag',
          await status(BigInt(signal) | FAST, (1n << 32n) | 0x584cn),
          S.HV_STATUS_INVALID_CONNECTION_ID,
        ],
        ['an unknown call', await status(0x7fff, INPUT), S.HV_STATUS_INVALID_HYPERCALL_CODE],
      ];
      expect(expected.map(([what, got]) => [what, Number(got)])).toEqual(
        expected.map(([what, , want]) => [what, want]),
      );
    });

    test.each([1, 2, 3])('random hypercalls, seed %d', async (seed) => {
      const m = await machine({ vpCount: 2 }).boot();
      const [, statuses] = await harmless(m, 'COMMAND_FUZZ_HYPERCALLS', seed, Math.round(20_000 * speed));
      // Success, and several errors: the inputs were not all of one kind.
      expect(statuses?.toString(2).replaceAll('0', '').length).toBeGreaterThan(3);
    });

    test('wild addresses in the MSRs that name pages, while the host kicks', async () => {
      const m = await machine({ vpCount: 2 }).boot();
      let storming = true;
      const storm = (async () => {
        while (storming) {
          for (let i = 0; i < 10; i++) m.partition.kick(1);
          await new Promise((resolve) => setImmediate(resolve));
        }
      })();
      const [faults, accepted] = await m.run(1, 'COMMAND_WILD_PAGES', Math.round(200 * speed));
      storming = false;
      await storm;
      // Of each kind: KVM looks into the hypercall page at once, and at others when it needs them.
      expect(faults).toBeGreaterThan(0n);
      expect(accepted).toBeGreaterThan(0n);
      for (const vp of [0, 1]) await m.run(vp, 'COMMAND_STORE', 0x200_0000, vp);
    });

    test.each([1, 2, 3])('random values in all synthetic MSRs, seed %d', async (seed) => {
      const m = await machine({ vpCount: 2 }).boot();
      const [faults] = await harmless(m, 'COMMAND_FUZZ_MSRS', seed, Math.round(10_000 * speed));
      expect(faults).toBeGreaterThan(0n);
    });
  });
}
