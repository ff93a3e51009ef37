/** vcpu_op, sched_op, timers, entry points, version, console: what they change. */
import { TRAP_EFFECT, TRAP_REQ } from '../../../abi/trap';
import { CallbackRegister } from '../../../abi/xen/callback';
import { PhysdevSetIobitmap, PhysdevSetIopl } from '../../../abi/xen/physdev';
import { VcpuRunstateInfo } from '../../../abi/xen/runstate';
import { SchedShutdown, SchedWatchdog } from '../../../abi/xen/sched';
import { TrapInfo } from '../../../abi/xen/trap-info';
import { VcpuRegisterVcpuInfo, VcpuSetPeriodicTimer, VcpuSetSingleshotTimer } from '../../../abi/xen/vcpu';
import { VcpuGuestContext } from '../../../abi/xen/vcpu-context';
import { XenFeatureInfo } from '../../../abi/xen/version';
import { watchdogExpired } from '../../../shim/xen/hypercalls/sched-op';
import { type Fixture, L1, L4, PAGE, SHARED_INFO, setUp, UNMAPPED, VA_BASE } from './fixture';

const OP = {
  init: 0,
  up: 1,
  down: 2,
  isUp: 3,
  runstate: 4,
  regRunstate: 5,
  setPeriodic: 6,
  stopPeriodic: 7,
  single: 8,
};

/** A context as Linux passes it for a second CPU. */
const context = (f: Fixture, change: (v: DataView) => void = () => {}) => {
  const v = new DataView(new ArrayBuffer(VcpuGuestContext.size));
  VcpuGuestContext.set.flags(v, 0, 4n);
  const regs = VcpuGuestContext.offsetOf('user_regs');
  v.setBigUint64(regs + 128, VA_BASE, true); // rip
  v.setUint16(regs + 136, 0x10, true); // cs
  v.setBigUint64(regs + 144, 0x1000n, true); // rflags
  v.setBigUint64(regs + 152, VA_BASE + 0x1000n, true); // rsp
  v.setUint16(regs + 160, 0x18, true); // ss
  v.setBigUint64(VcpuGuestContext.offsetOf('trap_ctxt', 14) + 8, VA_BASE + 0x14n, true);
  VcpuGuestContext.set.ctrlreg(v, 0, BigInt(L4) << 12n, 3);
  VcpuGuestContext.set.ctrlreg(v, 0, 0x4_0004n, 4);
  VcpuGuestContext.set.gdt_frames(v, 0, 60n, 0);
  VcpuGuestContext.set.gdt_ents(v, 0, 16n);
  VcpuGuestContext.set.event_callback_eip(v, 0, VA_BASE + 1n);
  VcpuGuestContext.set.gs_base_kernel(v, 0, VA_BASE + 0x77n);
  change(v);
  f.guest.store(f.page(10), v);
  return f.page(10);
};
/** A frame without mappings, with a ring-0 code descriptor in it. */
const gdtPage = (f: Fixture, n = 60) => {
  f.memory.setU64(n * PAGE + 16, 0x00af_9b00_0000_ffffn);
  expect(f.now('update_va_mapping', f.page(n), (n << 12) | 5, 0)).toBe(0);
};

describe('starting a vCPU', () => {
  it('takes over registers, tables and references, then waits for up', () => {
    const f = setUp();
    gdtPage(f);
    expect(f.now('vcpu_op', OP.init, 1, context(f))).toBe(0);
    expect(f.logged).toEqual([]);
    expect(f.trap.getReg(1, 'rip')).toBe(VA_BASE);
    expect(f.trap.getReg(1, 'cs')).toBe(0x13n);
    expect(f.trap.getReg(1, 'ss')).toBe(0x1bn);
    expect(f.trap.getReg(1, 'rflags')).toBe(0x202n);
    expect(f.trap.getVp(1, 'iopl')).toBe(1);
    expect(f.trap.getVp(1, 'user_mode')).toBe(0);
    expect(f.trap.getVp(1, 'kernel_l4')).toBe(BigInt(L4));
    expect(f.trap.getVp(1, 'vcr4')).toBe(0x4_0004n);
    expect(f.trap.getVp(1, 'gs_base_kernel')).toBe(VA_BASE + 0x77n);
    expect(f.trap.getHandler(1, 14).address).toBe(VA_BASE + 0x14n);
    expect(f.trap.getCallback(1, 0)).toEqual({ address: VA_BASE + 1n, flags: 1 });
    expect(f.d.frames.type(60)).toBe(5);
    // DPL forced to 3.
    expect(f.memory.getU64(60 * PAGE + 16)).toBe(0x00af_fb00_0000_ffffn);
    expect(f.now('vcpu_op', OP.isUp, 1)).toBe(0);
    expect(f.now('vcpu_op', OP.init, 1, f.page(10))).toBe(-17);
    f.kicked.length = 0;
    expect(f.now('vcpu_op', OP.up, 1)).toBe(0);
    expect(f.kicked).toEqual([1]);
    expect(f.now('vcpu_op', OP.isUp, 1)).toBe(1);
  });

  it.each<[string, (v: DataView) => void]>([
    ['an address that is not canonical', (v) => VcpuGuestContext.set.kernel_sp(v, 0, 1n << 60n)],
    [
      'a handler that is not canonical',
      (v) => v.setBigUint64(VcpuGuestContext.offsetOf('trap_ctxt', 3) + 8, 1n << 50n, true),
    ],
    ['too many GDT entries', (v) => VcpuGuestContext.set.gdt_ents(v, 0, 7169n)],
    ['a GDT frame that is mapped writable', (v) => VcpuGuestContext.set.gdt_frames(v, 0, 61n, 0)],
    ['a root that is no L4', (v) => VcpuGuestContext.set.ctrlreg(v, 0, BigInt(L1) << 12n, 3)],
    ['a root beyond the end', (v) => VcpuGuestContext.set.ctrlreg(v, 0, 1n << 50n, 3)],
    ['a misaligned LDT', (v) => VcpuGuestContext.set.ldt_base(v, 0, 8n)],
  ])('refuses %s and takes nothing', (_what, change) => {
    const f = setUp();
    gdtPage(f);
    const before = [f.d.frames.info(60), f.d.frames.info(L4)];
    expect(f.now('vcpu_op', OP.init, 1, context(f, change))).toBe(-22);
    expect(f.trap.getVp(1, 'initialised')).toBe(0);
    expect(f.d.frames.type(60)).toBe(0);
    expect(f.d.frames.info(L4)).toBe(before[1]);
  });

  it('is down until someone says up, and ends the domain with the last one', () => {
    const f = setUp();
    gdtPage(f);
    f.now('vcpu_op', OP.init, 1, context(f));
    f.now('vcpu_op', OP.up, 1);
    f.trap.setVp(1, 'watchdog', 77n, 1);
    expect(f.callOn(1, 'vcpu_op', OP.down, 1)).toBe(0n);
    expect(f.now('vcpu_op', OP.isUp, 1)).toBe(0);
    // A watchdog is the domain's: it goes on elsewhere.
    expect(f.trap.getVp(1, 'watchdog', 1)).toBe(0n);
    expect(f.trap.getVp(0, 'watchdog', 1)).toBe(77n);
    f.kicked.length = 0;
    expect(f.now('vcpu_op', OP.up, 1)).toBe(0);
    expect(f.kicked).toEqual([1]);
    expect(f.now('vcpu_op', OP.isUp, 1)).toBe(1);
    expect(f.now('vcpu_op', OP.down, 1)).toBe(0);
    expect(f.kicked).toEqual([1, 1]);
    expect(f.now('vcpu_op', OP.down, 0)).toBe(0);
    expect(f.shutdowns).toEqual([[0, 0]]);
    expect(f.effects & TRAP_EFFECT.TRAP_EFFECT_PARK).not.toBe(0);
  });
});

describe('registered areas', () => {
  it('vcpu_info moves with its contents and is scanned once', () => {
    const f = setUp();
    f.memory.setU64(SHARED_INFO * PAGE + 16, 0x1234n);
    expect(f.now('vcpu_op', 10, 0, f.put(VcpuRegisterVcpuInfo, { mfn: 30, offset: 64 }))).toBe(0);
    const at = 30 * PAGE + 64;
    expect(f.trap.getVp(0, 'vcpu_info_gpa')).toBe(BigInt(at));
    expect(f.memory.getU64(at + 16)).toBe(0x1234n);
    expect(f.memory.getU64(at + 8)).toBe(0xffff_ffff_ffff_ffffn);
    expect([f.memory.getU8(at), f.memory.getU8(at + 1)]).toEqual([1, 1]);
    expect(f.effects).toBe(TRAP_EFFECT.TRAP_EFFECT_VCPU_INFO);
    expect(f.now('vcpu_op', 10, 1, f.put(VcpuRegisterVcpuInfo, { mfn: 30, offset: 128 }))).toBe(0);
  });

  it('run state and time area are resolved, over a page boundary too', () => {
    const f = setUp();
    const at = f.page(20) + 0xff0n;
    f.guest.writeU64(f.page(0), at);
    expect(f.now('vcpu_op', OP.regRunstate, 0, f.page(0))).toBe(0);
    expect(f.trap.getVp(0, 'runstate_va')).toBe(at);
    expect(f.trap.getVp(0, 'runstate_gpa')).toBe(BigInt(20 * PAGE + 0xff0));
    expect(f.trap.getVp(0, 'runstate_gpa2')).toBe(BigInt(21 * PAGE));
    expect(f.effects).toBe(TRAP_EFFECT.TRAP_EFFECT_AREAS);
    f.guest.writeU64(f.page(0), f.page(20) + 64n);
    expect(f.now('vcpu_op', 13, 0, f.page(0))).toBe(0);
    expect(f.trap.getVp(0, 'time_area_gpa')).toBe(BigInt(20 * PAGE + 64));
    f.guest.writeU64(f.page(0), 0n);
    expect(f.now('vcpu_op', 13, 0, f.page(0))).toBe(0);
    expect(f.trap.getVp(0, 'time_area_gpa')).toBe(0n);
    f.guest.writeU64(f.page(0), UNMAPPED);
    expect(f.now('vcpu_op', OP.regRunstate, 0, f.page(0))).toBe(0);
    expect(f.trap.getVp(0, 'runstate_gpa')).toBe(0n);
    f.guest.writeU64(f.page(0), 0xffff800000000000n);
    expect(f.now('vcpu_op', OP.regRunstate, 0, f.page(0))).toBe(-14);
  });

  it('the run state adds up to now', () => {
    const f = setUp();
    f.trap.setVp(0, 'runstate_entry', 400_000_000n);
    f.trap.setVp(0, 'runstate_time', 300_000_000n, 0);
    f.trap.setVp(0, 'runstate_time', 100_000_000n, 2);
    expect(f.now('vcpu_op', OP.runstate, 0, f.page(0))).toBe(0);
    const v = f.guest.view(f.page(0), VcpuRunstateInfo.size);
    const times = [0, 1, 2, 3].map((s) => Number(VcpuRunstateInfo.get.time(v, 0, s)));
    expect(times).toEqual([900_000_000, 0, 100_000_000, 0]);
  });

  it('an NMI is marked and the vCPU woken', () => {
    const f = setUp();
    expect(f.now('vcpu_op', 11, 1, 0)).toBe(0);
    expect(f.trap.getVp(1, 'nmi_pending')).toBe(1);
    expect(f.kicked).toEqual([1]);
  });
});

describe('timers', () => {
  it('write deadlines and ask for re-arming', () => {
    const f = setUp();
    expect(f.now('set_timer_op', 5000)).toBe(0);
    expect(f.trap.getVp(0, 'timer_singleshot')).toBe(5000n);
    // Negative, or too far ahead to be meant: 100 ms from now.
    f.now('set_timer_op', 1n << 63n);
    expect(f.trap.getVp(0, 'timer_singleshot')).toBe(1_100_000_000n);
    f.now('set_timer_op', 1n << 51n);
    expect(f.trap.getVp(0, 'timer_singleshot')).toBe(1_100_000_000n);
    expect(f.effects).toBe(TRAP_EFFECT.TRAP_EFFECT_TIMER);
    expect(f.now('vcpu_op', OP.single, 0, f.put(VcpuSetSingleshotTimer, { timeout_abs_ns: 0 }))).toBe(0);
    expect(f.trap.getVp(0, 'timer_singleshot')).toBe(1n);
    expect(f.now('vcpu_op', 9, 0)).toBe(0);
    expect(f.trap.getVp(0, 'timer_singleshot')).toBe(0n);
    expect(f.now('vcpu_op', OP.setPeriodic, 1, f.put(VcpuSetPeriodicTimer, { period_ns: 1_000_000 }))).toBe(0);
    // Another vCPU's is asked for: its VP is the one that counts on its timer.
    expect(f.trap.getVp(1, 'period_request')).toBe(1_000_001n);
    expect(f.trap.getVp(1, 'requests')).toBe(TRAP_REQ.TRAP_REQ_PERIOD);
    expect(f.kicked).toEqual([1]);
    expect(f.now('vcpu_op', OP.stopPeriodic, 1)).toBe(0);
    expect(f.trap.getVp(1, 'period_request')).toBe(1n);
    expect(f.now('vcpu_op', OP.setPeriodic, 0, f.put(VcpuSetPeriodicTimer, { period_ns: 1_000_000 }))).toBe(0);
    expect(f.trap.getVp(0, 'timer_periodic_next')).toBe(1_001_000_000n);
    expect(f.now('vcpu_op', OP.stopPeriodic, 0)).toBe(0);
    expect(f.trap.getVp(0, 'timer_period')).toBe(0n);
  });

  it('watchdogs can be made, moved to another vCPU, stopped, and run out', () => {
    const f = setUp();
    const watchdog = (vcpu: number, id: number, timeout: number) =>
      Number(f.callOn(vcpu, 'sched_op', 6, f.put(SchedWatchdog, { id, timeout })));
    expect(watchdog(0, 0, 10)).toBe(1);
    expect(f.trap.getVp(0, 'watchdog', 0)).toBe(11_000_000_000n);
    expect(watchdog(1, 1, 20)).toBe(0);
    expect([f.trap.getVp(0, 'watchdog', 0), f.trap.getVp(1, 'watchdog', 0)]).toEqual([0n, 21_000_000_000n]);
    expect(watchdog(0, 1, 0)).toBe(0);
    expect(watchdog(0, 1, 5)).toBe(-22);
    const call = { vcpu: 1, effects: 0 };
    watchdogExpired(f.d, call);
    expect(f.shutdowns).toEqual([[4, 1]]);
    expect(call.effects).toBe(TRAP_EFFECT.TRAP_EFFECT_PARK);
  });
});

describe('shutdown', () => {
  it('is reported once, with 8 bits of the reason', () => {
    const f = setUp();
    expect(f.now('sched_op', 2, f.put(SchedShutdown, { reason: 0x101 }))).toBe(0);
    expect(f.effects).toBe(TRAP_EFFECT.TRAP_EFFECT_PARK);
    f.now('sched_op', 2, f.put(SchedShutdown, { reason: 3 }));
    expect(f.shutdowns).toEqual([[1, 0]]);
  });
  it('takes the code that was recorded first', () => {
    const f = setUp();
    expect(f.now('sched_op', 5, f.put(SchedShutdown, { reason: 3 }))).toBe(0);
    f.now('sched_op', 5, f.put(SchedShutdown, { reason: 1 }));
    expect(f.now('sched_op_compat', 2, 0)).toBe(0);
    expect(f.shutdowns).toEqual([[3, 0]]);
  });
  it('does not end the domain for a suspend', () => {
    const f = setUp();
    expect(f.now('sched_op', 2, f.put(SchedShutdown, { reason: 2 }), 1000)).toBe(1);
    expect(f.effects).toBe(0);
    expect(f.shutdowns).toEqual([]);
  });
});

describe('entry points', () => {
  it('the trap table overwrites what it names, NULL clears it', () => {
    const f = setUp();
    f.put(TrapInfo, { vector: 14, flags: 4, cs: 0xe033, address: VA_BASE }, f.page(3));
    f.put(TrapInfo, { vector: 3, flags: 3, cs: 0xe033, address: VA_BASE + 8n }, f.page(3) + 16n);
    f.put(TrapInfo, {}, f.page(3) + 32n);
    expect(f.now('set_trap_table', f.page(3))).toBe(0);
    expect(f.trap.getHandler(0, 14)).toEqual({ address: VA_BASE, flags: 4, cs: 0xe033 });
    expect(f.trap.getHandler(0, 3)).toEqual({ address: VA_BASE + 8n, flags: 3, cs: 0xe033 });
    expect(f.trap.getHandler(1, 14).address).toBe(0n);
    expect(f.now('set_trap_table', 0)).toBe(0);
    expect(f.trap.getHandler(0, 14).address).toBe(0n);
  });
  it('callbacks are per vCPU; the old call skips what is not canonical', () => {
    const f = setUp();
    f.put(CallbackRegister, { type: 5, flags: 1, address: VA_BASE });
    expect(Number(f.callOn(1, 'callback_op', 0, f.page(0)))).toBe(0);
    expect(f.trap.getCallback(1, 5)).toEqual({ address: VA_BASE, flags: 1 });
    expect(f.trap.getCallback(0, 5).address).toBe(0n);
    expect(f.now('set_callbacks', VA_BASE, 1n << 50n, VA_BASE + 2n)).toBe(0);
    expect(f.trap.getCallback(0, 0)).toEqual({ address: VA_BASE, flags: 1 });
    expect(f.trap.getCallback(0, 1).address).toBe(0n);
    expect(f.trap.getCallback(0, 2)).toEqual({ address: VA_BASE + 2n, flags: 0 });
  });
  it('debug registers are kept as the guest sees them', () => {
    const f = setUp();
    expect(f.now('set_debugreg', 0, VA_BASE)).toBe(0);
    expect(f.effects).toBe(TRAP_EFFECT.TRAP_EFFECT_DEBUG);
    expect(f.trap.getVp(0, 'debugreg', 0)).toBe(VA_BASE);
    expect(f.now('set_debugreg', 5, 3)).toBe(0);
    expect(f.now('get_debugreg', 7)).toBe(0x403);
    f.trap.setVp(0, 'vcr4', 8n);
    expect(f.now('set_debugreg', 5, 3)).toBe(-19);
    expect(f.now('set_debugreg', 7, 0x20001)).toBe(0);
  });
});

describe('small ones', () => {
  it('features follow vm_assist', () => {
    const f = setUp();
    const features = () => {
      expect(f.now('xen_version', 6, f.put(XenFeatureInfo, {}))).toBe(0);
      return f.field(XenFeatureInfo, 'submap');
    };
    expect(features()).toBe(0x220e0);
    expect(f.now('vm_assist', 0, 3)).toBe(0);
    expect(features()).toBe(0x220f0);
    f.now('vm_assist', 0, 32);
    expect(f.trap.getDomain('vm_assist_high')).toBe(1);
    f.now('vm_assist', 1, 3);
    expect(f.trap.getDomain('vm_assist')).toBe(0);
  });
  it('version strings are terminated', () => {
    const f = setUp();
    expect(f.now('xen_version', 3, f.page(3))).toBe(0);
    expect(Buffer.from(f.guest.copyFrom(f.page(3), 16)).toString()).toBe('xen-3.0-x86_64 \0');
    expect(f.now('xen_version', 9, f.page(3))).toBe(0);
    expect(Buffer.from(f.guest.copyFrom(f.page(3), 9)).toString()).toBe('<denied>\0');
    for (const cmd of [1, 2, 4, 5, 8]) expect(f.now('xen_version', cmd, f.page(3))).toBe(0);
  });
  it('console output arrives, long output too', async () => {
    const f = setUp();
    f.guest.copyTo(f.page(3), Buffer.from('hello'));
    expect(f.now('console_io', 0, 5, f.page(3))).toBe(0);
    expect(f.console).toEqual(['hello']);
    f.console.length = 0;
    expect(await f.call('console_io', 0, 300 * PAGE, f.page(3))).toBe(0n);
    expect(f.console.join('')).toHaveLength(300 * PAGE);
    expect(await f.call('console_io', 0, 0x7fff_ffff, f.page(3))).toBe(-14n);
  });
  it('I/O privilege is per vCPU', () => {
    const f = setUp();
    f.put(PhysdevSetIopl, { iopl: 1 });
    expect(Number(f.callOn(1, 'physdev_op', 6, f.page(0)))).toBe(0);
    expect([f.trap.getVp(0, 'iopl'), f.trap.getVp(1, 'iopl')]).toEqual([0, 1]);
    expect(f.now('physdev_op', 7, f.put(PhysdevSetIobitmap, { bitmap: f.page(3), nr_ports: 65536 }))).toBe(0);
    expect(f.trap.getVp(0, 'iobmp_nr')).toBe(65536);
  });
});
