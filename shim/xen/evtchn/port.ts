/**
 * One event channel port: its state in the shim, and the 64-bit entry that the trap module reads.
 *
 * The entry's layout is TRAP_PORT_* in abi/trap/constants.ts: kind, FIFO priority, vCPU, and the peer port or VIRQ.
 */
import { TRAP_PORT } from '../../../abi/trap';
import { EVTCHN_FIFO } from '../../../abi/xen/evtchn-fifo';

/** The shim's end of an interdomain channel. */
export interface BackendEnd {
  /** The back end's port number in dom0, as EVTCHNOP_status shows it. */
  readonly dom0Port: number;
  onNotify(): void;
  /** The guest closed its end. */
  onClose?(): void;
}

export type PortState =
  | { readonly kind: 'unbound'; readonly remoteDomid: number }
  | { readonly kind: 'backend'; readonly end: BackendEnd }
  | { readonly kind: 'self'; readonly peer: number }
  | { readonly kind: 'virq'; readonly virq: number }
  | { readonly kind: 'ipi' };

export interface Port {
  state: PortState;
  vcpu: number;
  priority: number;
}

/** The trap module's entry for a port; 0n is a free one. */
export function encodePort(port: Port | undefined): bigint {
  if (port === undefined) return 0n;
  const { state } = port;
  const kind = {
    unbound: TRAP_PORT.TRAP_PORT_UNBOUND,
    backend: TRAP_PORT.TRAP_PORT_SHIM,
    self: TRAP_PORT.TRAP_PORT_SELF,
    virq: TRAP_PORT.TRAP_PORT_VIRQ,
    ipi: TRAP_PORT.TRAP_PORT_IPI,
  }[state.kind];
  const peer = state.kind === 'self' ? state.peer : state.kind === 'virq' ? state.virq : 0;
  return (
    BigInt(kind) |
    (BigInt(port.priority) << BigInt(TRAP_PORT.TRAP_PORT_PRIO_SHIFT)) |
    (BigInt(port.vcpu) << BigInt(TRAP_PORT.TRAP_PORT_VCPU_SHIFT)) |
    (BigInt(peer) << BigInt(TRAP_PORT.TRAP_PORT_PEER_SHIFT))
  );
}

export const DEFAULT_PRIORITY = EVTCHN_FIFO.EVTCHN_FIFO_PRIORITY_DEFAULT;
