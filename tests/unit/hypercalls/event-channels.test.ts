/** Event channels against a model, the entries that the trap module reads, delivery by both ABIs, and back ends. */
import fc from 'fast-check';
import { TRAP_EFFECT, TRAP_PORT } from '../../../abi/trap';
import {
  EvtchnAllocUnbound,
  EvtchnBindInterdomain,
  EvtchnBindIpi,
  EvtchnBindVcpu,
  EvtchnBindVirq,
  EvtchnClose,
  EvtchnExpandArray,
  EvtchnInitControl,
  EvtchnReset,
  EvtchnSetPriority,
  EvtchnStatus,
} from '../../../abi/xen/event-channel';
import { evtchnRaise } from '../../../shim/xen/hypercalls/hot/event-send';
import { type Fixture, PAGE, SHARED_INFO, setUp } from './fixture';

const OP = { bindInterdomain: 0, bindVirq: 1, close: 3, send: 4, status: 5, allocUnbound: 6, bindIpi: 7 };
const BIND_VCPU = 8;
const UNMASK = 9;
const RESET = 10;

const entry = (f: Fixture, port: number) => f.trap.getDomain('ports', port);
const kind = (f: Fixture, port: number) => Number(entry(f, port) & 0xfn);
const allocUnbound = (f: Fixture, remote = 0x7ff0) => {
  const rc = f.now('event_channel_op', OP.allocUnbound, f.put(EvtchnAllocUnbound, { dom: 0x7ff0, remote_dom: remote }));
  return rc < 0 ? rc : f.field(EvtchnAllocUnbound, 'port');
};
const bindSelf = (f: Fixture, port: number) => {
  const at = f.put(EvtchnBindInterdomain, { remote_dom: 0x7ff0, remote_port: port });
  const rc = f.now('event_channel_op', OP.bindInterdomain, at);
  return rc < 0 ? rc : f.field(EvtchnBindInterdomain, 'local_port');
};
const bindVirq = (f: Fixture, virq: number, vcpu: number) => {
  const rc = f.now('event_channel_op', OP.bindVirq, f.put(EvtchnBindVirq, { virq, vcpu }));
  return rc < 0 ? rc : f.field(EvtchnBindVirq, 'port');
};
const bindIpi = (f: Fixture, vcpu: number) => {
  const rc = f.now('event_channel_op', OP.bindIpi, f.put(EvtchnBindIpi, { vcpu }));
  return rc < 0 ? rc : f.field(EvtchnBindIpi, 'port');
};
const onPort = (f: Fixture, op: number, port: number) => f.now('event_channel_op', op, f.put(EvtchnClose, { port }));
const initFifo = (f: Fixture) => {
  const at = f.put(EvtchnInitControl, { control_gfn: 20, offset: 8, vcpu: 0 });
  expect(f.now('event_channel_op', 11, at)).toBe(0);
  expect(f.field(EvtchnInitControl, 'link_bits')).toBe(17);
};

/** What a port may be in the model. */
type Model = { state: string; vcpu: number; peer?: number };

describe('a model', () => {
  it('agrees after any sequence of operations', () => {
    const port = fc.integer({ min: 0, max: 12 });
    const vcpu = fc.integer({ min: 0, max: 2 });
    const operation = fc.oneof(
      fc.record({ op: fc.constant('unbound'), self: fc.boolean() }),
      fc.record({ op: fc.constant('self'), port }),
      fc.record({ op: fc.constant('virq'), virq: fc.integer({ min: 0, max: 4 }), vcpu }),
      fc.record({ op: fc.constant('ipi'), vcpu }),
      fc.record({ op: fc.constant('close'), port }),
      fc.record({ op: fc.constant('vcpu'), port, vcpu }),
      fc.record({ op: fc.constant('send'), port }),
      fc.record({ op: fc.constant('reset') }),
    );
    const f = setUp();
    fc.assert(
      fc.property(fc.array(operation as unknown as fc.Arbitrary<Record<string, never>>, { maxLength: 40 }), (ops) => {
        f.now('event_channel_op', RESET, f.put(EvtchnReset, { dom: 0x7ff0 }));
        const model = new Map<number, Model>();
        const virqs = new Map<string, number>();
        const lowest = () => {
          let p = 1;
          while (model.has(p)) p++;
          return p;
        };
        const close = (p: number) => {
          const m = model.get(p);
          if (m === undefined) return false;
          model.delete(p);
          for (const [key, bound] of virqs) if (bound === p) virqs.delete(key);
          if (m.peer !== undefined) model.set(m.peer, { state: 'unbound self', vcpu: model.get(m.peer)!.vcpu });
          return true;
        };
        for (const o of ops as unknown as { op: string; port: number; vcpu: number; virq: number; self: boolean }[]) {
          const next = lowest();
          if (o.op === 'unbound') {
            expect(allocUnbound(f, o.self ? 0x7ff0 : 0)).toBe(next);
            model.set(next, { state: o.self ? 'unbound self' : 'unbound', vcpu: 0 });
          } else if (o.op === 'self') {
            const ok = model.get(o.port)?.state === 'unbound self';
            f.raised.length = 0;
            expect(bindSelf(f, o.port)).toBe(ok ? next : -22);
            if (ok) {
              model.set(next, { state: 'self', vcpu: 0, peer: o.port });
              model.set(o.port, { state: 'self', vcpu: model.get(o.port)!.vcpu, peer: next });
              expect(f.raised).toEqual([[0, next]]);
            }
          } else if (o.op === 'virq') {
            const global = o.virq > 1;
            const key = `${o.virq} ${o.vcpu}`;
            const want = global && o.vcpu !== 0 ? -22 : o.vcpu > 1 ? -2 : virqs.has(key) ? -17 : next;
            expect(bindVirq(f, o.virq, o.vcpu)).toBe(want);
            if (want > 0) {
              virqs.set(key, next);
              model.set(next, { state: `virq ${o.virq}`, vcpu: o.vcpu });
            }
          } else if (o.op === 'ipi') {
            expect(bindIpi(f, o.vcpu)).toBe(o.vcpu > 1 ? -2 : next);
            if (o.vcpu <= 1) model.set(next, { state: 'ipi', vcpu: o.vcpu });
          } else if (o.op === 'close') {
            expect(onPort(f, OP.close, o.port)).toBe(close(o.port) ? 0 : -22);
          } else if (o.op === 'vcpu') {
            const m = model.get(o.port);
            const fixed = m === undefined || m.state === 'ipi' || /virq [01]$/.test(m.state);
            const rc = f.now('event_channel_op', BIND_VCPU, f.put(EvtchnBindVcpu, { port: o.port, vcpu: o.vcpu }));
            expect(rc).toBe(o.vcpu > 1 ? -2 : fixed ? -22 : 0);
            if (rc === 0) m!.vcpu = o.vcpu;
          } else if (o.op === 'send') {
            const m = model.get(o.port);
            expect(onPort(f, OP.send, o.port)).toBe(m === undefined || m.state.startsWith('virq') ? -22 : 0);
          } else {
            f.now('event_channel_op', RESET, f.put(EvtchnReset, { dom: 0x7ff0 }));
            model.clear();
            virqs.clear();
          }
          // The entries that the module reads say the same.
          for (let p = 1; p <= 20; p++) {
            const m = model.get(p);
            if (m === undefined) {
              expect(entry(f, p)).toBe(0n);
              continue;
            }
            expect(Number((entry(f, p) >> 8n) & 0xffffn)).toBe(m.vcpu);
            if (m.peer !== undefined) expect(Number(entry(f, p) >> 32n)).toBe(m.peer);
            expect(kind(f, p)).toBe(
              m.state.startsWith('unbound') ? 1 : m.state === 'self' ? 3 : m.state === 'ipi' ? 5 : 4,
            );
          }
          for (const v of [0, 1]) expect(f.trap.getVp(v, 'virq_timer_port')).toBe(virqs.get(`0 ${v}`) ?? 0);
        }
      }),
      { numRuns: 60 },
    );
    expect(f.logged).toEqual([]);
  });
});

describe('status', () => {
  it('tells what each port is', () => {
    const f = setUp();
    const status = (port: number) => {
      const at = f.put(EvtchnStatus, { dom: 0x7ff0, port });
      expect(f.now('event_channel_op', OP.status, at)).toBe(0);
      return (['status', 'vcpu', 'u_virq', 'u_interdomain_dom', 'u_interdomain_port'] as const).map((name) =>
        f.field(EvtchnStatus, name),
      );
    };
    const unbound = allocUnbound(f, 0);
    const a = allocUnbound(f);
    const b = bindSelf(f, a);
    const timer = bindVirq(f, 0, 1);
    const ipi = bindIpi(f, 1);
    expect(status(0)[0]).toBe(0);
    expect(status(unbound)[0]).toBe(1);
    expect(status(unbound)[3]).toBe(0);
    expect(status(a)).toEqual([2, 0, 7, 7, b]);
    expect(status(timer).slice(0, 2)).toEqual([4, 1]);
    expect(status(timer)[2]).toBe(0);
    expect(status(ipi).slice(0, 2)).toEqual([5, 1]);
  });
});

describe('back ends', () => {
  it('hear the guest, raise its port, and let go of it', () => {
    const f = setUp();
    let heard = 0;
    let closed = 0;
    const port = f.d.evtchn.allocUnboundForBackend();
    expect(port).toBe(1);
    expect(f.d.evtchn.connectBackend(2, () => {})).toBeUndefined();
    const channel = f.d.evtchn.connectBackend(
      port,
      () => heard++,
      () => closed++,
    )!;
    expect(kind(f, port)).toBe(TRAP_PORT.TRAP_PORT_SHIM);
    expect(f.d.evtchn.connectBackend(port, () => {})).toBeUndefined();
    expect(onPort(f, OP.send, port)).toBe(0);
    expect(f.d.evtchn.notifyBackend(port)).toBe(true);
    expect(heard).toBe(2);
    channel.notify();
    expect(f.raised).toEqual([[0, port]]);
    expect(onPort(f, OP.close, port)).toBe(0);
    expect(closed).toBe(1);
    channel.notify();
    channel.close();
    expect(f.d.evtchn.notifyBackend(port)).toBe(false);
    expect(f.raised).toHaveLength(1);
  });

  it('closing from the back end leaves the port unbound for dom0', () => {
    const f = setUp();
    const port = allocUnbound(f, 0);
    f.d.evtchn.connectBackend(port, () => {})!.close();
    expect(kind(f, port)).toBe(TRAP_PORT.TRAP_PORT_UNBOUND);
    expect(onPort(f, OP.send, port)).toBe(0);
    expect(f.d.evtchn.connectBackend(port, () => {})).toBeDefined();
  });

  it('may offer a port that the guest binds', () => {
    const f = setUp();
    const bound: number[] = [];
    const offered = f.d.evtchn.offerToGuest(
      () => {},
      (channel) => bound.push(channel.port),
    );
    const at = f.put(EvtchnBindInterdomain, { remote_dom: 0, remote_port: offered });
    expect(f.now('event_channel_op', OP.bindInterdomain, at)).toBe(0);
    expect(bound).toEqual([f.field(EvtchnBindInterdomain, 'local_port')]);
    expect(f.now('event_channel_op', OP.bindInterdomain, at)).toBe(-22);
  });

  it('that throw are logged, not fatal', () => {
    const f = setUp();
    const port = allocUnbound(f, 0);
    f.d.evtchn.connectBackend(port, () => {
      throw new Error('broken');
    });
    expect(onPort(f, OP.send, port)).toBe(0);
    expect(f.logged[0]).toMatch(/broken/);
  });
});

const PENDING = SHARED_INFO * PAGE + 0x800;
const MASK = SHARED_INFO * PAGE + 0xa00;

describe('2-level delivery', () => {
  it('sets pending, selector and upcall once, and holds back what is masked', () => {
    const f = setUp({ vcpus: 1 });
    const port = bindIpi(f, 0);
    expect(onPort(f, OP.send, port)).toBe(0);
    expect(f.memory.getU64(PENDING)).toBe(1n << BigInt(port));
    expect(f.memory.getU64(SHARED_INFO * PAGE + 8)).toBe(1n);
    expect(f.memory.getU8(SHARED_INFO * PAGE)).toBe(1);
    expect(f.kicked).toEqual([0]);
    onPort(f, OP.send, port);
    expect(f.kicked).toEqual([0]);

    const g = setUp({ vcpus: 1 });
    const masked = bindIpi(g, 0);
    g.memory.setU64(MASK, 1n << BigInt(masked));
    onPort(g, OP.send, masked);
    expect(g.memory.getU64(PENDING)).toBe(1n << BigInt(masked));
    expect(g.memory.getU8(SHARED_INFO * PAGE)).toBe(0);
    expect(onPort(g, UNMASK, masked)).toBe(0);
    expect(g.memory.getU64(MASK)).toBe(0n);
    expect(g.memory.getU8(SHARED_INFO * PAGE)).toBe(1);
  });

  it('with several vCPUs, asks the trap module, which knows who polls', () => {
    const f = setUp();
    const port = bindIpi(f, 1);
    expect(onPort(f, OP.send, port)).toBe(0);
    // By the caller's VP, whichever vCPU the port notifies.
    expect(f.raised).toEqual([[0, port]]);
    // An event that was held back needs no pollers: it is pending already.
    f.memory.setU64(PENDING, 1n << BigInt(port));
    f.memory.setU64(MASK, 1n << BigInt(port));
    expect(onPort(f, UNMASK, port)).toBe(0);
    expect(f.memory.getU64(SHARED_INFO * PAGE + 64 + 8)).toBe(1n);
    expect(f.memory.getU8(SHARED_INFO * PAGE + 64)).toBe(1);
    expect(f.kicked).toEqual([1]);
  });

  it('clears what is pending when a port is closed, and a raise under way', () => {
    const f = setUp({ vcpus: 1 });
    const port = bindIpi(f, 0);
    onPort(f, OP.send, port);
    f.trap.setVp(0, 'raise', 1n << BigInt(port));
    expect(onPort(f, OP.close, port)).toBe(0);
    expect(f.memory.getU64(PENDING)).toBe(0n);
    expect(f.trap.getVp(0, 'raise')).toBe(0n);
    expect(f.kicked).toContain(0);
  });
});

const CONTROL = 20 * PAGE + 8;
const word = (f: Fixture, port: number) => f.memory.getU32(21 * PAGE + port * 4);

describe('FIFO delivery', () => {
  const withArray = (vcpus: number) => {
    const f = setUp({ vcpus });
    const ports = [0, 0, 0].map(() => bindIpi(f, 0));
    initFifo(f);
    expect(f.effects & TRAP_EFFECT.TRAP_EFFECT_EVTCHN).not.toBe(0);
    expect(f.now('event_channel_op', 12, f.put(EvtchnExpandArray, { array_gfn: 21 }))).toBe(0);
    expect(f.trap.getDomain('fifo_array', 0)).toBe(BigInt(21 * PAGE));
    return { f, ports };
  };

  it('with several vCPUs, asks the trap module, whose queues they are', () => {
    const { f, ports } = withArray(2);
    onPort(f, OP.send, ports[1]!);
    expect(f.raised).toEqual([[0, ports[1]]]);
    expect(f.memory.getU32(CONTROL)).toBe(0);
  });

  it('links events of one priority in order, and tells the vCPU once', () => {
    const { f, ports } = withArray(1);
    for (const port of ports) onPort(f, OP.send, port);
    onPort(f, OP.send, ports[1]!);
    expect(f.memory.getU32(CONTROL)).toBe(1 << 7);
    expect(f.memory.getU32(CONTROL + 8 + 7 * 4)).toBe(ports[0]);
    expect(word(f, ports[0]!) >>> 0).toBe((0xa000_0000 | ports[1]!) >>> 0);
    expect(word(f, ports[1]!) >>> 0).toBe((0xa000_0000 | ports[2]!) >>> 0);
    expect(word(f, ports[2]!) >>> 0).toBe(0xa000_0000);
    expect(f.kicked).toEqual([0]);
  });

  it('starts a queue anew when the guest has taken the tail', () => {
    const { f, ports } = withArray(1);
    onPort(f, OP.send, ports[0]!);
    f.memory.setU32(21 * PAGE + ports[0]! * 4, 0);
    f.memory.setU32(CONTROL, 0);
    onPort(f, OP.send, ports[1]!);
    expect(f.memory.getU32(CONTROL + 8 + 7 * 4)).toBe(ports[1]);
    expect(f.memory.getU32(CONTROL)).toBe(1 << 7);
  });

  it('queues by priority, and unmasking links what waited', () => {
    const { f, ports } = withArray(1);
    expect(f.now('event_channel_op', 13, f.put(EvtchnSetPriority, { port: ports[2], priority: 0 }))).toBe(0);
    expect((entry(f, ports[2]!) >> 4n) & 0xfn).toBe(0n);
    f.memory.setU32(21 * PAGE + ports[2]! * 4, 1 << 30);
    onPort(f, OP.send, ports[2]!);
    expect(f.memory.getU32(CONTROL)).toBe(0);
    expect(onPort(f, UNMASK, ports[2]!)).toBe(0);
    expect(f.memory.getU32(CONTROL)).toBe(1);
    expect(f.memory.getU32(CONTROL + 8)).toBe(ports[2]);
  });

  it('remembers events without an array page, and carries pending ones over from 2-level', () => {
    const f = setUp({ vcpus: 1 });
    const a = bindIpi(f, 0);
    const b = bindIpi(f, 0);
    onPort(f, OP.send, a);
    initFifo(f);
    expect(f.raised).toEqual([[0, a]]);
    evtchnRaise(f.d, b, 0);
    expect(f.trap.getDomain('early_pending')).toBe(1n << BigInt(b));
    onPort(f, OP.close, b);
    expect(f.trap.getDomain('early_pending')).toBe(0n);
  });

  it('ends with a reset', () => {
    const { f } = withArray(1);
    expect(f.now('event_channel_op', RESET, f.put(EvtchnReset, { dom: 0x7ff0 }))).toBe(0);
    expect(f.trap.getDomain('evtchn_fifo')).toBe(0);
    expect(f.trap.getDomain('fifo_array', 0)).toBe(0n);
    expect(f.trap.getVp(0, 'fifo_control_gpa')).toBe(0n);
    initFifo(f);
  });

  it('survives a guest that writes nonsense into its words', () => {
    const { f, ports } = withArray(1);
    fc.assert(
      fc.property(
        fc.array(fc.integer({ min: 0, max: 0xffff_ffff }), { minLength: 4, maxLength: 4 }),
        fc.array(fc.integer({ min: 0, max: 2 }), { maxLength: 8 }),
        (words, sends) => {
          words.forEach((w, i) => {
            f.memory.setU32(21 * PAGE + (i + 1) * 4, w);
          });
          f.memory.setU32(CONTROL, words[0]!);
          for (const i of sends) {
            expect(onPort(f, OP.send, ports[i]!)).toBe(0);
            expect(onPort(f, UNMASK, ports[i]!)).toBe(0);
          }
        },
      ),
    );
    expect(f.logged).toEqual([]);
  });
});

describe('event_channel_op_compat', () => {
  it('takes command and argument in one struct', () => {
    const f = setUp();
    f.guest.writeU32(f.page(3), OP.bindIpi);
    f.guest.writeU32(f.page(3) + 4n, 1);
    expect(f.now('event_channel_op_compat', f.page(3))).toBe(0);
    expect(f.guest.readU32(f.page(3) + 8n)).toBe(1);
    f.guest.writeU32(f.page(3), 11);
    expect(f.now('event_channel_op_compat', f.page(3))).toBe(-38);
  });
});
