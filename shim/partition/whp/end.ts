/** Exits and ends of the whp engine in words. The slots of the exit counters are native/host/win32/whp.c's. */
import { WHV_RUN_VP_EXIT_REASON } from '../../../abi/hyperv/whp';
import type { MachineEnd } from '../host';
import { describeMachineEnd } from '../machine-end';
import { describeHresult } from './hresult';

const PREFIX = 'WHvRunVpExitReason';
const NAMES: ReadonlyMap<number, string> = new Map(
  Object.entries(WHV_RUN_VP_EXIT_REASON).map(([name, reason]) => [reason as number, name.slice(PREFIX.length)]),
);

/** EXIT_SLOT_0x1000, EXIT_SLOT_CANCELED. */
const SECOND = 16;
const CANCELED = 32;

/** An exit reason without its prefix. */
export function exitName(reason: number): string {
  return NAMES.get(reason) ?? `exit 0x${reason.toString(16)}`;
}

/** The reason that a counter's slot is for. */
export function slotName(slot: number): string {
  if (slot === CANCELED) return exitName(WHV_RUN_VP_EXIT_REASON.WHvRunVpExitReasonCanceled);
  if (slot > CANCELED) return 'others';
  return exitName(slot < SECOND ? slot : 0x1000 + slot - SECOND);
}

/** WHV_VP_UNSUPPORTED_FEATURE_CODE. */
const UNSUPPORTED: Readonly<Record<number, string>> = {
  1: 'an intercept that it does not know',
  2: 'a task switch',
};

export function describeEnd(end: MachineEnd): string {
  return describeMachineEnd(end, {
    hypervisor: 'the hypervisor',
    run: 'WHvRunVirtualProcessor',
    error: describeHresult,
    internal: (code, detail) => `${UNSUPPORTED[code] ?? 'an unsupported feature'}, parameter 0x${detail.toString(16)}`,
    exit: exitName,
  });
}
