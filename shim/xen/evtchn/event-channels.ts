/**
 * A domain's event channels: which port is bound to what. Implements xen-pv-abi section 6.8 but for raising and
 * unmasking, which the trap module does (and hypercalls/hot/event-send.ts reads out loud).
 *
 * The table here is the authority; each change is mirrored into trap_domain.ports[] as one 64-bit store, from which
 * the module sends without asking. Only the module sets pending bits: `raise` asks it through the request bitmap.
 * Closing follows DESIGN's order: clear the entry, kick, then clear the pending bit.
 *
 * Quirks, all Xen 4.17's: ports come in buckets of 64, and a port beyond the buckets in use is EINVAL where a free one
 * inside is merely "closed". Port 0 is reserved. A global VIRQ may be bound by any domain. Binding to another port
 * leaves the new port pending, because notifications sent before may have been lost.
 */
import { TRAP, TRAP_EFFECT, TRAP_FI } from '../../../abi/trap';
import { DOMID } from '../../../abi/xen/domid';
import { XEN_ERRNO as E } from '../../../abi/xen/errno';
import { EVTCHNSTAT } from '../../../abi/xen/event-channel';
import { EVTCHN_FIFO, EvtchnFifoControlBlock } from '../../../abi/xen/evtchn-fifo';
import { SharedInfo } from '../../../abi/xen/shared-info';
import { VIRQ } from '../../../abi/xen/virq';
import { and64, PAGE_SIZE } from '../domain-memory';
import { PageTypes } from '../page-types';
import type { XenDomain } from '../xen-domain';
import { type BackendEnd, DEFAULT_PRIORITY, encodePort, type Port, type PortState } from './port';

/** Ports per bucket in Xen 4.17 (one page of struct evtchn). */
const BUCKET = 64;
/** GSIs of a machine with one I/O APIC; the first of them are the ISA interrupts. */
export const NR_GSIS = 24;
export const NR_ISA_IRQS = 16;
/** pirqs that a plain domU has in Xen (GSIs and 32 more); binding any of them is EPERM, beyond is EINVAL. */
export const NR_PIRQS = NR_GSIS + 32;
const WORDS_PER_PAGE = PAGE_SIZE / 4;
const MAX_ARRAY_PAGES = EVTCHN_FIFO.EVTCHN_FIFO_NR_CHANNELS / WORDS_PER_PAGE;

/** What a back end holds of a channel. */
export interface BackendChannel {
  /** The guest's port. */
  readonly port: number;
  /** Makes the guest's port pending. Harmless after either end has closed. */
  notify(): void;
  /** Closes the back end's end; the guest's port becomes unbound. */
  close(): void;
}

export interface PortStatus {
  readonly status: number;
  readonly vcpu: number;
  readonly dom?: number;
  readonly port?: number;
  readonly virq?: number;
}

function isGlobalVirq(virq: number): boolean {
  return (
    virq !== VIRQ.VIRQ_TIMER && virq !== VIRQ.VIRQ_DEBUG && virq !== VIRQ.VIRQ_XENOPROF && virq !== VIRQ.VIRQ_XENPMU
  );
}

export class EventChannels {
  private readonly ports: (Port | undefined)[] = [];
  /** VIRQ bindings: virqs[vcpu][virq] = port. */
  private readonly virqs: Map<number, number>[] = [];
  /** dom0 ports that a back end offers to the guest's bind_interdomain. */
  private readonly offered = new Map<number, { end: BackendEnd; onBind: (port: number) => void }>();
  private nextDom0Port = 1;
  private buckets = 1;
  /** Ports that exist, counting 0; trap_domain.ports_nr at the start, bounded by the table's size. */
  readonly limit: number;
  /** Addresses that the guest registered; the trap module's copies are never read back. */
  private readonly fifoArray: number[] = [];
  private readonly fifoControls: number[];
  private fifoInUse = false;

  constructor(private readonly d: XenDomain) {
    this.limit = Math.min(d.trap.getDomain('ports_nr') || 1024, TRAP.TRAP_MAX_PORTS);
    this.fifoControls = new Array<number>(d.nrVcpus).fill(0);
    for (let v = 0; v < d.nrVcpus; v++) this.virqs.push(new Map());
  }

  get fifo(): boolean {
    return this.fifoInUse;
  }
  /** Address of a vCPU's FIFO control block, 0 none. */
  fifoControl(vcpu: number): number {
    return this.fifoControls[vcpu] ?? 0;
  }
  /** The guest can name this port (it may still be free). */
  isValid(port: number): boolean {
    return Number.isInteger(port) && port >= 0 && port < Math.min(this.buckets * BUCKET, this.limit);
  }
  get(port: number): Port | undefined {
    return this.isValid(port) ? this.ports[port] : undefined;
  }

  private mirror(port: number): void {
    this.d.trap.setDomain('ports', encodePort(this.ports[port]), port);
  }

  /** Lowest free port, or -ENOSPC. */
  private allocate(state: PortState, vcpu = 0): number {
    for (let port = 1; port < this.limit; port++) {
      if (this.ports[port] !== undefined) continue;
      this.buckets = Math.max(this.buckets, Math.floor(port / BUCKET) + 1);
      this.ports[port] = { state, vcpu, priority: DEFAULT_PRIORITY };
      this.mirror(port);
      return port;
    }
    return -E.XEN_ENOSPC;
  }

  /** Would `allocate` succeed? Xen looks for a free port before it looks at most arguments. */
  private hasFree(): boolean {
    for (let port = 1; port < this.limit; port++) if (this.ports[port] === undefined) return true;
    return false;
  }

  // --- hypercalls: a port or -errno -----------------------------------------------------------------------------

  allocUnbound(dom: number, remoteDom: number): number {
    const target = this.d.domainByAnyId(dom);
    if (target === undefined) return -E.XEN_ESRCH;
    if (target !== 'self') return -E.XEN_EPERM;
    return this.allocate({
      kind: 'unbound',
      remoteDomid: remoteDom === DOMID.DOMID_SELF ? this.d.domid : remoteDom,
    });
  }

  bindInterdomain(remoteDom: number, remotePort: number): number {
    const target = this.d.domainByAnyId(remoteDom);
    if (target === undefined) return -E.XEN_ESRCH;
    if (!this.hasFree()) return -E.XEN_ENOSPC;
    if (target === 'dom0') {
      const offer = this.offered.get(remotePort);
      if (offer === undefined) return -E.XEN_EINVAL;
      this.offered.delete(remotePort);
      const port = this.allocate({ kind: 'backend', end: offer.end });
      offer.onBind(port);
      this.raise(port);
      return port;
    }
    if (target !== 'self') return -E.XEN_EINVAL;
    const remote = this.get(remotePort);
    if (remote?.state.kind !== 'unbound' || remote.state.remoteDomid !== this.d.domid) return -E.XEN_EINVAL;
    const port = this.allocate({ kind: 'self', peer: remotePort });
    remote.state = { kind: 'self', peer: port };
    this.mirror(remotePort);
    this.raise(port);
    return port;
  }

  bindVirq(virq: number, vcpu: number): number {
    if (virq >= VIRQ.NR_VIRQS) return -E.XEN_EINVAL;
    if (isGlobalVirq(virq) && vcpu !== 0) return -E.XEN_EINVAL;
    if (!this.d.vcpuExists(vcpu)) return -E.XEN_ENOENT;
    const bound = this.virqs[vcpu]!;
    if (bound.has(virq)) return -E.XEN_EEXIST;
    const port = this.allocate({ kind: 'virq', virq }, vcpu);
    if (port < 0) return port;
    bound.set(virq, port);
    this.mirrorVirq(vcpu, virq, port);
    return port;
  }

  private mirrorVirq(vcpu: number, virq: number, port: number): void {
    if (virq === VIRQ.VIRQ_TIMER) this.d.trap.setVp(vcpu, 'virq_timer_port', port);
    if (virq === VIRQ.VIRQ_DEBUG) this.d.trap.setVp(vcpu, 'virq_debug_port', port);
  }

  bindIpi(vcpu: number): number {
    if (!this.d.vcpuExists(vcpu)) return -E.XEN_ENOENT;
    return this.allocate({ kind: 'ipi' }, vcpu);
  }

  bindPirq(pirq: number): number {
    return pirq < NR_PIRQS ? -E.XEN_EPERM : -E.XEN_EINVAL;
  }

  close(port: number): number {
    const p = this.get(port);
    if (p === undefined) return -E.XEN_EINVAL;
    this.ports[port] = undefined;
    if (p.state.kind === 'virq') {
      for (let v = 0; v < this.virqs.length; v++) {
        if (this.virqs[v]!.get(p.state.virq) !== port) continue;
        this.virqs[v]!.delete(p.state.virq);
        this.mirrorVirq(v, p.state.virq, 0);
      }
    } else if (p.state.kind === 'self') {
      const peer = this.ports[p.state.peer];
      if (peer !== undefined && p.state.peer !== port) {
        peer.state = { kind: 'unbound', remoteDomid: this.d.domid };
        this.mirror(p.state.peer);
      }
    }
    this.mirror(port);
    this.forget(port, p.vcpu);
    if (p.state.kind === 'backend') this.callBack(() => p.state.kind === 'backend' && p.state.end.onClose?.());
    return 0;
  }

  /** Takes back what is under way for a port whose entry is already clear, then clears its pending bit. */
  private forget(port: number, vcpu: number): void {
    const word = port >> 6;
    const keep = ~(1n << BigInt(port & 63));
    for (let v = 0; v < this.d.nrVcpus; v++) this.d.trap.andVp(v, 'raise', word, keep);
    this.d.trap.andDomain('to_shim', word, keep);
    this.d.host.kick(vcpu);
    this.clearPending(port);
  }

  status(dom: number, port: number): PortStatus | number {
    const target = this.d.domainByAnyId(dom);
    if (target === undefined) return -E.XEN_ESRCH;
    if (target !== 'self') return -E.XEN_EPERM;
    if (!this.isValid(port)) return -E.XEN_EINVAL;
    const p = this.ports[port];
    if (p === undefined) return { status: EVTCHNSTAT.EVTCHNSTAT_closed, vcpu: 0 };
    const { vcpu, state } = p;
    switch (state.kind) {
      case 'unbound':
        return { status: EVTCHNSTAT.EVTCHNSTAT_unbound, vcpu, dom: state.remoteDomid };
      case 'backend':
        return { status: EVTCHNSTAT.EVTCHNSTAT_interdomain, vcpu, dom: 0, port: state.end.dom0Port };
      case 'self':
        return { status: EVTCHNSTAT.EVTCHNSTAT_interdomain, vcpu, dom: this.d.domid, port: state.peer };
      case 'virq':
        return { status: EVTCHNSTAT.EVTCHNSTAT_virq, vcpu, virq: state.virq };
      case 'ipi':
        return { status: EVTCHNSTAT.EVTCHNSTAT_ipi, vcpu };
    }
  }

  bindVcpu(port: number, vcpu: number): number {
    if (!this.d.vcpuExists(vcpu)) return -E.XEN_ENOENT;
    const p = this.get(port);
    if (p === undefined || p.state.kind === 'ipi') return -E.XEN_EINVAL;
    if (p.state.kind === 'virq' && !isGlobalVirq(p.state.virq)) return -E.XEN_EINVAL;
    p.vcpu = vcpu;
    this.mirror(port);
    return 0;
  }

  /** EVTCHNOP_reset: closes every port; event delivery falls back to 2-level. 0 or -errno. */
  reset(dom: number, call: { effects: number }): number {
    const target = this.d.domainByAnyId(dom);
    if (target === undefined) return -E.XEN_ESRCH;
    if (target !== 'self') return -E.XEN_EPERM;
    for (let port = 1; port < this.ports.length; port++) if (this.ports[port] !== undefined) this.close(port);
    this.dropFifo(call);
    call.effects |= TRAP_EFFECT.TRAP_EFFECT_EVTCHN;
    return 0;
  }

  // --- FIFO -----------------------------------------------------------------------------------------------------

  private dropFifo(call: { effects: number }): void {
    const { trap } = this.d;
    const types = new PageTypes(this.d, call);
    trap.setDomain('evtchn_fifo', 0);
    this.fifoInUse = false;
    for (let v = 0; v < this.d.nrVcpus; v++) {
      trap.setVp(v, 'fifo_control_gpa', 0n);
      const control = this.fifoControl(v);
      if (control !== 0) types.put(Math.floor(control / PAGE_SIZE));
      this.fifoControls[v] = 0;
      for (let q = 0; q < EVTCHN_FIFO.EVTCHN_FIFO_MAX_QUEUES; q++) trap.setVp(v, 'fifo_tail', 0, q);
    }
    this.fifoArray.splice(0).forEach((gpa, i) => {
      trap.setDomain('fifo_array', 0n, i);
      types.put(gpa / PAGE_SIZE);
    });
  }

  /** EVTCHNOP_init_control: effects are returned through `call`. 0 or -errno. */
  initControl(gfn: bigint, offset: number, vcpu: number, call: { effects: number }): number {
    if (!this.d.vcpuExists(vcpu)) return -E.XEN_ENOENT;
    if (offset > PAGE_SIZE - EvtchnFifoControlBlock.size || (offset & 7) !== 0) return -E.XEN_EINVAL;
    const { trap } = this.d;
    if (this.fifo && this.fifoControl(vcpu) !== 0) return -E.XEN_EINVAL;
    const gpa = this.holdPage(gfn, call);
    if (gpa === undefined) return -E.XEN_EINVAL;
    this.fifoControls[vcpu] = gpa + offset;
    trap.setVp(vcpu, 'fifo_control_gpa', BigInt(gpa + offset));
    if (!this.fifo) {
      const pending: number[] = [];
      for (let port = 1; port < this.ports.length; port++) {
        const p = this.ports[port];
        if (p === undefined) continue;
        p.priority = DEFAULT_PRIORITY;
        this.mirror(port);
        if (this.pending2l(port)) pending.push(port);
      }
      trap.setDomain('evtchn_fifo', 1);
      this.fifoInUse = true;
      for (const port of pending) this.raise(port);
    }
    call.effects |= TRAP_EFFECT.TRAP_EFFECT_EVTCHN;
    return 0;
  }

  /** EVTCHNOP_expand_array. */
  expandArray(gfn: bigint, call: { effects: number }): number {
    if (!this.fifo) return -E.XEN_EOPNOTSUPP;
    if (this.fifoArray.length >= MAX_ARRAY_PAGES) return -E.XEN_ENOSPC;
    const gpa = this.holdPage(gfn, call);
    if (gpa === undefined) return -E.XEN_EINVAL;
    this.d.trap.setDomain('fifo_array', BigInt(gpa), this.fifoArray.length);
    this.fifoArray.push(gpa);
    call.effects |= TRAP_EFFECT.TRAP_EFFECT_EVTCHN;
    return 0;
  }

  setPriority(port: number, priority: number): number {
    if (!this.isValid(port)) return -E.XEN_EINVAL;
    if (!this.fifo) return -E.XEN_ENOSYS;
    const p = this.ports[port];
    if (p === undefined) return -E.XEN_EACCES;
    if (priority > EVTCHN_FIFO.EVTCHN_FIFO_PRIORITY_MIN) return -E.XEN_EINVAL;
    p.priority = priority;
    this.mirror(port);
    return 0;
  }

  /**
   * A page of the guest that the hypervisor will write, with a reference: it must not become a page table while it is
   * written without asking.
   */
  private holdPage(gfn: bigint, call: { effects: number }): number | undefined {
    if (gfn >= BigInt(this.d.frames.nrFrames)) return undefined;
    const rc = new PageTypes(this.d, call).get(Number(gfn), TRAP_FI.TRAP_FI_WRITABLE);
    return rc === 0 ? Number(gfn) * PAGE_SIZE : undefined;
  }

  // --- pending bits ---------------------------------------------------------------------------------------------

  /** Address of a port's event word, or undefined before its array page exists. */
  fifoWord(port: number): number | undefined {
    const page = this.fifoArray[Math.floor(port / WORDS_PER_PAGE)];
    return page === undefined ? undefined : page + (port % WORDS_PER_PAGE) * 4;
  }
  /** Address of the 64-bit word of a shared_info bitmap that holds a port's bit. */
  bitmapWord(field: 'evtchn_pending' | 'evtchn_mask', port: number): number {
    return this.d.sharedInfoGpa + SharedInfo.offsetOf(field, port >> 6);
  }
  private pending2l(port: number): boolean {
    const word = this.d.memory.load64(this.bitmapWord('evtchn_pending', port));
    return ((word >> BigInt(port & 63)) & 1n) === 1n;
  }
  private clearPending(port: number): void {
    if (this.fifo) {
      const word = this.fifoWord(port);
      if (word !== undefined) this.d.memory.and32(word, ~(1 << EVTCHN_FIFO.EVTCHN_FIFO_PENDING));
      this.d.trap.andDomain('early_pending', port >> 6, ~(1n << BigInt(port & 63)));
    } else {
      and64(this.d.memory, this.bitmapWord('evtchn_pending', port), ~(1n << BigInt(port & 63)));
    }
  }

  /** Asks the trap module to make a bound port pending. Nothing happens for a free one. */
  raise(port: number): void {
    const p = this.get(port);
    if (p !== undefined) this.d.host.raisePort(p.vcpu, port);
  }

  /** Port bound to a VIRQ on a vCPU, 0 none. */
  virqPort(vcpu: number, virq: number): number {
    return this.virqs[vcpu]?.get(virq) ?? 0;
  }
  raiseVirq(vcpu: number, virq: number): void {
    const port = this.virqPort(vcpu, virq);
    if (port !== 0) this.raise(port);
  }

  // --- back ends ------------------------------------------------------------------------------------------------

  /** As the toolstack does for xenstore (port 1) and console (port 2): a port waiting for dom0. Throws when full. */
  allocUnboundForBackend(): number {
    const port = this.allocate({ kind: 'unbound', remoteDomid: 0 });
    if (port < 0) throw new Error('no free event channel port');
    return port;
  }

  /** Connects a back end to a guest port that waits for dom0. Undefined if the port does not. */
  connectBackend(port: number, onNotify: () => void, onClose?: () => void): BackendChannel | undefined {
    const p = this.get(port);
    if (p?.state.kind !== 'unbound' || p.state.remoteDomid !== 0) return undefined;
    const end: BackendEnd = { dom0Port: this.nextDom0Port++, onNotify, onClose };
    p.state = { kind: 'backend', end };
    this.mirror(port);
    return this.channel(port, end);
  }

  /** Offers a dom0 port that the guest may bind with EVTCHNOP_bind_interdomain; `onBind` gets the channel. */
  offerToGuest(onNotify: () => void, onBind: (channel: BackendChannel) => void, onClose?: () => void): number {
    const end: BackendEnd = { dom0Port: this.nextDom0Port++, onNotify, onClose };
    this.offered.set(end.dom0Port, { end, onBind: (port) => this.callBack(() => onBind(this.channel(port, end))) });
    return end.dom0Port;
  }

  private channel(port: number, end: BackendEnd): BackendChannel {
    const connected = () => {
      const state = this.ports[port]?.state;
      return state?.kind === 'backend' && state.end === end;
    };
    return {
      port,
      notify: () => {
        if (connected()) this.raise(port);
      },
      close: () => {
        if (!connected()) return;
        this.ports[port]!.state = { kind: 'unbound', remoteDomid: 0 };
        this.mirror(port);
      },
    };
  }

  /** The guest sent to `port` (a bit of to_shim, or the cold send). False if no back end is there: a stale bit. */
  notifyBackend(port: number): boolean {
    const state = this.get(port)?.state;
    if (state?.kind !== 'backend') return false;
    this.callBack(() => state.end.onNotify());
    return true;
  }

  private callBack(run: () => void): void {
    try {
      run();
    } catch (err) {
      this.d.host.log?.error({ err }, 'event channel back end failed');
    }
  }
}
