/**
 * --cold LIST: which hypercalls the shim is to answer although the trap module could. The module looks at a mask of
 * sub-operations for each hypercall number (trap_domain.cold_ops: bit n for sub-operation n, bit 63 for those from 63
 * on, bit 0 for a hypercall whose arguments do not select one).
 *
 * Names are those of abi/xen/hypercalls.ts. 'all', and a hypercall's name alone, leave out what can never be cold.
 */
import { HYPERCALL_LIST, hypercall, opName, parseOpName, subopFromArgs } from '../../abi/xen/hypercalls';
import { UsageError } from '../errors';

export type ColdMask = readonly [nr: number, mask: bigint];

const ALL = (1n << 64n) - 1n;

const WHILE_THERE = 'it ends in guest registers that only the trap module has';
const SLEEPS = 'the vCPU can only sleep in the trap module';
/** What always stays in the trap module, and why. */
const NEVER_COLD: ReadonlyMap<string, string> = new Map([
  ['iret', WHILE_THERE],
  ['multicall', 'its entries are calls of their own, which can be cold'],
  ['stack_switch', WHILE_THERE],
  ['set_segment_base', WHILE_THERE],
  ['fpu_taskswitch', WHILE_THERE],
  ['sched_op.yield', SLEEPS],
  ['sched_op.block', SLEEPS],
  ['sched_op.poll', SLEEPS],
  ['sched_op_compat.yield', SLEEPS],
  ['sched_op_compat.block', SLEEPS],
]);

const bitOf = (subop: number): bigint => 1n << BigInt(Math.min(subop, 63));

/** Everything of a hypercall that can be cold; 0 if nothing can. */
function wholeMask(nr: number): bigint {
  const name = opName(nr);
  if (NEVER_COLD.has(name)) return 0n;
  let mask = ALL;
  for (const sub of hypercall(nr)?.subops ?? []) if (NEVER_COLD.has(`${name}.${sub.name}`)) mask &= ~bitOf(sub.number);
  return mask;
}

/** Edits that turn one word into the other; two letters that changed places are one edit. */
function distance(a: string, b: string): number {
  let before: number[] = [];
  let row = Array.from({ length: b.length + 1 }, (_, i) => i);
  for (let i = 1; i <= a.length; i++) {
    const next = [i];
    for (let j = 1; j <= b.length; j++) {
      const same = a[i - 1] === b[j - 1] ? 0 : 1;
      let best = Math.min((row[j] ?? 0) + 1, (next[j - 1] ?? 0) + 1, (row[j - 1] ?? 0) + same);
      if (i > 1 && j > 1 && a[i - 1] === b[j - 2] && a[i - 2] === b[j - 1])
        best = Math.min(best, (before[j - 2] ?? 0) + 1);
      next.push(best);
    }
    before = row;
    row = next;
  }
  return row[b.length] ?? 0;
}

/** Known names that look like `name`, best first. */
function nearNames(name: string): string[] {
  const candidates = HYPERCALL_LIST.flatMap((h) => [
    h.name as string,
    ...(h.subopIn?.in === 'argument' ? h.subops.map((s) => `${h.name}.${s.name}`) : []),
  ]).filter((candidate) => !NEVER_COLD.has(candidate));
  const head = name.split('.')[0] ?? '';
  const scored = candidates.map((candidate) => {
    const contained = name.length >= 3 && candidate.includes(name) ? 1 : Number.POSITIVE_INFINITY;
    const tail = candidate.includes('.') && !name.includes('.') ? (candidate.split('.')[1] ?? '') : candidate;
    const sameHead = name.includes('.') && candidate.startsWith(`${head}.`) ? 3 : Number.POSITIVE_INFINITY;
    const d = Math.min(distance(name, candidate), distance(name, tail) + 1, contained, sameHead);
    return { candidate, d };
  });
  return scored
    .filter(({ d }) => d <= Math.max(2, Math.floor(name.length / 3)))
    .sort((a, b) => a.d - b.d)
    .slice(0, 4)
    .map(({ candidate }) => candidate);
}

function unknown(name: string, where: string): UsageError {
  const near = nearNames(name.slice(0, 60));
  return new UsageError('unknown hypercall', {
    file: where,
    found: JSON.stringify(name.slice(0, 60)),
    wanted: near.length > 0 ? near.join(' or ') : 'names such as mmu_update or event_channel_op.send, or all',
  });
}

/** Parses a comma-separated list of operations. Throws UsageError. `where` is the option's name. */
export function parseColdList(list: string, where = '--cold'): ColdMask[] {
  const masks = new Map<number, bigint>();
  const add = (nr: number, mask: bigint): void => {
    if (mask !== 0n) masks.set(nr, (masks.get(nr) ?? 0n) | mask);
  };
  for (const name of list.split(',').map((n) => n.trim())) {
    if (name === '') continue;
    if (name === 'all') {
      for (const h of HYPERCALL_LIST) add(h.number, wholeMask(h.number));
      continue;
    }
    const op = parseOpName(name);
    if (op === undefined || op.nr >= 64) throw unknown(name, where);
    const reason = NEVER_COLD.get(name) ?? NEVER_COLD.get(opName(op.nr, op.subop)) ?? NEVER_COLD.get(opName(op.nr));
    if (reason !== undefined) {
      throw new UsageError('always answered by the trap module', {
        file: where,
        found: name,
        wanted: `operations other than this one: ${reason}`,
      });
    }
    if (op.subop === undefined) {
      add(op.nr, wholeMask(op.nr));
      continue;
    }
    if (subopFromArgs(op.nr, [0n, 0n, 0n, 0n, 0n]) === undefined) {
      throw new UsageError('not one operation by itself', {
        file: where,
        found: name,
        wanted: `${opName(op.nr)} as a whole: one call of it can hold several operations`,
      });
    }
    add(op.nr, bitOf(op.subop));
  }
  return [...masks].sort(([a], [b]) => a - b);
}
