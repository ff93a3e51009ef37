/**
 * kill -9 under a guest that syncs all the time: the file system is sound afterwards, and everything that the guest had been
 * told is safe is there. POWER_CUTS (default 3) and POWER_CUT_SEED; `npm run test:power-cut` is the long run.
 */
import { powerCutProblem, powerCuts } from '../lib/power-cut';
import { endAll } from '../lib/xenlighten';

const cuts = Number(process.env['POWER_CUTS'] ?? 3);
const seed = Number(process.env['POWER_CUT_SEED'] ?? 1);
const missing = powerCutProblem();

afterEach(endAll);

(missing === undefined ? describe : describe.skip)(missing ?? 'kill -9 at random moments', () => {
  const formats = [
    { format: 'raw', share: Math.ceil(cuts / 2) },
    { format: 'vhd', share: Math.floor(cuts / 2) },
  ] as const;
  test.each(formats.filter(({ share }) => share > 0))(
    '$format, $share times: nothing that was synced is lost, nothing is left behind',
    async ({ format, share }) => {
      const result = await powerCuts({
        format,
        cuts: share,
        seed,
        onProgress: (line) => process.stderr.write(`power-cut: ${line}\n`),
      });
      process.stderr.write(
        `power-cut: ${format}: ${result.cuts} cuts, ${result.safe} records were safe and are there, ${result.more} more were ` +
          `there, ${result.replayed} journals replayed, ${(result.ms / 1000).toFixed(0)} s\n`,
      );
      expect(result.problems).toEqual([]);
      expect(result.cuts).toBe(share);
      expect(result.safe).toBeGreaterThan(0);
    },
    cuts * 60_000 + 120_000,
  );
});
