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
import { TRAP_HV_PORT, TRAP_VECTOR } from '../../../abi/trap';
import { Machine, type MachineEnd } from '../host';
import { type InProcessOptions, InProcessPartition, type OpenPartition } from '../in-process-partition';
import type { InitialRegisters } from '../long-mode';
import { machineDescription } from '../machine-description';
import type { ProcessorCpuid } from '../partition';
import { KVM, KVM_CAP, KVM_REQUEST, KvmHypervEventfd, KvmIrqfd, KvmIrqRouting, KvmIrqRoutingEntry } from './abi';
import { hypervLeaves, setCpuid, supportedCpuid, supportedHypervCpuid, vcpuCpuid } from './cpuid';
import { describeEnd, exitName } from './end';
import { eventfd, instance, ioctl } from './libc';
import { VcpuStatistics } from './stats';
import { capability, enableCapability, KvmUnusableError, makeRunnable, openKvm, setRegisters } from './vm';

/** `hyperv`: see probeKvm. */
export interface KvmPartitionOptions extends InProcessOptions {
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

export class KvmPartition extends InProcessPartition {
  readonly engine = 'kvm';
  private readonly device: string | undefined;

  constructor(options: KvmPartitionOptions) {
    super('kvm', options);
    this.device = options.device;
  }

  protected open(registers: (vp: number) => InitialRegisters, cpuid?: ProcessorCpuid): OpenPartition {
    const open = new Descriptors();
    const statistics: VcpuStatistics[] = [];
    const close = (): void => {
      for (const one of statistics.splice(0)) one.close();
      open.close();
    };
    try {
      return { ...this.makeVm(open, statistics, registers, cpuid), close };
    } catch (error) {
      close();
      throw error;
    }
  }

  private makeVm(
    open: Descriptors,
    statistics: VcpuStatistics[],
    registers: (vp: number) => InitialRegisters,
    cpuid: ProcessorCpuid | undefined,
  ): Omit<OpenPartition, 'close'> {
    const { vpCount, hyperv } = this.options;
    const kvm = open.add(openKvm(this.device));
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
    this.setUpVps(kvm, vps, registers, cpuid);
    this.routeKicks(vm, vps);
    if (hyperv) {
      const doorbell = instance(KvmHypervEventfd, { conn_id: TRAP_HV_PORT.TRAP_HV_CONNECTION, fd: doorbellFd });
      ioctl(vm, 'KVM_HYPERV_EVENTFD', KVM_REQUEST.KVM_HYPERV_EVENTFD, doorbell.ref());
    }
    if (capability(kvm, KVM_CAP.KVM_CAP_BINARY_STATS_FD) !== 0)
      for (const { fd } of vps) statistics.push(VcpuStatistics.open(fd));

    return {
      createMachine: (onDoorbell, onExit) =>
        Machine.kvm(
          { vmFd: vm, runSize, doorbellFd, vps, ...machineDescription(this.memory, vpCount, hyperv) },
          onDoorbell,
          onExit,
        ),
      counts: (vp) => statistics[vp]?.read() ?? {},
    };
  }

  private setUpVps(
    kvm: number,
    vps: readonly { fd: number }[],
    registers: (vp: number) => InitialRegisters,
    cpuid: ProcessorCpuid | undefined,
  ): void {
    const { vpCount, hyperv } = this.options;
    const processor = supportedCpuid(kvm);
    vps.forEach(({ fd }, vp) => {
      const leaves = hyperv ? hypervLeaves(supportedHypervCpuid(fd), vpCount) : [];
      setCpuid(fd, vcpuCpuid(processor, leaves, vp, cpuid));
      if (hyperv) {
        enableCapability(fd, 'KVM_CAP_HYPERV_SYNIC2');
        if (capability(kvm, KVM_CAP.KVM_CAP_HYPERV_ENFORCE_CPUID) !== 0)
          enableCapability(fd, 'KVM_CAP_HYPERV_ENFORCE_CPUID', 1);
      }
      setRegisters(fd, registers(vp));
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

  protected refusal(error: unknown): Error {
    return error instanceof KvmUnusableError
      ? error
      : new KvmUnusableError(`KVM refuses the partition: ${(error as Error).message}`);
  }

  protected describeEnd(end: MachineEnd): string {
    return describeEnd(end);
  }

  protected exitName(slot: number): string {
    return exitName(slot);
  }

  protected summary(): string {
    return this.options.hyperv
      ? "KVM, with KVM's Hyper-V emulation"
      : 'KVM without Hyper-V emulation (forced): the trap module emulates it';
  }
}
