/** The translation table: complete, and in agreement with the dispatcher. What the module answers: tests/e2e/translate. */

import { TRAP_HV } from '../../../abi/trap';
import { allOps, HYPERCALL_LIST } from '../../../abi/xen/hypercalls';
import { HYPERV_OPERATIONS, hyperVNames, hyperVOperation } from '../../../shim/translate/hyperv-operations';
import { IMPLICIT_OPERATIONS, tableRows, translation, translationOf } from '../../../shim/translate/table';
import { HANDLERS } from '../../../shim/xen/hypercalls/dispatch';

const rows = tableRows();

describe('the translation table', () => {
  test('has one row for every listed operation, in order', () => {
    expect(rows.map((r) => r.name)).toEqual(allOps().map((o) => o.name));
    expect(rows.filter((r) => r.note === '').map((r) => r.name)).toEqual([]);
  });

  test('names no operation that does not exist', () => {
    for (const { name } of rows) expect(translation(name)).toBeDefined();
    expect(translation('no_such_op')).toBeUndefined();
  });

  test('an operation that an unprivileged domain may not use is refused with an errno', () => {
    const listed = HYPERCALL_LIST.flatMap((h) =>
      h.subops.map((s) => ({ ...s, name: `${h.name}.${s.name}`, nr: h.number })),
    );
    for (const s of listed.filter((l) => l.privilege !== 'any')) {
      const t = translationOf(s.nr, s.number);
      expect({ name: s.name, exact: t.exact }).toEqual({ name: s.name, exact: 'refused' });
      expect(t.note).toMatch(/^E[A-Z0-9]+( or E[A-Z0-9]+)*$/);
    }
  });

  test('what is not listed is refused', () => {
    expect(translationOf(43)).toMatchObject({ where: 'shim', exact: 'refused' });
    expect(translationOf(29, 99).where).toBe('shim');
  });

  test('operations by a facility of the hypervisor name it; others name none but the way to the shim', () => {
    for (const row of [...rows, ...IMPLICIT_OPERATIONS.map((o) => ({ ...o.translation, name: o.name }))]) {
      if (row.where === 'hypervisor' || row.where === 'signal') expect(row.hv.length).toBeGreaterThan(0);
      if (row.where === 'trap' || row.where === 'boot') expect(row.hv).toEqual([]);
      if (row.where === 'shim') expect(row.hv).toContain('postMessage');
    }
  });

  test('the dispatcher has a handler of its own for every operation that the shim answers', () => {
    const inModule = HANDLERS.iret;
    for (const row of rows.filter((r) => r.where === 'shim')) {
      const handler = HANDLERS[row.name.split('.')[0] as keyof typeof HANDLERS];
      expect({ name: row.name, handled: typeof handler === 'function' && handler !== inModule }).toEqual({
        name: row.name,
        handled: true,
      });
    }
  });

  test('what has no handler in the shim is answered by the module, all of it', () => {
    const inModule = Object.entries(HANDLERS).filter(([, h]) => h === HANDLERS.iret);
    expect(inModule.length).toBeGreaterThan(3);
    for (const [name] of inModule) {
      for (const row of rows.filter((r) => r.name.split('.')[0] === name)) expect(row.where).not.toBe('shim');
    }
  });
});

describe('Hyper-V operations', () => {
  test('one for each counter of the module', () => {
    const counters = Object.entries(TRAP_HV).filter(([name]) => name !== 'TRAP_HV_NR');
    expect(Object.values(HYPERV_OPERATIONS).map((o) => o.counter)).toEqual(counters.map(([, n]) => n));
    for (const [, n] of counters) expect(hyperVOperation(n)?.counter).toBe(n);
    expect(hyperVOperation(31)).toBeUndefined();
  });

  test('names of a mask', () => {
    expect(hyperVNames(0)).toEqual([]);
    expect(hyperVNames((1 << TRAP_HV.TRAP_HV_IDLE) | (1 << TRAP_HV.TRAP_HV_FLUSH_SPACE) | (1 << 31))).toEqual([
      'HvCallFlushVirtualAddressSpace',
      'idle (STI; HLT)',
    ]);
  });
});
