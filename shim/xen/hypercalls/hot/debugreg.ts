/**
 * set_debugreg and get_debugreg: the readable twin of native/trap/debugreg.c. Implements xen-pv-abi section 4.5.
 *
 * Quirks: 4 and 5 are other names of 6 and 7 unless the guest has set CR4.DE. What the real registers get is the trap
 * module's decision (TRAP_EFFECT_DEBUG); here is only what the guest sees.
 */
import { TRAP_EFFECT } from '../../../../abi/trap';
import { XEN_ERRNO as E } from '../../../../abi/xen/errno';
import { isGuestAddress } from '../../guest-virtual';
import type { XenDomain } from '../../xen-domain';
import { arg32, arg64, type Handler } from '../call';

const CR4_DE = 8n;
const DR6_ONES = 0xffff_0ff0n;
const DR6_ZEROS = 0x1000n;
const DR7_ONES = 0x400n;
const DR7_ZEROS = 0xd800n;
const DR7_GD = 0x2000n;
const RW_IO = 2n;

/** The register that a number means, or undefined. */
function registerOf(d: XenDomain, vcpu: number, number: number): number | undefined {
  if (number > 7) return undefined;
  if (number !== 4 && number !== 5) return number;
  return (d.trap.getVp(vcpu, 'vcr4') & CR4_DE) !== 0n ? undefined : number + 2;
}

function isAllowedControl(d: XenDomain, vcpu: number, dr7: bigint): boolean {
  if ((dr7 & DR7_GD) !== 0n) return false;
  if ((d.trap.getVp(vcpu, 'vcr4') & CR4_DE) !== 0n) return true;
  for (let i = 0n; i < 4n; i++) {
    const enabled = (dr7 & (3n << (i * 2n))) !== 0n;
    if (enabled && ((dr7 >> (16n + i * 4n)) & 3n) === RW_IO) return false;
  }
  return true;
}

/** Gives a vCPU's register a value, if it may have it: 0 or -errno. Loading the real one is the module's. */
export function writeDebugreg(d: XenDomain, vcpu: number, number: number, asked: bigint): number {
  const reg = registerOf(d, vcpu, number);
  let value = asked;
  if (reg === undefined) return -E.XEN_ENODEV;
  if (reg < 4) {
    if (!isGuestAddress(value) || !isGuestAddress(value + 7n)) return -E.XEN_EPERM;
  } else {
    if (value >> 32n !== 0n) return -E.XEN_EINVAL;
    value = reg === 6 ? (value & ~DR6_ZEROS) | DR6_ONES : (value & ~DR7_ZEROS) | DR7_ONES;
    if (reg === 7 && !isAllowedControl(d, vcpu, value)) return -E.XEN_EPERM;
  }
  d.trap.setVp(vcpu, 'debugreg', value, reg);
  return 0;
}

export const setDebugreg: Handler = (d, c) => {
  const rc = writeDebugreg(d, c.vcpu, arg32(c, 0), arg64(c, 1));
  if (rc === 0) c.effects |= TRAP_EFFECT.TRAP_EFFECT_DEBUG;
  return rc;
};

export const getDebugreg: Handler = (d, c) => {
  const reg = registerOf(d, c.vcpu, arg32(c, 0));
  if (reg === undefined) return -E.XEN_ENODEV;
  const value = d.trap.getVp(c.vcpu, 'debugreg', reg);
  // A vCPU that has never written them reads what reset left there.
  const fixed = reg === 6 ? DR6_ONES : reg === 7 ? DR7_ONES : 0n;
  return BigInt.asIntN(64, value | fixed);
};
