/**
 * Cuts the power of a guest: ends `xenlighten run` by SIGKILL at random moments while the guest writes records and syncs them
 * (records.c), and looks after each cut what is left. The same image goes through all of them: the guest's own journal replay
 * is part of it.
 */
import { execFileSync } from 'node:child_process';
import {
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  rmSync,
  statSync,
  truncateSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { packageRoot } from '../../../shim/partition/native-files';
import { Random } from '../../fuzz/random';
import { hasProgram } from './debian';
import { type DiskGuest, diskGuest } from './disk-guest';
import { leftovers, uniqueName, Xenlighten, xenlighten } from './xenlighten';

const MIB = 2 ** 20;
const DISK_BYTES = 192 * MIB;
const HEADER = 24;
const MAGIC = 0x44524352;
const WRITERS = 4;
const LOG_WRITERS = 2;
/** After the guest has begun to write, at the latest. */
const MAX_DELAY_MS = 2500;
const SBIN = { ...process.env, PATH: `${process.env['PATH']}:/usr/sbin:/sbin` };

/** Why this cannot be done here, or undefined. */
export function powerCutProblem(): string | undefined {
  if (process.platform !== 'linux') return 'not Linux';
  const missing = ['mke2fs', 'e2fsck', 'debugfs', 'gcc'].filter((name) => !hasProgram(name));
  return missing.length === 0 ? undefined : `not installed here: ${missing.join(', ')}`;
}

export interface PowerCutResult {
  readonly cuts: number;
  /** Records that the guest had been told are safe, over all cuts. */
  readonly safe: number;
  /** Records found beyond those: written, and not yet reported. */
  readonly more: number;
  /** Cuts after which e2fsck had something to do (a journal to replay apart, this is no fault). */
  readonly replayed: number;
  readonly ms: number;
  readonly problems: readonly string[];
}

export interface PowerCutOptions {
  readonly format: 'raw' | 'vhd';
  readonly cuts: number;
  readonly seed: number;
  readonly onProgress?: (line: string) => void;
}

/** The guest's program. A C library is linked in. */
function recordsProgram(folder: string): Buffer {
  const output = path.join(folder, 'records');
  const source = path.join(packageRoot(), 'tests', 'e2e', 'disk', 'records.c');
  execFileSync('gcc', ['-O2', '-Wall', '-Wextra', '-Werror', '-static', '-o', output, source], { stdio: 'pipe' });
  return readFileSync(output);
}

const GO = `
for word in $(cat /proc/cmdline); do case $word in round=*) round=\${word#round=};; esac; done
mount -t ext4 /dev/xvda /mnt || echo MOUNT FAILED
records /mnt $round &
`;

/** Is the record at `at` whole, and which is it? Its length, or undefined. */
function recordAt(bytes: Buffer, at: number, round: number, writer: number, number: number): number | undefined {
  if (at + HEADER > bytes.length) return undefined;
  const wanted = [MAGIC, round, writer, number];
  for (const [i, value] of wanted.entries()) if (bytes.readUInt32LE(at + i * 4) !== value) return undefined;
  const length = HEADER + bytes.readUInt32LE(at + 16);
  if (at + length > bytes.length) return undefined;
  let sum = 2166136261;
  for (let i = 0; i < length; i++) {
    const byte = i >= 20 && i < 24 ? 0 : (bytes[at + i] as number);
    sum = Math.imul(sum ^ byte, 16777619);
  }
  return sum >>> 0 === bytes.readUInt32LE(at + 20) ? length : undefined;
}

/** How many records of a writer there are without a gap from the first one on. */
function recordsOf(folder: string, names: ReadonlySet<string>, round: number, writer: number): number {
  let count = 0;
  if (writer < LOG_WRITERS) {
    const name = `log-${round}-${writer}`;
    if (!names.has(name)) return 0;
    const bytes = readFileSync(path.join(folder, name));
    for (let at = 0; ; count++) {
      const length = recordAt(bytes, at, round, writer, count);
      if (length === undefined) return count;
      at += length;
    }
  }
  for (; ; count++) {
    const name = `file-${round}-${writer}-${count}`;
    if (!names.has(name)) return count;
    const bytes = readFileSync(path.join(folder, name));
    if (recordAt(bytes, 0, round, writer, count) !== bytes.length) return count;
  }
}

/** The last number that each writer has reported; -1 none. */
function reported(console: string): number[] {
  const last = new Array<number>(WRITERS).fill(-1);
  for (const [, writer, number] of console.matchAll(/^A (\d) (\d+)\r?\n/gm)) last[Number(writer)] = Number(number);
  return last;
}

function run(program: string, ...args: string[]): { status: number; text: string } {
  try {
    return { status: 0, text: execFileSync(program, args, { encoding: 'utf8', env: SBIN, stdio: 'pipe' }) };
  } catch (error) {
    const { status, stdout, stderr } = error as { status: number | null; stdout: string; stderr: string };
    return { status: status ?? -1, text: `${stdout}${stderr}` };
  }
}

/** Files that processes have open, by device and inode: what `wanted` holds, with who has it. */
function openFiles(wanted: (target: string) => boolean, only?: number): Map<string, string> {
  const found = new Map<string, string>();
  const pids = only === undefined ? readdirSync('/proc').filter((entry) => /^\d+$/.test(entry)) : [String(only)];
  for (const pid of pids) {
    try {
      for (const fd of readdirSync(`/proc/${pid}/fd`)) {
        const link = `/proc/${pid}/fd/${fd}`;
        const target = readlinkSync(link);
        if (!wanted(target)) continue;
        const { dev, ino } = statSync(link);
        found.set(`${dev}:${ino}`, `${target} of process ${pid}`);
      }
    } catch {
      // A process that has ended meanwhile, or is somebody else's.
    }
  }
  return found;
}

/**
 * Who has one of the files of `memory` (as openFiles() names them) or the image open. A process that is ending may take a
 * moment to let go: waits up to 5 s for it.
 */
async function stillOpen(memory: ReadonlyMap<string, string>, image: string): Promise<string[]> {
  for (let tries = 0; ; tries++) {
    const open = openFiles((target) => target.startsWith('/memfd:xenlighten') || target.startsWith(image));
    const found = [...open].filter(([file, who]) => memory.has(file) || who.startsWith(image)).map(([, who]) => who);
    if (found.length === 0 || tries >= 50) return found;
    await sleep(100);
  }
}

export async function powerCuts(options: PowerCutOptions): Promise<PowerCutResult> {
  const { format, cuts, seed, onProgress } = options;
  const random = new Random(seed);
  const work = mkdtempSync(path.join(tmpdir(), 'xenlighten-cut-'));
  const problems: string[] = [];
  let safe = 0;
  let more = 0;
  let replayed = 0;
  const started = performance.now();
  try {
    const guest: DiskGuest = diskGuest({ go: GO, programs: { records: recordsProgram(work) } });
    const raw = path.join(work, 'disk.raw');
    writeFileSync(raw, '');
    truncateSync(raw, DISK_BYTES);
    execFileSync('mke2fs', ['-q', '-F', '-t', 'ext4', raw], { env: SBIN, stdio: 'pipe' });
    const image = format === 'raw' ? raw : path.join(work, 'disk.vhd');
    if (format === 'vhd') {
      const made = await xenlighten('image', 'convert', raw, image);
      if (made.status !== 0) throw new Error(made.stderr);
    }
    const told: number[][] = [];
    for (let round = 0; round < cuts; round++) {
      const problem = (text: string): void => {
        problems.push(`cut ${round} of seed ${seed}, ${format}: ${text}`);
        onProgress?.(text);
      };
      const name = uniqueName();
      const guestRun = new Xenlighten([
        'run',
        ...['--name', name, '--kernel', guest.kernel, '--ramdisk', guest.ramdisk, '--memory', '256'],
        ...['--cmdline', `console=hvc0 quiet round=${round}`, '--disk', `${image},${format},xvda,w`],
      ]);
      await guestRun.says(/READY|MOUNT FAILED/);
      await sleep(random.below(MAX_DELAY_MS));
      const memory = openFiles((target) => target.startsWith('/memfd:xenlighten'), guestRun.pid);
      guestRun.kill('SIGKILL');
      const { signal } = await guestRun.ended;
      if (signal !== 'SIGKILL') problem(`it had ended by itself: ${guestRun.stderr.slice(-500)}`);
      if (/MOUNT FAILED|I\/O error|EXT4-fs error/.test(guestRun.stdout)) problem(guestRun.stdout.slice(-1500));
      for (const left of await leftovers(name)) problem(`left behind: ${left}`);
      for (const who of await stillOpen(memory, image)) problem(`still open: ${who}`);

      // What a reboot would find: a copy, because the next guest is to find the image as it is.
      const copy = path.join(work, 'copy.raw');
      if (format === 'vhd') {
        const checked = await xenlighten('image', 'check', image);
        if (checked.status !== 0) problem(`image check: ${checked.stdout}${checked.stderr}`);
        const copied = await xenlighten('image', 'convert', '--force', '--format', 'raw', image, copy);
        if (copied.status !== 0) problem(`image convert: ${copied.stderr}`);
        if (hasProgram('qemu-img') && (round % 10 === 0 || round === cuts - 1)) {
          const compared = run('qemu-img', 'compare', '-f', 'vpc', '-F', 'raw', image, copy);
          if (compared.status !== 0) problem(`qemu-img reads another disk: ${compared.text}`);
        }
      } else execFileSync('cp', ['--sparse=always', '--reflink=auto', image, copy]);
      const repaired = run('e2fsck', '-p', copy);
      if (repaired.status > 1) problem(`e2fsck -p: ${repaired.status}: ${repaired.text}`);
      if (/recovering journal/.test(repaired.text)) replayed++;
      const clean = run('e2fsck', '-fn', copy);
      if (clean.status !== 0) problem(`e2fsck -fn: ${clean.status}: ${clean.text}`);
      const files = path.join(work, 'files');
      mkdirSync(files);
      run('debugfs', '-R', `rdump / ${files}`, copy);
      const names = new Set(readdirSync(files));
      told.push(reported(guestRun.stdout));
      // Those of earlier cuts must still be there, too.
      for (const [earlier, numbers] of told.entries())
        for (const [writer, number] of numbers.entries()) {
          const there = recordsOf(files, names, earlier, writer);
          if (there <= number)
            problem(`record ${there} of writer ${writer} of round ${earlier} is lost; ${number} was safe`);
          if (earlier === round) {
            safe += number + 1;
            more += there - number - 1;
          }
        }
      rmSync(files, { recursive: true });
      rmSync(copy);
      onProgress?.(`cut ${round + 1} of ${cuts}, ${format}: ${safe} records were safe, ${problems.length} problems`);
      if (problems.length > 10) break;
    }
    return { cuts: told.length, safe, more, replayed, ms: performance.now() - started, problems };
  } finally {
    rmSync(work, { recursive: true, force: true });
  }
}
