/**
 * A short, deterministic run of the block device fuzzer, after the seeds that once found something. FUZZ_SECONDS, FUZZ_SEED
 * and FUZZ_CASES lengthen and move it.
 */
import { type BlkifFuzzResult, fuzzBlkif } from './blkif/blkif-fuzz';

const seconds = Number(process.env['FUZZ_SECONDS'] ?? 5);
const seed = Number(process.env['FUZZ_SEED'] ?? 1);
const cases = Number(process.env['FUZZ_CASES'] ?? Number.POSITIVE_INFINITY);

/** Runs that found something once: a producer index that goes back. */
const KEPT = [4, 12, 16];

function said(what: string, r: BlkifFuzzResult): void {
  process.stderr.write(
    `fuzz: blkif${what}, ${r.runs} domains, ${r.cases} requests, ${r.taken} taken, ${r.answered} answered, ${r.done} done, ` +
      `${r.diskRequests} of the disk, ${r.connections} connections, ${r.changes} changes while looking, longest turn ` +
      `${r.slowest.toFixed(1)} ms (${r.slowestCase}), heap ${(r.heapGrowth / 1024).toFixed(0)} KiB more\n`,
  );
}

test.each(KEPT)('seed %d, which found something', async (kept) => {
  const result = await fuzzBlkif({ seed: kept, seconds: 60, runs: 1, stallMs: 50 });
  expect(result.problems).toEqual([]);
});

test(
  'block devices survive whatever a guest does with rings, grants, nodes and events',
  async () => {
    const result = await fuzzBlkif({ seed, seconds, cases, stallMs: 50 });
    said('', result);
    expect(result.problems).toEqual([]);
    expect(result.taken).toBeGreaterThan(result.cases / 4);
    expect(result.done).toBeGreaterThan(result.taken / 20);
    expect(result.diskRequests).toBeGreaterThan(result.taken / 10);
    expect(result.connections).toBeGreaterThan(result.runs);
  },
  (seconds + 120) * 1000,
);
