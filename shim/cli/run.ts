/**
 * `xenlighten run`: boots a guest, with its console on stdin and stdout.
 */
import { open, rm, writeFile } from 'node:fs/promises';
import type { Logger } from 'pino';
import { beginAhead } from '../domain/ahead';

import { type Bootloader, isPvgrub32, namedBootloader } from '../domain/bootloader';
import { parseDiskSpec } from '../domain/disks/disk-spec';
import { checkMemory, checkName, completeConfig, type GuestConfig, MAX_VCPUS } from '../domain/guest-config';
import type { RunHooks, RunOptions } from '../domain/run-guest';
import { UsageError } from '../errors';
import { ENGINE_CHOICES } from '../partition/engines';
import { Terminal } from '../xen/console/terminal';
import { type Arguments, type CommandDecl, choiceOption, numberOption } from './arguments';
import { createLogger, LOG_LEVELS } from './log';
import { complain } from './output';
import { interruptions } from './signals';

/*
 * What is not needed to know the kernel's name is loaded later: the kernel is read meanwhile (see ahead.ts).
 */
const xlCfg = (): typeof import('../domain/xl-cfg') => require('../domain/xl-cfg');
const coldList = (): typeof import('../domain/cold') => require('../domain/cold');
const runner = (): typeof import('../domain/run-guest') => require('../domain/run-guest');

/** A day, in seconds, for 30 days: setTimeout counts no further. */
const MAX_TIMEOUT_S = 2_000_000;
const MAX_POLL_US = 100_000;

export const declaration: CommandDecl = {
  name: 'run',
  usage: '[GUEST.cfg]',
  summary: [
    'Boots a Xen PV guest. Its console is stdin and stdout (Ctrl-] on a terminal destroys the guest and leaves).',
    'GUEST.cfg is an xl configuration file; options win over it.',
    '',
    'SIGINT (Ctrl-C where stdin is no terminal), SIGTERM and SIGHUP ask the guest to power off, and end this process when',
    'it has, whatever on_poweroff says; a second one destroys it, as SIGQUIT does at once. On Windows: Ctrl-C asks, Ctrl-Break',
    'destroys at once; when the window closes, the guest has 3 s to power off, then it is destroyed. When the user logs off or',
    'Windows shuts down, nothing is asked: the guest ends with this process.',
    '',
    'Exit status: 0 the guest powered off, also when a signal asked it to; 1 wrong usage or configuration, 2 the host or',
    'the engine failed or another process destroyed the guest, 3 the guest crashed, 4 --timeout ran out; 128 + N signal N',
    'destroyed the guest (Ctrl-] counts as SIGINT: 130).',
  ].join('\n'),
  positionals: { min: 0, max: 1 },
  options: {
    kernel: { value: 'FILE', help: 'kernel image: bzImage, ELF or gzipped ELF' },
    bootloader: { value: 'pvgrub', help: "boot the kernel of the guest's own disk by GRUB, in the place of a kernel" },
    ramdisk: { value: 'FILE', help: 'initial ramdisk' },
    cmdline: { value: 'TEXT', help: "the kernel's command line" },
    memory: { value: 'MB', help: 'memory at start (default 256)' },
    maxmem: { value: 'MB', help: 'memory that the guest may grow to (default: as at start)' },
    vcpus: { value: 'N', help: `virtual processors, 1 to ${MAX_VCPUS} (default 1)` },
    disk: {
      value: 'SPEC',
      multiple: true,
      help: "virtual disk, as in xl's disk=: FILE,raw,xvda,w (again for more; replaces those of GUEST.cfg)",
    },
    snapshot: { help: 'write nothing to the disks: what the guest writes is gone when it ends' },
    name: { value: 'NAME', help: 'name of the domain' },
    engine: {
      value: 'auto|whp|kvm|qemu',
      help: 'what runs the virtual processors (auto: whp on Windows, kvm where it is fit, else qemu)',
    },
    force: { help: 'take the engine even if it is not fit for use here (for tests)' },
    cpu: { value: 'MODEL', help: "processor model of engine qemu, as QEMU's -cpu (default qemu64; max has AVX2)" },
    'guest-ring': { value: 'auto|1|3', help: 'ring of the guest kernel (auto: 1 for Linux where the CPU allows it)' },
    trace: { value: 'FILE', help: 'write a Chrome/Perfetto trace of Xen operations and their translation' },
    stats: { value: 'FILE.json', help: 'write counters of operations when the guest ends' },
    timeout: { value: 'SECONDS', help: 'end the guest after that time, with exit status 4' },
    cold: { value: 'LIST', help: 'hypercalls to be answered by the shim (mmu_update,event_channel_op.send; all)' },
    poll: {
      value: 'US',
      help: "how long, in microseconds, the guest's next event is looked out for before sleeping (default 250; 0: never)",
    },
    'log-file': { value: 'FILE', help: 'append the log to FILE as well, as JSON lines' },
    'log-level': { value: 'LEVEL', help: `${LOG_LEVELS.join('|')} (default warn)` },
  },
};

/** `--bootloader`: pvgrub, or pygrub with a notice. */
function bootloader(args: Arguments): Bootloader | undefined {
  const text = args.text('bootloader');
  if (text === undefined) return undefined;
  const named = namedBootloader(text);
  if (named === undefined) {
    const found = JSON.stringify(text.slice(0, 80));
    const wanted = isPvgrub32(text) ? 'pvgrub: 32-bit PV kernels are not supported' : 'pvgrub';
    throw new UsageError('unusable value', { file: '--bootloader', found, wanted });
  }
  if (args.text('kernel') !== undefined) {
    const found = '--bootloader and --kernel';
    throw new UsageError('wrong arguments', {
      found,
      wanted: 'one of them: the boot loader takes the place of a kernel',
    });
  }
  if (named.notice !== undefined) complain(`warning: --bootloader: ${named.notice}`);
  return named.bootloader;
}

/** Options that say what the guest is; they win over the configuration file. */
function configFromOptions(args: Arguments): GuestConfig {
  const megabytes = (name: string): number | undefined => {
    const text = args.text(name);
    return text === undefined ? undefined : checkMemory(numberOption(name, text, 1, 1 << 30), `--${name}`);
  };
  const name = args.text('name');
  const vcpus = args.text('vcpus');
  const file = (option: string): string | undefined => {
    const path = args.text(option);
    if (path === '' || path?.includes('\0')) {
      throw new UsageError('unusable value', { file: `--${option}`, found: JSON.stringify(path), wanted: 'a file' });
    }
    return path;
  };
  return {
    name: name === undefined ? undefined : checkName(name, '--name'),
    kernel: file('kernel'),
    bootloader: bootloader(args),
    ramdisk: file('ramdisk'),
    cmdline: args.text('cmdline'),
    memory: megabytes('memory'),
    maxmem: megabytes('maxmem'),
    vcpus: vcpus === undefined ? undefined : numberOption('vcpus', vcpus, 1, MAX_VCPUS),
    disks: disks(args),
    snapshot: args.flag('snapshot') || undefined,
  };
}

function disks(args: Arguments): GuestConfig['disks'] {
  const specs = args.all('disk');
  if (specs.length === 0) return undefined;
  return specs.map((text) => {
    const { disk, warnings } = parseDiskSpec(text, '--disk');
    for (const warning of warnings) complain(`warning: --disk: ${warning}`);
    return disk;
  });
}

function defined<T extends object>(values: T): Partial<T> {
  return Object.fromEntries(Object.entries(values).filter(([, v]) => v !== undefined)) as Partial<T>;
}

/** QEMU's -cpu: a model, and features behind commas. */
function cpuModel(text: string | undefined): string | undefined {
  if (text === undefined || /^[A-Za-z0-9][A-Za-z0-9_.-]*(,[+-]?[A-Za-z0-9][A-Za-z0-9_.=-]*)*$/.test(text)) return text;
  throw new UsageError('unusable processor model', {
    file: '--cpu',
    found: JSON.stringify(text.slice(0, 80)),
    wanted: 'a model such as max, and features such as avx2=off behind commas',
  });
}

function engineOptions(args: Arguments): Required<Pick<RunOptions, 'engine' | 'forceEngine'>> {
  return {
    engine: choiceOption('engine', args.text('engine') ?? 'auto', ENGINE_CHOICES),
    forceEngine: args.flag('force'),
  };
}

function runOptions(args: Arguments, uniqueName: boolean): RunOptions {
  const ring = choiceOption('guest-ring', args.text('guest-ring') ?? 'auto', ['auto', '1', '3']);
  const timeout = args.text('timeout');
  const poll = args.text('poll');
  return {
    ...engineOptions(args),
    guestRing: ring === 'auto' ? 'auto' : ring === '1' ? 1 : 3,
    cpu: cpuModel(args.text('cpu')),
    cold: coldList().parseColdList(args.text('cold') ?? ''),
    pollUs: poll === undefined ? undefined : numberOption('poll', poll, 0, MAX_POLL_US),
    timeoutMs: timeout === undefined ? undefined : numberOption('timeout', timeout, 1, MAX_TIMEOUT_S) * 1000,
    wantStats: args.text('stats') !== undefined,
    trace: args.text('trace'),
    control: true,
    uniqueName,
  };
}

/** Makes sure, before the guest starts, that a file can be written. True if it was not there before. */
async function claim(option: string, file: string): Promise<boolean> {
  try {
    const handle = await open(file, 'a');
    const { size } = await handle.stat();
    await handle.close();
    return size === 0;
  } catch (error) {
    const { code, message } = error as NodeJS.ErrnoException;
    const found = `${file}: ${code ?? message}`;
    throw new UsageError('cannot write', { file: `--${option}`, found, wanted: 'a file that can be written' });
  }
}

export async function run(args: Arguments): Promise<number> {
  const file = args.positionals[0];
  const { config, warnings } = file === undefined ? { config: {}, warnings: [] } : await xlCfg().readXlConfig(file);
  for (const warning of warnings) complain(`warning: ${warning}`);
  const chosen = defined(configFromOptions(args));
  const asked: GuestConfig = { ...config, ...chosen };
  // One of the two takes the other's place, wherever each was said.
  if (chosen.bootloader !== undefined) Object.assign(asked, { kernel: undefined, ramdisk: chosen.ramdisk });
  const guest = completeConfig(asked, file ?? 'run');
  const ahead = beginAhead({ kernel: guest.kernel, ramdisk: guest.ramdisk, ...engineOptions(args) });
  const log: Logger = createLogger(args.text('log-level'), { file: args.text('log-file') });
  // A name that nobody chose must not keep a second guest of the same kernel from running.
  const options = runOptions(args, asked.name === undefined);
  const statsFile = args.text('stats');
  let unused = statsFile !== undefined && (await claim('stats', statsFile)) ? statsFile : undefined;

  const stop = interruptions();
  let terminal: Terminal | undefined;
  try {
    await ahead.kernelOnItsWay.catch(() => undefined);
    const { runGuest } = runner();
    const hooks: RunHooks = {
      shutdown: stop.shutdown,
      stop: stop.stop,
      notice: complain,
      // The terminal becomes raw when the guest is about to run, not before: an error must not be printed on a raw one.
      console: () => {
        terminal ??= new Terminal({ onLeave: () => stop.destroy('SIGINT') });
        return { input: terminal.input, output: process.stdout };
      },
      onCrash: (report) => {
        process.stderr.write(`\n${report}\n`);
      },
    };
    const outcome = await runGuest(guest, options, log, hooks, ahead);
    terminal?.close();
    if (statsFile !== undefined && outcome.stats !== undefined) {
      unused = undefined;
      await writeFile(statsFile, `${JSON.stringify(outcome.stats, undefined, 2)}\n`);
    }
    if (outcome.message !== undefined) complain(outcome.message);
    return outcome.status;
  } finally {
    terminal?.close();
    stop.close();
    // A file that was made for statistics which never came.
    if (unused !== undefined) await rm(unused, { force: true });
  }
}
