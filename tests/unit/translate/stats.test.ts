/** Statistics from the module's counters. */
import { TRAP_COUNT, TRAP_HV, TRAP_SUB, TrapVp } from '../../../abi/trap';
import { HYPERVISOR as H } from '../../../abi/xen/hypercall-numbers';
import { MMUEXT } from '../../../abi/xen/mmuext';
import { collectStats, formatStats, type Stats } from '../../../shim/translate/stats';

function block(
  counts: readonly (readonly [number, number, bigint])[],
  more: (view: DataView) => void = () => undefined,
): Buffer {
  const vp = Buffer.alloc(TrapVp.size);
  const view = new DataView(vp.buffer, vp.byteOffset, vp.length);
  for (const [nr, sub, n] of counts) TrapVp.set.hypercall_count(view, 0, n, nr * 64 + sub);
  more(view);
  return vp;
}

function stats(...vps: Buffer[]): Stats {
  const engine = { engine: 'qemu', hypervExecutedBy: 'trap module' as const, exits: undefined };
  return collectStats({ name: 'test', ...engine, guestRing: 1, uptimeMs: 1500, vps });
}

describe('statistics', () => {
  test('an idle domain has none', () => {
    expect(stats(block([]))).toMatchObject({
      version: 1,
      vcpus: 1,
      xen: [],
      hypercalls: [],
      hyperv: [],
      exceptions: [],
      module: {},
    });
  });

  test('operations are summed over vCPUs, named, and sorted by count', () => {
    const s = stats(
      block([
        [H.__HYPERVISOR_sched_op, 1, 5n],
        [H.__HYPERVISOR_set_timer_op, 0, 1n],
      ]),
      block([
        [H.__HYPERVISOR_sched_op, 1, 6n],
        [H.__HYPERVISOR_sched_op, 0, 2n],
        [H.__HYPERVISOR_stack_switch, 0, 4n],
      ]),
    );
    expect(s.xen.map((o) => [o.name, o.count, o.where])).toEqual([
      ['sched_op.block', 11, 'hypervisor'],
      ['stack_switch', 4, 'trap'],
      ['sched_op.yield', 2, 'hypervisor'],
      ['set_timer_op', 1, 'hypervisor'],
    ]);
    expect(s.xen[0]?.hyperv).toEqual(['idle (STI; HLT)']);
    expect(s.hypercalls.map((h) => [h.name, h.calls])).toEqual([
      ['sched_op', 13],
      ['stack_switch', 4],
      ['set_timer_op', 1],
    ]);
  });

  test('elements of mmu_update and mmuext_op count as operations, their calls as calls', () => {
    const s = stats(
      block([
        [H.__HYPERVISOR_mmu_update, 0, 70n],
        [H.__HYPERVISOR_mmu_update, 2, 7n],
        [H.__HYPERVISOR_mmu_update, TRAP_SUB.TRAP_SUB_CALLS, 3n],
        [H.__HYPERVISOR_mmuext_op, MMUEXT.MMUEXT_TLB_FLUSH_ALL, 2n],
        [H.__HYPERVISOR_mmuext_op, TRAP_SUB.TRAP_SUB_CALLS, 9n],
      ]),
    );
    expect(s.xen.map((o) => [o.name, o.count])).toEqual([
      ['mmu_update.normal_pt_update', 70],
      ['mmu_update.pt_update_preserve_ad', 7],
      ['mmuext_op.tlb_flush_all', 2],
    ]);
    expect(s.hypercalls.map((h) => [h.name, h.calls])).toEqual([
      ['mmuext_op', 9],
      ['mmu_update', 3],
    ]);
  });

  test('what is unknown has a name too', () => {
    const s = stats(
      block([
        [43, 0, 1n],
        [H.__HYPERVISOR_sched_op, TRAP_SUB.TRAP_SUB_OTHER, 1n],
        [H.__HYPERVISOR_physdev_op, 0, 1n],
        [H.__HYPERVISOR_vcpu_op, 40, 1n],
        [H.__HYPERVISOR_event_channel_op_compat, 0, 1n],
      ]),
    );
    expect(s.xen.map((o) => o.name).sort()).toEqual([
      'event_channel_op_compat',
      'hypercall_43',
      'physdev_op.0',
      'sched_op.other',
      'vcpu_op.40',
    ]);
  });

  test('Hyper-V operations, exceptions and what else the module did', () => {
    const s = stats(
      block([], (view) => {
        TrapVp.set.hv_count(view, 0, 3n, TRAP_HV.TRAP_HV_IDLE);
        TrapVp.set.hv_count(view, 0, 4n, TRAP_HV.TRAP_HV_EOI);
        TrapVp.set.hv_count(view, 0, 9n, 31);
        TrapVp.set.exception_count(view, 0, 2n, 14);
        TrapVp.set.misc_count(view, 0, 8n, TRAP_COUNT.TRAP_COUNT_PT_WRITE);
        TrapVp.set.misc_count(view, 0, 8n, 63);
      }),
    );
    expect(s.hyperv.map((o) => [o.name, o.count])).toEqual([
      ['EOI', 4],
      ['idle (STI; HLT)', 3],
    ]);
    expect(s.exceptions).toEqual([{ vector: 14, count: 2 }]);
    expect(s.module).toEqual({ pt_write: 8 });
  });

  test('as tables for people', () => {
    const text = formatStats(
      stats(
        block([
          [H.__HYPERVISOR_sched_op, 1, 5n],
          [H.__HYPERVISOR_iret, 0, 6n],
        ]),
      ),
      1,
    );
    expect(text).toContain('test: engine qemu, guest ring 1, 1 vCPU, 1.5 s');
    expect(text).toMatch(/^iret +6 +trap +-$/m);
    expect(text).toMatch(/^\(1 more\) +5$/m);
  });
});
