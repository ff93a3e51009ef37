/**
 * The kvm engine: a partition whose VPs are threads of this process on /dev/kvm, with KVM's own Hyper-V emulation below
 * the trap module.
 *
 * Set-up goes through ffi-napi (./vm, ./cpuid, ./libc), the run loops are the addon's (native/host/linux/kvm.c). VPs start in
 * 64-bit mode at the trap module's entry, all at once; there is no firmware. A cold call is one port-I/O exit in which
 * the VP's thread waits; events to the shim are HvCallSignalEvent on one connection; a kick is a SynIC event flag.
 *
 * With `force`, a KVM without Hyper-V emulation will do: the trap module then uses its soft Hyper-V on the local APICs
 * that KVM emulates, a kick is a message-signalled interrupt, the doorbell a port. That is for tests.
 *
 * Quirks: in the nested lab (XENLIGHTEN_LAB=hyperv) HLT does not leave the guest, because the emulator below it loses
 * wake-ups between STI and HLT (CONTRIBUTING.md); on a real host that would burn a core for each idle VP.
 */
import { closeSync } from 'node:fs';
import { TRAP_ENGINE, TRAP_HV_PORT, TRAP_VECTOR } from '../../../abi/trap';
import { GuestMemory } from '../guest-memory';
import { MACHINE_END_KINDS, Machine, type MachineEnd } from '../host';
import { machineDescription } from '../machine-description';
import {
  BOOT_PARAMETERS,
  checkVp,
  type Partition,
  type PartitionDescription,
  type PartitionEvents,
  type PartitionExit,
  type ProcessorCpuid,
  type VpExits,
} from '../partition';
import { ramRegions } from '../ram-layout';
import { KVM, KVM_CAP, KVM_REQUEST, KvmHypervEventfd, KvmIrqfd, KvmIrqRouting, KvmIrqRoutingEntry } from './abi';
import { hypervLeaves, setCpuid, supportedCpuid, supportedHypervCpuid, vcpuCpuid } from './cpuid';
import { describeEnd, exitName } from './end';
import { eventfd, instance, ioctl } from './libc';
import { VcpuStatistics } from './stats';
import { capability, enableCapability, KvmUnusableError, makeRunnable, openKvm, setRegisters } from './vm';

export interface KvmPartitionOptions {
  readonly memoryBytes: number;
  readonly vpCount: number;
  /** Does KVM emulate the Hyper-V interface (see probeKvm)? */
  readonly hyperv: boolean;
  /** Another device than /dev/kvm. */
  readonly device?: string;
}

/** Where KVM on Intel keeps a task state segment and an identity map: above RAM's hole, below its own ROM. */
const TSS_GPA = 0xfffb_d000;
const IDENTITY_MAP_GPA = 0xfffb_c000;
const APIC_MSI_ADDRESS = 0xfee0_0000;

/** Descriptors of a running partition, closed together in reverse order. */
class Descriptors {
  private readonly fds: number[] = [];
  add(fd: number): number {
    this.fds.push(fd);
    return fd;
  }
  close(): void {
    for (const fd of this.fds.splice(0).reverse()) closeSync(fd);
  }
}

/** One word of a union of 8. */
function union(...words: number[]): number[] {
  return [...words, 0, 0, 0, 0, 0, 0, 0, 0].slice(0, 8);
}

export class KvmPartition implements Partition {
  readonly engine = 'kvm';
  readonly memory: GuestMemory;
  readonly trapEngine: number;
  private machine: Machine | undefined;
  private statistics: VcpuStatistics[] = [];
  private lastExits: VpExits[] | undefined;
  private unpin: (() => void) | undefined;
  private ended: Promise<void> | undefined;
  private stopRequested = false;
  private started = false;

  /** Makes the partition's memory; nothing runs before start(). RangeError for sizes. */
  constructor(private readonly options: KvmPartitionOptions) {
    if (!Number.isInteger(options.vpCount) || options.vpCount < 1 || options.vpCount > 64) {
      throw new RangeError(`${options.vpCount} virtual processors: the kvm engine runs 1 to 64`);
    }
    this.trapEngine = options.hyperv ? TRAP_ENGINE.TRAP_ENGINE_HYPERV : TRAP_ENGINE.TRAP_ENGINE_LAPIC;
    this.memory = GuestMemory.create(ramRegions(options.memoryBytes), { hugePages: true, private: true });
  }

  /** Nothing here takes long enough. */
  prepare(): void {}

  async start(events: PartitionEvents, cpuid?: ProcessorCpuid): Promise<void> {
    if (this.started) throw new Error('the partition was started before');
    this.started = true;
    if (this.stopRequested) throw new Error('the partition was stopped before it had started');
    const open = new Descriptors();
    try {
      this.launch(open, events, cpuid);
    } catch (error) {
      for (const statistics of this.statistics.splice(0)) statistics.close();
      this.machine = undefined;
      this.unpin?.();
      open.close();
      throw error instanceof KvmUnusableError
        ? error
        : new KvmUnusableError(`KVM refuses the partition: ${(error as Error).message}`);
    }
  }

  private launch(open: Descriptors, events: PartitionEvents, cpuid: ProcessorCpuid | undefined): void {
    const { vpCount, hyperv } = this.options;
    const kvm = open.add(openKvm(this.options.device));
    const most = capability(kvm, KVM_CAP.KVM_CAP_MAX_VCPUS) || capability(kvm, KVM_CAP.KVM_CAP_NR_VCPUS);
    if (vpCount > most)
      throw new KvmUnusableError(`${vpCount} virtual processors: this KVM gives a machine at most ${most}`);
    const vm = open.add(ioctl(kvm, 'KVM_CREATE_VM', KVM_REQUEST.KVM_CREATE_VM, 0));
    ioctl(vm, 'KVM_SET_TSS_ADDR', KVM_REQUEST.KVM_SET_TSS_ADDR, TSS_GPA);
    const identity = Buffer.alloc(8);
    identity.writeBigUInt64LE(BigInt(IDENTITY_MAP_GPA));
    ioctl(vm, 'KVM_SET_IDENTITY_MAP_ADDR', KVM_REQUEST.KVM_SET_IDENTITY_MAP_ADDR, identity);
    enableCapability(vm, 'KVM_CAP_SPLIT_IRQCHIP', 0);
    if (process.env.XENLIGHTEN_LAB === 'hyperv')
      enableCapability(vm, 'KVM_CAP_X86_DISABLE_EXITS', KVM.KVM_X86_DISABLE_EXITS_HLT);

    const runSize = ioctl(kvm, 'KVM_GET_VCPU_MMAP_SIZE', KVM_REQUEST.KVM_GET_VCPU_MMAP_SIZE);
    const vps = Array.from({ length: vpCount }, (_, vp) => ({
      fd: open.add(ioctl(vm, 'KVM_CREATE_VCPU', KVM_REQUEST.KVM_CREATE_VCPU, vp)),
      kick: open.add(eventfd()),
    }));
    const doorbellFd = open.add(eventfd());
    this.setUpVps(kvm, vps, cpuid);
    this.routeKicks(vm, vps);
    if (hyperv) {
      const doorbell = instance(KvmHypervEventfd, { conn_id: TRAP_HV_PORT.TRAP_HV_CONNECTION, fd: doorbellFd });
      ioctl(vm, 'KVM_HYPERV_EVENTFD', KVM_REQUEST.KVM_HYPERV_EVENTFD, doorbell.ref());
    }
    if (capability(kvm, KVM_CAP.KVM_CAP_BINARY_STATS_FD) !== 0)
      for (const { fd } of vps) this.statistics.push(VcpuStatistics.open(fd));

    this.unpin = this.memory.pin();
    const machine = Machine.kvm(
      {
        vmFd: vm,
        runSize,
        doorbellFd,
        vps,
        ...machineDescription(this.memory, vpCount, hyperv),
      },
      () => events.doorbell(),
      (end) => {
        this.lastExits = this.exits();
        for (const statistics of this.statistics.splice(0)) statistics.close();
        this.machine = undefined;
        open.close();
        this.unpin?.();
        finished();
        events.exit(this.exitOf(end));
      },
    );
    let finished = (): void => undefined;
    const ended = new Promise<void>((resolve) => {
      finished = resolve;
    });
    machine.start();
    this.machine = machine;
    this.ended = ended;
  }

  private setUpVps(kvm: number, vps: readonly { fd: number }[], cpuid: ProcessorCpuid | undefined): void {
    const { vpCount, hyperv } = this.options;
    const processor = supportedCpuid(kvm);
    const cr3 = this.memory.getU64Number(BOOT_PARAMETERS.cr3);
    const rip = this.memory.getU64(BOOT_PARAMETERS.entry);
    const rdi = this.memory.getU64Number(BOOT_PARAMETERS.argument);
    vps.forEach(({ fd }, vp) => {
      const leaves = hyperv ? hypervLeaves(supportedHypervCpuid(fd), vpCount) : [];
      setCpuid(fd, vcpuCpuid(processor, leaves, vp, cpuid));
      if (hyperv) {
        enableCapability(fd, 'KVM_CAP_HYPERV_SYNIC2');
        if (capability(kvm, KVM_CAP.KVM_CAP_HYPERV_ENFORCE_CPUID) !== 0)
          enableCapability(fd, 'KVM_CAP_HYPERV_ENFORCE_CPUID', 1);
      }
      setRegisters(fd, { cr3, rip, rdi, rsi: vp });
      makeRunnable(fd);
    });
  }

  /** One interrupt source for each VP: SINT on its SynIC, or a message to its local APIC. */
  private routeKicks(vm: number, vps: readonly { kick: number }[]): void {
    const { hyperv } = this.options;
    const table = [
      instance(KvmIrqRouting, { nr: vps.length }),
      ...vps.map((_, vp) =>
        instance(KvmIrqRoutingEntry, {
          gsi: vp,
          type: hyperv ? KVM.KVM_IRQ_ROUTING_HV_SINT : KVM.KVM_IRQ_ROUTING_MSI,
          u: hyperv
            ? union(vp, TRAP_HV_PORT.TRAP_HV_SINT)
            : union(APIC_MSI_ADDRESS | (vp << 12), 0, TRAP_VECTOR.TRAP_VECTOR_KICK).map((word) => word >>> 0),
        }),
      ),
    ];
    ioctl(vm, 'KVM_SET_GSI_ROUTING', KVM_REQUEST.KVM_SET_GSI_ROUTING, Buffer.concat(table.map((entry) => entry.ref())));
    vps.forEach(({ kick }, vp) => {
      ioctl(vm, 'KVM_IRQFD', KVM_REQUEST.KVM_IRQFD, instance(KvmIrqfd, { fd: kick, gsi: vp }).ref());
    });
  }

  private exitOf(end: MachineEnd): PartitionExit {
    const kind = MACHINE_END_KINDS[end.kind];
    const message = describeEnd(end);
    const rest = { message, code: undefined, signal: undefined, stderr: '' };
    if (this.stopRequested || kind === 'stopped') return { reason: 'stopped', ...rest };
    return { reason: kind === 'shutdown' ? 'triple-fault' : 'failed', ...rest };
  }

  kick(vp: number): void {
    checkVp(vp, this.options.vpCount);
    this.machine?.kick(vp);
  }

  async stop(): Promise<void> {
    this.stopRequested = true;
    this.machine?.stop();
    await this.ended;
  }

  exits(): VpExits[] | undefined {
    const { machine } = this;
    if (machine === undefined) return this.lastExits;
    return Array.from({ length: this.options.vpCount }, (_, vp) => ({
      toProcess: Object.fromEntries(
        machine.exits(vp).flatMap((count, reason) => (count === 0 ? [] : [[exitName(reason), count]])),
      ),
      hypervisor: this.statistics[vp]?.read() ?? {},
    }));
  }

  describe(): PartitionDescription {
    return {
      engine: this.engine,
      summary: this.options.hyperv
        ? "KVM, with KVM's Hyper-V emulation"
        : 'KVM without Hyper-V emulation (forced): the trap module emulates it',
      vpCount: this.options.vpCount,
      memoryBytes: this.options.memoryBytes,
      pid: undefined,
    };
  }
}
