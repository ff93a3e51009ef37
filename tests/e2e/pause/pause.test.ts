/**
 * Pausing Debian's kernel: storms of pauses under load, with one vCPU and with several, in both rings, in cold calls;
 * and the commands of a user. PAUSE_STORMS=N makes the storms longer; `npm run test:pause-storm` is the long run.
 */
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { SharedInfo } from '../../../abi/xen/shared-info';
import { clockRamdisk, pauseStorm } from '../../../scripts/lib/pause-storm';
import { ControlClient } from '../../../shim/domain/control-client';
import { ControlError } from '../../../shim/domain/control-protocol';
import { Domain } from '../../../shim/domain/domain';
import { UsageError } from '../../../shim/errors';
import { packageRoot } from '../../../shim/partition/native-files';
import { debianKernels } from '../lib/kernels';
import { endAll, leftovers, uniqueName, Xenlighten, xenlighten } from '../lib/xenlighten';

const PAUSES = Number(process.env['PAUSE_STORMS'] ?? 50);
const ramdisk = path.join(packageRoot(), 'build', 'tests', 'pause', `initramfs.${process.pid}.gz`);
let kernel: string;
let directory: string;
const before = process.env['XDG_RUNTIME_DIR'];

beforeAll(() => {
  kernel = debianKernels().stock;
  clockRamdisk(ramdisk);
  directory = mkdtempSync(path.join(tmpdir(), 'xenlighten-pause-'));
  process.env['XDG_RUNTIME_DIR'] = directory;
}, 300_000);
afterEach(endAll);
afterAll(() => {
  if (before === undefined) delete process.env['XDG_RUNTIME_DIR'];
  else process.env['XDG_RUNTIME_DIR'] = before;
  rmSync(ramdisk, { force: true });
  rmSync(directory, { recursive: true });
});

/** What the module answers itself, mostly; now each is a wait for the shim, in which a vCPU may be stopped. */
const COLD = 'mmu_update,update_va_mapping,mmuext_op,vcpu_op,event_channel_op.send';

test.each([
  { ring: 1, vcpus: 1, more: [], plug: false, longMs: 10_000 },
  { ring: 3, vcpus: 4, more: [], plug: false, longMs: 10_000 },
  { ring: 1, vcpus: 4, more: ['--cold', COLD], plug: true, longMs: undefined },
] as const)(
  `ring $ring, $vcpus vCPUs, $more, going offline and online $plug: ${PAUSES} pauses under load`,
  async ({ ring, vcpus, more, plug, longMs }) => {
    const name = uniqueName();
    // What is written to the trace goes on being taken out of the partition in a pause.
    const trace = vcpus === 1 ? path.join(directory, 'trace.json') : undefined;
    const arguments_ = [...more, ...(trace === undefined ? [] : ['--trace', trace])];
    const common = { kernel, ramdisk, name, ring, vcpus, more: arguments_, plug, seed: vcpus * 10 + ring };
    const result = await pauseStorm({ ...common, pauses: PAUSES, ...(longMs === undefined ? {} : { longMs }) });
    expect(result.wrong).toEqual([]);
    if (trace !== undefined) {
      const { traceEvents } = JSON.parse(readFileSync(trace, 'utf8')) as { traceEvents: { name: string }[] };
      expect(traceEvents.at(-1)?.name).toBe('trace_summary');
    }
    expect(await leftovers(name)).toEqual([]);
  },
  PAUSES * 1000 + 240_000,
);

test('the commands: a paused guest is listed as one, stands still, can be looked at, traced and ended', async () => {
  const name = uniqueName();
  const common = ['--name', name, '--kernel', kernel, '--ramdisk', ramdisk, '--cmdline', 'console=hvc0 quiet'];
  const guest = new Xenlighten(['run', ...common, '--vcpus', '2']);
  await guest.says(/^clock: 2 vCPUs/m);
  expect(await xenlighten('unpause', name)).toEqual({
    status: 1,
    signal: null,
    stdout: '',
    stderr: `xenlighten: ${name}: cannot unpause the domain: it is running, wanted one that is paused\n`,
  });
  expect(await xenlighten('pause', name)).toEqual({ status: 0, signal: null, stdout: '', stderr: '' });
  expect(await xenlighten('pause', name)).toMatchObject({
    status: 1,
    stderr: `xenlighten: ${name}: cannot pause the domain: it is paused, wanted one that is running\n`,
  });

  const listed = async (): Promise<Record<string, unknown>> =>
    (JSON.parse((await xenlighten('list', '--json')).stdout) as Record<string, unknown>[])[0] ?? {};
  expect((await xenlighten('list')).stdout).toMatch(new RegExp(`^${name} +1 +\\d+ +2 +--p--- +\\d+\\.\\d$`, 'm'));
  const [first, stats] = [await listed(), (await xenlighten('stats', name, '--json')).stdout];
  guest.type('1\n');
  await new Promise((resolve) => setTimeout(resolve, 500));
  const second = await listed();
  expect(second).toMatchObject({ state: 'paused', cpuSeconds: first['cpuSeconds'] });
  expect(Number(second['uptimeMs'])).toBeGreaterThan(Number(first['uptimeMs']) + 400);
  const counted = (text: string): unknown => (JSON.parse(text) as { xen: unknown }).xen;
  expect(counted((await xenlighten('stats', name, '--json')).stdout)).toEqual(counted(stats));
  expect(guest.stdout).not.toMatch(/^facts/m);

  expect((await xenlighten('unpause', name)).status).toBe(0);
  await guest.says(/^facts: .* word 1\r?$/m);
  expect(await listed()).toMatchObject({ state: expect.stringMatching(/^(running|blocked)$/) as string });

  expect((await xenlighten('pause', name)).status).toBe(0);
  expect((await xenlighten('destroy', name)).status).toBe(0);
  expect((await guest.ended).status).toBe(2);
  expect(await leftovers(name)).toEqual([]);
  expect((await xenlighten('pause', name)).stderr).toContain(`${name}: no such domain`);
  expect((await xenlighten('unpause', name)).status).toBe(1);
  expect((await xenlighten('pause')).status).toBe(1);
}, 120_000);

test('--timeout and signals end a paused guest', async () => {
  const name = uniqueName();
  const common = ['--name', name, '--kernel', kernel, '--ramdisk', ramdisk, '--cmdline', 'console=hvc0 quiet'];
  const guest = new Xenlighten(['run', ...common, '--timeout', '30']);
  await guest.says(/^clock: 1 vCPUs/m);
  expect((await xenlighten('pause', name)).status).toBe(0);
  expect(await guest.ended).toEqual({ status: 4, signal: null });

  const other = new Xenlighten(['run', ...common]);
  await other.says(/^clock: 1 vCPUs/m);
  expect((await xenlighten('pause', name)).status).toBe(0);
  await other.killTwice('SIGTERM', 'the guest is paused, and powers off when it is unpaused');
  expect(await other.ended).toEqual({ status: 143, signal: null });
  expect(await leftovers(name)).toEqual([]);
}, 180_000);

/** Connects as soon as the domain has its name. */
async function connect(name: string): Promise<ControlClient> {
  for (;;) {
    try {
      return await ControlClient.connect(name, { timeoutMs: 60_000 });
    } catch (error) {
      if (!(error instanceof UsageError)) throw error;
      await new Promise((resolve) => setTimeout(resolve, 1));
    }
  }
}

test('a guest that is paused before its first instruction boots when it is unpaused', async () => {
  const name = uniqueName();
  const common = [
    '--name',
    name,
    '--kernel',
    kernel,
    '--ramdisk',
    ramdisk,
    '--cmdline',
    'console=hvc0 earlyprintk=xen',
  ];
  const guest = new Xenlighten(['run', ...common, '--vcpus', '2', '--timeout', '120']);
  const client = await connect(name);
  for (;;) {
    try {
      await client.request('pause');
      break;
    } catch (error) {
      // Until it is built.
      if (!(error instanceof ControlError) || error.code !== 'not-running') throw error;
    }
  }
  const said = guest.stdout;
  await new Promise((resolve) => setTimeout(resolve, 1000));
  expect(guest.stdout).toBe(said);
  expect(said).not.toMatch(/^clock:/m);
  await client.request('unpause');
  await guest.says(/^clock: 2 vCPUs/m);
  client.close();
  guest.type('q\n');
  expect(await guest.ended).toEqual({ status: 0, signal: null });
}, 150_000);

test.each([
  ['powers off', 'o', 0],
  ['crashes', 'c', 3],
] as const)(
  'a guest that %s between pauses ends as ever',
  async (_what, key, status) => {
    const name = uniqueName();
    const common = ['--name', name, '--kernel', kernel, '--cmdline', 'console=hvc0 quiet', '--vcpus', '2'];
    const guest = new Xenlighten(['run', ...common, '--ramdisk', ramdisk, '--timeout', '120']);
    await guest.says(/^clock: 2 vCPUs/m);
    const client = await connect(name);
    guest.type(`${key}\n`);
    let pauses = 0;
    const code = await (async (): Promise<string> => {
      for (;;) {
        try {
          await client.request('pause');
          await client.request('unpause');
          pauses++;
        } catch (error) {
          if (error instanceof ControlError) return error.code;
          throw error;
        }
      }
    })();
    expect(['not-running', 'closed']).toContain(code);
    expect(pauses).toBeGreaterThan(0);
    expect(await guest.ended).toEqual({ status, signal: null });
    if (status === 3) expect(guest.stderr).toMatch(/^Guest crash on vCPU [01]$/m);
    client.close();
    expect(await leftovers(name)).toEqual([]);
  },
  150_000,
);

test('the wall clock that a guest finds after a pause is right, its system time has stood still', async () => {
  const common = { kernel, ramdisk, cmdline: 'console=hvc0 quiet', memory: 256, vcpus: 2, guestRing: 1 } as const;
  const domain = await Domain.create({ name: uniqueName(), ...common });
  try {
    await domain.start();
    while (!/^clock: 2/m.test(Buffer.from(domain.console.history.bytes()).toString('latin1'))) {
      await new Promise((resolve) => setTimeout(resolve, 20));
    }
    /** Of a paused domain: system time in ms, and how far the time of day is from ours. */
    const clocks = (): [systemMs: number, offMs: number] => {
      const view = domain.partition.memory.view(domain.layout.sharedInfoGpa, 4096);
      expect(SharedInfo.get.wc_version(view, 0) & 1).toBe(0);
      const systemMs = Number(domain.xen.trap.getDomain('time_offset')) / 1e6;
      const base = SharedInfo.get.wc_sec(view, 0) * 1e3 + SharedInfo.get.wc_nsec(view, 0) / 1e6;
      return [systemMs, base + systemMs - Date.now()];
    };
    await domain.pause();
    const [stood, right] = clocks();
    expect(Math.abs(right)).toBeLessThan(500);
    await new Promise((resolve) => setTimeout(resolve, 3000));
    const [still, wrong] = clocks();
    expect(still).toBe(stood);
    expect(wrong).toBeLessThan(right - 2900);
    const { cpuSeconds } = domain.info();
    expect(domain.info().cpuSeconds).toBe(cpuSeconds);
    await domain.unpause();
    await domain.pause();
    const [after, corrected] = clocks();
    expect(after).toBeGreaterThan(stood);
    expect(after).toBeLessThan(stood + 2000);
    expect(Math.abs(corrected)).toBeLessThan(500);
  } finally {
    await domain.destroy();
  }
}, 120_000);
