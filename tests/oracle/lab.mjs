/*
 * The oracle: runs PV kernels under real Xen 4.17 in QEMU (TCG), as domUs of a minimal dom0 (one boot of dom0 runs
 * any number of domUs one after the other) or in dom0's place. build.sh makes the parts in the user's cache.
 *
 * Only one oracle runs at a time (a lock in the cache), and its QEMU dies with this process (PR_SET_PDEATHSIG).
 */
import { spawn, spawnSync } from 'node:child_process';
import { copyFileSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { fileURLToPath } from 'node:url';

const here = path.dirname(fileURLToPath(import.meta.url));
export const root = path.resolve(here, '../..');
export const cache = path.join(process.env.XDG_CACHE_HOME || path.join(os.homedir(), '.cache'), 'xenlighten', 'oracle');

/** The machine that the recorded answers come from. */
export const machine = { cpu: 'qemu64', memory: 1024, dom0Memory: 384, guestMemory: 64 };
/** The same with all that QEMU can do, for cases that look at processor features. SMAP: see shim/partition/qemu. */
export const featureMachine = { ...machine, cpu: 'max,smap=off,bmi2=off' };
export const featureCases = [
  'cr4',
  'fpu',
  'priv-kernel',
  'cpuid-policy',
  'xcr0',
  'fsgsbase',
  'cpuid-features',
  'cpuid-xstate',
];

export function build() {
  mkdirSync(cache, { recursive: true });
  const made = spawnSync('bash', [path.join(here, 'build.sh'), cache], { stdio: ['ignore', 2, 2] });
  if (made.status !== 0) throw new Error(`oracle: build.sh failed (${made.error?.message ?? `exit ${made.status}`})`);
  return { xen: readFileSync(path.join(cache, 'xen-version'), 'utf8').trim() };
}

/** Builds the test kernel and returns its list of cases. */
export function testKernel() {
  const made = spawnSync('make', ['-s', '-C', path.join(root, 'tests/guest')], { stdio: ['ignore', 2, 2] });
  if (made.status !== 0) throw new Error('oracle: cannot build tests/guest');
  const dir = path.join(root, 'build/tests/guest');
  return {
    kernel: path.join(dir, 'pvtest.elf'),
    low: path.join(dir, 'pvtest-low.elf'),
    cases: JSON.parse(readFileSync(path.join(dir, 'cases.json'), 'utf8')),
  };
}

/**
 * Boots QEMU and hands each serial line to `onLine`, which returns true when it has seen the end.
 * Resolves to 'done', 'timeout' (seconds without a line, or in all) or 'ended' (QEMU left by itself).
 */
function boot(args, { cpu = machine.cpu, idle, total, onLine }) {
  return new Promise((resolve, reject) => {
    const lock = path.join(cache, 'lock');
    const q = ['qemu-system-x86_64', '-accel', 'tcg', '-cpu', cpu, '-smp', '1', '-m', `${machine.memory}`];
    q.push('-display', 'none', '-monitor', 'none', '-serial', 'stdio', '-net', 'none', '-no-reboot', ...args);
    const child = spawn('setpriv', ['--pdeathsig', 'KILL', 'flock', '--no-fork', lock, ...q], {
      stdio: ['ignore', 'pipe', 'inherit'],
    });
    let outcome = 'ended';
    let rest = '';
    let quiet;
    const stop = (why) => {
      outcome = why;
      child.kill('SIGKILL');
    };
    // The clocks start with the first line: before it this run may be waiting for another one's lock.
    let all;
    child.stdout.setEncoding('latin1');
    child.stdout.on('data', (text) => {
      all ??= setTimeout(() => stop('timeout'), total * 1000);
      clearTimeout(quiet);
      quiet = setTimeout(() => stop('timeout'), idle * 1000);
      const lines = (rest + text).split('\n');
      rest = lines.pop();
      for (const line of lines) if (onLine(line.replaceAll('\r', ''))) stop('done');
    });
    child.on('error', reject);
    child.on('close', () => {
      clearTimeout(all);
      clearTimeout(quiet);
      if (rest) onLine(rest);
      resolve(outcome);
    });
  });
}

/**
 * Runs guests as domUs. Each: {name, kernel, cmdline, memory?, vcpus?, seconds?, ramdisk?}. Resolves to one
 * {name, state, lines, xen} per guest: state is poweroff, reboot, suspend, crashed,
 * watchdog, other (an unknown reason), timeout (xl still saw it running), refused
 * (xl create failed), gone (the domain vanished) or lost (the machine did not get that far); xen is what the hypervisor logged meanwhile.
 */
export async function runGuests(guests, { cpu, verbose = false } = {}) {
  const dir = mkdtempSync(path.join(os.tmpdir(), 'oracle-'));
  try {
    const top = path.join(dir, 'guests');
    mkdirSync(top);
    const files = new Map();
    const put = (file) => {
      if (!files.has(file)) {
        files.set(file, `/guests/file${files.size}`);
        copyFileSync(file, path.join(dir, files.get(file)));
      }
      return files.get(file);
    };
    guests.forEach((guest, i) => {
      const id = `g${`${i}`.padStart(3, '0')}`; // not a number alone: xl would take it for a domain id
      const cfg = [
        `name="${id}"`,
        'type="pv"',
        `kernel="${put(guest.kernel)}"`,
        ...(guest.ramdisk ? [`ramdisk="${put(guest.ramdisk)}"`] : []),
        `memory=${guest.memory ?? machine.guestMemory}`,
        `vcpus=${guest.vcpus ?? 1}`,
        `tsc_mode="native"`,
        `extra="${guest.cmdline}"`,
        'on_poweroff="preserve"',
        'on_reboot="preserve"',
        'on_crash="preserve"',
        'on_watchdog="preserve"',
        'on_soft_reset="preserve"',
      ];
      writeFileSync(path.join(top, `${id}.cfg`), `${cfg.join('\n')}\n`);
      writeFileSync(path.join(top, `${id}.wait`), `${guest.seconds ?? 20}\n`);
    });
    const image = path.join(dir, 'initrd');
    const packed = spawnSync(
      'bash',
      [
        '-c',
        'set -eo pipefail; (cat "$0/dom0.cpio.gz"; find guests | cpio -o -H newc --quiet | gzip -1) > "$1"',
        cache,
        image,
      ],
      { cwd: dir, stdio: ['ignore', 2, 2] },
    );
    if (packed.status !== 0) throw new Error('oracle: cannot pack the initramfs');

    const results = guests.map((guest) => ({ name: guest.name, state: 'lost', lines: [], xen: [] }));
    let current;
    const outcome = await boot(
      [
        ...['-kernel', path.join(cache, 'xen.elf')],
        ...[
          '-append',
          `console=com1 com1=115200 dom0_mem=${machine.dom0Memory}M,max:${machine.dom0Memory}M dom0_max_vcpus=1 guest_loglvl=all/all sync_console`,
        ],
        ...[
          '-initrd',
          `${path.join(cache, 'vmlinuz')} console=hvc0 panic=-1 quiet random.trust_bootloader=on,${image}`,
        ],
      ],
      {
        cpu,
        idle: 90 + Math.max(...guests.map((guest) => guest.seconds ?? 20)),
        total: 180 + guests.reduce((sum, guest) => sum + 10 + (guest.seconds ?? 20), 0),
        onLine(line) {
          if (verbose) process.stderr.write(`${line}\n`);
          const mark = /^@@ (start|end|done|dom0)\s*g?(\d*)\s*(\w*)/.exec(line);
          if (mark?.[1] === 'start') current = results[Number(mark[2])];
          else if (mark?.[1] === 'end') {
            if (current) current.state = mark[3];
            current = undefined;
          } else if (mark?.[1] === 'done') return true;
          else if (line.startsWith('(XEN)')) current?.xen.push(line);
          else if (line !== '') current?.lines.push(line);
          return line.includes('Panic on CPU');
        },
      },
    );
    return { outcome, results };
  } finally {
    rmSync(dir, { recursive: true, force: true });
  }
}

/** Runs one kernel in dom0's place (privileged: its answers differ from a domU's). */
export async function runDom0({ kernel, cmdline, seconds = 60 }, { verbose = false } = {}) {
  const lines = [];
  const xen = [];
  let state = 'lost';
  const outcome = await boot(
    [
      ...['-kernel', path.join(cache, 'xen.elf')],
      ...[
        '-append',
        `console=com1 com1=115200 dom0_mem=${machine.dom0Memory}M dom0_max_vcpus=1 noreboot guest_loglvl=all/all sync_console`,
      ],
      ...['-initrd', `${kernel} ${cmdline}`],
    ],
    {
      idle: seconds,
      total: 60 + seconds,
      onLine(line) {
        if (verbose) process.stderr.write(`${line}\n`);
        (line.startsWith('(XEN)') ? xen : lines).push(line);
        if (/Dom0 (halted|shutdown)/i.test(line)) state = 'poweroff';
        else if (/Dom0 crashed|Panic on CPU/i.test(line)) state = 'crashed';
        else return false;
        return true;
      },
    },
  );
  return { outcome, state, lines, xen };
}
