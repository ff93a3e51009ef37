/**
 * Pauses a running guest again and again and looks whether it notices. The guest is Debian's kernel with the program
 * tests/e2e/pause/clock.c; it is run and paused as a user would, by the command and over its control socket.
 *
 * What is checked without tolerance: the guest's monotonic clock never runs back, on one vCPU or from one to another,
 * and between two of its answers it has advanced by no more than it can have run, and by no less than it must have:
 * the time between the end of an unpause and the next pause, as we see them, lies in what it ran, the time from a
 * pause's end to the next unpause does not.
 */
import { execFileSync, spawn } from 'node:child_process';
import { mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { ControlClient } from '../../shim/domain/control-client';
import { packageRoot } from '../../shim/partition/native-files';
import { busyboxInitramfs } from './initramfs';

export interface StormOptions {
  readonly kernel: string;
  /** From clockRamdisk(). */
  readonly ramdisk: string;
  readonly name: string;
  readonly ring: 1 | 3;
  readonly vcpus: number;
  readonly pauses: number;
  /** Time between two changes: random from 0 to this, in ms. */
  readonly gapMs?: number;
  readonly seed?: number;
  /** The guest takes its second vCPU offline and online all the time. */
  readonly plug?: boolean;
  /** One more pause after the storm, this long, in ms. */
  readonly longMs?: number;
  /** More arguments for `run`. */
  readonly more?: readonly string[];
  /** How long the guest may take to boot or to answer, in ms. */
  readonly patienceMs?: number;
  readonly onProgress?: (line: string) => void;
}

export interface StormResult {
  readonly pauses: number;
  /** All of it, and how long the guest stood, in ms. */
  readonly wallMs: number;
  readonly pausedMs: number;
  /** By how much the guest's clock advanced, in ms; between the bounds, or it is in `wrong`. */
  readonly guestMs: number;
  readonly bounds: readonly [number, number];
  /** Until all vCPUs had stopped, or went on, in ms. */
  readonly pauseMs: { readonly median: number; readonly max: number };
  readonly unpauseMs: { readonly median: number; readonly max: number };
  /** The largest step of the guest's clock, in ms: during the storm, and over the long pause. */
  readonly stepMs: number;
  readonly longStepMs: number | undefined;
  readonly facts: Facts;
  /** Everything that should not have been. */
  readonly wrong: readonly string[];
}

type Facts = Readonly<
  Record<'time' | 'step' | 'reads' | 'back' | 'cross' | 'forks' | 'naps' | 'late' | 'ticks' | 'word', number>
>;

const INIT = `#!/bin/sh
/bin/busybox --install -s /bin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev 2>/dev/null
cpu1=/sys/devices/system/cpu/cpu1/online
if grep -q plug /proc/cmdline; then
  plugs() {
    while [ ! -e /tmp/enough ]; do
      echo 0 > $cpu1 && echo 1 > $cpu1 || echo "trouble: plug"
      echo >> /tmp/plugs
    done
  }
  plugs &
fi
/bin/clock
touch /tmp/enough
wait
[ -e /tmp/plugs ] && echo "plugs: $(wc -l < /tmp/plugs)"
cat /sys/devices/system/clocksource/clocksource0/current_clocksource | sed 's/^/clocksource: /'
dmesg | grep -i -e "rcu:.*\\(stall\\|self-detected\\|starved\\)" -e "BUG:" -e "WARNING:" -e "Oops" -e lockdep -e "soft lockup" -e "blocked for more" -e "Marking clocksource '[^t]" | sed 's/^/trouble: /'
echo "END"
poweroff -f
`;

/** Builds the guest's initramfs as `file`. Needs gcc and BusyBox. */
export function clockRamdisk(file: string): void {
  mkdirSync(path.dirname(file), { recursive: true });
  const program = `${file}.clock`;
  const source = path.join(packageRoot(), 'tests', 'e2e', 'pause', 'clock.c');
  execFileSync('gcc', ['-O1', '-Wall', '-Wextra', '-Werror', '-static', '-o', program, source]);
  writeFileSync(
    file,
    busyboxInitramfs(INIT, [{ path: 'bin/clock', kind: 'file', data: readFileSync(program), executable: true }]),
  );
  rmSync(program);
}

/** xorshift32: the same storm for the same seed. */
function random(seed: number): () => number {
  let x = seed | 0 || 1;
  return () => {
    x ^= x << 13;
    x ^= x >>> 17;
    x ^= x << 5;
    return (x >>> 0) / 2 ** 32;
  };
}

const sleep = (ms: number): Promise<void> => new Promise((resolve) => setTimeout(resolve, ms));

function spread(values: readonly number[]): { median: number; max: number } {
  const sorted = [...values].sort((a, b) => a - b);
  return { median: sorted[sorted.length >> 1] ?? 0, max: sorted.at(-1) ?? 0 };
}

/** A guest under the command. */
class Guest {
  console = '';
  stderr = '';
  readonly ended: Promise<number | null>;
  private readonly child;
  private gone = false;
  private word = 0;

  constructor(
    args: readonly string[],
    private readonly patienceMs: number,
  ) {
    const command = path.join(packageRoot(), 'dist', 'shim', 'cli', 'main.js');
    this.child = spawn(process.execPath, [command, ...args], { stdio: ['pipe', 'pipe', 'pipe'], env: process.env });
    this.child.stdout.on('data', (chunk: Buffer) => {
      this.console += chunk.toString('latin1');
    });
    this.child.stderr.on('data', (chunk: Buffer) => {
      this.stderr += chunk.toString('latin1');
    });
    this.child.stdin.on('error', () => undefined);
    this.ended = new Promise((resolve, reject) => {
      this.child.on('error', reject);
      this.child.on('close', (status) => {
        this.gone = true;
        resolve(status);
      });
    });
  }

  type(text: string): void {
    this.child.stdin.write(text);
  }

  kill(): void {
    if (!this.gone) this.child.kill('SIGKILL');
  }

  async says(wanted: RegExp): Promise<RegExpExecArray> {
    const until = performance.now() + this.patienceMs;
    for (;;) {
      const match = wanted.exec(this.console);
      if (match !== null) return match;
      if (this.gone || performance.now() > until) {
        const why = this.gone ? 'it has ended' : `not within ${this.patienceMs / 1000} s`;
        throw new Error(
          `the guest does not say ${wanted}: ${why}\n${this.console.slice(-3000)}\n${this.stderr.slice(-3000)}`,
        );
      }
      await sleep(1);
    }
  }

  /** Asks for the facts; `typed` is called when the question is on its way. */
  async facts(typed?: () => Promise<void>): Promise<Facts> {
    const word = ++this.word;
    this.type(`${word}\n`);
    await typed?.();
    const [line] = await this.says(new RegExp(`^facts: .* word ${word}\\r?$`, 'm'));
    const words = line.trim().split(' ').slice(1);
    return Object.fromEntries(
      Array.from({ length: words.length / 2 }, (_, i) => [words[2 * i], Number(words[2 * i + 1])]),
    ) as unknown as Facts;
  }
}

/** Boots the guest, pauses it as asked, powers it off. Rejects when the guest stalls or anything fails. */
export async function pauseStorm(options: StormOptions): Promise<StormResult> {
  const { pauses, gapMs = 20, patienceMs = 120_000, longMs } = options;
  const next = random(options.seed ?? 1);
  const guest = new Guest(
    [
      ...['run', '--name', options.name, '--kernel', options.kernel, '--ramdisk', options.ramdisk, '--memory', '256'],
      ...[
        '--cmdline',
        `console=hvc0 quiet${options.plug === true ? ' plug' : ''}`,
        '--guest-ring',
        `${options.ring}`,
        '--vcpus',
        `${options.vcpus}`,
      ],
      ...(options.more ?? []),
    ],
    patienceMs,
  );
  const wrong: string[] = [];
  let control: ControlClient | undefined;
  try {
    await guest.says(/^clock: \d+ vCPUs/m);
    const client = await ControlClient.connect(options.name, { timeoutMs: patienceMs });
    control = client;

    // Times by our clock. The guest stands for certain from `stood`'s beginning to its end, and perhaps for `perhaps`.
    let stood = 0;
    let perhaps = 0;
    const took = { pause: [] as number[], unpause: [] as number[] };
    const pause = async (ms: number): Promise<void> => {
      const asked = performance.now();
      await client.request('pause');
      const stands = performance.now();
      if (ms > 0) await sleep(ms);
      const released = performance.now();
      await client.request('unpause');
      const runs = performance.now();
      stood += released - stands;
      perhaps += runs - asked;
      took.pause.push(stands - asked);
      took.unpause.push(runs - released);
    };

    const asked = performance.now();
    const before = await guest.facts();
    const answered = performance.now();
    // Each answer counts the steps anew. Those before the first one are booting.
    let step = 0;
    for (let n = 1; n <= pauses; n++) {
      await pause(Math.floor(next() * (gapMs + 1)));
      const gap = Math.floor(next() * (gapMs + 1));
      if (gap > 0) await sleep(gap);
      if (n % 100 === 0) {
        const facts = await guest.facts();
        step = Math.max(step, facts.step);
        options.onProgress?.(`${n} pauses: ${JSON.stringify(facts)}`);
      }
    }
    const askedAgain = performance.now();
    const after = await guest.facts();
    const answeredAgain = performance.now();

    const guestMs = (after.time - before.time) / 1e6;
    // The clocks' frequencies are known to some millionths; the guest learns better values as it runs.
    const slack = 1 + (answeredAgain - asked) * 2e-4;
    const bounds = [askedAgain - answered - perhaps - slack, answeredAgain - asked - stood + slack] as const;
    if (guestMs < bounds[0] || guestMs > bounds[1]) {
      wrong.push(`the guest's clock advanced by ${guestMs} ms, possible are ${bounds.join(' to ')}`);
    }
    for (const what of ['forks', 'naps', 'ticks', 'reads'] as const)
      if (after[what] <= before[what]) wrong.push(`no ${what} during the storm`);
    const result = { wallMs: answeredAgain - asked, pausedMs: stood };

    let longStepMs: number | undefined;
    if (longMs !== undefined) {
      await guest.facts();
      await pause(longMs);
      // Long enough for watchdogs of the guest that think that time has passed.
      await sleep(1000);
      longStepMs = (await guest.facts()).step / 1e6;
      // A busy host may keep the guest from running, but not for a part of this.
      if (longStepMs > longMs / 4) wrong.push(`the clock jumped by ${longStepMs} ms in a pause of ${longMs} ms`);
    }
    // Typed while it stands, answered when it runs.
    await client.request('pause');
    let heard = '';
    await guest.facts(async () => {
      const length = guest.console.length;
      await sleep(200);
      heard = guest.console.slice(length);
      await client.request('unpause');
    });
    if (heard !== '') wrong.push(`a paused guest says ${JSON.stringify(heard)}`);

    const facts = await guest.facts();
    if (facts.back > 0) wrong.push(`the clock ran back ${facts.back} times`);
    if (facts.cross > 0) wrong.push(`the clock ran back from one process to another ${facts.cross} times`);
    guest.type('q\n');
    await guest.says(/^END/m);
    const status = await guest.ended;
    if (status !== 0) wrong.push(`exit status ${status}: ${guest.stderr.slice(-500)}`);
    for (const [line] of guest.console.matchAll(/^trouble: .*$/gm)) wrong.push(line.trim());
    if (options.plug === true && !/^plugs: [1-9]/m.test(guest.console)) wrong.push('no vCPU went offline');
    if (!/^clocksource: xen\r?$/m.test(guest.console)) wrong.push('the clock is not Xen’s');
    return {
      pauses,
      ...result,
      guestMs,
      bounds,
      pauseMs: spread(took.pause),
      unpauseMs: spread(took.unpause),
      stepMs: Math.max(step, after.step) / 1e6,
      longStepMs,
      facts,
      wrong,
    };
  } finally {
    control?.close();
    guest.kill();
    await guest.ended;
  }
}
