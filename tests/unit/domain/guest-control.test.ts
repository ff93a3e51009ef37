/** What a guest is asked through xenstore, with a guest that reads the store as Linux's drivers do. */
import { XS } from '../../../abi/xen/xenstore';
import { GuestControl } from '../../../shim/domain/guest-control';
import { askToPowerOff } from '../../../shim/domain/orderly-end';
import { XenstoreClient } from '../../../shim/xen/xenstore/client';
import { XenstoreServer } from '../../../shim/xen/xenstore/server';
import { createDomainNodes } from '../../../shim/xen/xenstore/toolstack-nodes';
import { WireClient } from '../xenstore/support';

beforeEach(() => jest.useFakeTimers({ doNotFake: ['setImmediate', 'queueMicrotask', 'nextTick'] }));
afterEach(() => jest.useRealTimers());

const turn = (): Promise<void> => new Promise((resolve) => setImmediate(resolve));
const SHUTDOWN = '/local/domain/1/control/shutdown';

class Guest {
  readonly store: XenstoreClient;
  readonly control: GuestControl;
  readonly wire: WireClient;
  paused = false;
  finished = false;
  limits: number[] = [];
  end!: () => void;

  constructor() {
    const server = new XenstoreServer();
    this.store = new XenstoreClient(server);
    createDomainNodes(this.store, {
      domid: 1,
      name: 'one',
      uuid: '00000000-0000-0000-0000-000000000001',
      memoryKiB: 256 * 1024,
      maxMemoryKiB: 512 * 1024,
      vcpus: 4,
      onlineVcpus: 2,
      store: { port: 1, mfn: 10 },
      console: { port: 2, mfn: 11 },
    });
    this.wire = new WireClient(server, 1);
    this.control = new GuestControl(this.store, {
      domid: 1,
      vcpus: 4,
      maxMemoryKiB: 512 * 1024,
      limitMemory: (kib) => this.limits.push(kib),
      isPaused: () => this.paused,
      hasEnded: () => this.finished,
      ended: new Promise<void>((resolve) => {
        this.end = resolve;
      }),
    });
  }

  /** What Linux does when its driver starts. */
  listen(): void {
    this.wire.ask(XS.XS_WATCH, 'control/shutdown|shutdown|');
    for (const kind of ['poweroff', 'reboot']) this.wire.ask(XS.XS_WRITE, `control/feature-${kind}|1`);
  }

  acknowledge(): void {
    expect(this.wire.answer(XS.XS_WRITE, 'control/shutdown|')).toBe(`${XS.XS_WRITE} OK|`);
  }
}

describe('shutdown', () => {
  test.each(['poweroff', 'reboot', 'halt'] as const)('%s is acknowledged by an empty node', async (kind) => {
    const guest = new Guest();
    expect(guest.control.listens).toBe(false);
    guest.listen();
    expect(guest.control.listens).toBe(true);
    guest.wire.received();
    let outcome: string | undefined;
    void guest.control.requestShutdown(kind, 60_000).then((o) => {
      outcome = o;
    });
    await turn();
    expect(guest.wire.received()).toEqual(['EVENT control/shutdown|shutdown|']);
    expect(guest.wire.answer(XS.XS_READ, 'control/shutdown|')).toBe(`${XS.XS_READ} ${kind}`);
    expect(outcome).toBeUndefined();
    guest.acknowledge();
    await turn();
    expect(outcome).toBe('acknowledged');
    expect(jest.getTimerCount()).toBe(0);
  });

  test('is over when the guest ends', async () => {
    const guest = new Guest();
    const outcome = guest.control.requestShutdown('poweroff');
    guest.end();
    expect(await outcome).toBe('ended');
    guest.finished = true;
    await expect(guest.control.requestShutdown('poweroff')).rejects.toMatchObject({ code: 'not-running' });
  });

  test.each([
    [true, 'not-acknowledged', 'the guest did not acknowledge reboot within 3 s; the request is withdrawn'],
    [
      false,
      'not-listening',
      'the guest does not listen for shutdown requests (control/feature-poweroff is not set: its kernel has no driver for that, or is still booting), and did not acknowledge reboot within 3 s; the request is withdrawn',
    ],
  ])('that is not acknowledged is withdrawn (the guest listens: %s)', async (listens, code, message) => {
    const guest = new Guest();
    if (listens) guest.listen();
    const outcome = guest.control.requestShutdown('reboot', 3000);
    const rejected = expect(outcome).rejects.toMatchObject({ code, message });
    await turn();
    jest.advanceTimersByTime(2999);
    expect(guest.store.read(SHUTDOWN)).toBe('reboot');
    jest.advanceTimersByTime(1);
    await rejected;
    expect(guest.store.read(SHUTDOWN)).toBe('');
  });

  test('a later request takes the place of an earlier one, whose end does not withdraw it', async () => {
    const guest = new Guest();
    const first = guest.control.requestShutdown('reboot', 1000);
    const rejected = expect(first).rejects.toMatchObject({ code: 'not-listening' });
    const second = guest.control.requestShutdown('poweroff');
    await turn();
    jest.advanceTimersByTime(5000);
    await rejected;
    expect(guest.store.read(SHUTDOWN)).toBe('poweroff');
    guest.acknowledge();
    expect(await second).toBe('acknowledged');
  });
});

describe('the first signal', () => {
  async function ask(prepare: (guest: Guest) => void): Promise<{ guest: Guest; lines: string[]; over: () => boolean }> {
    const guest = new Guest();
    prepare(guest);
    const lines: string[] = [];
    let over = false;
    void askToPowerOff(guest.control, 'SIGTERM', (line) => lines.push(line)).then(() => {
      over = true;
    });
    await turn();
    return { guest, lines, over: () => over };
  }

  test('asks, and says that a second one destroys', async () => {
    const { guest, lines, over } = await ask((g) => g.listen());
    expect(guest.store.read(SHUTDOWN)).toBe('poweroff');
    guest.acknowledge();
    await turn();
    expect(over()).toBe(true);
    jest.advanceTimersByTime(60_000);
    expect(lines).toEqual(['SIGTERM: asking the guest to power off; a second signal destroys it']);
  });

  test.each([
    [true, 'the guest has not answered yet; still waiting, a second signal destroys it'],
    [
      false,
      'the guest does not listen for shutdown requests (no driver for that, or still booting); still waiting, a second signal destroys it',
    ],
  ])('goes on waiting for a guest that does not answer (it listens: %s)', async (listens, line) => {
    const { guest, lines, over } = await ask((g) => (listens ? g.listen() : undefined));
    jest.advanceTimersByTime(10_000_000);
    expect(lines.slice(1)).toEqual([line]);
    expect(guest.store.read(SHUTDOWN)).toBe('poweroff');
    expect(over()).toBe(false);
    guest.end();
    await turn();
    expect(over()).toBe(true);
  });

  test('says that a paused guest must be unpaused first', async () => {
    const { guest, lines } = await ask((g) => {
      g.paused = true;
    });
    jest.advanceTimersByTime(10_000);
    expect(guest.store.read(SHUTDOWN)).toBe('poweroff');
    expect(lines).toEqual([
      'SIGTERM: the guest is paused, and powers off when it is unpaused; a second signal destroys it',
    ]);
  });

  test('to a guest that is ending already does nothing', async () => {
    const { over } = await ask((g) => {
      g.finished = true;
    });
    expect(over()).toBe(true);
    expect(jest.getTimerCount()).toBe(0);
  });
});

describe('memory, processors, keys', () => {
  test('a target is KiB in the store, and the most that the domain may have, plus a MiB', () => {
    const guest = new Guest();
    const target = (): string => guest.wire.answer(XS.XS_READ, 'memory/target|');
    guest.control.setMemory(128);
    expect(target()).toBe(`${XS.XS_READ} ${128 * 1024}`);
    guest.control.setMemory(512);
    expect(target()).toBe(`${XS.XS_READ} ${512 * 1024}`);
    expect(guest.limits).toEqual([129 * 1024, 512 * 1024]);
    for (const bad of [0, -1, 1.5, Number.NaN, '128', undefined]) {
      expect(() => guest.control.setMemory(bad as number)).toThrow('mib: wanted a whole number above 0');
    }
    expect(() => guest.control.setMemory(513)).toThrow(
      'cannot set the memory to 513 MiB: wanted at most 512 MiB (maxmem of the guest)',
    );
    expect(guest.limits).toHaveLength(2);
  });

  test('a maximum is between the target and what there is, and no business of the guest', () => {
    const guest = new Guest();
    guest.control.setMaxMemory(256);
    guest.control.setMaxMemory(512);
    expect(guest.limits).toEqual([257 * 1024, 512 * 1024]);
    for (const bad of [255, 513]) {
      expect(() => guest.control.setMaxMemory(bad)).toThrow(
        `cannot set the maximum to ${bad} MiB: wanted 256 (what the guest is to have) to 512 MiB (maxmem of its configuration)`,
      );
    }
    expect(() => guest.control.setMaxMemory('x' as unknown as number)).toThrow('mib: wanted a whole number above 0');
    expect(guest.wire.answer(XS.XS_READ, 'memory/target|')).toBe(`${XS.XS_READ} ${256 * 1024}`);
  });

  test('processors: only what changes is written', () => {
    const guest = new Guest();
    guest.wire.ask(XS.XS_WATCH, 'cpu|cpus|');
    const states = (): string[] =>
      [0, 1, 2, 3].map((i) => guest.store.read(`/local/domain/1/cpu/${i}/availability`) ?? '');
    expect(states()).toEqual(['online', 'online', 'offline', 'offline']);
    guest.wire.received();
    guest.control.setVcpus(3);
    expect(states()).toEqual(['online', 'online', 'online', 'offline']);
    expect(guest.wire.received()).toEqual(['EVENT cpu/2/availability|cpus|']);
    guest.control.setVcpus(1);
    expect(states()).toEqual(['online', 'offline', 'offline', 'offline']);
    expect(guest.wire.received()).toEqual(['EVENT cpu/1/availability|cpus|', 'EVENT cpu/2/availability|cpus|']);
    for (const bad of [0, 5, 1.5, '2', undefined]) {
      expect(() => guest.control.setVcpus(bad as number)).toThrow('wanted 1 to 4 (maxvcpus of the guest)');
    }
  });

  test('SysRq: one printable character', () => {
    const guest = new Guest();
    guest.control.sysrq('h');
    expect(guest.wire.answer(XS.XS_READ, 'control/sysrq|')).toBe(`${XS.XS_READ} h`);
    for (const bad of ['', 'hh', '\n', 'é', 7, undefined]) {
      expect(() => guest.control.sysrq(bad as string)).toThrow('key: wanted one printable ASCII character');
    }
  });
});
