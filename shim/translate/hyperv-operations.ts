/**
 * The Hyper-V operations that Xen operations are translated to, as the trap module counts them (TRAP_HV_*).
 *
 * Each row names the operation as the TLFS does, with its hypercall code or MSR from abi/hyperv, and says what stands in
 * for it on an engine without the Microsoft hypervisor (the soft Hyper-V, native/trap/hv_soft.c).
 */
import { TRAP_HV } from '../../abi/trap';

export interface HyperVOperation {
  /** Index in trap_vp.hv_count. */
  readonly counter: number;
  /** The TLFS's name. */
  readonly name: string;
  /** How it is invoked: "hypercall 0x0002", "MSR 0x400000B1", "interrupt". */
  readonly by: string;
  /** What the soft Hyper-V does instead. */
  readonly soft: string;
}

export const HYPERV_OPERATIONS = {
  flushSpace: {
    counter: TRAP_HV.TRAP_HV_FLUSH_SPACE,
    name: 'HvCallFlushVirtualAddressSpace',
    by: 'hypercall 0x0002, or 0x0013 with VP sets',
    soft: 'IPI to VPs in guest code; others flush before they enter it',
  },
  flushList: {
    counter: TRAP_HV.TRAP_HV_FLUSH_LIST,
    name: 'HvCallFlushVirtualAddressList',
    by: 'hypercall 0x0003, or 0x0014 with VP sets',
    soft: 'as HvCallFlushVirtualAddressSpace',
  },
  sendIpi: {
    counter: TRAP_HV.TRAP_HV_SEND_IPI,
    name: 'HvCallSendSyntheticClusterIpi',
    by: 'hypercall 0x000B, or 0x0015 with VP sets',
    soft: 'local APIC ICR',
  },
  longSpinWait: {
    counter: TRAP_HV.TRAP_HV_LONG_SPIN_WAIT,
    name: 'HvCallNotifyLongSpinWait',
    by: 'hypercall 0x0008',
    soft: 'PAUSE',
  },
  stimerArm: {
    counter: TRAP_HV.TRAP_HV_STIMER_ARM,
    name: 'STIMER0 (direct mode), arm',
    by: 'MSR 0x400000B1',
    soft: 'local APIC timer, one shot',
  },
  stimerStop: {
    counter: TRAP_HV.TRAP_HV_STIMER_STOP,
    name: 'STIMER0, stop',
    by: 'MSR 0x400000B1',
    soft: 'local APIC timer, count 0',
  },
  stimerFire: {
    counter: TRAP_HV.TRAP_HV_STIMER_FIRE,
    name: 'STIMER0 expiry',
    by: 'interrupt',
    soft: 'local APIC timer interrupt',
  },
  refTime: {
    counter: TRAP_HV.TRAP_HV_REF_TIME,
    name: 'reference TSC page',
    by: 'MSR 0x40000021',
    soft: 'TSC, scaled',
  },
  signalEvent: {
    counter: TRAP_HV.TRAP_HV_SIGNAL_EVENT,
    name: 'HvCallSignalEvent (doorbell)',
    by: 'hypercall 0x005D',
    soft: 'one byte on the serial port',
  },
  signalSuppressed: {
    counter: TRAP_HV.TRAP_HV_SIGNAL_SUPPRESSED,
    name: 'HvCallSignalEvent left out: the shim is looking already',
    by: '-',
    soft: '-',
  },
  eventFlag: {
    counter: TRAP_HV.TRAP_HV_EVENT_FLAG,
    name: 'SynIC event flag (kick from the shim)',
    by: 'interrupt',
    soft: 'serial port interrupt',
  },
  idle: { counter: TRAP_HV.TRAP_HV_IDLE, name: 'idle (STI; HLT)', by: 'intercepted HLT', soft: 'HLT' },
  crash: {
    counter: TRAP_HV.TRAP_HV_CRASH,
    name: 'guest crash registers',
    by: 'MSR 0x40000100-0x40000105',
    soft: 'trap_crash in shared memory',
  },
  eoi: { counter: TRAP_HV.TRAP_HV_EOI, name: 'EOI', by: 'VP assist page, else MSR 0x40000070', soft: 'local APIC EOI' },
  postMessage: {
    counter: TRAP_HV.TRAP_HV_POST_MESSAGE,
    name: 'synchronous call to the shim',
    by: 'port I/O exit and mailbox',
    soft: 'mailbox and doorbell',
  },
} as const satisfies Record<string, HyperVOperation>;

export type HyperVOperationName = keyof typeof HYPERV_OPERATIONS;

const BY_COUNTER = new Map<number, HyperVOperation>(Object.values(HYPERV_OPERATIONS).map((o) => [o.counter, o]));

/** The operation behind a counter; undefined for one that is not used. */
export function hyperVOperation(counter: number): HyperVOperation | undefined {
  return BY_COUNTER.get(counter);
}

/** Names of the operations in a mask of TRAP_HV_* bits, as trace records carry it. */
export function hyperVNames(mask: number): string[] {
  return Object.values(HYPERV_OPERATIONS)
    .filter((o) => ((mask >>> o.counter) & 1) === 1)
    .map((o) => o.name);
}
