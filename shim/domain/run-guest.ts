/**
 * Runs a guest from its configuration to its last end: builds the domain, starts it again when its configuration says
 * so, gathers the crash report and the counters. What `xenlighten run` and tests drive.
 */
import { join, parse } from 'node:path';
import type { Readable, Writable } from 'node:stream';
import type { Logger } from 'pino';
import { UsageError } from '../errors';
import type { EngineChoice } from '../partition/engines';
import type { Stats } from '../translate/stats';
import { defaultCacheDirectory, KernelCache } from '../xen/builder/cache';
import { kernelSymbols } from '../xen/builder/symbols';
import type { Ahead } from './ahead';
import { ControlSocket } from './control-socket';
import { type CrashCapture, captureCrash, formatCrash } from './crash-report';
import { GuestDisks } from './disks/guest-disk';
import { type CrashFacts, Domain, type DomainConfig, type DomainEnd } from './domain';
import { EXIT, endStatus, SIGNAL_STATUS } from './exit-status';
import { type CompleteGuestConfig, DEFAULT_ACTIONS, type EndEvent } from './guest-config';
import { askToPowerOff } from './orderly-end';

export interface RunOptions {
  readonly engine?: EngineChoice | undefined;
  /** Take the engine although it is not fit for use here. */
  readonly forceEngine?: boolean | undefined;
  readonly guestRing: DomainConfig['guestRing'];
  /** Processor model of the qemu engine; undefined: its default. */
  readonly cpu?: string | undefined;
  readonly cold: NonNullable<DomainConfig['cold']>;
  readonly pollUs?: DomainConfig['pollUs'];
  readonly timeoutMs: number | undefined;
  readonly wantStats: boolean;
  /** File for a trace; the later lives of a domain that starts again write to FILE with .2, .3, ... before its ending. */
  readonly trace: string | undefined;
  /** Serve the control socket of the user. */
  readonly control: boolean;
  /** If the name is taken, take NAME-2, NAME-3, ... instead of giving up. */
  readonly uniqueName: boolean;
}

export interface RunHooks {
  /**
   * Resolves when the guest is to be asked to power off, with the signal that asked for it. Whatever it then does, power
   * off or start again, is the end: on_poweroff and on_reboot are for ends that nobody asked of this process.
   */
  readonly shutdown: Promise<keyof typeof SIGNAL_STATUS>;
  /** Resolves when the guest is to be destroyed, with the signal that asked for it. */
  readonly stop: Promise<keyof typeof SIGNAL_STATUS>;
  /** A line for the user about what becomes of `shutdown`. */
  notice(text: string): void;
  /** The streams for the guest's console; called when a domain is about to start. */
  console(): { readonly input?: Readable; readonly output?: Writable };
  onCrash(report: string): void;
}

export interface RunOutcome {
  /** For the process. */
  readonly status: number;
  readonly end: DomainEnd;
  /** A line that says what went wrong. */
  readonly message?: string;
  readonly stats?: Stats;
}

/** A domain that ends sooner than this after its start is not started again: it would go on for ever. */
const MIN_LIFE_MS = 1000;

/** The trace file of the n-th life, counted from 1. */
function traceFile(file: string | undefined, life: number): string | undefined {
  if (file === undefined || life === 1) return file;
  const { dir, name, ext } = parse(file);
  return join(dir, `${name}.${life}${ext}`);
}

function domainConfig(guest: CompleteGuestConfig, options: RunOptions, disks: GuestDisks, life: number): DomainConfig {
  return {
    name: guest.name,
    kernel: guest.kernel,
    ramdisk: guest.ramdisk,
    cmdline: guest.cmdline,
    memory: guest.memory,
    maxmem: guest.maxmem,
    vcpus: guest.vcpus,
    maxvcpus: guest.maxvcpus,
    uuid: guest.uuid,
    maxEventChannels: guest.maxEventChannels,
    tscMode: guest.tscMode,
    cpuid: guest.cpuid,
    disks,
    engine: options.engine,
    forceEngine: options.forceEngine,
    guestRing: options.guestRing,
    cpu: options.cpu,
    pollUs: options.pollUs,
    cold: options.cold,
    trace: traceFile(options.trace, life),
  };
}

function crashOf(end: DomainEnd): CrashFacts | undefined {
  return end.kind === 'crash' || end.kind === 'failed' ? end.crash : undefined;
}

interface Life {
  readonly end: DomainEnd;
  readonly capture: CrashCapture | undefined;
  readonly stats: Stats | undefined;
  readonly ms: number;
}

/** One domain, from building to its end. `stopped` is asked once it can be destroyed; `onRun` is told while it runs. */
async function live(
  guest: CompleteGuestConfig,
  options: RunOptions,
  disks: GuestDisks,
  log: Logger,
  hooks: RunHooks,
  stopped: Promise<unknown>,
  control: ControlSocket | undefined,
  life: number,
  ahead: Ahead | undefined,
  onRun: (domain: Domain | undefined) => void,
): Promise<Life> {
  const domain = await Domain.create(domainConfig(guest, options, disks, life), log, ahead);
  let capture: CrashCapture | undefined;
  domain.onBeforeEnd = (end) => {
    const crash = crashOf(end);
    if (crash === undefined) return;
    const history = Buffer.from(domain.console.history.bytes()).toString('latin1');
    const failure = end.kind === 'failed' ? end.message : undefined;
    const others = domain.otherVcpus(crash.vcpu);
    capture = captureCrash({ ...crash, failure, others }, domain.partition.memory, domain.kernelText, history);
  };
  const { input, output } = hooks.console();
  if (output !== undefined) domain.console.attachOutput(output);
  if (input !== undefined) {
    domain.console.attachInput(input);
    // The domain before this one paused it when it ended.
    input.resume();
  }
  void stopped.then(() => domain.destroy());
  const began = Date.now();
  control?.control(domain);
  await domain.start();
  onRun(domain);
  const end = await domain.ended;
  onRun(undefined);
  control?.control(undefined);
  return { end, capture, stats: options.wantStats ? domain.stats() : undefined, ms: Date.now() - began };
}

const EVENTS: Readonly<Partial<Record<DomainEnd['kind'], EndEvent>>> = {
  poweroff: 'poweroff',
  reboot: 'reboot',
  crash: 'crash',
  watchdog: 'watchdog',
};

function message(end: DomainEnd): string | undefined {
  switch (end.kind) {
    case 'watchdog':
      return 'a watchdog of the guest ran out';
    case 'failed':
      return end.message;
    case 'destroyed':
      return 'the guest was destroyed by another process';
    default:
      return undefined;
  }
}

/**
 * Runs the guest. Rejects with UsageError when it cannot be built, with the engine's error when it cannot be started.
 * When it settles, the engine's process and the guest's memory are gone. `ahead` is what has been begun for it.
 */
export async function runGuest(
  config: CompleteGuestConfig,
  options: RunOptions,
  log: Logger,
  hooks: RunHooks,
  ahead?: Ahead,
): Promise<RunOutcome> {
  const control = options.control
    ? await ControlSocket.open(config.name, { unique: options.uniqueName, log })
    : undefined;
  const guest = control === undefined ? config : { ...config, name: control.name };
  const actions = { ...DEFAULT_ACTIONS, ...guest.onEnd };
  let reason: 'timeout' | keyof typeof SIGNAL_STATUS | undefined;
  let stopNow!: () => void;
  const stopped = new Promise<void>((resolve) => {
    stopNow = resolve;
  });
  const stop = (why: NonNullable<typeof reason>): void => {
    reason ??= why;
    stopNow();
  };
  void hooks.stop.then(stop);
  let running: Domain | undefined;
  let asked = false;
  void hooks.shutdown.then((signal) => {
    // There is nobody yet, or at the moment, who could be asked.
    if (running === undefined) return stop(signal);
    asked = true;
    return askToPowerOff(running.guest, signal, hooks.notice);
  });
  const timer = options.timeoutMs === undefined ? undefined : setTimeout(() => stop('timeout'), options.timeoutMs);
  let disks: GuestDisks | undefined;
  try {
    disks = await GuestDisks.open(guest.disks ?? [], guest.snapshot === true, log);
    for (let life = 1; ; life++) {
      const { end, capture, stats, ms } = await live(
        guest,
        options,
        disks,
        log,
        hooks,
        stopped,
        control,
        life,
        life === 1 ? ahead : undefined,
        (domain) => {
          running = domain;
        },
      );
      if (capture !== undefined) {
        const cache = new KernelCache(defaultCacheDirectory());
        hooks.onCrash(formatCrash(capture, await kernelSymbols(guest.kernel, { cache }).load()));
      }
      const withStats = stats === undefined ? {} : { stats };
      if (reason === 'timeout') {
        const seconds = (options.timeoutMs ?? 0) / 1000;
        return {
          status: EXIT.TIMEOUT,
          end,
          message: `the guest was ended after ${seconds} s (--timeout)`,
          ...withStats,
        };
      }
      if (reason !== undefined) return { status: SIGNAL_STATUS[reason], end, ...withStats };
      const event = EVENTS[end.kind];
      if (event !== undefined && actions[event] === 'restart' && !asked) {
        if (ms >= MIN_LIFE_MS) {
          log.info({ event }, 'starting the domain again');
          continue;
        }
        log.warn({ event, ms }, 'not starting the domain again: it ended too soon');
      }
      const text = message(end);
      return { status: endStatus(end), end, ...(text === undefined ? {} : { message: text }), ...withStats };
    }
  } catch (error) {
    // A start that was interrupted fails in ways that are no news.
    if (reason === undefined || error instanceof UsageError) throw error;
    const status = reason === 'timeout' ? EXIT.TIMEOUT : SIGNAL_STATUS[reason];
    return { status, end: { kind: 'destroyed' } };
  } finally {
    if (timer !== undefined) clearTimeout(timer);
    await control?.close();
    await disks?.close();
  }
}
