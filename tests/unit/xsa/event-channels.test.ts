/** Security advisories of Xen about event channels, as tests of ours. */
import { XEN_ERRNO as E } from '../../../abi/xen/errno';
import { VIRQ } from '../../../abi/xen/virq';
import { setUp } from '../hypercalls/fixture';

const SELF = 0x7ff0;

/**
 * XSA-317: when no port could be allocated, the error was taken for a port by callers that looked at it in the wrong way, and
 * the hypervisor crashed.
 */
describe('exhaustion (XSA-317)', () => {
  function exhausted() {
    const f = setUp();
    const ports: number[] = [];
    for (;;) {
      const port = f.d.evtchn.allocUnbound(SELF, SELF);
      if (port < 0) break;
      ports.push(port);
    }
    return { f, ports };
  }

  test('goes on after all ports were taken and closed, any number of times', () => {
    const { f, ports } = exhausted();
    for (let round = 0; round < 3; round++) {
      expect(ports.length).toBe(1023);
      expect(f.d.evtchn.allocUnbound(SELF, SELF)).toBe(-E.XEN_ENOSPC);
      for (const port of ports) expect(f.d.evtchn.close(port)).toBe(0);
      ports.splice(0);
      for (let port = f.d.evtchn.allocUnbound(SELF, SELF); port > 0; port = f.d.evtchn.allocUnbound(SELF, SELF))
        ports.push(port);
    }
  });

  test('every way to a new port says that there is none, and changes nothing', () => {
    const { f, ports } = exhausted();
    const { evtchn } = f.d;
    const offered = evtchn.offerToGuest(
      () => undefined,
      () => {
        throw new Error('bound to no port');
      },
    );
    expect([
      evtchn.allocUnbound(SELF, 0),
      evtchn.bindInterdomain(SELF, ports[5]!),
      evtchn.bindInterdomain(0, offered),
      evtchn.bindVirq(VIRQ.VIRQ_TIMER, 0),
      evtchn.bindIpi(0),
    ]).toEqual(new Array(5).fill(-E.XEN_ENOSPC));
    expect(evtchn.virqPort(0, VIRQ.VIRQ_TIMER)).toBe(0);
    expect(f.trap.getVp(0, 'virq_timer_port')).toBe(0);
    expect(evtchn.get(ports[5]!)?.state.kind).toBe('unbound');
    expect(evtchn.connectBackend(5000, () => undefined)).toBeUndefined();
    expect(f.logged).toEqual([]);
    // One port is enough for each of them.
    evtchn.close(ports[0]!);
    expect(evtchn.bindVirq(VIRQ.VIRQ_TIMER, 0)).toBe(ports[0]);
    expect(f.trap.getVp(0, 'virq_timer_port')).toBe(ports[0]);
  });
});
