/** The qemu engine: the contract of Partition, and what is QEMU's alone. */
import { execFileSync } from 'node:child_process';
import { chmodSync, mkdtempSync, readdirSync, readFileSync, readlinkSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { readClocks } from '../../../shim/partition/host';
import { packageRoot } from '../../../shim/partition/native-files';
import { QemuPartition, type QemuPartitionOptions } from '../../../shim/partition/qemu/qemu-partition';
import { contract } from './contract';
import { delay, Machine, type MachineOptions } from './machine';
import { startOwner } from './owner';

const owner = { module: 'qemu/qemu-partition.js', className: 'QemuPartition', options: {} };

contract({
  name: 'qemu',
  create: (options) => new QemuPartition(options),
  owner,
  speed: 1,
  bellRounds: 2_000_000,
  kicksEachVp: false,
  // The bell pauses after so many rings in a millisecond; the rest is the reading itself.
  floodShare: 0.7,
  mostMemory: 6 * 2 ** 30,
});

const machines: Machine[] = [];
function machine(extra: Partial<QemuPartitionOptions> = {}, options: MachineOptions = {}): Machine {
  const made = new Machine((given) => new QemuPartition({ ...given, ...extra }), options);
  machines.push(made);
  return made;
}
afterEach(async () => {
  for (const made of machines.splice(0)) await made.end();
});

/** RAM that nothing uses. */
const SCRATCH = 0x200_0000;

/** Processes whose command line contains `text`, by /proc. */
function processesWith(text: string): number[] {
  return readdirSync('/proc')
    .filter((name) => /^\d+$/.test(name))
    .filter((pid) => {
      try {
        return readFileSync(`/proc/${pid}/cmdline`, 'utf8').includes(text);
      } catch {
        return false;
      }
    })
    .map(Number);
}

function median(values: readonly number[]): number {
  return [...values].sort((a, b) => a - b)[Math.floor(values.length / 2)] ?? Number.NaN;
}

describe('start', () => {
  test('from start() to the first doorbell in well under a second', async () => {
    const times: number[] = [];
    for (let i = 0; i < 5; i++) {
      const m = machine();
      const before = performance.now();
      await m.boot();
      times.push(performance.now() - before);
    }
    process.stderr.write(`start() to the first doorbell: median ${median(times).toFixed(1)} ms of 5\n`);
    expect(median(times)).toBeLessThan(1000);
  });

  test('a prepared partition comes up and runs nothing before start()', async () => {
    const m = machine({ name: `prepared-${process.pid}` });
    m.partition.prepare();
    while (processesWith(`xenlighten-prepared-${process.pid}`).length === 0) await delay(20);
    await delay(500);
    expect(m.get32(0, 'alive')).toBe(0);
    await m.boot();
  });

  test('a prepared partition whose QEMU is killed tells it after start()', async () => {
    const name = `xenlighten-early-${process.pid}`;
    const m = machine({ name: `early-${process.pid}` });
    m.partition.prepare();
    while (processesWith(name).length === 0) await delay(20);
    for (const pid of processesWith(name)) process.kill(pid, 'SIGKILL');
    while (processesWith(name).length > 0) await delay(20);
    await delay(100);
    await m.start();
    expect((await m.exit).reason).toBe('killed');
  });

  test('stopping a prepared partition leaves no process', async () => {
    const name = `xenlighten-unused-${process.pid}`;
    const m = machine({ name: `unused-${process.pid}` });
    m.partition.prepare();
    await m.partition.stop();
    expect(processesWith(name)).toEqual([]);
    await expect(m.start()).rejects.toThrow('stopped before it had started');
  });

  test("the guest's time stamp counter starts near 0 and runs at the host's rate", async () => {
    const m = machine();
    await m.boot();
    const first = m.get(0, 'first_tsc');
    const now = readClocks();
    expect(first).toBeLessThan(now.tsc);
  });

  test.each<[string, Partial<QemuPartitionOptions>]>([
    ['counting instructions', { icount: 'shift=0' }],
    ['with every feature that TCG has', { cpu: 'max' }],
    ['with a server CPU model', { cpu: 'EPYC' }],
    ['with huge pages asked for', { hugePages: true }],
    ['with 8 GiB', { memoryBytes: 8 * 2 ** 30 }],
  ])('it starts %s', async (_, extra) => {
    const m = machine(extra);
    await m.boot();
    await m.run(0, 'COMMAND_STORE', SCRATCH, 5);
    expect(m.memory.getU64(SCRATCH)).toBe(5n);
  });
});

describe('while it runs', () => {
  test('an idle partition costs next to nothing: under 1 % of a core in both processes', async () => {
    const m = machine();
    await m.boot();
    const ticks = () => {
      const fields = readFileSync(`/proc/${m.partition.describe().pid}/stat`, 'utf8').split(') ')[1].split(' ');
      return Number(fields[11]) + Number(fields[12]);
    };
    await delay(200);
    const before = ticks();
    const ours = process.cpuUsage();
    await delay(2000);
    const used = process.cpuUsage(ours);
    // A tick is 10 ms: two seconds at 1 % are two of them.
    expect(ticks() - before).toBeLessThanOrEqual(2);
    expect((used.user + used.system) / 1000).toBeLessThan(100);
  });

  test('QEMU runs under seccomp and can gain no privileges', async () => {
    const m = machine();
    await m.boot();
    const status = readFileSync(`/proc/${m.partition.describe().pid}/status`, 'utf8');
    expect(status).toMatch(/^NoNewPrivs:\t1$/m);
    expect(status).toMatch(/^Seccomp:\t2$/m);
  });
});

describe('ends', () => {
  test('stop() ends the process', async () => {
    const m = machine();
    await m.boot();
    const { pid } = m.partition.describe();
    await m.partition.stop();
    expect((await m.exit).reason).toBe('stopped');
    expect(() => process.kill(pid as number, 0)).toThrow('ESRCH');
  });

  test.each(['SIGTERM', 'SIGKILL'] as const)('%s from outside is told apart', async (signal) => {
    const m = machine();
    await m.boot();
    process.kill(m.partition.describe().pid as number, signal);
    expect((await m.exit).reason).toBe('killed');
  });

  test("a terminal's Ctrl-C does not reach QEMU: it is in a process group of its own", async () => {
    const m = machine();
    await m.boot();
    const { pid } = m.partition.describe();
    // Fields after the command's name in parentheses: state, parent, process group.
    const fields = readFileSync(`/proc/${pid}/stat`, 'utf8').split(') ')[1].split(' ');
    expect(Number(fields[1])).toBe(process.pid);
    expect(Number(fields[2])).toBe(pid);
  });

  test("QEMU's own complaint is passed on", async () => {
    const m = machine({ cpu: 'no-such-cpu' });
    await m.start();
    const exit = await m.exit;
    expect(exit.reason).toBe('failed');
    expect(exit.message).toMatch(/no-such-cpu/);
  });

  test('kill -9 of the owner leaves no process and no file', async () => {
    const name = `orphan-${process.pid}-${Date.now()}`;
    const shm = new Set(readdirSync('/dev/shm'));
    const child = startOwner({ ...owner, options: { name }, vpCount: 1, ending: 'wait', code: 'spin' });
    const ready = await new Promise<string>((resolve, reject) => {
      child.stdout.once('data', (chunk: Buffer) => resolve(chunk.toString()));
      child.once('exit', (code) => reject(new Error(`the owner ended with ${code}`)));
    });
    const pid = Number(ready);
    expect(processesWith(`xenlighten-${name}`)).toContain(pid);
    // No named file: everything that QEMU has open beyond devices and libraries is anonymous.
    const open = readdirSync(`/proc/${pid}/fd`).map((fd) => readlinkSync(`/proc/${pid}/fd/${fd}`));
    expect(
      open.filter((target) => target.startsWith('/') && !/^\/(dev\/(null|urandom)|memfd:|proc\/|usr\/)/.test(target)),
    ).toEqual([]);
    child.kill('SIGKILL');
    const deadline = Date.now() + 5000;
    while (processesWith(`xenlighten-${name}`).length > 0 && Date.now() < deadline) {
      await delay(20);
    }
    expect(processesWith(`xenlighten-${name}`)).toEqual([]);
    const left = readdirSync('/dev/shm').filter((file) => !shm.has(file) && /qemu|xenlighten|xl-/.test(file));
    expect(left).toEqual([]);
  });
});

describe('a QEMU that cannot be used', () => {
  test('missing', async () => {
    const m = machine({ qemu: '/nonexistent/qemu' });
    await expect(m.start()).rejects.toThrow('/nonexistent/qemu is not a program that can be run');
  });

  test('missing in PATH, naming the package', async () => {
    const saved = process.env.PATH;
    process.env.PATH = '/nonexistent';
    try {
      const m = machine();
      await expect(m.start()).rejects.toThrow(
        "qemu-system-x86_64 is not in PATH: install it with 'apt-get install qemu-system-x86'",
      );
    } finally {
      process.env.PATH = saved;
    }
  });

  test('too old', async () => {
    const folder = mkdtempSync(path.join(tmpdir(), 'xenlighten-test-'));
    const file = path.join(folder, 'qemu');
    writeFileSync(file, '#!/bin/sh\necho "QEMU emulator version 5.2.0 (Debian 1:5.2+dfsg-11)"\n');
    chmodSync(file, 0o755);
    try {
      await expect(machine({ qemu: file }).start()).rejects.toThrow(/is QEMU 5\.2\.0: at least 7\.2 is wanted/);
    } finally {
      rmSync(folder, { recursive: true });
    }
  });
});

test('the launcher refuses to run for a parent that is gone', () => {
  const launcher = path.join(packageRoot(), 'build', 'Release', 'xl-launch');
  expect(() => execFileSync(launcher, ['999999999', '--', 'true'], { stdio: 'pipe' })).toThrow(/is gone/);
});
