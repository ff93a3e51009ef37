/**
 * The hypercall descriptions: complete against the constants of abi/xen, and names that go both ways.
 */
import fc from 'fast-check';
import { XEN_ERRNO } from '../../../abi/xen/errno';
import { EVTCHNOP } from '../../../abi/xen/event-channel';
import { GNTST, GNTTABOP } from '../../../abi/xen/grant-ops';
import { HYPERVISOR } from '../../../abi/xen/hypercall-numbers';
import {
  allOps,
  HYPERCALL_LIST,
  hypercall,
  hypercallName,
  NR_HYPERCALLS,
  type OpName,
  opName,
  parseOpName,
  subop,
  subopFromArgs,
} from '../../../abi/xen/hypercalls';
import { XENMEM } from '../../../abi/xen/memory';
import { MMU } from '../../../abi/xen/mmu';
import { MMUEXT } from '../../../abi/xen/mmuext';
import { PHYSDEVOP } from '../../../abi/xen/physdev';
import { XENPMU } from '../../../abi/xen/pmu';
import { SCHEDOP } from '../../../abi/xen/sched';
import { VCPUOP } from '../../../abi/xen/vcpu';
import { XENVER } from '../../../abi/xen/version';

test('every number of xen.h is described, under its name', () => {
  for (const [constant, nr] of Object.entries(HYPERVISOR)) {
    const name = constant.slice('__HYPERVISOR_'.length);
    if (name.startsWith('arch_')) continue;
    expect(hypercallName(nr)).toBe(name);
  }
  expect(hypercallName(HYPERVISOR.__HYPERVISOR_arch_0)).toBe('mca');
});

test.each([
  ['event_channel_op', EVTCHNOP, 'EVTCHNOP_'],
  ['grant_table_op', GNTTABOP, 'GNTTABOP_'],
  ['memory_op', XENMEM, 'XENMEM_'],
  ['mmu_update', MMU, 'MMU_'],
  ['mmuext_op', MMUEXT, 'MMUEXT_'],
  ['physdev_op', PHYSDEVOP, 'PHYSDEVOP_'],
  ['sched_op', SCHEDOP, 'SCHEDOP_'],
  ['vcpu_op', VCPUOP, 'VCPUOP_'],
  ['xen_version', XENVER, 'XENVER_'],
  ['xenpmu_op', XENPMU, 'XENPMU_'],
] as const)('every command of %s is described, under its name', (call, group, prefix) => {
  const decl = HYPERCALL_LIST.find((h) => h.name === call);
  const wanted = Object.entries(group)
    .filter(([name]) => name.startsWith(prefix))
    .map(([name, number]) => [number, name.slice(prefix.length).toLowerCase()]);
  expect(decl?.subops.map((s) => [s.number, s.name])).toEqual(wanted.sort((a, b) => Number(a[0]) - Number(b[0])));
});

test('numbers are unique and below NR_HYPERCALLS', () => {
  const numbers = HYPERCALL_LIST.map((h) => h.number);
  expect(new Set(numbers).size).toBe(numbers.length);
  expect(Math.max(...numbers)).toBeLessThan(NR_HYPERCALLS);
  for (const h of HYPERCALL_LIST) expect(new Set(h.subops.map((s) => s.number)).size).toBe(h.subops.length);
});

test('errors and statuses have names of the ABI, and causes', () => {
  for (const op of allOps()) {
    for (const e of op.errors) {
      expect(XEN_ERRNO).toHaveProperty(`XEN_${e.errno}`);
      expect(e.cause.length).toBeGreaterThan(5);
    }
    const statuses = op.subop === undefined ? [] : (subop(op.nr, op.subop)?.statuses ?? []);
    for (const s of statuses) expect(GNTST).toHaveProperty(s);
  }
});

test('what nobody may use says which error it gives', () => {
  for (const h of HYPERCALL_LIST) {
    if (h.privilege === 'nobody') expect(h.errors.length).toBeGreaterThan(0);
    for (const s of h.subops) if (s.privilege === 'nobody') expect(s.errors.length).toBeGreaterThan(0);
  }
});

test('unknown operations are values', () => {
  expect(hypercall(43)).toBeUndefined();
  expect(hypercallName(43)).toBe('hypercall_43');
  expect(opName(43)).toBe('hypercall_43');
  expect(opName(43, 7)).toBe('hypercall_43.7');
  expect(opName(32, 99)).toBe('event_channel_op.99');
  expect(opName(32, 4)).toBe('event_channel_op.send' satisfies OpName);
  expect(opName(1)).toBe('mmu_update' satisfies OpName);
});

test('every operation’s name parses back to its numbers', () => {
  for (const op of allOps()) {
    expect(opName(op.nr, op.subop)).toBe(op.name);
    expect(parseOpName(op.name)).toEqual(op.subop === undefined ? { nr: op.nr } : { nr: op.nr, subop: op.subop });
  }
  fc.assert(
    fc.property(fc.nat(200), fc.option(fc.nat(0xffff_ffff), { nil: undefined }), (nr, sub) => {
      expect(parseOpName(opName(nr, sub))).toEqual(sub === undefined ? { nr } : { nr, subop: sub });
    }),
  );
});

test.each([
  '',
  'mmu',
  'mmu_update.',
  'mmu_update.nothing',
  'event_channel_op.send.x',
  'hypercall_',
  'hypercall_-1',
  '.',
])('the name %j means nothing', (name) => {
  expect(parseOpName(name)).toBeUndefined();
});

test('the sub-operation comes from the right register, under its mask', () => {
  expect(subopFromArgs(HYPERVISOR.__HYPERVISOR_event_channel_op, [4n, 0x1000n])).toBe(EVTCHNOP.EVTCHNOP_send);
  // memory_op keeps the extent to continue from in the upper bits.
  expect(subopFromArgs(HYPERVISOR.__HYPERVISOR_memory_op, [(5n << 6n) | 6n])).toBe(XENMEM.XENMEM_populate_physmap);
  // The command is a 32-bit value.
  expect(subopFromArgs(HYPERVISOR.__HYPERVISOR_sched_op, [0xffff_ffff_0000_0001n])).toBe(SCHEDOP.SCHEDOP_block);
  expect(subopFromArgs(HYPERVISOR.__HYPERVISOR_sched_op, [-1])).toBe(0xffff_ffff);
  expect(subopFromArgs(HYPERVISOR.__HYPERVISOR_mmu_update, [0n])).toBeUndefined();
  expect(subopFromArgs(HYPERVISOR.__HYPERVISOR_sched_op, [])).toBeUndefined();
  expect(subopFromArgs(43, [1n])).toBeUndefined();
});
