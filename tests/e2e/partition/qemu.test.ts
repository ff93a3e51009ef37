/** The qemu engine, with a guest of a few hundred bytes: start, doorbell, kick, memory layout, atomics, ends. */
import { execFileSync, spawn } from 'node:child_process';
import { chmodSync, mkdtempSync, readdirSync, readFileSync, readlinkSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { readClocks } from '../../../shim/partition/host';
import { packageRoot } from '../../../shim/partition/native-files';
import type { PartitionExit } from '../../../shim/partition/partition';
import { QemuPartition, type QemuPartitionOptions } from '../../../shim/partition/qemu/qemu-partition';
import { HIGH_RAM_START, LOW_RAM_LIMIT } from '../../../shim/partition/ram-layout';
import { command, control, loadGuest } from './guest';

const MIB = 2 ** 20;

/** A partition with the little guest in it, and promises for what it does. */
class Machine {
  readonly partition: QemuPartition;
  readonly exit: Promise<PartitionExit>;
  doorbells = 0;
  onDoorbell: () => void = () => undefined;
  private reportExit!: (exit: PartitionExit) => void;
  private waiting: { condition: () => boolean; resolve: () => void }[] = [];
  private gone: PartitionExit | undefined;

  constructor(options: Partial<QemuPartitionOptions> = {}) {
    this.partition = new QemuPartition({ memoryBytes: 64 * MIB, vpCount: 1, ...options });
    this.exit = new Promise((resolve) => {
      this.reportExit = resolve;
    });
    loadGuest(this.memory);
  }

  get memory() {
    return this.partition.memory;
  }

  start(): Promise<void> {
    return this.partition.start({
      doorbell: () => {
        this.doorbells++;
        this.onDoorbell();
        this.check();
      },
      exit: (exit) => {
        this.gone = exit;
        this.reportExit(exit);
        this.check();
      },
    });
  }

  /** Resolves when the condition holds at a doorbell; rejects when the partition ends before. */
  async until(condition: () => boolean): Promise<void> {
    await new Promise<void>((resolve) => {
      this.waiting.push({ condition, resolve });
      this.check();
    });
    if (this.gone !== undefined && !condition()) throw new Error(`the partition ended: ${this.gone.message}`);
  }

  alive(): Promise<void> {
    return this.until(() => this.memory.getU64(control.alive) === 1n);
  }

  async run(number: bigint, arg0 = 0n, arg1 = 0n): Promise<void> {
    this.memory.setU64(control.arg0, arg0);
    this.memory.setU64(control.arg1, arg1);
    this.memory.store64(control.command, number);
    this.partition.kick(0);
    await this.until(() => this.memory.load64(control.command) === 0n);
  }

  async end(): Promise<void> {
    await this.partition.stop();
    await this.memory.release();
  }

  private check(): void {
    this.waiting = this.waiting.filter(({ condition, resolve }) => {
      if (this.gone === undefined && !condition()) return true;
      resolve();
      return false;
    });
  }
}

const machines: Machine[] = [];
function machine(options: Partial<QemuPartitionOptions> = {}): Machine {
  const made = new Machine(options);
  machines.push(made);
  return made;
}
afterEach(async () => {
  for (const made of machines.splice(0)) await made.end();
});

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
  return [...values].sort((a, b) => a - b)[Math.floor(values.length / 2)];
}

describe('start', () => {
  test('the first instruction runs with the boot argument and APIC id 0, and rings', async () => {
    const m = machine();
    await m.start();
    await m.alive();
    expect(m.memory.getU64(control.apicId)).toBe(0n);
    expect(m.doorbells).toBeGreaterThan(0);
    expect(m.partition.describe()).toMatchObject({ engine: 'qemu', vpCount: 1, memoryBytes: 64 * MIB });
    expect(m.partition.describe().summary).toMatch(/^QEMU \d+\.\d+.* TCG/);
  });

  test('from start() to the first doorbell in well under a second', async () => {
    const times: number[] = [];
    for (let i = 0; i < 5; i++) {
      const m = machine();
      const before = performance.now();
      await m.start();
      await m.alive();
      times.push(performance.now() - before);
    }
    process.stderr.write(`start() to the first doorbell: median ${median(times).toFixed(1)} ms of 5\n`);
    expect(median(times)).toBeLessThan(1000);
  });

  test('a prepared partition comes up and runs nothing before start()', async () => {
    const m = machine({ name: `prepared-${process.pid}` });
    m.partition.prepare();
    expect(() => m.partition.prepare()).toThrow('started before');
    while (processesWith(`xenlighten-prepared-${process.pid}`).length === 0) await sleep(20);
    await sleep(500);
    expect(m.memory.getU64(control.alive)).toBe(0n);
    await m.start();
    await m.alive();
    await expect(m.start()).rejects.toThrow('started before');
  });

  test('a prepared partition whose QEMU is killed tells it after start()', async () => {
    const name = `xenlighten-early-${process.pid}`;
    const m = machine({ name: `early-${process.pid}` });
    m.partition.prepare();
    while (processesWith(name).length === 0) await sleep(20);
    for (const pid of processesWith(name)) process.kill(pid, 'SIGKILL');
    while (processesWith(name).length > 0) await sleep(20);
    await sleep(100);
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
    await m.start();
    await m.alive();
    const first = m.memory.getU64(control.firstTsc);
    const now = readClocks();
    expect(first).toBeLessThan(now.tsc);
  });

  test('application processors start in the same ROM by SIPI 0xf0', async () => {
    const m = machine({ vpCount: 4 });
    await m.start();
    await m.alive();
    await m.run(command.startOthers, 0b1110n);
    expect(m.memory.getU64(control.others)).toBe(0b1110n);
  });

  test.each([
    ['counting instructions', { icount: 'shift=0' }],
    ['with every feature that TCG has', { cpu: 'max' }],
    ['with a server CPU model', { cpu: 'EPYC' }],
    ['with huge pages asked for', { hugePages: true }],
    ['with 8 GiB', { memoryBytes: 8 * 2 ** 30 }],
  ])('it starts %s', async (_, options) => {
    const m = machine(options);
    await m.start();
    await m.alive();
    await m.run(command.store, BigInt(control.pong), 5n);
    expect(m.memory.getU64(control.pong)).toBe(5n);
  });

  test('a partition starts only once', async () => {
    const m = machine();
    await m.start();
    await expect(m.start()).rejects.toThrow('started before');
  });
});

describe('doorbell and kick', () => {
  test('a kick interrupts a halted VP, which answers', async () => {
    const m = machine();
    await m.start();
    await m.alive();
    // Time to halt: a VP that still runs would see the command without being interrupted.
    await new Promise((resolve) => setTimeout(resolve, 100));
    const before = m.memory.getU64(control.kicks);
    await m.run(command.store, BigInt(control.pong), 77n);
    expect(m.memory.getU64(control.pong)).toBe(77n);
    expect(m.memory.getU64(control.kicks)).toBeGreaterThan(before);
  });

  test('ring, serve, kick: 2000 round trips with a halted VP', async () => {
    const m = machine();
    await m.start();
    await m.alive();
    const before = readClocks();
    m.onDoorbell = () => {
      const ping = m.memory.load64(control.ping);
      if (ping === m.memory.load64(control.pong)) return;
      m.memory.store64(control.pong, ping);
      m.partition.kick(0);
    };
    const count = 2000;
    await m.run(command.roundTrips, BigInt(count));
    const after = readClocks();
    const hz = Number(after.tsc - before.tsc) / (Number(after.monotonicRawNs - before.monotonicRawNs) / 1e9);
    const times = Array.from({ length: count }, (_, i) => (m.memory.getU64Number(control.times + i * 8) / hz) * 1e6);
    const sorted = [...times].sort((a, b) => a - b);
    process.stderr.write(
      `round trip, halted VP: median ${median(times).toFixed(0)} us, min ${sorted[0].toFixed(0)}, ` +
        `p99 ${sorted[Math.floor(count * 0.99)].toFixed(0)}\n`,
    );
    expect(m.memory.getU64(control.pong)).toBe(BigInt(count));
    expect(median(times)).toBeLessThan(5000);
  });

  test('kicks to a partition that is not started, and to one that has ended, do nothing', async () => {
    const m = machine();
    m.partition.kick(0);
    await m.start();
    await m.alive();
    await m.partition.stop();
    m.partition.kick(0);
    expect((await m.exit).reason).toBe('stopped');
  });

  test('10000 kicks in one turn neither block nor get lost as a whole', async () => {
    const m = machine();
    await m.start();
    await m.alive();
    for (let i = 0; i < 10_000; i++) m.partition.kick(0);
    await m.run(command.store, BigInt(control.pong), 1n);
    expect(m.memory.getU64(control.pong)).toBe(1n);
  });
});

describe('while it runs', () => {
  test('an idle partition costs next to nothing: under 1 % of a core in both processes', async () => {
    const m = machine();
    await m.start();
    await m.alive();
    const ticks = () => {
      const fields = readFileSync(`/proc/${m.partition.describe().pid}/stat`, 'utf8').split(') ')[1].split(' ');
      return Number(fields[11]) + Number(fields[12]);
    };
    await new Promise((resolve) => setTimeout(resolve, 200));
    const before = ticks();
    const ours = process.cpuUsage();
    await new Promise((resolve) => setTimeout(resolve, 2000));
    const used = process.cpuUsage(ours);
    // A tick is 10 ms: two seconds at 1 % are two of them.
    expect(ticks() - before).toBeLessThanOrEqual(2);
    expect((used.user + used.system) / 1000).toBeLessThan(100);
  });

  test('QEMU runs under seccomp and can gain no privileges', async () => {
    const m = machine();
    await m.start();
    await m.alive();
    const status = readFileSync(`/proc/${m.partition.describe().pid}/status`, 'utf8');
    expect(status).toMatch(/^NoNewPrivs:\t1$/m);
    expect(status).toMatch(/^Seccomp:\t2$/m);
  });
});

describe('memory', () => {
  test.each([
    ['in the first GiB', 2 ** 30 - 8],
    ['at the last u64 below the hole', LOW_RAM_LIMIT - 8],
    ['at 4 GiB', HIGH_RAM_START],
    ['at the last u64 of 6 GiB', HIGH_RAM_START + 3 * 2 ** 30 - 8],
    ['across two windows', HIGH_RAM_START + 2 ** 30 - 4],
  ])('with 6 GiB, a store %s lands where GuestMemory reads it', async (_, gpa) => {
    const m = machine({ memoryBytes: 6 * 2 ** 30 });
    await m.start();
    await m.alive();
    expect(m.memory.getU64(gpa)).toBe(0n);
    await m.run(command.store, BigInt(gpa), 0x1122_3344_5566_7788n);
    expect(m.memory.getU64(gpa)).toBe(0x1122_3344_5566_7788n);
  });

  test("the host's atomics and the guest's locked instructions do not lose each other's additions", async () => {
    const m = machine();
    await m.start();
    await m.alive();
    const guestCount = 20_000_000;
    m.memory.setU64(control.arg0, BigInt(guestCount));
    m.memory.store64(control.command, command.hammer);
    m.partition.kick(0);
    let hostCount = 0;
    let mixed = 0;
    while (m.memory.load64(control.command) !== 0n) {
      const before = m.memory.add32(control.counter, 1);
      hostCount++;
      if (before > hostCount && before < guestCount) mixed++;
    }
    await m.until(() => true);
    expect(mixed).toBeGreaterThan(1000);
    expect(m.memory.getU32(control.counter)).toBe(guestCount + hostCount);
  });

  test('a released memory is gone for everybody', async () => {
    const m = machine();
    await m.start();
    await m.alive();
    await m.partition.stop();
    expect(m.memory.getU64(control.alive)).toBe(1n);
    await m.memory.release();
    expect(() => m.memory.getU64(control.alive)).toThrow('was released');
  });
});

describe('ends', () => {
  test('a triple fault is recognised', async () => {
    const m = machine();
    await m.start();
    await m.alive();
    m.memory.store64(control.command, command.tripleFault);
    m.partition.kick(0);
    const exit = await m.exit;
    expect(exit.reason).toBe('triple-fault');
    expect(exit.message).toMatch(/triple fault/);
  });

  test('stop() ends the process', async () => {
    const m = machine();
    await m.start();
    await m.alive();
    const { pid } = m.partition.describe();
    await m.partition.stop();
    expect((await m.exit).reason).toBe('stopped');
    expect(() => process.kill(pid as number, 0)).toThrow('ESRCH');
  });

  test.each(['SIGTERM', 'SIGKILL'] as const)('%s from outside is told apart', async (signal) => {
    const m = machine();
    await m.start();
    await m.alive();
    process.kill(m.partition.describe().pid as number, signal);
    expect((await m.exit).reason).toBe('killed');
  });

  test("a terminal's Ctrl-C does not reach QEMU: it is in a process group of its own", async () => {
    const m = machine();
    await m.start();
    await m.alive();
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
    const child = spawn(process.execPath, [path.join(__dirname, 'owner.js'), name], {
      stdio: ['ignore', 'pipe', 'inherit'],
    });
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
      await new Promise((resolve) => setTimeout(resolve, 20));
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
