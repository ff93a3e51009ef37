import type { VpExits } from '../../../shim/partition/partition';
import { EXIT_BUDGET, exitsPerOperation, judge, NOISE } from '../../../shim/translate/exit-budget';

function counted(exits: number, irq: number, faults: number, toProcess: Record<string, number>): VpExits {
  return { hypervisor: { exits, irq_exits: irq, pf_taken: faults, hypercalls: 7 }, toProcess };
}

describe('exits per operation', () => {
  test('are the difference of two runs, without what the host or a first touch caused', () => {
    const before = counted(300, 50, 100, { IO: 5, HYPERV: 3 });
    const after = counted(1500, 150, 180, { IO: 1005, HYPERV: 3, INTR: 40 });
    // 1200 exits more, of which 100 interrupts and 80 page faults.
    expect(exitsPerOperation(before, after, 1000)).toEqual({ hypervisor: 1.02, toProcess: 1 });
  });

  test('a counter that an older hypervisor lacks counts nothing', () => {
    const none: VpExits = { hypervisor: { exits: 10 }, toProcess: {} };
    expect(exitsPerOperation(none, { hypervisor: { exits: 30 }, toProcess: {} }, 10)).toEqual({
      hypervisor: 2,
      toProcess: 0,
    });
  });
});

describe('the budget', () => {
  const row = (operation: string) => {
    const found = EXIT_BUDGET.find((r) => r.operation === operation);
    if (found === undefined) throw new Error(operation);
    return found;
  };

  test('names each operation once', () => {
    const names = EXIT_BUDGET.map((r) => r.operation);
    expect(new Set(names).size).toBe(names.length);
  });

  test.each(['pt-update', 'bounce-iret', 'context-switch', 'event-mask', 'time', 'hypercall'])(
    'allows %s no exit',
    (operation) => {
      expect(row(operation).budget).toEqual({ hypervisor: NOISE, toProcess: NOISE });
      expect(judge(row(operation), { hypervisor: 0.001, toProcess: 0 })).toBeUndefined();
      expect(judge(row(operation), { hypervisor: 1, toProcess: 0 })).toBe(
        'hypervisor: 1.000 exits, at most 0.02 allowed',
      );
    },
  );

  test.each(['flush-all', 'ipi', 'timer-arm'])('lets %s exit to the hypervisor, never to the process', (operation) => {
    expect(judge(row(operation), { hypervisor: 1.05, toProcess: 0 })).toBeUndefined();
    expect(judge(row(operation), { hypervisor: 1, toProcess: 1 })).toMatch(/^toProcess: 1\.000 exits/);
  });
});
