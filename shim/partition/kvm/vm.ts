/**
 * One VM of /dev/kvm as the set-up sees it: descriptors, capabilities, registers; closed in one go.
 *
 * Implements the order of Documentation/virt/kvm/api.rst: VM, split interrupt controller (local APICs in the kernel,
 * nothing else: SynIC needs them), vCPUs in VP-index order, CPUID, SynIC, registers.
 */
import { closeSync, openSync } from 'node:fs';
import { KVM, KVM_CAP, KVM_REQUEST, KvmEnableCap, KvmMpState, KvmRegs, KvmSregs } from './abi';
import { assign, instance, ioctl, SystemCallError } from './libc';

/** /dev/kvm cannot be used; the message says why and what would help. */
export class KvmUnusableError extends Error {
  override readonly name = 'KvmUnusableError';
}

export const DEVICE = '/dev/kvm';

/** Opens /dev/kvm and checks its API version. KvmUnusableError says what is wrong in words. */
export function openKvm(device = DEVICE): number {
  let fd: number;
  try {
    fd = openSync(device, 'r+');
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    const why =
      code === 'ENOENT'
        ? `${device} does not exist: this machine has no hardware virtualization, or its kvm module is not loaded (modprobe kvm_amd or kvm_intel)`
        : code === 'EACCES' || code === 'EPERM'
          ? `no permission to open ${device}: add this user to the group kvm`
          : code === 'ENXIO' || code === 'ENODEV'
            ? `${device} exists, but no kvm module answers (modprobe kvm_amd or kvm_intel)`
            : `cannot open ${device}: ${code ?? (error as Error).message}`;
    throw new KvmUnusableError(why);
  }
  try {
    const version = ioctl(fd, 'KVM_GET_API_VERSION', KVM_REQUEST.KVM_GET_API_VERSION);
    if (version === KVM.KVM_API_VERSION) return fd;
    throw new KvmUnusableError(`${device} speaks KVM API ${version}: ${KVM.KVM_API_VERSION} is wanted`);
  } catch (error) {
    closeSync(fd);
    throw error instanceof SystemCallError
      ? new KvmUnusableError(`${device} is no KVM device (${error.message})`)
      : error;
  }
}

/** Value of a capability: 0 when it is absent. */
export function capability(fd: number, cap: number): number {
  return ioctl(fd, 'KVM_CHECK_EXTENSION', KVM_REQUEST.KVM_CHECK_EXTENSION, cap);
}

export function enableCapability(fd: number, name: keyof typeof KVM_CAP & string, ...args: number[]): void {
  const cap = instance(KvmEnableCap, { cap: KVM_CAP[name], args: [...args, 0, 0, 0, 0].slice(0, 4) });
  ioctl(fd, `KVM_ENABLE_CAP ${name}`, KVM_REQUEST.KVM_ENABLE_CAP, cap.ref());
}

/** CR0: PG, AM, WP, NE, ET, MP, PE; CR4: PAE, OSFXSR, OSXMMEXCPT; EFER: SCE, LME, LMA, NXE. */
const LONG_MODE = { cr0: 0x8005_0033, cr4: 0x620, efer: 0xd01 } as const;
const CODE_SEGMENT = 0x08;
const DATA_SEGMENT = 0x10;
const TASK_SEGMENT = 0x18;

export interface InitialRegisters {
  readonly cr3: number;
  readonly rip: bigint;
  readonly rdi: number;
  readonly rsi: number;
}

/** Puts a vCPU into 64-bit mode at ring 0, flat segments, interrupts off, ready to run. */
export function setRegisters(fd: number, { cr3, rip, rdi, rsi }: InitialRegisters): void {
  const sregs = instance(KvmSregs);
  ioctl(fd, 'KVM_GET_SREGS', KVM_REQUEST.KVM_GET_SREGS, sregs.ref());
  const flat = { base: 0, limit: 0xffff_ffff, present: 1, dpl: 0, s: 1, g: 1, avl: 0, unusable: 0 };
  const code = { ...flat, selector: CODE_SEGMENT, type: 11, l: 1, db: 0 };
  const data = { ...flat, selector: DATA_SEGMENT, type: 3, l: 0, db: 1 };
  assign(sregs, {
    ...LONG_MODE,
    cr3,
    cs: code,
    ds: data,
    es: data,
    fs: data,
    gs: data,
    ss: data,
    tr: {
      base: 0,
      limit: 0x67,
      selector: TASK_SEGMENT,
      type: 11,
      present: 1,
      dpl: 0,
      s: 0,
      g: 0,
      l: 0,
      db: 0,
      unusable: 0,
    },
    gdt: { base: 0, limit: 0 },
    idt: { base: 0, limit: 0 },
  });
  ioctl(fd, 'KVM_SET_SREGS', KVM_REQUEST.KVM_SET_SREGS, sregs.ref());
  const regs = instance(KvmRegs, { rip: rip.toString(), rdi, rsi, rflags: 2 });
  ioctl(fd, 'KVM_SET_REGS', KVM_REQUEST.KVM_SET_REGS, regs.ref());
}

/** Every VP but the first is created waiting for a start-up IPI; ours all run from the beginning. */
export function makeRunnable(fd: number): void {
  const state = instance(KvmMpState, { mp_state: KVM.KVM_MP_STATE_RUNNABLE });
  ioctl(fd, 'KVM_SET_MP_STATE', KVM_REQUEST.KVM_SET_MP_STATE, state.ref());
}
