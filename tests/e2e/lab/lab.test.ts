/** `npm run lab:hyperv`, through its command: what comes back, how it ends, and that KVM's Hyper-V emulation works in it. */
import { type ChildProcess, execFileSync, spawn } from 'node:child_process';
import { createHash } from 'node:crypto';
import {
  chmodSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  truncateSync,
  writeFileSync,
} from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { packageRoot } from '../../../shim/partition/native-files';

const COMMAND = path.join(packageRoot(), 'scripts', 'lab-hyperv.mjs');
const CACHE = path.join(process.env.XDG_CACHE_HOME ?? path.join(os.homedir(), '.cache'), 'xenlighten');
const BUILD = path.join(packageRoot(), 'build', 'tests', 'lab');
/** The first run fetches a kernel, makes an image and boots; any may have to boot. */
const FIRST_MS = 600_000;
const RUN_MS = 240_000;

function lacks(): string | undefined {
  if (process.platform !== 'linux' || process.arch !== 'x64') return 'an x86-64 Linux host';
  const places = [...(process.env.PATH ?? '').split(path.delimiter), '/usr/sbin', '/sbin'];
  return ['qemu-system-x86_64', 'busybox', 'mkfs.ext4', 'gcc', 'apt-get'].find(
    (program) => !places.some((place) => existsSync(path.join(place, program))),
  );
}

interface Ended {
  readonly status: number | null;
  readonly signal: NodeJS.Signals | null;
  readonly stdout: Buffer;
  readonly stderr: string;
}

const running = new Set<ChildProcess>();

class Lab {
  readonly child: ChildProcess;
  readonly ended: Promise<Ended>;
  private readonly stdout: Buffer[] = [];
  private readonly stderr: Buffer[] = [];

  constructor(args: readonly string[], env: NodeJS.ProcessEnv = {}) {
    const child = spawn(process.execPath, [COMMAND, ...args], {
      stdio: ['ignore', 'pipe', 'pipe'],
      env: { ...process.env, ...env },
    });
    this.child = child;
    running.add(child);
    child.stdout.on('data', (chunk: Buffer) => this.stdout.push(chunk));
    child.stderr.on('data', (chunk: Buffer) => this.stderr.push(chunk));
    this.ended = new Promise((resolve, reject) => {
      child.on('error', reject);
      child.on('close', (status, signal) => {
        running.delete(child);
        resolve({ status, signal, stdout: Buffer.concat(this.stdout), stderr: Buffer.concat(this.stderr).toString() });
      });
    });
  }

  /** The QEMU processes of this run. */
  machines(): number[] {
    return processesNamed(`xenlighten-lab-${this.child.pid}`);
  }

  /** Resolves when the command's output contains the text. */
  async says(text: string): Promise<void> {
    const deadline = Date.now() + RUN_MS;
    while (!Buffer.concat(this.stdout).includes(text)) {
      if (Date.now() > deadline || !running.has(this.child)) {
        throw new Error(`no '${text}' in the output; stderr: ${Buffer.concat(this.stderr)}`);
      }
      await soon();
    }
  }
}

function soon(): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, 20));
}

function processesNamed(name: string): number[] {
  return readdirSync('/proc')
    .filter((entry) => /^\d+$/.test(entry))
    .filter((pid) => {
      try {
        return readFileSync(`/proc/${pid}/cmdline`, 'latin1').split('\0').includes(name);
      } catch {
        return false;
      }
    })
    .map(Number);
}

async function allGone(lab: Lab): Promise<boolean> {
  const deadline = Date.now() + 5000;
  while (lab.machines().length > 0 && Date.now() < deadline) await soon();
  return lab.machines().length === 0;
}

function lab(...args: string[]): Promise<Ended> {
  return new Lab(args).ended;
}

/** What could be left behind, by name. */
function leftovers(): string[] {
  return [os.tmpdir(), '/dev/shm'].flatMap((folder) =>
    readdirSync(folder).filter((name) => /^(xl|xenlighten)-lab/.test(name)),
  );
}

const lacking = lacks();
const suite = lacking === undefined ? describe : describe.skip;

suite(`the lab${lacking === undefined ? '' : ` (needs ${lacking})`}`, () => {
  let work: string;
  let before: string[];

  beforeAll(async () => {
    before = leftovers();
    work = mkdtempSync(path.join(os.tmpdir(), 'xenlighten-test-'));
    mkdirSync(BUILD, { recursive: true });
    execFileSync('gcc', ['-c', '-o', path.join(work, 'probe.o'), path.join(__dirname, 'probe.S')]);
    execFileSync('objcopy', ['-O', 'binary', '-j', '.text', path.join(work, 'probe.o'), path.join(BUILD, 'probe.bin')]);
    const first = await lab('true');
    expect(first).toMatchObject({ status: 0 });
  }, FIRST_MS);

  afterAll(() => {
    for (const child of running) child.kill('SIGKILL');
    rmSync(work, { recursive: true, force: true });
    expect(leftovers()).toEqual(before);
  });

  test(
    'stdout, stderr and the exit status are those of the command, and nothing else is said',
    async () => {
      const ended = await lab('sh', '-c', 'echo out; echo err >&2; exit 3');
      expect(ended.stdout.toString()).toBe('out\n');
      expect(ended.stderr).toBe('err\n');
      expect(ended.status).toBe(3);
    },
    RUN_MS,
  );

  test(
    'arguments and variables arrive as they are, in the project',
    async () => {
      const odd = ['', ' ', "it's", '"', '$HOME', '\\', 'a\nb', 'ä→', '--', '*'];
      const script = 'console.log(JSON.stringify([process.argv.slice(1), process.env.ODD, process.cwd()]))';
      const ended = await lab('--env', `ODD=${odd.join('|')}`, '--', 'node', '-e', script, '--', ...odd);
      expect(JSON.parse(ended.stdout.toString())).toEqual([odd, odd.join('|'), '/project']);
      expect(ended.status).toBe(0);
    },
    RUN_MS,
  );

  test(
    'megabytes of any bytes come through, to the last one',
    async () => {
      const script = `
        const { createHash, randomBytes } = require('node:crypto');
        const hash = createHash('sha256');
        for (let i = 0; i < 8; i++) {
          const bytes = randomBytes(1 << 20);
          hash.update(bytes);
          process.stdout.write(bytes);
        }
        process.stderr.write(hash.digest('hex'));`;
      const { status, stdout, stderr } = await lab('node', '-e', script);
      expect(status).toBe(0);
      expect(stdout.length).toBe(8 << 20);
      expect(createHash('sha256').update(stdout).digest('hex')).toBe(stderr);
    },
    RUN_MS,
  );

  test(
    'two at a time are two machines with random numbers of their own',
    async () => {
      const script = 'console.log(require("node:crypto").randomUUID())';
      const [one, two] = await Promise.all([lab('node', '-e', script), lab('node', '-e', script)]);
      expect(one).toMatchObject({ status: 0, stderr: '' });
      expect(two).toMatchObject({ status: 0, stderr: '' });
      expect(one.stdout.toString()).toMatch(/^[0-9a-f-]{36}\n$/);
      expect(one.stdout.toString()).not.toBe(two.stdout.toString());
    },
    RUN_MS,
  );

  test(
    'a command that is not there, that a signal ends, that takes too long',
    async () => {
      const absent = await lab('no-such-program');
      expect(absent.status).toBe(127);
      expect(absent.stderr).toContain('cannot run no-such-program');
      expect((await lab('sh', '-c', 'kill -SEGV $$')).status).toBe(128 + 11);
      const slow = await lab('--timeout', '2', 'sh', '-c', 'echo before; sleep 1000');
      expect(slow.status).toBe(124);
      expect(slow.stdout.toString()).toBe('before\n');
      expect(slow.stderr).toBe('xenlighten: lab: the command was ended after 2 s\n');
    },
    RUN_MS,
  );

  test(
    'what is written to the project or the cache stays in the lab, unless it is --share',
    async () => {
      const script = 'echo x > /project/lab-was-here && cat lab-was-here && touch ~/.cache/xenlighten/lab-was-here';
      const ended = await lab('--share', work, 'sh', '-c', `${script} && echo y > /share/result`);
      expect(ended).toMatchObject({ status: 0, stderr: '' });
      expect(ended.stdout.toString()).toBe('x\n');
      expect(existsSync(path.join(packageRoot(), 'lab-was-here'))).toBe(false);
      expect(existsSync(path.join(CACHE, 'lab-was-here'))).toBe(false);
      expect(readFileSync(path.join(work, 'result'), 'utf8')).toBe('y\n');
    },
    RUN_MS,
  );

  test(
    "with --write the project's files change",
    async () => {
      const file = path.join(BUILD, 'written');
      rmSync(file, { force: true });
      const ended = await lab('--write', 'sh', '-c', 'echo z > build/tests/lab/written');
      expect(ended).toMatchObject({ status: 0, stderr: '' });
      expect(readFileSync(file, 'utf8')).toBe('z\n');
      rmSync(file);
    },
    RUN_MS,
  );

  test(
    "the built program runs there and finds Debian's kernel in the cache",
    async () => {
      const { stock } = JSON.parse(
        execFileSync(process.execPath, ['scripts/fetch-kernels.mjs', '--stock-only'], {
          cwd: packageRoot(),
          encoding: 'utf8',
          stdio: ['ignore', 'pipe', 'inherit'],
        }),
      ) as { stock: string };
      const inside = path.join('/root/.cache/xenlighten', path.relative(CACHE, stock));
      const ended = await lab('node', 'dist/shim/cli/main.js', 'inspect', inside);
      expect(ended.status).toBe(0);
      expect(ended.stdout.toString()).toContain('bzImage');
    },
    RUN_MS,
  );

  test(
    "KVM's Hyper-V emulation serves a guest",
    async () => {
      const ended = await lab('node', 'tests/e2e/lab/probe.js', 'build/tests/lab/probe.bin');
      expect(ended.stderr).toBe('');
      const said = JSON.parse(ended.stdout.toString());
      expect(said).toMatchObject({
        apiVersion: 12,
        synic2: 1,
        exitReason: 'io',
        guest: { vendor: 'Microsoft Hv', interface: 'Hv#1', vpIndex: 0, spinWaitStatus: 0, unknownCallStatus: 2 },
      });
      expect(said.counters.hypercalls).toBe(2);
      expect(said.counters.exits).toBeGreaterThan(5);
      expect(said.guest.secondReference).toBeGreaterThan(said.guest.firstReference);
      // HvFeatures: reference counter, SynIC, synthetic timers, hypercall MSRs, VP index, reference TSC.
      expect(said.leaves['40000003'][0] & 0x26e).toBe(0x26e);
    },
    RUN_MS,
  );

  test(
    "with one processor, KVM's tracepoints can be switched on",
    async () => {
      const script = `
        cd /sys/kernel/tracing
        echo 1 > events/kvm/kvm_hv_hypercall/enable
        node /project/tests/e2e/lab/probe.js /project/build/tests/lab/probe.bin > /dev/null
        echo 0 > events/kvm/kvm_hv_hypercall/enable
        grep kvm_hv_hypercall: trace`;
      const ended = await lab('--smp', '1', 'sh', '-c', script);
      expect(ended).toMatchObject({ status: 0, stderr: expect.not.stringContaining('lab:') });
      const calls = [...ended.stdout.toString().matchAll(/code (0x[0-9a-f]+) fast/g)].map(([, code]) => code);
      expect(calls).toEqual(['0x8', '0x7fff']);
    },
    RUN_MS,
  );

  test.each(['SIGTERM', 'SIGINT', 'SIGKILL'] as const)(
    '%s leaves no machine behind',
    async (signal) => {
      const run = new Lab(['sh', '-c', 'echo here; sleep 1000']);
      await run.says('here');
      expect(run.machines()).toHaveLength(1);
      run.child.kill(signal);
      const { status } = await run.ended;
      expect(status).toBe(signal === 'SIGKILL' ? null : 128 + os.constants.signals[signal]);
      expect(await allGone(run)).toBe(true);
    },
    RUN_MS,
  );

  test(
    'a machine that hangs is replaced once',
    async () => {
      const run = new Lab(['--hang-after', '3', 'sh', '-c', 'sleep 5; echo done']);
      while (run.machines().length === 0) await soon();
      const [machine] = run.machines();
      await new Promise((resolve) => setTimeout(resolve, 2000));
      process.kill(machine, 'SIGSTOP');
      const { status, stdout, stderr } = await run.ended;
      expect(stderr).toContain('starting it once more');
      expect(stdout.toString()).toBe('done\n');
      expect(status).toBe(0);
    },
    RUN_MS,
  );

  test(
    'a kernel that dies under a command that has said something: 125, and why',
    async () => {
      const ended = await lab('sh', '-c', 'echo said; echo c > /proc/sysrq-trigger');
      expect(ended.stdout.toString()).toBe('said\n');
      expect(ended.stderr).toMatch(/^xenlighten: lab: its Linux failed: QEMU ended/);
      expect(ended.stderr).toContain('Kernel panic');
      expect(ended.status).toBe(125);
    },
    RUN_MS,
  );

  test(
    'a damaged snapshot is made again',
    async () => {
      const size = ['--mem', '768'];
      expect(await lab(...size, 'true')).toMatchObject({ status: 0 });
      const images = path.join(CACHE, 'lab', 'images');
      const snapshots = readdirSync(images)
        .filter((name) => !name.startsWith('.'))
        .flatMap((image) => readdirSync(path.join(images, image)).map((name) => path.join(images, image, name)))
        .filter((file) => path.basename(file).startsWith('snapshot-2-768-'));
      expect(snapshots).not.toEqual([]);
      for (const file of snapshots) truncateSync(file, 10_000_000);
      const ended = await lab(...size, 'echo', 'fine');
      expect(ended.stdout.toString()).toBe('fine\n');
      expect(ended.stderr).toContain('starting it once more');
      expect(ended.status).toBe(0);
      for (const file of snapshots) rmSync(file, { force: true });
    },
    RUN_MS,
  );

  test.each([
    [['--smp', 'two', 'true'], '--smp two: a whole number from 1 to 16 is wanted'],
    [['--frobnicate', 'true'], 'there is no option --frobnicate'],
    [['--timeout'], '--timeout needs a value'],
    [['--share', '/no/such', 'true'], '--share /no/such: there is no such directory'],
    [['--env', 'NAME', 'true'], '--env NAME: NAME=VALUE is wanted'],
    [[], 'no COMMAND was given'],
  ])(
    'bad arguments %j: 125, and what is wrong',
    async (args, message) => {
      const ended = await lab(...args);
      expect(ended.status).toBe(125);
      expect(ended.stderr).toContain(`xenlighten: ${message}\nusage: `);
      expect(ended.stdout.length).toBe(0);
    },
    RUN_MS,
  );

  test(
    'a QEMU that is too old: 125, and which is wanted',
    async () => {
      const old = path.join(work, 'qemu-system-x86_64');
      writeFileSync(old, '#!/bin/sh\necho QEMU emulator version 6.2.0\n');
      chmodSync(old, 0o755);
      const ended = await new Lab(['true'], { PATH: `${work}:${process.env.PATH}` }).ended;
      expect(ended.status).toBe(125);
      expect(ended.stderr).toContain('is QEMU 6.2.0: at least 7.2 is wanted');
    },
    RUN_MS,
  );
});
