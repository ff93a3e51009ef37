/**
 * Can /dev/kvm run a partition here? What `--engine auto` asks, and `--engine kvm` before it begins.
 *
 * Three questions, each with its answer in words: does it open; does KVM have the Hyper-V emulation that the trap module
 * uses; and is ring 0 executed by the processor. The last is measured, because some hosts' /dev/kvm interprets
 * privileged code at a microsecond an instruction and says so nowhere: a loop of two instructions in ring 0 takes a
 * clock tick or two on hardware, some 15 under a nested emulator, thousands when it is interpreted.
 */
import { closeSync } from 'node:fs';
import { GuestMemory } from '../guest-memory';
import { Machine } from '../host';
import { KVM_CAP, KVM_REQUEST } from './abi';
import { missingFeatures, setCpuid, supportedCpuid, supportedHypervCpuid } from './cpuid';
import { describeEnd } from './end';
import { eventfd, ioctl } from './libc';
import { capability, enableCapability, KvmUnusableError, openKvm, setRegisters } from './vm';

/** Without them the engine cannot run at all. */
const NEEDED = ['KVM_CAP_IRQFD', 'KVM_CAP_SPLIT_IRQCHIP', 'KVM_CAP_IMMEDIATE_EXIT'] as const;
/** The Hyper-V emulation. */
const HYPERV = [
  'KVM_CAP_HYPERV',
  'KVM_CAP_HYPERV_CPUID',
  'KVM_CAP_HYPERV_VP_INDEX',
  'KVM_CAP_HYPERV_SYNIC2',
  'KVM_CAP_HYPERV_EVENTFD',
  'KVM_CAP_HYPERV_TLBFLUSH',
  'KVM_CAP_HYPERV_SEND_IPI',
] as const;

export interface KvmProbe {
  /** Why it cannot be used, whatever is forced; undefined when it can. */
  readonly impossible: string | undefined;
  /** Why it should not be used; undefined when it should. */
  readonly unfit: string | undefined;
  /** Does KVM emulate the Hyper-V interface? */
  readonly hyperv: boolean;
  readonly maxVps: number;
  /** Ticks of the time stamp counter for a turn of two instructions in ring 0, where measured. */
  readonly ticksPerTurn: number | undefined;
}

/** Turns of the measured loop, of which the fastest of 5 batches counts. */
const TURNS = 5000;
const TICKS_LIMIT = 200;

const PML4 = 0x1000;
const PDPT = 0x2000;
const PD = 0x3000;
const CODE = 0x4000;
const RESULT = 0x5000;
const DONE_PORT = 0x500;

// prettier-ignore
const LOOP = Uint8Array.of(
  0x41,
  0xb8,
  5,
  0,
  0,
  0, //                    mov $5, %r8d: batches
  0x49,
  0xc7,
  0xc1,
  0xff,
  0xff,
  0xff,
  0xff, //  mov $-1, %r9: the fastest so far
  0x0f,
  0x31, //                             1: rdtsc
  0x48,
  0xc1,
  0xe2,
  32, //                      shl $32, %rdx
  0x48,
  0x09,
  0xd0, //                          or %rdx, %rax
  0x48,
  0x89,
  0xc6, //                          mov %rax, %rsi
  0xb9,
  TURNS & 255,
  TURNS >> 8,
  0,
  0, //       mov $TURNS, %ecx
  0xff,
  0xc9, //                             2: dec %ecx
  0x75,
  0xfc, //                                jnz 2b
  0x0f,
  0x31, //                                rdtsc
  0x48,
  0xc1,
  0xe2,
  32, //                      shl $32, %rdx
  0x48,
  0x09,
  0xd0, //                          or %rdx, %rax
  0x48,
  0x29,
  0xf0, //                          sub %rsi, %rax
  0x4c,
  0x39,
  0xc8, //                          cmp %r9, %rax
  0x4c,
  0x0f,
  0x42,
  0xc8, //                    cmovb %rax, %r9
  0x41,
  0xff,
  0xc8, //                          dec %r8d
  0x75,
  0xd3, //                                jnz 1b
  0x4c,
  0x89,
  0x0f, //                          mov %r9, (%rdi)
  0xba,
  DONE_PORT & 255,
  DONE_PORT >> 8,
  0,
  0, // mov $DONE_PORT, %edx
  0xee, //                                      out %al, %dx
  0xf4, //                                   3: hlt
  0xeb,
  0xfd, //                                jmp 3b
);

/** Runs the loop on a VM of its own. */
async function measureRing0(kvm: number): Promise<number> {
  const memory = GuestMemory.create([{ gpa: 0, size: 2 ** 20 }], { private: true });
  memory.setU64(PML4, BigInt(PDPT | 3));
  memory.setU64(PDPT, BigInt(PD | 3));
  memory.setU64(PD, 0x83n);
  memory.copyIn(CODE, LOOP);
  const open: number[] = [];
  try {
    const vm = ioctl(kvm, 'KVM_CREATE_VM', KVM_REQUEST.KVM_CREATE_VM, 0);
    open.push(vm);
    ioctl(vm, 'KVM_SET_TSS_ADDR', KVM_REQUEST.KVM_SET_TSS_ADDR, 0xfffb_d000);
    enableCapability(vm, 'KVM_CAP_SPLIT_IRQCHIP', 0);
    const runSize = ioctl(kvm, 'KVM_GET_VCPU_MMAP_SIZE', KVM_REQUEST.KVM_GET_VCPU_MMAP_SIZE);
    const regions = memory.ranges(0, 2 ** 20).map(({ gpa, buffer }) => ({
      gpa,
      buffer: buffer.buffer as ArrayBuffer,
      offset: buffer.byteOffset,
      size: buffer.length,
    }));
    const vcpu = ioctl(vm, 'KVM_CREATE_VCPU', KVM_REQUEST.KVM_CREATE_VCPU, 0);
    open.push(vcpu);
    setCpuid(vcpu, supportedCpuid(kvm));
    setRegisters(vcpu, { cr3: PML4, rip: BigInt(CODE), rdi: RESULT, rsi: 0 });
    const silent = eventfd();
    open.push(silent);
    await new Promise<void>((resolve, reject) => {
      let finished = false;
      const description = {
        vmFd: vm,
        runSize,
        regions,
        vpCount: 1,
        useFlags: false,
        sint: 0,
        flag: 0,
        bellPort: DONE_PORT,
      };
      const machine = Machine.kvm(
        { ...description, callPort: 0xffff, doorbellFd: silent, vps: [{ fd: vcpu, kick: silent }] },
        () => {
          finished = true;
          machine.stop();
        },
        (end) => (finished ? resolve() : reject(new Error(`in a test loop, ${describeEnd(end)}`))),
      );
      machine.start();
    });
    return Number(memory.getU64(RESULT)) / TURNS;
  } finally {
    for (const fd of open.reverse()) closeSync(fd);
    await memory.release();
  }
}

/** Required Hyper-V features that a vCPU of this KVM would lack. */
function missingHypervFeatures(kvm: number): string[] {
  const vm = ioctl(kvm, 'KVM_CREATE_VM', KVM_REQUEST.KVM_CREATE_VM, 0);
  try {
    enableCapability(vm, 'KVM_CAP_SPLIT_IRQCHIP', 0);
    const vcpu = ioctl(vm, 'KVM_CREATE_VCPU', KVM_REQUEST.KVM_CREATE_VCPU, 0);
    try {
      return missingFeatures(supportedHypervCpuid(vcpu));
    } finally {
      closeSync(vcpu);
    }
  } finally {
    closeSync(vm);
  }
}

export interface ProbeOptions {
  /** Another device than /dev/kvm. */
  readonly device?: string;
  /** Ring 0 takes a tenth of a second to measure where it is interpreted: never mind it if KVM is unfit anyway? */
  readonly measure?: 'always' | 'if-fit';
}

/** Looks at /dev/kvm. Does not throw for what a host may lack. */
export async function probeKvm({ device, measure = 'always' }: ProbeOptions = {}): Promise<KvmProbe> {
  const none = { hyperv: false, maxVps: 0, ticksPerTurn: undefined, unfit: undefined };
  if (process.platform !== 'linux' || process.arch !== 'x64')
    return {
      ...none,
      impossible: `the kvm engine needs Linux on x86-64, this is ${process.platform} on ${process.arch}`,
    };
  let kvm: number;
  try {
    kvm = openKvm(device);
  } catch (error) {
    if (!(error instanceof KvmUnusableError)) throw error;
    return { ...none, impossible: error.message };
  }
  try {
    const lacking = NEEDED.filter((name) => capability(kvm, KVM_CAP[name]) === 0);
    const maxVps = capability(kvm, KVM_CAP.KVM_CAP_MAX_VCPUS) || capability(kvm, KVM_CAP.KVM_CAP_NR_VCPUS);
    if (lacking.length > 0) return { ...none, maxVps, impossible: `this KVM lacks ${lacking.join(', ')}` };
    const without: string[] = HYPERV.filter((name) => capability(kvm, KVM_CAP[name]) === 0);
    if (without.length === 0) without.push(...missingHypervFeatures(kvm));
    const ticksPerTurn = without.length > 0 && measure === 'if-fit' ? undefined : await measureRing0(kvm);
    const reasons: string[] = [];
    if (without.length > 0) reasons.push(`this KVM does not emulate Hyper-V (it lacks ${without.join(', ')})`);
    if (ticksPerTurn !== undefined && ticksPerTurn > TICKS_LIMIT)
      reasons.push(`ring 0 is interpreted, not executed (${Math.round(ticksPerTurn / 2)} clock ticks an instruction)`);
    const unfit = reasons.length === 0 ? undefined : reasons.join('; ');
    return { impossible: undefined, unfit, hyperv: without.length === 0, maxVps, ticksPerTurn };
  } catch (error) {
    return { ...none, impossible: `KVM refuses a virtual machine: ${(error as Error).message}` };
  } finally {
    closeSync(kvm);
  }
}
