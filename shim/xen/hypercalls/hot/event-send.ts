/**
 * Sending and unmasking events, and making a port pending: the readable twin of native/trap/events.c. Implements
 * xen-pv-abi section 6.8, 2-level and FIFO.
 *
 * Normally the trap module does all this. Here it runs only for `--cold event_channel_op` and in tests that compare the
 * two. Every change of a shared word is a locked operation. With more than one vCPU the module is asked to make the port
 * pending: the FIFO queues' tails (trap_vp.fifo_tail) are under locks of its own, and it knows who polls.
 */
import { TRAP_PORT } from '../../../../abi/trap';
import { XEN_ERRNO as E } from '../../../../abi/xen/errno';
import { EVTCHN_FIFO, EvtchnFifoControlBlock } from '../../../../abi/xen/evtchn-fifo';
import { VcpuInfo } from '../../../../abi/xen/vcpu-info';
import { or64 } from '../../domain-memory';
import type { XenDomain } from '../../xen-domain';

const BIT_PENDING = (1 << EVTCHN_FIFO.EVTCHN_FIFO_PENDING) >>> 0;
const BIT_MASKED = 1 << EVTCHN_FIFO.EVTCHN_FIFO_MASKED;
const BIT_LINKED = 1 << EVTCHN_FIFO.EVTCHN_FIFO_LINKED;
const BIT_BUSY = 1 << EVTCHN_FIFO.EVTCHN_FIFO_BUSY;
const LINK_MASK = EVTCHN_FIFO.EVTCHN_FIFO_LINK_MASK;
/** Tries at linking behind a tail that the guest keeps changing, before the queue is started anew. */
const LINK_RETRIES = 4;

function testAndSet64(d: XenDomain, gpa: number, bit: number): boolean {
  const mask = 1n << BigInt(bit);
  return (or64(d.memory, gpa, mask) & mask) !== 0n;
}

/** Sets evtchn_upcall_pending; true if it was clear. The byte is shared with the guest's own mask byte. */
function markUpcall(d: XenDomain, vcpu: number): void {
  const at = d.vcpuInfoGpa(vcpu) + VcpuInfo.offsetOf('evtchn_upcall_pending');
  const old = d.memory.getU8(at);
  d.memory.setU8(at, 1);
  // With other vCPUs, the guest may have cleared the byte between the two.
  if (old === 0 || d.nrVcpus > 1) d.host.kick(vcpu);
}

/** The 2-level half: pending bit is set and unmasked, tell the vCPU. */
function select2l(d: XenDomain, port: number, vcpu: number): void {
  const sel = d.vcpuInfoGpa(vcpu) + VcpuInfo.offsetOf('evtchn_pending_sel');
  if (!testAndSet64(d, sel, port >> 6)) markUpcall(d, vcpu);
}

function masked2l(d: XenDomain, port: number): boolean {
  const mask = d.memory.load64(d.evtchn.bitmapWord('evtchn_mask', port));
  return ((mask >> BigInt(port & 63)) & 1n) === 1n;
}

function raise2l(d: XenDomain, port: number, vcpu: number): void {
  if (testAndSet64(d, d.evtchn.bitmapWord('evtchn_pending', port), port & 63)) return;
  if (!masked2l(d, port)) select2l(d, port, vcpu);
}

/** A port that moves to another queue must not stay the tail of the one before. */
function leaveLastQueue(d: XenDomain, port: number, vcpu: number, priority: number): void {
  const queue = ((vcpu << 4) | priority) + 1;
  const last = d.trap.getDomain('fifo_last_queue', port);
  d.trap.setDomain('fifo_last_queue', queue, port);
  if (last === 0 || last === queue) return;
  const [v, q] = [(last - 1) >> 4, (last - 1) & 15];
  if (d.vcpuExists(v) && d.trap.getVp(v, 'fifo_tail', q) === port) d.trap.setVp(v, 'fifo_tail', 0, q);
}

/** Links an unmasked, pending FIFO event into its queue unless it is linked. */
function linkFifo(d: XenDomain, port: number, word: number, vcpu: number, priority: number): void {
  if ((d.memory.or32(word, BIT_LINKED) & BIT_LINKED) !== 0) return;
  const control = d.evtchn.fifoControl(vcpu);
  if (control === 0) {
    d.memory.and32(word, ~BIT_LINKED);
    return;
  }
  leaveLastQueue(d, port, vcpu, priority);
  const tail = d.trap.getVp(vcpu, 'fifo_tail', priority);
  let linked = false;
  if (tail !== 0 && tail !== port) {
    const tailWord = d.evtchn.fifoWord(tail);
    for (let i = 0; tailWord !== undefined && i < LINK_RETRIES; i++) {
      const old = d.memory.load32(tailWord);
      if ((old & BIT_LINKED) === 0) break;
      const next = ((old & ~(LINK_MASK | BIT_BUSY)) | port) >>> 0;
      if (d.memory.cas32(tailWord, old, next) >>> 0 === old >>> 0) {
        linked = true;
        break;
      }
    }
  }
  d.trap.setVp(vcpu, 'fifo_tail', port, priority);
  if (linked) return;
  d.memory.store32(control + EvtchnFifoControlBlock.offsetOf('head', priority), port);
  const ready = d.memory.or32(control + EvtchnFifoControlBlock.offsetOf('ready'), 1 << priority);
  if ((ready & (1 << priority)) === 0) markUpcall(d, vcpu);
}

function raiseFifo(d: XenDomain, port: number, vcpu: number, priority: number): void {
  const word = d.evtchn.fifoWord(port);
  if (word === undefined || d.evtchn.fifoControl(vcpu) === 0) {
    d.trap.orDomain('early_pending', port >> 6, 1n << BigInt(port & 63));
    return;
  }
  const old = d.memory.or32(word, BIT_PENDING | 0) >>> 0;
  if ((old & (BIT_MASKED | BIT_LINKED)) === 0) linkFifo(d, port, word, vcpu, priority);
}

/** Makes a bound port pending, for the vCPU `caller`. */
export function evtchnRaise(d: XenDomain, port: number, caller: number): void {
  const entry = d.evtchn.get(port);
  if (entry === undefined) return;
  // The caller's own VP does it, on its way back to the guest: the port is pending when the hypercall returns.
  if (d.nrVcpus > 1) d.host.raisePort(caller, port);
  else if (d.evtchn.fifo) raiseFifo(d, port, entry.vcpu, entry.priority);
  else raise2l(d, port, entry.vcpu);
}

/** EVTCHNOP_send: 0 or -errno. */
export function evtchnSend(d: XenDomain, port: number, caller: number): number {
  const entry = d.evtchn.get(port);
  if (entry === undefined) return -E.XEN_EINVAL;
  switch (entry.state.kind) {
    case 'unbound':
      return 0;
    case 'backend':
      d.evtchn.notifyBackend(port);
      return 0;
    case 'self':
      evtchnRaise(d, entry.state.peer, caller);
      return 0;
    case 'ipi':
      evtchnRaise(d, port, caller);
      return 0;
    case 'virq':
      return -E.XEN_EINVAL;
  }
}

/** EVTCHNOP_unmask: 0 or -errno. Works on ports in any state, free ones and port 0 included. */
export function evtchnUnmask(d: XenDomain, port: number, caller: number): number {
  if (port >= d.evtchn.limit) return -E.XEN_EINVAL;
  const entry = d.evtchn.get(port);
  const vcpu = entry?.vcpu ?? 0;
  if (d.evtchn.fifo) {
    const word = d.evtchn.fifoWord(port);
    if (word === undefined) return 0;
    const old = d.memory.and32(word, ~BIT_MASKED) >>> 0;
    if ((old & BIT_PENDING) === 0) return 0;
    if (d.nrVcpus > 1) d.host.raisePort(caller, port);
    else linkFifo(d, port, word, vcpu, entry?.priority ?? 0);
    return 0;
  }
  const gpa = d.evtchn.bitmapWord('evtchn_mask', port);
  const bit = 1n << BigInt(port & 63);
  let old = d.memory.load64(gpa);
  while ((old & bit) !== 0n) {
    const seen = d.memory.cas64(gpa, old, old & ~bit);
    if (seen === old) break;
    old = seen;
  }
  if ((old & bit) === 0n) return 0;
  const pending = d.memory.load64(d.evtchn.bitmapWord('evtchn_pending', port));
  if ((pending & bit) !== 0n) select2l(d, port, vcpu);
  return 0;
}

/** Kinds of trap_domain.ports[] that EVTCHNOP_send accepts, for tests that compare with the mirrored entry. */
export const SENDABLE: readonly number[] = [
  TRAP_PORT.TRAP_PORT_UNBOUND,
  TRAP_PORT.TRAP_PORT_SHIM,
  TRAP_PORT.TRAP_PORT_SELF,
  TRAP_PORT.TRAP_PORT_IPI,
];
