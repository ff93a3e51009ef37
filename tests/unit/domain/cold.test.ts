/** --cold: names to masks. */

import { HYPERVISOR } from '../../../abi/xen/hypercall-numbers';
import { HYPERCALL_LIST } from '../../../abi/xen/hypercalls';
import { parseColdList } from '../../../shim/domain/cold';
import { UsageError } from '../../../shim/errors';

const ALL = (1n << 64n) - 1n;

function failure(list: string): string {
  try {
    parseColdList(list);
  } catch (error) {
    if (error instanceof UsageError) return error.message;
    throw error;
  }
  throw new Error('no error');
}

test('a hypercall, an operation, several of one, none', () => {
  expect(parseColdList('mmu_update')).toEqual([[HYPERVISOR.__HYPERVISOR_mmu_update, ALL]]);
  expect(parseColdList('event_channel_op.send')).toEqual([[HYPERVISOR.__HYPERVISOR_event_channel_op, 1n << 4n]]);
  expect(parseColdList(' event_channel_op.send, event_channel_op.unmask,,')).toEqual([
    [HYPERVISOR.__HYPERVISOR_event_channel_op, (1n << 4n) | (1n << 9n)],
  ]);
  expect(parseColdList('')).toEqual([]);
});

test('all, and whole hypercalls, leave out what is never cold', () => {
  const masks = new Map(parseColdList('all'));
  for (const name of ['iret', 'multicall', 'stack_switch', 'set_segment_base', 'fpu_taskswitch'] as const) {
    expect(masks.has(HYPERVISOR[`__HYPERVISOR_${name}`])).toBe(false);
  }
  // yield 0, block 1, poll 3
  expect(masks.get(HYPERVISOR.__HYPERVISOR_sched_op)).toBe(ALL & ~0b1011n);
  expect(parseColdList('sched_op')).toEqual([[HYPERVISOR.__HYPERVISOR_sched_op, ALL & ~0b1011n]]);
  expect(masks.get(HYPERVISOR.__HYPERVISOR_mmuext_op)).toBe(ALL);
  expect(masks.size).toBe(HYPERCALL_LIST.length - 5);
});

test.each([
  ['iret', /always answered by the trap module: found iret, wanted operations other than this one: it ends/],
  ['multicall', /its entries are calls of their own/],
  ['sched_op.block', /the vCPU can only sleep in the trap module/],
  ['sched_op.3', /always answered by the trap module/],
  ['set_segment_base.fs', /always answered by the trap module/],
  ['mmuext_op.pin_l1_table', /not one operation by itself: .*wanted mmuext_op as a whole/],
  ['mmu_updaet', /unknown hypercall: found "mmu_updaet", wanted mmu_update$/],
  ['event_channel_op.sned', /wanted event_channel_op\.send/],
  ['evtchn', /^--cold: unknown hypercall: found "evtchn", wanted /],
  ['hypercall_99', /unknown hypercall/],
])('%s is an error that says why', (list, wanted) => expect(failure(list)).toMatch(wanted));
