/**
 * Statistics of a running domain: what the guest asked for in Xen's words, and what became of it in Hyper-V's.
 *
 * Read from the counters in the trap module's per-VP blocks, which are always on. They lie in memory that a guest may
 * be able to write on some engines: numbers only, never used for decisions.
 *
 * Quirks: the elements of mmu_update and mmuext_op are counted one by one where the module answers; calls that `--cold`
 * sends to the shim are counted as calls only. Cycles of a call include the time it slept (sched_op.block) or waited for
 * the shim, and those of a multicall what its calls took.
 */

import { TRAP_COUNT, TRAP_SUB, TrapVp } from '../../abi/trap';
import { hypercall, opName } from '../../abi/xen/hypercalls';
import type { VpExits } from '../partition/partition';
import type { DeviceCount, DeviceOperation } from './device-table';
import { HYPERV_OPERATIONS } from './hyperv-operations';
import { translationOf, type Where } from './table';

export const STATS_VERSION = 1;

export interface OperationCount {
  readonly name: string;
  readonly count: number;
  readonly where: Where;
  /** Hyper-V operations that it is translated to. */
  readonly hyperv: readonly string[];
}

/** A device's requests by operation. */
export interface DeviceCounts {
  /** As the guest knows it: xvda. */
  readonly device: string;
  readonly operations: readonly (Pick<DeviceOperation, 'name' | 'hyperv'> & Readonly<DeviceCount>)[];
}

export interface Stats {
  readonly version: typeof STATS_VERSION;
  readonly name: string;
  readonly engine: string;
  readonly guestRing: number;
  readonly vcpus: number;
  /** Since the domain was created, ms. */
  readonly uptimeMs: number;
  /** Xen operations, most frequent first. */
  readonly xen: readonly OperationCount[];
  /** Calls by hypercall (mmu_update and mmuext_op carry several operations in a call), with module cycles. */
  readonly hypercalls: readonly { readonly name: string; readonly calls: number; readonly cycles: number }[];
  /** Hyper-V operations, most frequent first. */
  readonly hyperv: readonly { readonly name: string; readonly by: string; readonly count: number }[];
  /** Guest exceptions by vector. */
  readonly exceptions: readonly { readonly vector: number; readonly count: number }[];
  /** Other things that the module did, by name. */
  readonly module: Readonly<Record<string, number>>;
  /** Does a hypervisor execute the Hyper-V operations, or the trap module's soft Hyper-V? */
  readonly hypervExecutedBy: 'hypervisor' | 'trap module';
  /** Requests in rings of devices, where there are devices. */
  readonly devices?: readonly DeviceCounts[];
  /** How often each VP left guest execution, where the engine counts: to the shim's process, and in the hypervisor. */
  readonly exits?: readonly VpExits[];
}

const PER_HYPERCALL = 64;

const COUNT_NAMES = new Map<number, string>(
  Object.entries(TRAP_COUNT)
    .filter(([name]) => name !== 'TRAP_COUNT_NR')
    .map(([name, index]) => [index as number, name.replace('TRAP_COUNT_', '').toLowerCase()]),
);

/** Sums a counter over all VPs' blocks. */
class Blocks {
  constructor(private readonly views: readonly DataView[]) {}
  sum(
    field: 'hypercall_count' | 'hypercall_cycles' | 'exception_count' | 'misc_count' | 'hv_count',
    index: number,
  ): number {
    let total = 0;
    for (const view of this.views) total += Number(TrapVp.get[field](view, 0, index));
    return total;
  }
}

/** The sub-operation behind an index of hypercall_count; undefined where the module cannot tell (or there is none). */
export function countedSubop(nr: number, index: number): number | undefined {
  const source = hypercall(nr)?.subopIn;
  return source === undefined || source.in === 'struct' ? undefined : index;
}

export interface StatsSource {
  readonly name: string;
  readonly engine: string;
  readonly guestRing: number;
  readonly uptimeMs: number;
  /** Private copies of the trap_vp blocks. */
  readonly vps: readonly Buffer[];
  readonly hypervExecutedBy: Stats['hypervExecutedBy'];
  readonly exits: readonly VpExits[] | undefined;
  readonly devices?: readonly DeviceCounts[];
}

/** Collects statistics from copies of the VPs' blocks. */
export function collectStats(source: StatsSource): Stats {
  const blocks = new Blocks(source.vps.map((b) => new DataView(b.buffer, b.byteOffset, b.byteLength)));
  const xen: OperationCount[] = [];
  const hypercalls: { name: string; calls: number; cycles: number }[] = [];
  for (let nr = 0; nr < PER_HYPERCALL; nr++) {
    const inElements = hypercall(nr)?.subopIn?.in === 'element';
    let calls = inElements ? blocks.sum('hypercall_count', nr * PER_HYPERCALL + TRAP_SUB.TRAP_SUB_CALLS) : 0;
    for (let sub = 0; sub < PER_HYPERCALL; sub++) {
      if (sub === TRAP_SUB.TRAP_SUB_CALLS) continue;
      const count = blocks.sum('hypercall_count', nr * PER_HYPERCALL + sub);
      if (count === 0) continue;
      if (!inElements) calls += count;
      const op = countedSubop(nr, sub);
      const t = translationOf(nr, op);
      const name = sub === TRAP_SUB.TRAP_SUB_OTHER ? `${opName(nr)}.other` : opName(nr, op);
      xen.push({ name, count, where: t.where, hyperv: t.hv.map((h) => HYPERV_OPERATIONS[h].name) });
    }
    if (calls > 0) hypercalls.push({ name: opName(nr), calls, cycles: blocks.sum('hypercall_cycles', nr) });
  }
  const module: Record<string, number> = {};
  for (const [index, name] of COUNT_NAMES) {
    const count = blocks.sum('misc_count', index);
    if (count > 0) module[name] = count;
  }
  const exceptions: { vector: number; count: number }[] = [];
  for (let vector = 0; vector < 256; vector++) {
    const count = blocks.sum('exception_count', vector);
    if (count > 0) exceptions.push({ vector, count });
  }
  return {
    version: STATS_VERSION,
    name: source.name,
    engine: source.engine,
    guestRing: source.guestRing,
    vcpus: source.vps.length,
    uptimeMs: source.uptimeMs,
    xen: xen.sort((a, b) => b.count - a.count),
    hypercalls: hypercalls.sort((a, b) => b.calls - a.calls),
    hyperv: Object.values(HYPERV_OPERATIONS)
      .map((o) => ({ name: o.name, by: o.by, count: blocks.sum('hv_count', o.counter) }))
      .filter((o) => o.count > 0)
      .sort((a, b) => b.count - a.count),
    exceptions,
    module,
    hypervExecutedBy: source.hypervExecutedBy,
    ...(source.devices === undefined || source.devices.length === 0 ? {} : { devices: source.devices }),
    ...(source.exits === undefined ? {} : { exits: source.exits }),
  };
}

/** Sums of the VPs' exits by reason, most frequent first: [who, reason, count]. */
function exitRows(exits: readonly VpExits[]): string[][] {
  const sums = new Map<string, number>();
  const add = (kind: string, counts: Readonly<Record<string, number>>): void => {
    for (const [reason, count] of Object.entries(counts)) {
      if (count > 0) sums.set(`${kind}\0${reason}`, (sums.get(`${kind}\0${reason}`) ?? 0) + count);
    }
  };
  for (const vp of exits) {
    add('to the shim', vp.toProcess);
    add('hypervisor', vp.hypervisor);
  }
  return [...sums]
    .sort((a, b) => b[1] - a[1])
    .map(([key, count]) => {
      const [kind = '', reason = ''] = key.split('\0');
      return [reason.replaceAll('_', ' '), String(count), kind];
    });
}

function deviceRows(devices: readonly DeviceCounts[]): string[][] {
  return devices.flatMap(({ device, operations }) =>
    operations
      .filter(({ count }) => count > 0)
      .map(({ name, count, bytes, errors, hyperv }) => [
        `${device}: ${name}`,
        String(count),
        bytes === 0 ? '-' : (bytes / 2 ** 20).toFixed(1),
        String(errors),
        hyperv,
      ]),
  );
}

function table(header: readonly string[], rows: readonly (readonly string[])[]): string {
  const widths = header.map((h, i) => Math.max(h.length, ...rows.map((r) => (r[i] ?? '').length)));
  const line = (cells: readonly string[]): string =>
    cells
      .map((c, i) => (i === 1 ? c.padStart(widths[i] ?? 0) : c.padEnd(widths[i] ?? 0)))
      .join('  ')
      .trimEnd();
  return [line(header), line(widths.map((w) => '-'.repeat(w))), ...rows.map(line)].join('\n');
}

/** The statistics as tables for people; `top` limits the Xen operations shown. */
export function formatStats(stats: Stats, top = 24): string {
  const shown = stats.xen.slice(0, top);
  const rest = stats.xen.slice(top);
  const rows = shown.map((o) => [o.name, String(o.count), o.where, o.hyperv.join(', ') || '-']);
  if (rest.length > 0) {
    rows.push([`(${rest.length} more)`, String(rest.reduce((sum, o) => sum + o.count, 0)), '', '']);
  }
  const emulated = Object.entries(stats.module)
    .sort((a, b) => b[1] - a[1])
    .map(([name, count]) => [name.replaceAll('_', ' '), String(count)]);
  return [
    `${stats.name}: engine ${stats.engine}, guest ring ${stats.guestRing}, ${stats.vcpus} vCPU, ${(stats.uptimeMs / 1000).toFixed(1)} s`,
    '',
    table(['Xen operation', 'count', 'where', 'Hyper-V equivalent'], rows),
    '',
    table(
      ['Hyper-V operation', 'count', `invoked by (executed by the ${stats.hypervExecutedBy})`],
      stats.hyperv.map((o) => [o.name, String(o.count), o.by]),
    ),
    '',
    table(['trap module', 'count'], emulated),
    '',
    ...(stats.devices === undefined
      ? []
      : [table(['device request', 'count', 'MiB', 'errors', 'Hyper-V equivalent'], deviceRows(stats.devices)), '']),
    ...(stats.exits === undefined ? [] : [table(['exits and events', 'count', 'counted'], exitRows(stats.exits)), '']),
  ].join('\n');
}
