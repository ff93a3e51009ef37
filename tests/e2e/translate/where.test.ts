/**
 * Where each operation is answered, against the translation table: a kernel that makes every hypercall with every
 * sub-operation runs with a trace, and the trace tells which calls came to the shim.
 */
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { TrapVp } from '../../../abi/trap';
import { DOMID } from '../../../abi/xen/domid';
import { HYPERVISOR as H } from '../../../abi/xen/hypercall-numbers';
import { HYPERCALL_LIST, opName, subopFromArgs } from '../../../abi/xen/hypercalls';
import { MmuUpdate } from '../../../abi/xen/mmu';
import { MmuextOp } from '../../../abi/xen/mmuext';
import { Domain } from '../../../shim/domain/domain';
import type { Stats } from '../../../shim/translate/stats';
import { answeredByModule, tableRows } from '../../../shim/translate/table';
import { type Call, hypercallKernel } from './kernel';

/** What cannot be called and gone on from, or needs a frame on the stack, or leaves an NMI that ends every sleep. */
const LEFT_OUT = new Set([
  'iret',
  'sched_op.block',
  'sched_op_compat.block',
  'sched_op_compat.shutdown',
  'vcpu_op.down',
  'vcpu_op.send_nmi',
]);

interface Asked extends Call {
  readonly name: string;
}

function calls(): Asked[] {
  const list: Asked[] = [];
  for (const row of tableRows()) {
    if (LEFT_OUT.has(row.name)) continue;
    const { name, nr } = row;
    const sub = BigInt(row.subop ?? 0);
    if (nr === H.__HYPERVISOR_mmu_update || nr === H.__HYPERVISOR_mmuext_op) {
      const data = Buffer.alloc(nr === H.__HYPERVISOR_mmu_update ? MmuUpdate.size : MmuextOp.size);
      const view = new DataView(data.buffer, data.byteOffset, data.length);
      if (nr === H.__HYPERVISOR_mmu_update) MmuUpdate.set.ptr(view, 0, sub);
      else MmuextOp.set.cmd(view, 0, Number(sub));
      list.push({ name, nr, data, args: [0n, 1n, 0n, BigInt(DOMID.DOMID_SELF)] });
    } else {
      // Null pointers: every operation that reads its argument answers -EFAULT, from where it is answered.
      list.push({ name, nr, args: [sub] });
    }
  }
  list.push({ name: 'hypercall_43', nr: 43 }, { name: 'hypercall_63', nr: 63 }, { name: 'hypercall_64', nr: 64 });
  list.push({ name: 'sched_op.99', nr: H.__HYPERVISOR_sched_op, args: [99n] });
  return list;
}

interface Event {
  readonly name: string;
  readonly cat?: string;
  readonly ph: string;
  readonly ts?: number;
  readonly dur?: number;
  readonly args: { readonly where?: string; readonly result?: unknown; readonly hyperv?: string[] };
}

const asked = calls();
let directory: string;

beforeAll(() => {
  directory = mkdtempSync(join(tmpdir(), 'xenlighten-where-'));
});
afterAll(() => rmSync(directory, { recursive: true }));

describe.each([1, 3] as const)('in ring %i', (guestRing) => {
  let events: Event[];
  let stats: Stats;

  beforeAll(async () => {
    const kernel = join(directory, 'kernel');
    const trace = join(directory, `trace-${guestRing}.json`);
    writeFileSync(kernel, hypercallKernel(asked));
    const domain = await Domain.create({ name: 'where', kernel, cmdline: '', memory: 16, guestRing, trace });
    let over = false;
    void domain.ended.then(() => {
      over = true;
    });
    await domain.start();
    // The kernel's last call is SCHEDOP_block.
    const asleep = (): boolean => {
      const block = domain.layout.vpsGpa + TrapVp.offsetOf('hypercall_count', H.__HYPERVISOR_sched_op * 64 + 1);
      return domain.partition.memory.getU64(block) > 0n && domain.info().state === 'blocked';
    };
    for (let i = 0; i < 250 && !over && !asleep(); i++) await new Promise((resolve) => setTimeout(resolve, 20));
    await domain.destroy();
    expect(await domain.ended).toMatchObject({ kind: 'destroyed' });
    stats = domain.stats();
    events = (JSON.parse(readFileSync(trace, 'utf8')) as { traceEvents: Event[] }).traceEvents;
  }, 60_000);

  const made = (): Event[] => events.filter((e) => e.cat === 'hypercall');

  test('the trace has every call, in order', () => {
    const name = (c: Asked): string => opName(c.nr, subopFromArgs(c.nr, c.args ?? [0n]));
    expect(made().map((e) => e.name)).toEqual(asked.map(name));
    expect(events.at(-1)).toMatchObject({ name: 'trace_summary', args: { lost: 0 } });
  });

  test('every operation is answered where the table says', () => {
    const rows = new Map(tableRows().map((r) => [r.name, r]));
    const found = made().map((e, i) => ({ name: asked[i]?.name, where: e.args.where }));
    const wanted = asked.map(({ name }) => {
      const row = rows.get(name);
      return { name, where: row !== undefined && answeredByModule(row) ? 'module' : 'shim' };
    });
    expect(found).toEqual(wanted);
  });

  test('a call that the shim answered used a synchronous call, and took some time', () => {
    const name = 'synchronous call to the shim';
    for (const e of made()) {
      // The module logs the first page tables that it refuses, which is a call of its own.
      if (e.name !== 'mmuext_op') {
        expect([e.name, e.args.hyperv?.includes(name) ?? false]).toEqual([e.name, e.args.where === 'shim']);
      }
      expect(e.dur).toBeGreaterThan(0);
    }
    const slices = events.filter((e) => e.cat === 'shim');
    expect(slices).toHaveLength(made().filter((e) => e.args.where === 'shim').length);
    // More for the module's own calls.
    expect(stats.hyperv.find((o) => o.name === name)?.count).toBeGreaterThan(slices.length);
  });

  test('what an unprivileged domain may not use is refused with what the table says', () => {
    const rows = new Map(tableRows().map((r) => [r.name, r]));
    const others = made().flatMap((e, i) => {
      const row = rows.get(asked[i]?.name ?? '');
      if (row?.exact !== 'refused') return [];
      return row.note.split(' or ').some((n) => e.args.result === `-${n}`) ? [] : [[row.name, e.args.result, row.note]];
    });
    expect(others).toEqual([]);
    expect(made().at(-2)).toMatchObject({ name: 'hypercall_64', args: { result: '-ENOSYS' } });
  });

  test('the counters agree with the trace', () => {
    const counted = new Map<string, number>();
    for (const e of made()) {
      const head = e.name.split('.')[0] as string;
      counted.set(head, (counted.get(head) ?? 0) + 1);
    }
    // Never finished, so not in the trace; and numbers beyond the last are not counted.
    counted.set('sched_op', (counted.get('sched_op') ?? 0) + 1);
    counted.delete('hypercall_64');
    expect(new Map(stats.hypercalls.map((h) => [h.name as string, h.calls]))).toEqual(counted);
    for (const h of HYPERCALL_LIST.filter((l) => l.subopIn?.in === 'element')) {
      for (const s of h.subops)
        expect(stats.xen).toContainEqual(expect.objectContaining({ name: opName(h.number, s.number), count: 1 }));
    }
  });
});
