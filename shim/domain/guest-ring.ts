/**
 * Which ring a guest kernel runs in, and why.
 *
 * Ring 1 spares the CR3 switch of every system call, because user and kernel share one root whose kernel pages are
 * supervisor pages. On a CPU open to Meltdown that is the hole which Linux's own page-table isolation would close, and
 * Linux turns that off under Xen, whose user roots have no kernel half: such a CPU gets ring 3, and user roots that
 * map no more of the trap module than its entry.
 */
import { readFileSync } from 'node:fs';
import { KVA_SHADOW, kernelShadowFlags } from '../partition/whp/kernel-shadow';

/** Whether guest user code can read supervisor pages of its root by speculation. */
export type Meltdown = 'not affected' | 'affected' | 'unknown';

export interface RingChoice {
  readonly ring: 1 | 3;
  readonly isolateUserRoots: boolean;
  /** For the log. */
  readonly why: string;
}

const VULNERABILITY = '/sys/devices/system/cpu/vulnerabilities/meltdown';

/**
 * What Windows says: its flags, where it has them, and PROCESSOR_IDENTIFIER ("AMD64 Family 25 Model 1 Stepping 1,
 * AuthenticAMD"). No processor of AMD or Hygon is open, as their makers and every system hold.
 */
export function windowsMeltdown(identifier: string, flags: () => number | undefined): Meltdown {
  if (/, *(AuthenticAMD|HygonGenuine)$/.test(identifier.trim())) return 'not affected';
  const found = flags();
  if (found === undefined || (found & KVA_SHADOW.requiredAvailable) === 0) return 'unknown';
  return (found & KVA_SHADOW.required) === 0 ? 'not affected' : 'affected';
}

/** What the host's kernel says of its CPU; for engines that run guest code on it. */
export function hostMeltdown(): Meltdown {
  if (process.platform === 'win32') {
    return windowsMeltdown(process.env['PROCESSOR_IDENTIFIER'] ?? '', kernelShadowFlags);
  }
  try {
    const text = readFileSync(VULNERABILITY, 'utf8').trim();
    return text === 'Not affected' ? 'not affected' : 'affected';
  } catch {
    return 'unknown';
  }
}

/**
 * Chooses. `wanted` is the configuration's; `guest` says whether the kernel is known to work in ring 1 (Linux, and
 * GRUB, of which it is assumed that it boots Linux); of an unknown CPU the worse is assumed.
 */
export function chooseRing(
  wanted: 'auto' | 1 | 3,
  guest: { isLinux: boolean; isGrub: boolean },
  meltdown: Meltdown,
): RingChoice {
  const open = meltdown !== 'not affected';
  const cpu =
    meltdown === 'unknown' ? 'nothing is known of the CPU and Meltdown' : `the CPU is ${meltdown} by Meltdown`;
  if (wanted !== 'auto') {
    return { ring: wanted, isolateUserRoots: wanted === 3 && open, why: 'asked for' };
  }
  if (!guest.isLinux && !guest.isGrub)
    return { ring: 3, isolateUserRoots: open, why: 'the kernel is neither Linux nor GRUB' };
  return open
    ? { ring: 3, isolateUserRoots: true, why: cpu }
    : { ring: 1, isolateUserRoots: false, why: `the kernel is ${guest.isGrub ? 'GRUB' : 'Linux'} and ${cpu}` };
}
