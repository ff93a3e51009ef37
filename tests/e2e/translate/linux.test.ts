/**
 * A Linux guest under observation, through the command: list, stats and destroy on the running guest, the trace of its
 * whole life beside its counters, and what is left in the directory of control sockets afterwards.
 */
import { mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import type { Stats } from '../../../shim/translate/stats';
import { guestImage } from '../lib/guest-image';
import { type DebianKernels, debianKernels } from '../lib/kernels';
import { endAll, leftovers, uniqueName, Xenlighten, xenlighten } from '../lib/xenlighten';

interface TraceEvent {
  readonly name: string;
  readonly cat?: string;
  readonly ph: string;
  readonly tid: number;
  readonly ts: number;
  readonly dur: number;
  readonly args?: Readonly<Record<string, unknown>>;
}

let kernels: DebianKernels;
let directory: string;
const image = guestImage();
const before = process.env['XDG_RUNTIME_DIR'];

beforeAll(() => {
  kernels = debianKernels();
}, 300_000);
beforeEach(() => {
  directory = mkdtempSync(path.join(tmpdir(), 'xenlighten-linux-'));
  process.env['XDG_RUNTIME_DIR'] = directory;
});
afterEach(async () => {
  await endAll();
  if (before === undefined) delete process.env['XDG_RUNTIME_DIR'];
  else process.env['XDG_RUNTIME_DIR'] = before;
  rmSync(directory, { recursive: true });
});
afterAll(() => rmSync(image.ramdisk, { force: true }));

const sockets = (): string[] => readdirSync(path.join(directory, 'xenlighten'));

function boot(name: string, ...more: string[]): Xenlighten {
  const common = ['--kernel', kernels.stock, '--ramdisk', image.ramdisk, '--cmdline', 'console=hvc0 quiet'];
  return new Xenlighten(['run', '--name', name, '--memory', '128', ...common, ...more]);
}

function readTrace(file: string): { otherData: Record<string, unknown>; traceEvents: TraceEvent[] } {
  return JSON.parse(readFileSync(file, 'utf8')) as ReturnType<typeof readTrace>;
}

/** Slices of one track either lie in each other or apart. */
function overlaps(events: readonly TraceEvent[]): number {
  const slices = events.filter((e) => e.ph === 'X').sort((a, b) => a.ts - b.ts || b.dur - a.dur);
  const open: number[] = [];
  let bad = 0;
  for (const { ts, dur } of slices) {
    while (open.length > 0 && (open.at(-1) as number) <= ts) open.pop();
    // Times are rounded to nanoseconds.
    if (open.length > 0 && ts + dur > (open.at(-1) as number) + 0.01) bad++;
    else open.push(ts + dur);
  }
  return bad;
}

test.each(['1', '3'])(
  'ring %s: the trace of a whole life has what the counters count',
  async (ring) => {
    const name = uniqueName();
    const traceFile = path.join(directory, 'trace.json');
    const statsFile = path.join(directory, 'stats.json');
    const guest = boot(name, '--guest-ring', ring, '--trace', traceFile, '--stats', statsFile);
    await guest.says(/READY/);
    // It can be read while it is written.
    expect(readTrace(traceFile).traceEvents.length).toBeGreaterThan(1000);
    guest.type('poweroff -f\n');
    expect(await guest.ended).toEqual({ status: 0, signal: null });
    expect(sockets()).toEqual([]);

    const stats = JSON.parse(readFileSync(statsFile, 'utf8')) as Stats;
    const { otherData, traceEvents } = readTrace(traceFile);
    expect(otherData).toMatchObject({
      name,
      guestRing: Number(ring),
      engine: 'qemu',
      vcpus: 1,
      hypervExecutedBy: 'trap module',
    });
    const { records, lost } = (traceEvents.at(-1) as TraceEvent).args as { records: number; lost: number };
    const count = new Map<string, number>();
    for (const e of traceEvents) {
      const key = e.cat === 'hypercall' ? (e.name.split('.')[0] as string) : (e.cat ?? e.ph);
      count.set(key, (count.get(key) ?? 0) + 1);
    }
    expect(records).toBe(traceEvents.filter((e) => e.ph !== 'M' && e.cat !== 'shim' && e.cat !== 'trace').length);
    expect(
      traceEvents.filter((e) => e.name === 'records lost').reduce((sum, e) => sum + Number(e.args?.['count']), 0),
    ).toBe(lost);

    // Each counter is what the trace has, and no more than what it lost is missing. (The last shutdown never finished.)
    const missing = stats.hypercalls
      .map(({ name: call, calls }) => ({
        call,
        missing: calls - (count.get(call) ?? 0) - (call === 'sched_op' ? 1 : 0),
      }))
      .filter((m) => m.missing !== 0);
    if (lost === 0) expect(missing).toEqual([]);
    for (const m of missing) expect(m.missing).toBeGreaterThan(0);
    expect(missing.reduce((sum, m) => sum + m.missing, 0)).toBeLessThanOrEqual(lost);
    expect(count.get('mmu_update')).toBeGreaterThan(1000);
    const exceptions = stats.exceptions.reduce((sum, e) => sum + e.count, 0);
    expect(Math.abs(exceptions - (count.get('exception') ?? 0))).toBeLessThanOrEqual(lost + 10);
    expect(Math.abs((stats.module['upcall'] ?? 0) - (count.get('event') ?? 0))).toBeLessThanOrEqual(lost);

    const one = (op: string): TraceEvent | undefined => traceEvents.find((e) => e.name === op && e.cat === 'hypercall');
    expect(one('vcpu_op.set_singleshot_timer')?.args).toMatchObject({
      vcpuid: 0,
      hyperv: ['STIMER0 (direct mode), arm'],
    });
    const blocks = traceEvents.filter((e) => e.name === 'sched_op.block').map((e) => e.args?.['hyperv'] as string[]);
    expect(blocks.some((hyperv) => hyperv.includes('idle (STI; HLT)'))).toBe(true);
    expect(one('event_channel_op.alloc_unbound') ?? one('event_channel_op.bind_virq')).toMatchObject({
      args: { where: 'shim' },
    });
    expect(Number(one('grant_table_op.setup_table')?.args?.['shimUs'])).toBeGreaterThan(0);
    expect(traceEvents.find((e) => e.name === '#PF')?.args?.['address']).toMatch(/^0x[0-9a-f]+$/);
    expect(overlaps(traceEvents)).toBe(0);
  },
  180_000,
);

test('list, stats and destroy; SIGINT leaves a whole trace; kill -9 leaves a socket that list removes', async () => {
  const name = uniqueName();
  const traceFile = path.join(directory, 'trace.json');
  const guest = boot(name, '--trace', traceFile);
  await guest.says(/READY/);

  const collision = await xenlighten('run', '--name', name, '--kernel', kernels.stock);
  expect(collision.status).toBe(1);
  expect(collision.stderr).toMatch(/name is taken/);

  const list = await xenlighten('list');
  expect(list.status).toBe(0);
  expect(list.stdout).toMatch(/^Name +ID +Mem VCPUs\tState\tTime\(s\)\n/);
  expect(list.stdout).toMatch(new RegExp(`^${name} +1 +128 +1 +[rb-]{6} +\\d+\\.\\d$`, 'm'));
  const listed = JSON.parse((await xenlighten('list', '--json')).stdout) as { name: string; tracing: boolean }[];
  expect(listed).toMatchObject([{ name, tracing: true, memoryMiB: 128 }]);

  const text = await xenlighten('stats', name);
  expect(text.status).toBe(0);
  expect(text.stdout).toMatch(/^mmu_update\.normal_pt_update +\d+ +trap/m);
  const first = JSON.parse((await xenlighten('stats', name, '--json')).stdout) as Stats;
  guest.type('echo $((6*7))\n');
  await guest.says(/^42\r?$/m);
  const second = JSON.parse((await xenlighten('stats', name, '--json')).stdout) as Stats;
  const iret = (s: Stats): number => s.xen.find((o) => o.name === 'iret')?.count ?? 0;
  expect(iret(second)).toBeGreaterThan(iret(first));
  expect((await xenlighten('stats', 'nobody')).status).toBe(1);

  // This guest has no program to power off with.
  await guest.killTwice('SIGINT', 'asking the guest to power off');
  expect(await guest.ended).toMatchObject({ status: 130 });
  expect(readTrace(traceFile).traceEvents.at(-1)?.name).toBe('trace_summary');
  expect(sockets()).toEqual([]);

  const killed = boot(name, '--trace', traceFile);
  await killed.says(/READY/);
  killed.kill('SIGKILL');
  await killed.ended;
  // Valid, even so.
  expect(readTrace(traceFile).traceEvents.length).toBeGreaterThan(1000);
  expect(await leftovers(name)).toEqual([]);
  expect(sockets()).toEqual([`${name}.sock`]);
  expect((await xenlighten('list')).stdout.trimEnd().split('\n')).toHaveLength(1);
  expect(sockets()).toEqual([]);

  const last = boot(name);
  await last.says(/READY/);
  expect((await xenlighten('destroy', name)).status).toBe(0);
  expect(sockets()).toEqual([]);
  // Not 0: whoever waits for this guest must not take its end for a power-off.
  expect((await last.ended).status).toBe(2);
  expect((await xenlighten('destroy', name)).status).toBe(1);
}, 240_000);
