/**
 * Runs a guest from its configuration to its last end: builds the domain, starts it again when its configuration says
 * so, gathers the crash report and the counters. What `xenlighten run` and tests drive.
 */
import type { Readable, Writable } from 'node:stream';
import type { Logger } from 'pino';
import { TrapVp } from '../../abi/trap';
import { UsageError } from '../errors';
import { collectStats, type Stats } from '../translate/stats';
import { defaultCacheDirectory, KernelCache } from '../xen/builder/cache';
import { kernelSymbols } from '../xen/builder/symbols';
import { type AddressRange, type CrashCapture, captureCrash, formatCrash } from './crash-report';
import { type CrashFacts, Domain, type DomainConfig, type DomainEnd } from './domain';
import { EXIT, endStatus, SIGNAL_STATUS } from './exit-status';
import { type CompleteGuestConfig, DEFAULT_ACTIONS, type EndEvent } from './guest-config';

export interface RunOptions {
  readonly guestRing: DomainConfig['guestRing'];
  readonly cold: NonNullable<DomainConfig['cold']>;
  readonly timeoutMs: number | undefined;
  readonly wantStats: boolean;
}

export interface RunHooks {
  /** Resolves when the guest is to be destroyed, with the signal that asked for it. */
  readonly stop: Promise<keyof typeof SIGNAL_STATUS>;
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
const PF_X = 1;

function domainConfig(guest: CompleteGuestConfig, options: RunOptions): DomainConfig {
  return {
    name: guest.name,
    kernel: guest.kernel,
    ramdisk: guest.ramdisk,
    cmdline: guest.cmdline,
    memory: guest.memory,
    maxmem: guest.maxmem,
    vcpus: guest.vcpus,
    uuid: guest.uuid,
    maxEventChannels: guest.maxEventChannels,
    tscMode: guest.tscMode,
    cpuid: guest.cpuid,
    guestRing: options.guestRing,
    cold: options.cold,
  };
}

/** The executable parts of the domain's kernel. */
function textRanges(domain: Domain): AddressRange[] {
  return domain.kernel.elf.segments
    .filter((s) => (s.flags & PF_X) !== 0 && s.memSize > 0n)
    .map((s) => ({ start: s.vaddr, end: s.vaddr + s.memSize }));
}

function crashOf(end: DomainEnd): CrashFacts | undefined {
  return end.kind === 'crash' || end.kind === 'failed' ? end.crash : undefined;
}

function statsOf(domain: Domain): Stats {
  const { layout, partition } = domain;
  const vps = Array.from({ length: layout.nrVps }, (_, i) =>
    partition.memory.copyOut(layout.vpsGpa + i * TrapVp.size, TrapVp.size),
  );
  return collectStats({
    name: domain.config.name,
    engine: partition.engine,
    guestRing: domain.guestRing,
    uptimeMs: Date.now() - domain.startedAt,
    vps,
  });
}

interface Life {
  readonly end: DomainEnd;
  readonly capture: CrashCapture | undefined;
  readonly stats: Stats | undefined;
  readonly ms: number;
}

/** One domain, from building to its end. `stopped` is asked once it can be destroyed. */
async function live(
  guest: CompleteGuestConfig,
  options: RunOptions,
  log: Logger,
  hooks: RunHooks,
  stopped: Promise<unknown>,
): Promise<Life> {
  const domain = await Domain.create(domainConfig(guest, options), log);
  let capture: CrashCapture | undefined;
  let stats: Stats | undefined;
  domain.onBeforeEnd = (end) => {
    const crash = crashOf(end);
    if (crash === undefined) return;
    const history = Buffer.from(domain.console.history.bytes()).toString('latin1');
    capture = captureCrash(crash, domain.partition.memory, textRanges(domain), history);
  };
  domain.onStopped = () => {
    if (options.wantStats) stats = statsOf(domain);
  };
  const { input, output } = hooks.console();
  if (output !== undefined) domain.console.attachOutput(output);
  if (input !== undefined) domain.console.attachInput(input);
  void stopped.then(() => domain.destroy());
  const began = Date.now();
  await domain.start();
  const end = await domain.ended;
  return { end, capture, stats, ms: Date.now() - began };
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
    default:
      return undefined;
  }
}

/**
 * Runs the guest. Rejects with UsageError when it cannot be built, with the engine's error when it cannot be started.
 * When it settles, the engine's process and the guest's memory are gone.
 */
export async function runGuest(
  guest: CompleteGuestConfig,
  options: RunOptions,
  log: Logger,
  hooks: RunHooks,
): Promise<RunOutcome> {
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
  const timer = options.timeoutMs === undefined ? undefined : setTimeout(() => stop('timeout'), options.timeoutMs);
  try {
    for (;;) {
      const { end, capture, stats, ms } = await live(guest, options, log, hooks, stopped);
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
      if (event !== undefined && actions[event] === 'restart') {
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
  }
}
