/**
 * What fuzzing found, each as small as it gets: a hostile guest, or a trap module that a guest at ring 1 has taken over,
 * must not stop the shim, make it wait, or make it write what is not the guest's.
 */
import { TRAP_EFFECT, TRAP_FI } from '../../../abi/trap';
import { EVTCHNOP, EvtchnExpandArray, EvtchnInitControl } from '../../../abi/xen/event-channel';
import { GNTST, GNTTAB_FLAGS } from '../../../abi/xen/grant-ops';
import { GTF } from '../../../abi/xen/grant-table';
import { MMU, MmuUpdate } from '../../../abi/xen/mmu';
import { MMUEXT, MmuextOp } from '../../../abi/xen/mmuext';
import { SHUTDOWN } from '../../../abi/xen/sched';
import { VCPUOP, VcpuRegisterVcpuInfo } from '../../../abi/xen/vcpu';
import { Mailboxes, type TrapReply } from '../../../shim/partition/mailbox';
import { MAX_HANDLES } from '../../../shim/xen/grant/map';
import { GuestFault, GuestVirtual } from '../../../shim/xen/guest-virtual';
import { inSlices, nextTurn } from '../../../shim/xen/hypercalls/call';
import { PageTypes } from '../../../shim/xen/page-types';
import { makeWorld, PFN } from '../../fuzz/world';
import { type Fixture, FRAME_INFO, GRANTS, L1, L4, PAGE, setUp } from './fixture';

const { TRAP_FI_LOCKED, TRAP_FI_L1, TRAP_FI_WRITABLE } = TRAP_FI;
const OWN = BigInt(TRAP_FI.TRAP_FI_OWNER_DOMAIN) << BigInt(TRAP_FI.TRAP_FI_OWNER_SHIFT);
const table = (type: number): bigint => OWN | (BigInt(type) << 28n) | TRAP_FI.TRAP_FI_VALIDATED | 1n;
const setInfo = (f: Fixture, mfn: number, info: bigint): void => f.memory.setU64(FRAME_INFO * PAGE + mfn * 8, info);
const info = (f: Fixture, mfn: number): bigint => f.memory.getU64(FRAME_INFO * PAGE + mfn * 8);

describe('a trap module whose state is impossible', () => {
  it('crashes the domain where a lock is not given back, instead of spinning for seconds', () => {
    const f = setUp({ vcpus: 1 });
    setInfo(f, L1, info(f, L1) | TRAP_FI_LOCKED);
    const started = process.cpuUsage();
    f.now('update_va_mapping', f.page(5), 0n, 0n);
    expect(process.cpuUsage(started).user).toBeLessThan(200_000);
    expect(f.shutdowns).toEqual([[SHUTDOWN.SHUTDOWN_crash, 0]]);
    expect(f.effects & TRAP_EFFECT.TRAP_EFFECT_PARK).not.toBe(0);
  });

  it('is not followed through thousands of frames that claim to be tables of each other', () => {
    const f = setUp({ vcpus: 1 });
    for (let mfn = 20; mfn < 990; mfn++) {
      setInfo(f, mfn, table(2));
      f.memory.setU64(mfn * PAGE, BigInt((mfn + 1) * PAGE) | 7n);
    }
    setInfo(f, 20, table(2) | TRAP_FI.TRAP_FI_PINNED);
    for (let mfn = 21; mfn < 990; mfn += 2) setInfo(f, mfn, table(3));
    const op = f.put(MmuextOp, { cmd: MMUEXT.MMUEXT_UNPIN_TABLE, arg1_mfn: 20n });
    f.now('mmuext_op', op, 1, 0, 0x7ff0);
    expect(f.shutdowns).toEqual([[SHUTDOWN.SHUTDOWN_crash, 0]]);
  });

  it('cannot make the shim read its own layout from the partition', () => {
    const f = setUp();
    f.trap.setDomain('shared_info_gpa', 0xffff_ffff_ffff_fff1n);
    f.trap.setDomain('module_l4', 0xffff_ffffn);
    f.trap.setVp(0, 'vcpu_info_gpa', 0x7ff_fff1n);
    const port = f.d.evtchn.bindIpi(0);
    expect(f.d.evtchn.close(port)).toBe(0);
    expect(f.d.vcpuInfoGpa(0)).toBeLessThan(0x7ff_0000);
    expect(f.logged).toEqual([]);
  });

  it('cannot give the domain frames that are not its own, whatever frame_info says', () => {
    const f = setUp({
      config: {
        domainFrames: [
          [0, 1024],
          [1024, 512],
        ],
      },
    });
    setInfo(f, 2048, OWN);
    expect(f.d.frames.isOwned(2048)).toBe(false);
    setInfo(f, 2048, table(TRAP_FI_L1));
    const before = f.memory.getU64(2048 * PAGE);
    const update = f.put(MmuUpdate, { ptr: BigInt(2048 * PAGE) | BigInt(MMU.MMU_NORMAL_PT_UPDATE), val: 0n });
    expect(f.now('mmu_update', update, 1, 0, 0x7ff0)).toBeLessThan(0);
    expect(f.memory.getU64(2048 * PAGE)).toBe(before);
  });

  it('has its complaints logged a few times only', () => {
    const f = setUp();
    for (let i = 0; i < 100; i++) f.now('multicall');
    expect(f.logged.length).toBeLessThan(30);
  });
});

describe('page tables that lead where the guest may not write', () => {
  const reach = { isDomainFrame: (mfn: number) => mfn < 1536, isWritableByPointer: (mfn: number) => mfn < 1536 };

  it('are faults: a mapped frame of the hypervisor, a table of the hypervisor', () => {
    const f = setUp();
    const guest = new GuestVirtual(f.memory, L4, reach);
    guest.writeU64(f.page(5), 1n);
    f.memory.setU64(L1 * PAGE + 5 * 8, BigInt(2048 * PAGE) | 7n);
    expect(() => guest.writeU64(f.page(5), 1n)).toThrow(GuestFault);
    const stranger = new GuestVirtual(f.memory, 2048, reach);
    expect(() => stranger.readU64(f.page(5))).toThrow(GuestFault);
    expect(stranger.l1EntryAddress(f.page(5))).toBeUndefined();
  });

  it('are given up when their entries change at every look (XSA-155)', () => {
    const f = setUp();
    const cas64 = f.memory.cas64.bind(f.memory);
    f.memory.cas64 = (gpa, expected, replacement) => {
      f.memory.setU64(gpa, expected ^ 0x200n);
      return cas64(gpa, expected, replacement);
    };
    const l1 = L1 * PAGE + 7 * 8;
    f.memory.setU64(l1, BigInt(7 * PAGE) | 7n);
    expect(() => new GuestVirtual(f.memory, L4).readU64(f.page(7))).toThrow(GuestFault);
  });
});

describe('pages that the hypervisor writes without asking', () => {
  const pinL1 = (f: Fixture, mfn: number): number => {
    // No writable mapping is left, so only the hypervisor's own reference can keep the page from becoming a table.
    f.memory.setU64(L1 * PAGE + mfn * 8, BigInt(mfn * PAGE) | 5n);
    if (((info(f, mfn) >> 28n) & 15n) === BigInt(TRAP_FI_WRITABLE) && (info(f, mfn) & 0xfffffffn) > 0n) {
      new PageTypes(f.d).put(mfn);
    }
    const op = f.put(MmuextOp, { cmd: MMUEXT.MMUEXT_PIN_L1_TABLE, arg1_mfn: BigInt(mfn) });
    return f.now('mmuext_op', op, 1, 0, 0x7ff0);
  };

  it('cannot become page tables: vcpu_info', () => {
    const f = setUp();
    expect(pinL1(f, 51)).toBe(0);
    const arg = f.put(VcpuRegisterVcpuInfo, { mfn: 50n, offset: 0 });
    expect(f.now('vcpu_op', VCPUOP.VCPUOP_register_vcpu_info, 0, arg)).toBe(0);
    expect(pinL1(f, 50)).toBeLessThan(0);
  });

  it('cannot become page tables: FIFO control block and event array, until the reset', () => {
    const f = setUp();
    const control = f.put(EvtchnInitControl, { control_gfn: 52n, offset: 0, vcpu: 0 });
    expect(f.now('event_channel_op', EVTCHNOP.EVTCHNOP_init_control, control)).toBe(0);
    const array = f.put(EvtchnExpandArray, { array_gfn: 53n });
    expect(f.now('event_channel_op', EVTCHNOP.EVTCHNOP_expand_array, array)).toBe(0);
    expect(pinL1(f, 52)).toBeLessThan(0);
    expect(pinL1(f, 53)).toBeLessThan(0);
    f.d.evtchn.reset(0x7ff0, { effects: 0 });
    expect(pinL1(f, 52)).toBe(0);
  });
});

describe('work that the guest makes long', () => {
  it('is spread over turns of the event loop', async () => {
    const f = setUp();
    let others = 0;
    const spin = (): undefined => {
      for (const start = process.cpuUsage(); process.cpuUsage(start).user < 500; );
    };
    const work = inSlices(f.d, 0, 400, spin, 'done');
    expect(work).toBeInstanceOf(Promise);
    setImmediate(() => others++);
    expect(await work).toBe('done');
    expect(others).toBe(1);
  });

  it('stops when the domain ends, and answers nobody', async () => {
    const f = setUp();
    let steps = 0;
    const work = inSlices(f.d, 0, 1e9, () => void steps++, 'done', 1);
    const answered = jest.fn();
    void (work as Promise<string>).then(answered);
    f.d.end();
    await new Promise((resolve) => setTimeout(resolve, 20));
    const after = steps;
    await new Promise((resolve) => setTimeout(resolve, 20));
    expect(steps).toBe(after);
    expect(answered).not.toHaveBeenCalled();
  });

  it('is not cut short: a long list of page-table updates is done to its end', async () => {
    const f = setUp();
    const n = 2000;
    const list = f.page(100);
    for (let i = 0; i < n; i++)
      f.put(MmuUpdate, { ptr: BigInt(L1 * PAGE + 5 * 8), val: BigInt(5 * PAGE) | 7n }, list + BigInt(i * 16));
    expect(await f.call('mmu_update', list, n, f.page(90), 0x7ff0)).toBe(0n);
    expect(f.guest.readU32(f.page(90))).toBe(n);
  });
});

describe('grants used up', () => {
  const grant = (f: Fixture, ref: number, mfn: number): void => {
    f.memory.setU32(GRANTS * PAGE + ref * 8 + 4, mfn);
    f.memory.setU32(GRANTS * PAGE + ref * 8, GTF.GTF_permit_access | (7 << 16));
  };
  const call = { effects: 0 };

  it('has an end to handles', () => {
    const f = setUp();
    grant(f, 9, 60);
    let maps = 0;
    const DEVICE = GNTTAB_FLAGS.GNTMAP_device_map;
    while (f.d.grantMaps.map(f.guest, 0n, DEVICE, 9, 7, call).status === 0 && maps <= MAX_HANDLES) maps++;
    expect(maps).toBe(MAX_HANDLES);
    expect(f.d.grantMaps.map(f.guest, 0n, DEVICE, 9, 7, call).status).toBe(GNTST.GNTST_no_device_space);
  });
});

describe('a mailbox that is held', () => {
  it('leaves calls and events where they are, raises ports, and serves everything when it is released', async () => {
    const world = makeWorld({ ring: 3, vcpus: 2 });
    const seen: string[] = [];
    const kicked: number[] = [];
    let rang = 0;
    let answer: ((reply: TrapReply) => void) | undefined;
    const mailboxes = new Mailboxes(world.memory, world.layout, (vp) => kicked.push(vp), {
      call: (call) => {
        seen.push(`call ${call.vcpu}`);
        if (call.vcpu === 0) return { result: 0n, effects: 0 };
        return new Promise((resolve) => {
          answer = resolve;
        });
      },
      ports: (ports) => seen.push(`ports ${ports.join(' ')}`),
      rang: () => rang++,
    });
    expect(mailboxes.pending()).toBeUndefined();
    mailboxes.hold();
    world.post(0, 1, 17, []);
    world.domain.xen.trap.orDomain('to_shim', 0, 1n << 2n);
    world.domain.xen.trap.orDomain('to_shim_sel', 0, 1n);
    expect(mailboxes.pending()).toBe('a call of vCPU 0 is not answered');
    mailboxes.scan();
    mailboxes.raisePort(1, 5);
    expect(seen).toEqual([]);
    expect([rang, kicked]).toEqual([1, [1]]);
    expect(world.domain.xen.trap.getVp(1, 'raise', 0)).toBe(1n << 5n);

    mailboxes.release();
    expect(seen).toEqual(['ports 2', 'call 0']);
    expect([rang, kicked, mailboxes.answered]).toEqual([2, [1, 0], 1]);
    expect(mailboxes.pending()).toBeUndefined();

    // A call that takes long is under way until it is answered, and whoever waits for that is told.
    world.post(1, 1, 17, []);
    mailboxes.scan();
    expect(mailboxes.pending()).toBe('a call of vCPU 1 is not answered');
    answer?.({ result: 0n, effects: 0 });
    await new Promise((resolve) => setImmediate(resolve));
    expect(mailboxes.pending()).toBeUndefined();
    expect(rang).toBe(4);
    await world.domain.destroy();
  });
});

describe('a mailbox whose domain ends', () => {
  it('drops answers that come after the memory has gone, and survives handlers that reject', async () => {
    const world = makeWorld({ ring: 3, vcpus: 1 });
    const replies: ((reply: TrapReply) => void)[] = [];
    const rejects: ((error: Error) => void)[] = [];
    const mailboxes = new Mailboxes(world.memory, world.layout, () => undefined, {
      call: () =>
        new Promise((resolve, reject) => {
          replies.push(resolve);
          rejects.push(reject);
        }),
      ports: () => undefined,
    });
    const rejected = jest.fn();
    process.on('unhandledRejection', rejected);
    try {
      world.post(0, 1, 17, []);
      mailboxes.scan();
      rejects[0]!(new Error('not the guest’s fault'));
      await nextTurn(world.domain.xen);
      expect(mailboxes.answered).toBe(1);
      world.post(0, 1, 17, []);
      mailboxes.scan();
      mailboxes.close();
      await world.memory.release();
      replies[1]!({ result: 0n, effects: 0 });
      mailboxes.raisePort(0, 3);
      mailboxes.kick(0);
      mailboxes.scan();
      await new Promise((resolve) => setTimeout(resolve, 5));
      expect(rejected).not.toHaveBeenCalled();
    } finally {
      process.off('unhandledRejection', rejected);
    }
  });

  it('lets a long console write be overtaken by the end of the domain', async () => {
    const world = makeWorld({ ring: 3, vcpus: 2 });
    const rejected = jest.fn();
    process.on('unhandledRejection', rejected);
    try {
      world.post(0, 1, 18, [0n, 2n ** 31n - 1n, world.va(PFN.free)]);
      world.doorbell();
      await world.domain.destroy();
      await new Promise((resolve) => setTimeout(resolve, 20));
      expect(rejected).not.toHaveBeenCalled();
    } finally {
      process.off('unhandledRejection', rejected);
    }
  });
});
