/** A short, deterministic run of mutated images; FUZZ_IMAGES (or FUZZ_SECONDS) and FUZZ_SEED lengthen and move it. */
import { fuzzImages } from './image-fuzz';

/** What is done in a second, at least. */
const RATE = 300;
const cases = Number(process.env['FUZZ_IMAGES'] ?? Number(process.env['FUZZ_SECONDS'] ?? 10) * RATE);
const seed = Number(process.env['FUZZ_SEED'] ?? 1);

test(
  'mutated VHDs are refused, or are disks',
  async () => {
    const before = process.memoryUsage.rss();
    const result = await fuzzImages(seed, cases);
    process.stderr.write(`fuzz: ${result.cases} images, ${result.opened} opened, ${result.refused} refused\n`);
    expect(result.problems).toEqual([]);
    expect(result.opened).toBeGreaterThan(cases / 10);
    expect(result.refused).toBeGreaterThan(cases / 10);
    expect(process.memoryUsage.rss() - before).toBeLessThan(1 << 30);
  },
  60_000 + cases * 20,
);
