/**
 * The hypercall page: 128 stubs of 32 bytes through which older kernels, Mini-OS and most small PV kernels issue their
 * hypercalls. Implements xen-pv-abi section 5.1.
 *
 * Quirk: HYPERVISOR_iret never returns, so its stub saves registers and pops nothing; the guest jumps to it with its
 * frame already on the stack.
 */
import { HYPERVISOR } from '../../../abi/xen/hypercall-numbers';

const PAGE_SIZE = 4096;
const STUB_BYTES = 32;
/** int3: whatever runs past a stub stops. */
const FILLER = 0xcc;
const PUSH_RCX = [0x51];
const PUSH_R11 = [0x41, 0x53];
const PUSH_RAX = [0x50];
const POP_R11 = [0x41, 0x5b];
const POP_RCX = [0x59];
const SYSCALL = [0x0f, 0x05];
const RET = [0xc3];
const movEax = (nr: number): number[] => [0xb8, nr & 0xff, (nr >> 8) & 0xff, 0, 0];

/** The contents of a hypercall page. */
export function hypercallPage(): Buffer {
  const page = Buffer.alloc(PAGE_SIZE, FILLER);
  for (let nr = 0; nr < PAGE_SIZE / STUB_BYTES; nr++) {
    const stub =
      nr === HYPERVISOR.__HYPERVISOR_iret
        ? [...PUSH_RCX, ...PUSH_R11, ...PUSH_RAX, ...movEax(nr), ...SYSCALL]
        : [...PUSH_RCX, ...PUSH_R11, ...movEax(nr), ...SYSCALL, ...POP_R11, ...POP_RCX, ...RET];
    page.set(stub, nr * STUB_BYTES);
  }
  return page;
}
