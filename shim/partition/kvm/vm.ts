/**
 * One VM of /dev/kvm as the set-up sees it: descriptors, capabilities, registers; closed in one go.
 *
 * Implements the order of Documentation/virt/kvm/api.rst: VM, split interrupt controller (local APICs in the kernel,
 * nothing else: SynIC needs them), vCPUs in VP-index order, CPUID, SynIC, registers.
 */
import { closeSync, openSync } from 'node:fs';
import { type InitialRegisters, LONG_MODE, SELECTORS } from '../long-mode';
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

/** Puts a vCPU into 64-bit mode at ring 0, flat segments, interrupts off, ready to run. */
export function setRegisters(fd: number, { cr3, rip, rdi, rsi }: InitialRegisters): void {
  const sregs = instance(KvmSregs);
  ioctl(fd, 'KVM_GET_SREGS', KVM_REQUEST.KVM_GET_SREGS, sregs.ref());
  const flat = { base: 0, limit: 0xffff_ffff, present: 1, dpl: 0, s: 1, g: 1, avl: 0, unusable: 0 };
  const code = { ...flat, selector: SELECTORS.code, type: 11, l: 1, db: 0 };
  const data = { ...flat, selector: SELECTORS.data, type: 3, l: 0, db: 1 };
  assign(sregs, {
    cr0: LONG_MODE.cr0,
    cr4: LONG_MODE.cr4,
    efer: LONG_MODE.efer,
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
      selector: SELECTORS.task,
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
  const regs = instance(KvmRegs, { rip: rip.toString(), rdi, rsi, rflags: LONG_MODE.rflags });
  ioctl(fd, 'KVM_SET_REGS', KVM_REQUEST.KVM_SET_REGS, regs.ref());
}

/** Every VP but the first is created waiting for a start-up IPI; ours all run from the beginning. */
export function makeRunnable(fd: number): void {
  const state = instance(KvmMpState, { mp_state: KVM.KVM_MP_STATE_RUNNABLE });
  ioctl(fd, 'KVM_SET_MP_STATE', KVM_REQUEST.KVM_SET_MP_STATE, state.ref());
}
