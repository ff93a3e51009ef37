/** A short, deterministic run of the VMBus fuzzer; FUZZ_SECONDS and FUZZ_SEED lengthen and move it. */
import { fuzzVmbus } from './vmbus-fuzz';

const seconds = Number(process.env['FUZZ_SECONDS'] ?? 5);
const seed = Number(process.env['FUZZ_SEED'] ?? 1);

test(
  'the VMBus host survives whatever a guest sends and writes',
  async () => {
    const result = await fuzzVmbus({ seed, seconds, stallMs: 50 });
    const { messages, packets, rings, services, server } = result.accepted;
    process.stderr.write(
      `fuzz: ${result.runs} runs, ${result.cases} cases; past the first check: ${messages} messages, ${packets} packets, ` +
        `${rings} packets in rings, ${services} requests of services, ${server} messages of the server, ${result.opened} channels opened by it; ${result.answers} packets to guests, ${result.broken} channels broken, longest turn ${result.slowest.toFixed(1)} ms\n`,
    );
    expect(result.problems).toEqual([]);
    for (const count of Object.values(result.accepted)) expect(count).toBeGreaterThan(10 * seconds);
    expect(result.answers).toBeGreaterThan(100 * seconds);
    expect(result.opened).toBeGreaterThan(seconds);
    expect(result.broken).toBeGreaterThan(seconds);
  },
  (seconds + 60) * 1000,
);
