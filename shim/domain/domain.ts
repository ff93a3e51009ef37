/**
 * One domain's life: configuration in, a running guest, an end with its reason out. The command line and the tests
 * drive domains through this class; so can any program.
 *
 * It ties the rooms together: the engine's Partition with the trap module in it, the Xen side (hypercalls, event
 * channels, grants, xenstore, console), and the mailbox between them. Everything that it reads back from the partition
 * is hostile.
 *
 * A domain ends once: `ended` resolves with a DomainEnd, whatever happened, after the engine's process is gone.
 */
import { randomUUID } from 'node:crypto';
import { availableParallelism } from 'node:os';
import pino, { type Logger } from 'pino';
import {
  TRAP,
  TRAP_CRASH,
  TRAP_EFFECT,
  TRAP_ENGINE,
  TRAP_FI,
  TRAP_MBOX,
  TrapCpuid,
  TrapCrash,
  TrapMailbox,
  TrapVp,
} from '../../abi/trap';
import { hypercallName } from '../../abi/xen/hypercalls';
import { SHUTDOWN } from '../../abi/xen/sched';
import { SharedInfo } from '../../abi/xen/shared-info';
import { UsageError } from '../errors';
import { CodeRenewal } from '../partition/code-renewal';
import type { ChosenEngine, EngineChoice } from '../partition/engines';
import type { GuestMemory } from '../partition/guest-memory';
import { Mailboxes, type MailboxHandlers, type TrapCall, type TrapReply } from '../partition/mailbox';
import type { Partition, PartitionExit } from '../partition/partition';
import { ramRegions } from '../partition/ram-layout';
import { trapImage } from '../partition/trap-image';
import { CPUID_TABLE_BYTES, SHIM_PAGES, TRACE_ENTRIES, type TrapLayout, trapLayout } from '../partition/trap-layout';
import { loadTrapModule } from '../partition/trap-loader';
import { STORVSC_SCRATCH_PAGES } from '../translate/blkif/storvsc';
import { collectStats, type Stats } from '../translate/stats';
import { Tracer, type TraceSummary } from '../translate/trace';
import { TraceRing } from '../translate/trace-ring';
import { type BuiltDomain, buildDomain } from '../xen/builder/builder';
import { type AddressRange, codeRanges } from '../xen/builder/elf';
import { hypercallPage } from '../xen/builder/hypercall-page';
import { DomainMemory as BuilderMemory, type PfnRun } from '../xen/builder/memory';
import { GuestConsole } from '../xen/console/console';
import { nativeCpuid } from '../xen/cpuid-native';
import { type CpuidRow, domainCpuid, encodeCpuidTable, hardwareValue } from '../xen/cpuid-policy';
import { PAGE_SIZE } from '../xen/domain-memory';
import { GuestRingPage } from '../xen/guest-ring-page';
import { dispatch } from '../xen/hypercalls/dispatch';
import { MemoryTrapState } from '../xen/trap-state';
import { XenDomain } from '../xen/xen-domain';
import { XenstoreClient } from '../xen/xenstore/client';
import { XenstoreConnection } from '../xen/xenstore/connection';
import { XenstoreRing } from '../xen/xenstore/ring';
import { XenstoreServer } from '../xen/xenstore/server';
import { createDomainNodes } from '../xen/xenstore/toolstack-nodes';
import { type Ahead, beginAhead } from './ahead';
import { applyCpuidSettings, type CpuidSetting, hideByName, missingFeatures } from './cpuid-option';
import { BlockDeviceError, BlockDevices } from './disks/block-devices';
import type { DiskSpec } from './disks/disk-spec';
import type { GuestDisks } from './disks/guest-disk';
import { ScratchPages } from './disks/scratch-pages';
import { type DomainInfo, vcpuTimes } from './domain-info';
import { GuestControl } from './guest-control';
import { chooseRing, hostMeltdown } from './guest-ring';
import { nearest } from './nearest';
import type { TscClock } from './tsc-clock';
import { VpStop } from './vp-stop';

export interface DomainConfig {
  readonly name: string;
  /** Path of the kernel image. */
  readonly kernel: string;
  readonly ramdisk?: string | undefined;
  readonly cmdline: string;
  /** MiB. */
  readonly memory: number;
  /** MiB the domain may grow to; default: memory. */
  readonly maxmem?: number | undefined;
  /** vCPUs that are online at start (default 1), and that there are (default: vcpus). */
  readonly vcpus?: number | undefined;
  readonly maxvcpus?: number | undefined;
  readonly guestRing: 'auto' | 1 | 3;
  readonly uuid?: string | undefined;
  readonly maxEventChannels?: number | undefined;
  /** Shown to the guest; RDTSC runs natively in both. Default: 'default'. */
  readonly tscMode?: 'default' | 'native' | undefined;
  /** Its disks. They stay open when the domain ends: the same disks can be given to the next one. */
  readonly disks?: GuestDisks | undefined;
  /** Processor features that the guest gets otherwise than by policy. */
  readonly cpuid?: readonly CpuidSetting[] | undefined;
  /** Hypercalls and sub-operations that the shim answers although the trap module could: [number, mask of sub-ops]. */
  readonly cold?: readonly (readonly [number, bigint])[] | undefined;
  /** Trace every operation from the first instruction on, into this file; see startTrace. */
  readonly trace?: string | undefined;
  /** User roots without the trap module's memory (ring 3); default: what the CPU needs. */
  readonly isolateUserRoots?: boolean | undefined;
  /** How long after an event the next one is looked out for before this process sleeps: microseconds, 0 for never. */
  readonly pollUs?: number | undefined;
  /** Default: auto. */
  readonly engine?: EngineChoice | undefined;
  /** Take the engine although it is not fit for use here; for tests. */
  readonly forceEngine?: boolean | undefined;
  /** Processor model of the qemu engine, and other details of it: see QemuMachine. */
  readonly cpu?: string | undefined;
  readonly icount?: string | undefined;
  readonly qemuArguments?: readonly string[] | undefined;
}

export type DomainEnd =
  | { readonly kind: 'poweroff' | 'reboot' | 'suspend' | 'watchdog' | 'soft-reset' }
  /** The guest said that it crashed (SCHEDOP_shutdown), or was crashed as Xen would. */
  | { readonly kind: 'crash'; readonly crash: CrashFacts }
  /** The engine ended by itself, or our own code failed. */
  | { readonly kind: 'failed'; readonly message: string; readonly crash?: CrashFacts }
  | { readonly kind: 'destroyed' };

/** What is known about a crash, copied out of the partition while it still stood. */
export interface CrashFacts {
  readonly vcpu: number;
  /** TRAP_CRASH_*; NONE when the guest reported the crash itself. */
  readonly reason: number;
  readonly text: string;
  readonly vector: number;
  readonly errorCode: number;
  readonly cr2: bigint;
  /** Address in the trap module, for its own faults. */
  readonly moduleRip: bigint;
  readonly userMode: boolean;
  readonly kernelL4: number;
  /** The vCPU's block: registers, last hypercalls. */
  readonly vp: Buffer;
}

/** In the high half of a frame_info word. */
const FRAME_EXECUTABLE = Number(TRAP_FI.TRAP_FI_EXECUTABLE >> 32n);
const STORE_PORT = 1;
const CONSOLE_PORT = 2;
const DEFAULT_PORTS = 1024;
const DEFAULT_POLL_US = 250;
/** Work of the event loop that takes longer is logged. */
const STALL_MS = 50;
/** How long the end of a crashed domain waits for vCPUs that run. */
const STOP_MS = 250;
const MBOX_STATE = TrapVp.offsetOf('mbox') + TrapMailbox.offsetOf('state');

/** Xen version shown to guests. */
export const XEN_VERSION = { major: 4, minor: 17 } as const;

export class Domain {
  readonly domid = 1;
  readonly uuid: string;
  readonly guestRing: 1 | 3;
  readonly xenstore: XenstoreServer;
  readonly toolstack: XenstoreClient;
  readonly ended: Promise<DomainEnd>;
  readonly log: Logger;
  /** The Xen side; for statistics, tests and the control socket. */
  readonly xen: XenDomain;
  readonly console: GuestConsole;
  readonly blocks: BlockDevices;
  /** What the guest can be asked through xenstore: to shut down, to take less memory, ... */
  readonly guest: GuestControl;
  readonly startedAt = Date.now();
  private readonly mailboxes: Mailboxes;
  private readonly vpStop: VpStop;
  private readonly renewal: CodeRenewal | undefined;
  private readonly storeRing: XenstoreRing;
  private resolveEnd!: (end: DomainEnd) => void;
  private finished = false;
  /** The engine has ended. */
  private exited = false;
  private tscTimer: NodeJS.Timeout | undefined;
  private tracer: Tracer | undefined;
  private finalStats: Stats | undefined;
  /** performance.now() when the domain's system time was 0. */
  private readyAt: number | undefined;

  private constructor(
    readonly config: DomainConfig,
    /** The executable parts of the kernel, by virtual address. The kernel itself (66 MB) is not kept. */
    readonly kernelText: readonly AddressRange[],
    readonly partition: Partition,
    readonly layout: TrapLayout,
    readonly built: BuiltDomain,
    guestRing: 1 | 3,
    /** What the guest is shown of the processor. */
    private readonly cpuidRows: readonly CpuidRow[],
    private readonly tsc: TscClock,
    log: Logger,
  ) {
    this.guestRing = guestRing;
    this.log = log;
    this.uuid = config.uuid ?? randomUUID();
    this.ended = new Promise((resolve) => {
      this.resolveEnd = resolve;
    });
    const memory = partition.memory;
    const trap = new MemoryTrapState(memory, layout.domainGpa, layout.vpsGpa, layout.nrVps);
    const nrPages = built.plan.nrPages;
    const total = layout.domainRuns.reduce((sum, run) => sum + run.count, 0);
    this.xen = new XenDomain({
      domid: this.domid,
      memory,
      trap,
      nrPages,
      maxPages: total,
      uuid: Buffer.from(this.uuid.replaceAll('-', ''), 'hex'),
      grantFrameMfn: (i) => layout.grantFramesGpa / PAGE_SIZE + i,
      grantStatusFrameMfn: (i) => layout.grantStatusGpa / PAGE_SIZE + i,
      maxGrantFrames: TRAP.TRAP_MAX_GRANT_FRAMES,
      freeFrames: spareFrames(layout, nrPages),
      domainFrames: layout.domainRuns.map(({ mfn, count }) => [mfn, count]),
      sharedFrames: [
        [layout.sharedInfoGpa / PAGE_SIZE, 1],
        [layout.grantFramesGpa / PAGE_SIZE, TRAP.TRAP_MAX_GRANT_FRAMES],
        [layout.grantStatusGpa / PAGE_SIZE, TRAP.TRAP_MAX_GRANT_FRAMES / 8],
      ],
      host: {
        onConsoleWrite: (bytes) => this.console.write(bytes),
        onShutdown: (reason, vcpu) => this.onShutdown(reason, vcpu),
        raisePort: (vcpu, port) => this.mailboxes.raisePort(vcpu, port),
        kick: (vcpu) => this.mailboxes.kick(vcpu),
        discard: (ranges) => memory.discard(ranges),
        log,
      },
    });
    const handlers: MailboxHandlers = {
      call: (call) =>
        this.watchStall(
          () => ({ call: call.kind === TRAP_MBOX.TRAP_CALL_HYPERCALL ? hypercallName(call.nr) : call.kind }),
          () => this.onCall(call),
        ),
      ports: (ports) => {
        for (const port of ports) {
          this.watchStall(
            () => ({ port }),
            () => this.xen.evtchn.notifyBackend(port),
          );
        }
      },
      rang: () => {
        this.renewal?.look();
        this.vpStop.look();
      },
    };
    this.mailboxes = new Mailboxes(memory, layout, (vp) => partition.kick(vp), handlers, {
      // Counts of instructions must not depend on who is quicker.
      ms: config.icount === undefined ? (config.pollUs ?? DEFAULT_POLL_US) / 1000 : 0,
      spare: availableParallelism() - layout.nrVps,
      costlyKicks: partition.trapEngine === TRAP_ENGINE.TRAP_ENGINE_SOFT,
    });
    this.vpStop = new VpStop({
      nrVps: layout.nrVps,
      request: (stop) => this.requestStop(stop),
      isParked: (vp) => trap.getVp(vp, 'parked') !== 0,
      pending: () => this.mailboxes.pending() ?? (this.blocks.pending > 0 ? 'disk requests are under way' : undefined),
      quiesce: () => this.quiesce(),
      resume: () => this.resume(),
    });

    const { evtchn, grants } = this.xen;
    for (const port of [STORE_PORT, CONSOLE_PORT]) {
      const got = evtchn.allocUnboundForBackend();
      if (got !== port) throw new Error(`event channel port ${got} where ${port} was expected`);
    }
    grants.seed(0, built.consoleMfn);
    grants.seed(1, built.storeMfn);

    this.xenstore = new XenstoreServer({ onInternalError: (err) => log.error({ err }, 'xenstore request failed') });
    this.toolstack = new XenstoreClient(this.xenstore, (err) => log.error({ err }, 'xenstore watch failed'));
    createDomainNodes(this.toolstack, {
      domid: this.domid,
      name: config.name,
      uuid: this.uuid,
      memoryKiB: nrPages * 4,
      maxMemoryKiB: total * 4,
      vcpus: layout.nrVps,
      onlineVcpus: config.vcpus ?? 1,
      store: { port: STORE_PORT, mfn: built.storeMfn },
      console: { port: CONSOLE_PORT, mfn: built.consoleMfn },
    });
    this.guest = new GuestControl(this.toolstack, {
      domid: this.domid,
      vcpus: layout.nrVps,
      maxMemoryKiB: total * 4,
      limitMemory: (kib) => {
        this.xen.maxPages = kib / 4;
      },
      isPaused: () => this.vpStop.state !== 'running',
      hasEnded: () => this.finished,
      ended: this.ended,
    });
    let storeNotify = (): void => undefined;
    this.storeRing = new XenstoreRing({
      page: new GuestRingPage(memory, built.storeMfn * PAGE_SIZE),
      connection: new XenstoreConnection(this.xenstore, this.domid),
      notify: () => storeNotify(),
      onBroken: (reason) => log.warn({ reason }, 'the guest broke its xenstore ring'),
    });
    let consoleNotify = (): void => undefined;
    this.console = new GuestConsole({
      page: new GuestRingPage(memory, built.consoleMfn * PAGE_SIZE),
      notify: () => consoleNotify(),
      onBroken: (direction) => log.warn({ direction }, 'the guest broke its console ring'),
    });
    this.renewal =
      partition.trapEngine === TRAP_ENGINE.TRAP_ENGINE_SOFT
        ? new CodeRenewal(memory, layout, () => this.mailboxes.kick(0))
        : undefined;
    this.blocks = new BlockDevices({
      xen: this.xen,
      server: this.xenstore,
      store: this.toolstack,
      memory,
      scratch: new ScratchPages(layout.shimPagesGpa, SHIM_PAGES, STORVSC_SCRATCH_PAGES),
      log,
      renewal: this.renewal,
      trace: () => this.tracer?.disk,
      onIdle: () => this.vpStop.look(),
      onLateDetach: (disk) => {
        log.info({ disk: disk.spec.vdev.name }, 'the guest has let go of a disk at last: it is detached');
        config.disks?.remove(disk).catch((err: unknown) => log.error({ err }, 'closing a disk'));
      },
    });
    this.xenstore.introduceDomain(this.domid);
    const store = evtchn.connectBackend(STORE_PORT, () => this.storeRing.service());
    const cons = evtchn.connectBackend(CONSOLE_PORT, () => this.console.service());
    storeNotify = () => store?.notify();
    consoleNotify = () => cons?.notify();
  }

  /**
   * Builds a domain, ready to start. Errors: UsageError for kernel, ramdisk, sizes; the engine's own for the host.
   * Nothing is left behind when it throws. `ahead` is what has been begun with the same kernel and ramdisk.
   */
  static async create(
    config: DomainConfig,
    log: Logger = pino({ enabled: false }),
    ahead: Ahead = beginAhead(config),
  ): Promise<Domain> {
    const { tsc } = ahead;
    // What is wrong with ramdisk or engine is reported after what is wrong with the kernel.
    await ahead.kernelSoon;
    const engine = await ahead.engine.catch(async (error: unknown) => {
      await ahead.kernel;
      await ahead.ramdisk;
      throw error;
    });
    log.info({ engine: engine.name, why: engine.why }, 'engine');
    const nrPages = config.memory * 256;
    const maxPages = Math.max(config.maxmem ?? config.memory, config.memory) * 256;
    const image = trapImage();
    const layout = trapLayout({
      nrVps: Math.max(config.maxvcpus ?? 1, config.vcpus ?? 1),
      imageSize: image.size,
      domainFrames: maxPages,
      ramRegions,
    });
    const partition = await engine.create({
      memoryBytes: layout.memoryBytes,
      vpCount: layout.nrVps,
      name: config.name,
      ...(config.cpu === undefined ? {} : { cpu: config.cpu }),
      ...(config.icount === undefined ? {} : { icount: config.icount }),
      ...(config.qemuArguments === undefined ? {} : { extraArguments: config.qemuArguments }),
    });
    try {
      // A model that someone chose is looked at before anything is started with it.
      if (config.cpu === undefined) partition.prepare();
      const kernel = await ahead.kernel;
      const ramdisk =
        config.ramdisk === undefined || ahead.ramdisk === undefined
          ? undefined
          : { file: config.ramdisk, bytes: await ahead.ramdisk };
      if (config.cpu !== undefined) await checkCpuModel(engine, config.cpu);
      // QEMU walks page tables in software: no CPU speculates past them, whatever the host's is open to.
      const choice = chooseRing(config.guestRing, kernel.facts, engine.onHostCpu ? hostMeltdown() : 'not affected');
      const guestRing = choice.ring;
      log.info({ guestRing, why: choice.why }, 'guest ring');
      const memory = partition.memory;
      const runs = domainRuns(layout, nrPages);
      const domainMemory = new BuilderMemory(memory, runs, true);
      const built = await buildDomain({
        kernel,
        memory: domainMemory,
        ramdisk,
        cmdline: config.cmdline,
        guestRing,
        sharedInfoMfn: layout.sharedInfoGpa / PAGE_SIZE,
        storeEvtchn: STORE_PORT,
        consoleEvtchn: CONSOLE_PORT,
      });
      const tscHz = config.icount === undefined ? await tsc.frequency() : 1e9;
      const policy = domainCpuid({
        version: (XEN_VERSION.major << 16) | XEN_VERSION.minor,
        tscKhz: Math.round(tscHz / 1000),
        tscMode: config.tscMode === 'native' ? 2 : 0,
        // As Xen counts: 1 for a domain that was never restored.
        incarnation: 1,
      });
      const cpuidRows = applyCpuidSettings(policy, [
        ...hideByName(policy, engine.brokenFeatures, `engine ${engine.name}`),
        ...(config.cpuid ?? []),
      ]);
      const cpuid = encodeCpuidTable(cpuidRows);
      loadTrapModule(memory, layout, image, {
        engine: partition.trapEngine,
        guestRing,
        isolateUserRoots: guestRing === 3 && (config.isolateUserRoots ?? choice.isolateUserRoots),
        interruptsTwice: engine.interruptsTwice,
        trace: config.trace !== undefined,
        domid: 1,
        tscHz,
        cpuid,
        cpuidCount: cpuid.length / TrapCpuid.size,
        portsNr: Math.min(config.maxEventChannels ?? DEFAULT_PORTS, TRAP.TRAP_MAX_PORTS),
        rip: built.vcpu.rip,
        rsp: built.vcpu.rsp,
        rsi: built.vcpu.rsi,
        l4Mfn: built.vcpu.cr3Mfn,
        coldOps: config.cold ?? [],
      });
      domainMemory.writeM2p(layout.m2pGpa);
      maskUpcalls(memory, layout);
      // What of the initial mapping is code: see mm_initial_tables in native/trap/mm.h.
      for (const [first, end] of kernel.facts.codePfns) {
        for (let pfn = first; pfn < end; pfn++)
          memory.or32(layout.frameInfoGpa + domainMemory.mfnOf(pfn) * 8 + 4, FRAME_EXECUTABLE);
      }
      const text = codeRanges(kernel.elf);
      const domain = new Domain(config, text, partition, layout, built, guestRing, cpuidRows, tsc, log);
      for (const disk of config.disks?.list() ?? []) await domain.blocks.attach(disk);
      return domain;
    } catch (error) {
      await partition.stop();
      await partition.memory.release();
      throw error;
    }
  }

  /** Lets the guest run. Rejects when the engine cannot be started, or the trace not written; the domain has ended then. */
  async start(): Promise<void> {
    try {
      if (this.config.trace !== undefined) await this.startTrace(this.config.trace);
      await this.partition.start(
        { doorbell: () => this.mailboxes.scan(), exit: (exit) => this.onExit(exit) },
        (host, hypervisor, apicId) => nativeCpuid(this.cpuidRows, host, { apicId, hypervisor }),
      );
    } catch (error) {
      await this.finish({ kind: 'failed', message: (error as Error).message });
      throw error;
    }
    if (this.config.icount === undefined) this.improveTsc(1000);
  }

  /** Ends the domain at once. */
  async destroy(): Promise<void> {
    await this.finish({ kind: 'destroyed' });
  }

  /** Opens a disk and offers it to the guest. UsageError for the image, BlockDeviceError for the domain. */
  async attachDisk(spec: DiskSpec): Promise<void> {
    const { disks } = this.config;
    if (disks === undefined) throw new BlockDeviceError('this domain was started without disks of its own');
    this.blocks.checkFree(spec.vdev);
    // One that the guest has thrown away, by removing its directory, would come again with the next life.
    const thrownAway = disks.list().find(({ spec: { vdev } }) => vdev.id === spec.vdev.id);
    if (thrownAway !== undefined) await disks.remove(thrownAway);
    const disk = await disks.add(spec);
    try {
      await this.blocks.attach(disk);
    } catch (error) {
      await disks.remove(disk);
      throw error;
    }
  }

  /**
   * Takes a disk away, by name or number, and closes it. BlockDeviceError when there is none, or the guest does not let go
   * of it; `force`: it is not asked.
   */
  async detachDisk(device: string, force: boolean): Promise<void> {
    const disk = await this.blocks.detach(this.blocks.find(device), force);
    await this.config.disks?.remove(disk);
  }

  /**
   * Stops all vCPUs, and the guest's clock with them. Resolves when nothing of the guest runs and nothing writes to its
   * memory. ControlError when it is paused already, ends meanwhile, or a vCPU does not stop; then it runs on.
   */
  pause(): Promise<void> {
    return this.vpStop.pause();
  }

  /** Lets a paused domain go on where it was. ControlError when it is not paused. */
  unpause(): Promise<void> {
    return this.vpStop.unpause();
  }

  private requestStop(stop: boolean): void {
    if (this.finished) return;
    const { trap } = this.xen;
    trap.setDomain('stop_request', stop ? 1 : 0);
    for (let v = 0; v < trap.nrVps; v++) this.mailboxes.kick(v);
  }

  private quiesce(): void {
    this.mailboxes.hold();
    this.renewal?.hold();
    this.storeRing.hold();
    this.console.hold();
    this.blocks.hold();
    this.log.info('paused');
  }

  private resume(): void {
    this.log.info('unpaused');
    if (this.readyAt !== undefined) {
      const stoodAt = this.xen.trap.getDomain('time_offset');
      this.readyAt = performance.now() - Number(stoodAt) / 1e6;
      this.writeWallclock(stoodAt);
    }
    this.renewal?.release();
    this.storeRing.release();
    this.console.release();
    this.blocks.release();
    this.mailboxes.release();
  }

  /** System time of the domain in ns, to a millisecond; while it is paused, exactly. */
  private systemTimeNs(): number {
    if (this.vpStop.state === 'paused') return Number(this.xen.trap.getDomain('time_offset'));
    return this.readyAt === undefined ? 0 : (performance.now() - this.readyAt) * 1e6;
  }

  /**
   * Writes a trace of every Xen operation and its translation to `file` (JSON for Perfetto), from now until stopTrace or
   * the domain's end. UsageError when the file cannot be written, or when a trace is being written already.
   */
  async startTrace(file: string): Promise<void> {
    if (this.tracer !== undefined || this.finished) {
      throw new UsageError('cannot trace', {
        file,
        found: this.finished ? 'a domain that has ended' : 'a trace that is being written',
        wanted: 'a running domain without a trace',
      });
    }
    const ring = new TraceRing(this.partition.memory, this.layout, TRACE_ENTRIES);
    const { guestRing, hypervExecutedBy, layout, partition } = this;
    const about = {
      name: this.config.name,
      vcpus: layout.nrVps,
      guestRing,
      engine: partition.engine,
      hypervExecutedBy,
      toSystemTime: (ms: number) => (this.systemTimeNs() / 1e6 + (ms - performance.now())) * 1000,
    };
    this.tracer = await Tracer.start(file, ring, about);
  }

  /** Ends the trace; undefined when there is none. Rejects when the file could not be written. */
  async stopTrace(): Promise<TraceSummary | undefined> {
    const { tracer } = this;
    this.tracer = undefined;
    return tracer?.stop();
  }

  /** The counters now; after the end, as they were when the VPs had stopped. */
  stats(): Stats {
    return this.finalStats ?? this.collect();
  }

  private get hypervExecutedBy(): Stats['hypervExecutedBy'] {
    return this.partition.trapEngine === TRAP_ENGINE.TRAP_ENGINE_HYPERV ? 'hypervisor' : 'trap module';
  }

  private collect(): Stats {
    return collectStats({
      name: this.config.name,
      engine: this.partition.engine,
      guestRing: this.guestRing,
      uptimeMs: Date.now() - this.startedAt,
      vps: this.vpBlocks(),
      hypervExecutedBy: this.hypervExecutedBy,
      exits: this.partition.exits(),
      devices: this.blocks.counts(),
    });
  }

  /** What `xenlighten list` shows. Only while the domain runs. */
  info(): DomainInfo {
    const times = vcpuTimes(this.vpBlocks(), this.systemTimeNs());
    return {
      name: this.config.name,
      domid: this.domid,
      uuid: this.uuid,
      pid: process.pid,
      memoryMiB: Math.round(this.xen.nrPages / 256),
      ...times,
      state: this.vpStop.state === 'running' ? times.state : 'paused',
      uptimeMs: Date.now() - this.startedAt,
      engine: this.partition.engine,
      guestRing: this.guestRing,
      kernel: this.config.kernel,
      tracing: this.tracer !== undefined,
    };
  }

  private vpBlocks(): Buffer[] {
    const { memory } = this.partition;
    return Array.from({ length: this.layout.nrVps }, (_, i) =>
      memory.copyOut(this.layout.vpsGpa + i * TrapVp.size, TrapVp.size),
    );
  }

  /** Tells the guest's clock better TSC frequencies, at intervals that double up to about an hour. */
  private improveTsc(delayMs: number): void {
    this.tscTimer = setTimeout(() => {
      void this.tsc.frequency().then((hz) => {
        if (this.finished) return;
        this.xen.trap.setDomain('tsc_hz', BigInt(Math.round(hz)));
        if (delayMs < 3_600_000) this.improveTsc(delayMs * 2);
      });
    }, delayMs);
    this.tscTimer.unref();
  }

  /** Runs one piece of work of the event loop, and says so in the log when it held the loop up. */
  private watchStall<T>(what: () => object, run: () => T): T {
    const start = performance.now();
    try {
      return run();
    } finally {
      const ms = performance.now() - start;
      if (ms > STALL_MS) this.log.info({ ...what(), ms: Math.round(ms) }, 'the event loop was held up');
    }
  }

  private onCall(call: TrapCall): TrapReply | undefined | Promise<TrapReply | undefined> {
    switch (call.kind) {
      case TRAP_MBOX.TRAP_CALL_HYPERCALL:
        return this.tracer === undefined ? dispatch(this.xen, call) : this.dispatchTraced(call, this.tracer);
      case TRAP_MBOX.TRAP_CALL_READY:
        if (this.lacksFeatures()) return undefined;
        this.readyAt = performance.now();
        this.writeWallclock(0n);
        return { result: 0n, effects: 0 };
      case TRAP_MBOX.TRAP_CALL_CRASH:
        this.onTrapCrash(call.vcpu);
        return undefined;
      case TRAP_MBOX.TRAP_CALL_LOG:
        this.logLine(call.args);
        return { result: 0n, effects: 0 };
      case TRAP_MBOX.TRAP_CALL_HYPERCALL_PAGE:
        return { result: this.writeHypercallPage(call.args[0] ?? 0n), effects: TRAP_EFFECT.TRAP_EFFECT_FLUSH };
      case TRAP_MBOX.TRAP_CALL_WATCHDOG:
        this.log.warn('a watchdog of the guest ran out');
        this.xen.shutdown(SHUTDOWN.SHUTDOWN_watchdog, call.vcpu);
        return undefined;
      default:
        this.xen.complain({ kind: call.kind }, 'unknown call from the trap module');
        return { result: -38n, effects: 0 };
    }
  }

  private dispatchTraced(call: TrapCall, tracer: Tracer): TrapReply | Promise<TrapReply> {
    const began = performance.now();
    const handled = <T>(reply: T): T => {
      tracer.shimHandled(call.vcpu, call.seq, performance.now() - began);
      return reply;
    };
    const reply = dispatch(this.xen, call);
    return reply instanceof Promise ? reply.then(handled) : handled(reply);
  }

  private logLine(args: readonly bigint[]): void {
    const [gpa, length] = [Number(args[0]), Number(args[1])];
    if (length > 256 || !this.partition.memory.isRam(gpa, length)) return;
    this.log.debug({ from: 'trap' }, this.partition.memory.copyOut(gpa, length).toString('latin1'));
  }

  private writeHypercallPage(gpa: bigint): bigint {
    const mfn = Number(gpa >> 12n);
    if (gpa >= 1n << 52n || !this.xen.frames.isWritablePage(mfn)) return -22n;
    this.partition.memory.copyIn(mfn * PAGE_SIZE, hypercallPage());
    return 0n;
  }

  /** Ends the domain when its configuration wants a feature that the engine's processor does not have. */
  private lacksFeatures(): boolean {
    const size = this.cpuidRows.length * TrapCpuid.size;
    const table = this.partition.memory.copyOut(this.layout.cpuidGpa, Math.min(size, CPUID_TABLE_BYTES));
    const view = new DataView(table.buffer, table.byteOffset, table.byteLength);
    const missing = missingFeatures(this.cpuidRows, this.config.cpuid ?? [], (row) => hardwareValue(view, row));
    const [first] = missing;
    if (first === undefined) return false;
    const names = [...new Set(missing.map((m) => m.name))].join(', ');
    const hint = this.partition.engine === 'qemu' ? "; 'run --cpu max' has all that QEMU can do" : '';
    const message = `${first.where}: cpuid wants ${names}, which the processor of engine ${this.partition.engine} does not have${hint}`;
    void this.finish({ kind: 'failed', message });
    return true;
  }

  /** shared_info's wall clock: the time of day when system time was 0, if system time is `systemTime` ns now. */
  private writeWallclock(systemTime: bigint): void {
    const view = this.partition.memory.view(this.layout.sharedInfoGpa, PAGE_SIZE);
    const now = BigInt.asUintN(64, BigInt(Date.now()) * 1_000_000n - systemTime);
    const version = SharedInfo.get.wc_version(view, 0);
    SharedInfo.set.wc_version(view, 0, version | 1);
    SharedInfo.set.wc_sec(view, 0, Number((now / 1_000_000_000n) & 0xffff_ffffn));
    SharedInfo.set.wc_nsec(view, 0, Number(now % 1_000_000_000n));
    SharedInfo.set.wc_sec_hi(view, 0, Number(now / 1_000_000_000n / 2n ** 32n));
    SharedInfo.set.wc_version(view, 0, ((version | 1) + 1) >>> 0);
  }

  private crashFacts(vcpu: number): CrashFacts {
    const vp = this.partition.memory.copyOut(this.layout.vpsGpa + vcpu * TrapVp.size, TrapVp.size);
    const view = new DataView(vp.buffer, vp.byteOffset, vp.length);
    const at = TrapVp.offsetOf('crash');
    const textAt = at + TrapCrash.offsetOf('text');
    const text = vp.toString('latin1', textAt, textAt + 224).split('\0', 1)[0] ?? '';
    return {
      vcpu,
      reason: TrapCrash.get.reason(view, at),
      text: text.replaceAll(/[^\x20-\x7e]/g, '?'),
      vector: TrapCrash.get.vector(view, at),
      errorCode: TrapCrash.get.error_code(view, at),
      cr2: TrapCrash.get.cr2(view, at),
      moduleRip: TrapCrash.get.rip(view, at),
      userMode: TrapCrash.get.user_mode(view, at) !== 0,
      kernelL4: Number(TrapVp.get.kernel_l4(view, 0) & 0xff_ffff_ffffn),
      vp,
    };
  }

  private onTrapCrash(vcpu: number): void {
    const crash = this.crashFacts(vcpu);
    if (crash.reason === TRAP_CRASH.TRAP_CRASH_MODULE_FAULT || crash.reason === TRAP_CRASH.TRAP_CRASH_BOOT) {
      const where = trapImage().symbolAt(crash.moduleRip);
      void this.finish({
        kind: 'failed',
        message: `${crash.text}${where === undefined ? '' : ` at ${where}`}`,
        crash,
      });
    } else {
      void this.finish({ kind: 'crash', crash });
    }
  }

  private onShutdown(reason: number, vcpu: number): void {
    switch (reason) {
      case SHUTDOWN.SHUTDOWN_poweroff:
        void this.finish({ kind: 'poweroff' });
        break;
      case SHUTDOWN.SHUTDOWN_reboot:
        void this.finish({ kind: 'reboot' });
        break;
      case SHUTDOWN.SHUTDOWN_suspend:
        void this.finish({ kind: 'suspend' });
        break;
      case SHUTDOWN.SHUTDOWN_watchdog:
        void this.finish({ kind: 'watchdog' });
        break;
      case SHUTDOWN.SHUTDOWN_soft_reset:
        void this.finish({ kind: 'soft-reset' });
        break;
      default:
        void this.finish({ kind: 'crash', crash: this.crashFacts(vcpu) });
    }
  }

  private onExit(exit: PartitionExit): void {
    this.exited = true;
    if (this.finished) return;
    if (exit.reason === 'triple-fault' && this.readyAt === undefined && this.config.cpu !== undefined) {
      const cpu = JSON.stringify(this.config.cpu);
      const message = `--cpu: a processor ${cpu} cannot run a 64-bit guest: long mode, SYSCALL and NX are wanted`;
      void this.finish({ kind: 'failed', message });
    } else if (exit.reason === 'triple-fault') {
      void this.finish({ kind: 'failed', message: exit.message, crash: this.crashFacts(0) });
    } else {
      void this.finish({ kind: 'failed', message: exit.message });
    }
  }

  /** The blocks of the vCPUs beside `vcpu` that have been up: at the end, what they were doing. */
  otherVcpus(vcpu: number): { readonly vcpu: number; readonly vp: Buffer }[] {
    const { trap } = this.xen;
    return this.vpBlocks()
      .map((vp, v) => ({ vcpu: v, vp }))
      .filter((other) => other.vcpu !== vcpu && trap.getVp(other.vcpu, 'initialised') !== 0);
  }

  /** Asks all VPs to stop where they are, outside the guest. */
  private askToStop(): void {
    const { trap } = this.xen;
    trap.setDomain('stop_request', 1);
    for (let v = 0; v < trap.nrVps; v++) this.mailboxes.kick(v);
  }

  /** Resolves when those that are up have stopped, with their registers in their blocks, or soon after. */
  private async stopped(): Promise<void> {
    const { trap, memory } = this.xen;
    const inCall = (v: number): boolean => memory.load32(trap.vpGpa(v) + MBOX_STATE) !== TRAP_MBOX.TRAP_MBOX_IDLE;
    const runs = (v: number): boolean => trap.getVp(v, 'online') !== 0 && trap.getVp(v, 'parked') === 0 && !inCall(v);
    const until = performance.now() + STOP_MS;
    while (performance.now() < until && Array.from({ length: trap.nrVps }, (_, v) => v).some(runs)) {
      await new Promise((resolve) => setTimeout(resolve, 1));
    }
  }

  private async finish(end: DomainEnd): Promise<void> {
    if (this.finished) return;
    this.finished = true;
    this.vpStop.end();
    if (this.tscTimer !== undefined) clearTimeout(this.tscTimer);
    const crashed = (end.kind === 'crash' || end.kind === 'failed') && end.crash !== undefined;
    if (this.layout.nrVps > 1 && !this.exited) {
      this.askToStop();
      if (crashed) await this.stopped();
    }
    this.onBeforeEnd?.(end);
    try {
      this.xen.end();
      this.console.close();
      this.storeRing.close();
      this.mailboxes.close();
      await this.partition.stop();
      this.renewal?.close();
      // What the guest has asked for is finished, and nothing is written to its memory any more.
      await this.blocks.end();
      this.finalStats = this.collect();
      this.onStopped?.(end);
      await this.stopTrace().catch((error: unknown) => this.log.error({ err: error }, 'writing the trace'));
      await this.partition.memory.release();
    } catch (error) {
      this.log.error({ err: error }, 'ending the domain');
    }
    this.resolveEnd(end);
  }

  /** Called once when the end is known and the guest's memory can still be read. */
  onBeforeEnd: ((end: DomainEnd) => void) | undefined;
  /** Called once when the VPs have stopped, before memory goes: last look at the counters. */
  onStopped: ((end: DomainEnd) => void) | undefined;
}

/** UsageError when QEMU does not know the model; its features (behind a comma) are QEMU's to judge. */
async function checkCpuModel(engine: ChosenEngine, cpu: string): Promise<void> {
  const model = cpu.split(',', 1)[0] ?? '';
  const models = await engine.cpuModels?.();
  if (models === undefined) {
    throw new UsageError('unusable option', { file: '--cpu', found: `engine ${engine.name}`, wanted: 'engine qemu' });
  }
  if (models.includes(model)) return;
  const near = nearest(model, models);
  throw new UsageError('unknown processor model', {
    file: '--cpu',
    found: JSON.stringify(model),
    wanted: `${near === undefined ? 'a model' : `${JSON.stringify(near)}, or another model`} of QEMU's '-cpu help'`,
  });
}

/** The first `nrPages` frames of the layout's runs, by pfn. */
function domainRuns(layout: TrapLayout, nrPages: number): PfnRun[] {
  const runs: PfnRun[] = [];
  let pfn = 0;
  for (const run of layout.domainRuns) {
    const count = Math.min(run.count, nrPages - pfn);
    if (count <= 0) break;
    runs.push({ pfn, mfn: run.mfn, count });
    pfn += count;
  }
  return runs;
}

/** Frames beyond what the domain starts with. */
function spareFrames(layout: TrapLayout, nrPages: number): [number, number][] {
  const spare: [number, number][] = [];
  let skip = nrPages;
  for (const run of layout.domainRuns) {
    const used = Math.min(run.count, skip);
    skip -= used;
    if (run.count > used) spare.push([run.mfn + used, run.count - used]);
  }
  return spare;
}

/** Every vCPU starts with events masked. */
function maskUpcalls(memory: GuestMemory, layout: TrapLayout): void {
  for (let vcpu = 0; vcpu < 32; vcpu++) memory.setU8(layout.sharedInfoGpa + vcpu * 64 + 1, 1);
}
