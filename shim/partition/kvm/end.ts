/** Why no VP of the kvm engine runs any longer, in words. */
import { constants as os } from 'node:os';
import { KVM_END_KINDS, type KvmMachineEnd } from '../host';
import { KVM_EXIT } from './abi';

/** Suberrors of KVM_EXIT_INTERNAL_ERROR (Documentation/virt/kvm/api.rst). */
const INTERNAL_ERRORS: Readonly<Record<number, string>> = {
  1: 'an instruction could not be emulated',
  2: 'exceptions at the same time',
  3: 'an exit while an event was delivered',
  4: 'an unexpected exit reason',
};

function errnoText(errno: number): string {
  return Object.entries(os.errno).find(([, n]) => n === errno)?.[0] ?? `errno ${errno}`;
}

const EXIT_NAMES = new Map<number, string>(
  Object.entries(KVM_EXIT).map(([name, reason]) => [reason as number, name.slice('KVM_EXIT_'.length)]),
);

/** An exit reason as the counters show it: KVM's name without its prefix. */
export function exitName(reason: number): string {
  return EXIT_NAMES.get(reason) ?? `exit ${reason}`;
}

/** An address, and what is there, for the end of a sentence. */
function at({ rip, instruction }: KvmMachineEnd): string {
  if (rip === 0n) return '';
  const bytes = Array.from(instruction, (byte) => byte.toString(16).padStart(2, '0')).join(' ');
  return ` at 0x${rip.toString(16)}${bytes === '' ? '' : `: ${bytes}`}`;
}

export function describeEnd(end: KvmMachineEnd): string {
  const on = `virtual processor ${end.vp}`;
  switch (KVM_END_KINDS[end.kind]) {
    case 'stopped':
      return 'the partition was stopped';
    case 'shutdown':
      return `${on} shut down by a triple fault${at(end)}`;
    case 'reset':
      return `${on} asked for a reset of the partition`;
    case 'run-error':
      return `KVM_RUN failed on ${on}: ${errnoText(end.code)}`;
    case 'internal-error':
      return `KVM gave up on ${on}: internal error ${end.code} (${INTERNAL_ERRORS[end.code] ?? 'unknown'})${at(end)}`;
    case 'fail-entry':
      return `the processor refused to enter ${on}: hardware reason 0x${end.detail.toString(16)}${at(end)}`;
    default:
      return `${on} left the guest for a reason that nobody asked for: KVM exit ${end.code} (${exitName(end.code)})${at(end)}`;
  }
}
