/**
 * A domain as the hypercalls see it: its memory, its vCPUs' shared state, event channels, grants, reservation, and the
 * way out to the host. One object for each partition; the Xen half of what the trap module's trap_domain is.
 *
 * It owns no process, socket or thread: shim/domain creates it, connects the host callbacks and ends it.
 */
import { DOMID } from '../../abi/xen/domid';
import { SHUTDOWN } from '../../abi/xen/sched';
import { VMASST } from '../../abi/xen/vm-assist';
import type { DomainMemory } from './domain-memory';
import { EventChannels } from './evtchn/event-channels';
import { type Discard, FrameReturn } from './frame-return';
import { Frames } from './frames';
import { GrantTable } from './grant/grant-table';
import { GrantMaps } from './grant/map';
import type { TrapState } from './trap-state';

/** The two log calls that shim/xen makes; a pino logger fits. */
export interface Log {
  warn(fields: object, message: string): void;
  error(fields: object, message: string): void;
}

/** What the domain asks of the rest of the shim. */
export interface DomainHost {
  /** Bytes that the guest wrote with console_io. */
  onConsoleWrite(bytes: Uint8Array): void;
  /** SCHEDOP_shutdown and its like; SHUTDOWN_*. Called once; suspend is not reported (it is cancelled). */
  onShutdown(reason: number, vcpu: number): void;
  /** Asks the trap module to make `port` pending on `vcpu` (request bitmap and kick). */
  raisePort(vcpu: number, port: number): void;
  /** Wakes a vCPU whose state changed (VCPUOP_up, a pending NMI) so that it looks at it. */
  kick(vcpu: number): void;
  /** Takes the memory of free frames back; without it they keep it. */
  discard?: Discard;
  /** System time of the domain in ns, if the host knows better than trap_domain.system_time. */
  systemTime?(): bigint;
  log?: Log;
}

export interface XenDomainConfig {
  readonly domid: number;
  readonly memory: DomainMemory;
  readonly trap: TrapState;
  readonly host: DomainHost;
  /** Frames that the domain has at start, and may have at most. */
  readonly nrPages: number;
  readonly maxPages: number;
  /** Bytes for XENVER_guest_handle: the domain's UUID, 16 bytes. */
  readonly uuid?: Uint8Array;
  /** MFN of the i-th grant frame of the reserved pool (0 to maxGrantFrames - 1). */
  grantFrameMfn(i: number): number;
  /** MFN of the i-th grant status frame (0 to maxGrantFrames / 8 - 1). */
  grantStatusFrameMfn(i: number): number;
  /** Default 64. */
  readonly maxGrantFrames?: number;
  /** Frames that may be populated, untouched and all zeros: [first MFN, count]. */
  readonly freeFrames?: readonly (readonly [number, number])[];
  /** Frames that may ever be the domain's, whatever frame_info says: [first MFN, count]. Default: all. */
  readonly domainFrames?: readonly (readonly [number, number])[];
  /** Frames of the hypervisor's that the guest writes as well: shared_info, grant tables. Default: all. */
  readonly sharedFrames?: readonly (readonly [number, number])[];
  /** The domain's E820 map; default one RAM entry of maxPages. */
  readonly memoryMap?: readonly { addr: bigint; size: bigint; type: number }[];
  /** Whether another domain exists, beside this one and 0. */
  domainExists?(domid: number): boolean;
}

/** How often the same complaint about a guest is logged: what a guest provokes must not fill a disk. */
const SAME_COMPLAINTS = 20;

/** Another domain named by a hypercall. */
export type DomainRef = 'self' | 'dom0' | 'other' | undefined;

export class XenDomain {
  readonly domid: number;
  readonly memory: DomainMemory;
  readonly trap: TrapState;
  readonly host: DomainHost;
  readonly frames: Frames;
  readonly frameReturn: FrameReturn;
  readonly evtchn: EventChannels;
  readonly grants: GrantTable;
  readonly grantMaps: GrantMaps;
  readonly uuid: Uint8Array;
  /** Pages that it may have now. The toolstack lowers and raises it, as xl mem-set does, up to config.maxPages. */
  maxPages: number;
  /** What the shim wrote into trap_domain before the first instruction: never read back, a guest might have changed it. */
  readonly guestRing: number;
  readonly sharedInfoGpa: number;
  readonly moduleL4: number;
  readonly perdomainL1Gpa: number;
  nrPages: number;
  memoryMap: readonly { addr: bigint; size: bigint; type: number }[];
  /** SCHEDOP_shutdown_code's reason, which a later crash reports instead of its own. */
  shutdownCode: number | undefined;
  /** Set once the domain has shut down. */
  shutdownReason: number | undefined;
  /** PHYSDEVOP_pirq_eoi_gmfn was accepted (once for each domain). */
  pirqEoiMapRegistered = false;
  /** PHYSDEVOP_get_free_pirq gave these away. */
  readonly reservedPirqs = new Set<number>();
  /** vCPUs whose vcpu_info has been registered (once for each). */
  readonly vcpuInfoRegistered = new Set<number>();
  /** No more work for this domain: long hypercalls stop where they are, and nobody is answered. */
  ended = false;
  private readonly vcpuInfo: number[] = [];
  private readonly complaints = new Map<string, number>();

  constructor(readonly config: XenDomainConfig) {
    this.domid = config.domid;
    this.memory = config.memory;
    this.trap = config.trap;
    this.host = config.host;
    this.nrPages = config.nrPages;
    this.maxPages = config.maxPages;
    this.uuid = config.uuid ?? new Uint8Array(16);
    this.memoryMap = config.memoryMap ?? [{ addr: 0n, size: BigInt(config.maxPages) * 4096n, type: 1 }];
    const { trap } = config;
    this.guestRing = trap.getDomain('guest_ring');
    this.sharedInfoGpa = Number(trap.getDomain('shared_info_gpa'));
    this.moduleL4 = Number(trap.getDomain('module_l4'));
    this.perdomainL1Gpa = Number(trap.getDomain('perdomain_l1_gpa'));
    for (let v = 0; v < trap.nrVps; v++) this.vcpuInfo.push(Number(trap.getVp(v, 'vcpu_info_gpa')));
    this.frames = new Frames(config.memory, config.trap, config.domainFrames, config.sharedFrames);
    for (const [mfn, count] of config.freeFrames ?? []) this.frames.release(mfn, count, true);
    this.frameReturn = new FrameReturn(this.frames, config.host.discard, config.host.log);
    this.evtchn = new EventChannels(this);
    this.grants = new GrantTable(this);
    this.grantMaps = new GrantMaps(this);
  }

  get nrVcpus(): number {
    return this.trap.nrVps;
  }
  vcpuExists(vcpu: number): boolean {
    return Number.isInteger(vcpu) && vcpu >= 0 && vcpu < this.nrVcpus;
  }

  /** Resolves a domid argument where DOMID_SELF is allowed. */
  domainByAnyId(domid: number): DomainRef {
    return domid === DOMID.DOMID_SELF ? 'self' : this.domainById(domid);
  }
  /** Resolves a domid argument where DOMID_SELF is not a domain. */
  domainById(domid: number): DomainRef {
    if (domid === this.domid) return 'self';
    if (domid === 0) return 'dom0';
    return this.config.domainExists?.(domid) ? 'other' : undefined;
  }

  vmAssist(type: number): boolean {
    if (type < 32) return ((this.trap.getDomain('vm_assist') >>> type) & 1) === 1;
    return type === VMASST.VMASST_TYPE_m2p_strict && (this.trap.getDomain('vm_assist_high') & 1) === 1;
  }

  /** Now, in ns of system time, as the trap module last told it (else at its last anchor). */
  systemTime(): bigint {
    if (this.host.systemTime !== undefined) return this.host.systemTime();
    const told = this.trap.getDomain('system_time');
    return told !== 0n ? told : this.trap.getDomain('time_offset');
  }

  /** Guest-physical address of a vCPU's vcpu_info, wherever it is registered. */
  vcpuInfoGpa(vcpu: number): number {
    return this.vcpuInfo[vcpu] ?? 0;
  }
  setVcpuInfo(vcpu: number, gpa: number): void {
    this.vcpuInfo[vcpu] = gpa;
    this.trap.setVp(vcpu, 'vcpu_info_gpa', BigInt(gpa));
  }

  /** The domain is over, and its memory is about to go. */
  end(): void {
    this.ended = true;
    void this.frameReturn.end();
  }

  /** Logs what a guest did wrong, the first few times. */
  complain(fields: object, message: string): void {
    const before = this.complaints.get(message) ?? 0;
    if (before >= SAME_COMPLAINTS) return;
    this.complaints.set(message, before + 1);
    this.host.log?.warn(fields, message);
  }

  /**
   * Ends the domain as Xen would crash it: the trap module's state is impossible, so the guest has taken the module
   * over or the module is broken.
   */
  crash(vcpu: number, why: string): void {
    this.complain({ vcpu, why }, 'the trap module state is impossible: the domain is crashed');
    this.shutdown(SHUTDOWN.SHUTDOWN_crash, vcpu);
  }

  /** Ends the domain: reported once, with the reason that SCHEDOP_shutdown_code left if this is a crash. */
  shutdown(reason: number, vcpu: number): void {
    if (this.shutdownReason !== undefined) return;
    this.shutdownReason = this.shutdownCode ?? reason;
    this.host.onShutdown(this.shutdownReason, vcpu);
  }
}
