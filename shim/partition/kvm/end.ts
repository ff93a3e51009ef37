/** Why no VP of the kvm engine runs any longer, in words. */
import { constants as os } from 'node:os';
import type { MachineEnd } from '../host';
import { describeMachineEnd } from '../machine-end';
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

export function describeEnd(end: MachineEnd): string {
  return describeMachineEnd(end, {
    hypervisor: 'KVM',
    run: 'KVM_RUN',
    error: errnoText,
    internal: (code) => INTERNAL_ERRORS[code] ?? 'unknown',
    exit: exitName,
  });
}
