/** A short, deterministic run of the in-process fuzzer; FUZZ_SECONDS and FUZZ_SEED lengthen and move it. */
import { fuzzShim } from './shim-fuzz';

const seconds = Number(process.env['FUZZ_SECONDS'] ?? 5);
const seed = Number(process.env['FUZZ_SEED'] ?? 1);

test(
  'the shim survives whatever it reads from the partition',
  async () => {
    const result = await fuzzShim({ seed, seconds, stallMs: 50 });
    process.stderr.write(
      `fuzz: ${result.runs} domains, ${result.cases} requests, ${result.answered} answered, ${result.ended} ended, ` +
        `longest turn ${result.slowest.toFixed(1)} ms (${result.slowestCase})\n`,
    );
    expect(result.problems).toEqual([]);
    expect(result.answered).toBeGreaterThan(result.cases / 4);
  },
  (seconds + 60) * 1000,
);
