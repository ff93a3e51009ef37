/** Self-tests against partitions that are made up: what each of them calls a failure. */
import { fullReport } from '../../../shim/doctor';
import { PLACE, Program, runProgram } from '../../../shim/doctor/program';
import { type Bench, runSelfTests, SELF_TESTS, type SelfTestResult } from '../../../shim/doctor/self-tests';
import { rawCapabilities, whpFacts } from '../../../shim/doctor/whp-facts';
import { GuestMemory } from '../../../shim/partition/guest-memory';
import { BOOT_PARAMETERS, type Partition, type PartitionEvents } from '../../../shim/partition/partition';
import { WhpCallError } from '../../../shim/partition/whp/hresult';
import { ALL_SYNTHETIC, entry, FakeApi } from '../whp/fake-api';
import { linuxHost, windowsHost } from './fake-host';

interface Play {
  /** What the guest leaves. */
  readonly slots?: Readonly<Record<number, bigint>>;
  /** Rings before it has ended. */
  readonly early?: number;
  /** The partition ends instead. */
  readonly exit?: string;
  readonly refuse?: string;
}

let alive = 0;
/** What the program began with. */
let booted: { cr3: bigint; entry: bigint; argument: bigint; first: number } | undefined;

function fake(play: Play): Partition {
  const memory = GuestMemory.create([{ gpa: 0, size: 4 * 2 ** 20 }], { private: true });
  alive++;
  const { release } = memory;
  memory.release = async () => {
    alive--;
    await release.call(memory);
  };
  let events: PartitionEvents | undefined;
  const gone = { message: play.exit ?? 'stopped', code: undefined, signal: undefined, stderr: '' };
  return {
    memory,
    start: async (given: PartitionEvents) => {
      if (play.refuse !== undefined) throw new Error(play.refuse);
      events = given;
      booted = {
        cr3: memory.getU64(BOOT_PARAMETERS.cr3),
        entry: memory.getU64(BOOT_PARAMETERS.entry),
        argument: memory.getU64(BOOT_PARAMETERS.argument),
        first: memory.getU32(PLACE.code) & 0xffff,
      };
      setImmediate(() => {
        for (let i = 0; i < (play.early ?? 0); i++) given.doorbell();
        if (play.exit !== undefined) {
          given.exit({ reason: 'failed', ...gone });
          return;
        }
        for (const [slot, value] of Object.entries(play.slots ?? {}))
          memory.setU64(PLACE.results + 8 * Number(slot), value);
        memory.setU64(PLACE.results, 1n);
        given.doorbell();
      });
    },
    stop: async () => {
      events?.exit({ reason: 'stopped', ...gone });
    },
    kick: () => undefined,
    exits: () => [{ toProcess: { IO: 3 }, hypervisor: {} }],
  } as unknown as Partition;
}

afterEach(() => expect(alive).toBe(0));

async function outcome(id: string, play: Play, hyperv = true): Promise<SelfTestResult> {
  const bench: Bench = { create: () => fake(play), hyperv, spareMemory: 0 };
  const [result] = await runSelfTests(
    bench,
    SELF_TESTS.filter((t) => t.id === id),
  );
  if (result === undefined) throw new Error(`no self-test ${id}`);
  return result;
}

test('a program gets its page tables, its entry and its place for answers, and nothing is left', async () => {
  const run = await runProgram(fake({ slots: { 3: 7n }, early: 2 }), new Program().finish());
  expect(booted).toMatchObject({ cr3: BigInt(PLACE.pml4), entry: BigInt(PLACE.code), argument: BigInt(PLACE.results) });
  // mov $imm64, %rsp
  expect(booted?.first).toBe(0xbc48);
  expect(run).toMatchObject({ doorbells: 3, exits: { toProcess: { IO: 3 } } });
  expect(run.slot(3)).toBe(7n);
});

test('a partition that cannot be started, or ends by itself', async () => {
  const program = new Program().finish();
  await expect(runProgram(fake({ refuse: 'no memory' }), program)).rejects.toThrow('no memory');
  await expect(runProgram(fake({ exit: 'triple fault' }), program)).rejects.toThrow(
    'the partition ended: triple fault',
  );
});

test.each<[string, Play, string]>([
  ['ring0', {}, 'the time stamp counter does not run in the partition'],
  ['ring0', { exit: 'triple fault' }, 'the partition ended: triple fault'],
  ['cancel', {}, 'it ended by itself'],
  ['cancel', { refuse: 'no memory' }, 'no memory'],
  ['processors', { slots: { 1: 1n, 3: 1n } }, 'virtual processors 1, 3 did not run'],
  ['synthetic-msrs', { slots: { 1: 5n } }, 'the only virtual processor has index 5'],
  ['synthetic-msrs', { slots: { 2: 9n, 4: 9n } }, 'the reference time stands still'],
  ['doorbell', {}, 'the hypercall page is not enabled: the MSR reads 0x0'],
  ['doorbell', { slots: { 1: 0x8001n, 3: 0x12n } }, 'HvCallSignalEvent answers status 0x12'],
  ['doorbell', { slots: { 1: 0x8001n } }, 'nothing came of HvCallSignalEvent'],
  ['kick', { slots: { 1: 0x8001n } }, 'the event flag was not set'],
])('%s fails: %j', async (id, play, why) => {
  expect(await outcome(id, play)).toMatchObject({ result: 'fails', why });
});

test('what works has its numbers', async () => {
  expect(await outcome('ring0', { slots: { 1: 1n, 2: 2n, 3: 3n, 4: 4n } })).toMatchObject({
    result: 'works',
    measured: { exitsToProcess: { IO: 3 } },
  });
  expect(await outcome('cancel', { early: 1, exit: 'stopped' })).toMatchObject({ result: 'works' });
  expect(await outcome('processors', { slots: { 1: 1n, 2: 1n, 3: 1n, 4: 1n } })).toMatchObject({ result: 'works' });
  expect(await outcome('doorbell', { slots: { 1: 0x8001n, 4: 99n } })).toMatchObject({
    result: 'works',
    measured: { spinWaitStatus: '0x0', doorbells: 1 },
  });
});

test('what needs the Hyper-V interface, or memory, is skipped without', async () => {
  expect(await outcome('kick', {}, false)).toMatchObject({ result: 'skipped' });
  expect(await outcome('memory', {})).toMatchObject({ result: 'skipped', why: 'less than 6 GiB can be committed' });
});

describe('what the platform of Windows answers', () => {
  test('capabilities raw, or why there are none', () => {
    const raw = rawCapabilities(new FakeApi());
    expect(raw['WHvCapabilityCodeHypervisorPresent']).toMatch(/^01000000/);
    expect(raw['WHvCapabilityCodeProcessorVendor']).toMatch(/WHV_E_UNKNOWN_CAPABILITY/);
  });

  test('every call of a set-up with its answer; the partition is deleted', () => {
    const api = new FakeApi();
    api.cpuid = [entry(0, { eax: 0, ebx: 0x68747541 })];
    const facts = whpFacts(api);
    expect(facts).toMatchObject({ missingSynthetic: [] });
    expect(facts['setUp']).toEqual(
      expect.arrayContaining(['WHvCreatePartition: done', 'WHvSetupPartition: done', 'WHvDeletePartition: done']),
    );
    expect(facts['cpuid']).toContain('00000000.0: 00000000 68747541 00000000 00000000');
    expect(api.partitions.size).toBe(0);
  });

  test('a call that fails is named, and the partition is deleted', () => {
    const api = new FakeApi();
    api.synthetic = ALL_SYNTHETIC & ~1n;
    api.setupPartition = () => {
      throw new WhpCallError('WHvSetupPartition', 0x80370304);
    };
    const facts = whpFacts(api);
    expect(facts['failed']).toMatch(/WHvSetupPartition answers 0x80370304/);
    expect(facts['missingSynthetic']).toEqual(['HypervisorPresent']);
    expect((facts['setUp'] as string[]).filter((c) => c.startsWith('WHvSetupPartition'))).toHaveLength(1);
    expect(api.partitions.size).toBe(0);
  });

  test('no hypervisor', () => {
    const api = new FakeApi();
    api.hypervisorPresent = false;
    expect(whpFacts(api)).toMatchObject({ setUp: [] });
  });
});

describe('the whole report', () => {
  const identity = { env: {}, userName: '', homeDirectory: '/h', hostName: '', currentDirectory: '/c' };

  test('of Windows has the platform, and the list of what nobody has verified', async () => {
    const report = await fullReport(windowsHost(), [], false, identity);
    expect(report).toMatchObject({
      windows: { feature: 'enabled', hypervisorPresent: true, revision: 2700, model: 'Virtual Machine' },
      whp: { capabilities: {} },
      selfTests: 'not run: no engine of this process can be used',
    });
    const silent = windowsHost({}, { powershell: new Error('spawn powershell.exe ENOENT') });
    expect(await fullReport(silent, [], false, identity)).toMatchObject({ windows: 'spawn powershell.exe ENOENT' });
    const old = windowsHost({}, { facts: { update: null, system: null } });
    expect(await fullReport(old, [], false, identity)).toMatchObject({ windows: { feature: 'enabled' } });
    expect((report['unverified'] as unknown[]).length).toBeGreaterThan(10);
    const whpFacts = (): never => {
      throw new Error('no WinHvPlatform.dll');
    };
    expect(await fullReport(windowsHost({ whpFacts }), [], false, identity)).toMatchObject({
      whp: 'no WinHvPlatform.dll',
    });
  });

  test('of Linux has neither', async () => {
    const bench = async (): Promise<Bench> => ({ create: () => fake({}), hyperv: false, spareMemory: 0 });
    const report = await fullReport(linuxHost({ bench }), [], true, identity);
    expect(Object.keys(report)).not.toContain('whp');
    expect(Object.keys(report)).not.toContain('unverified');
    expect((report['selfTests'] as unknown[]).length).toBe(SELF_TESTS.length);
  });

  test('is saved before each step that may be the last, with that step in it', async () => {
    const bench = async (): Promise<Bench> => ({ create: () => fake({}), hyperv: false, spareMemory: 0 });
    const saved: Record<string, unknown>[] = [];
    const report = await fullReport(windowsHost({ bench }), [], true, identity, async (r) => {
      saved.push(structuredClone(r));
    });
    expect(saved[0]).toMatchObject({ whp: 'begun' });
    expect(saved[0]).not.toHaveProperty('selfTests');
    expect(saved[1]).toMatchObject({ whp: { capabilities: {} }, selfTests: 'begun' });
    expect(saved[2]).toMatchObject({ selfTests: [{ id: 'ring0', result: 'begun' }] });
    expect(saved.at(-1)).toEqual(report);
    expect(JSON.stringify(report)).not.toMatch(/begun/);
  });
});

test('a self-test that does not come to an end fails, and the others are run', async () => {
  const never = { id: 'never', title: 'hangs', run: () => new Promise<never>(() => undefined) };
  const quick = { id: 'quick', title: 'ends', run: async () => ({}) };
  const bench: Bench = { create: () => fake({}), hyperv: false, spareMemory: 0 };
  expect(await runSelfTests(bench, [never, quick], { limitMs: 50 })).toMatchObject([
    { id: 'never', result: 'fails', why: 'it has not come to an end within 0.05 s' },
    { id: 'quick', result: 'works' },
  ]);
});
