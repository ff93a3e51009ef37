/**
 * 1,000 power cuts for each format: every write that had completed before an acknowledged flush is there, every other
 * sector is old or new, and the image is sound, or the opening makes it so. POWER_CUTS and POWER_CUT_SEED lengthen and
 * move the run.
 */
import { readLayout } from '../../../shim/image/vhd/layout';
import { Random } from '../../fuzz/random';
import type { CutFile } from './cut-file';
import { exercise, readAll, SectorModel } from './exercise';
import { KINDS, makeSmallDisk, openSmallDisk, SECTORS } from './small-disks';

const cuts = Number(process.env['POWER_CUTS'] ?? 1000);
const firstSeed = Number(process.env['POWER_CUT_SEED'] ?? 1);
/** Header and block allocation table of sparse disks are before this. */
const TABLES_END = 2048;
/** Cuts that one disk lives through. */
const LIVES = 5;

async function soundness(file: CutFile): Promise<string[]> {
  return (await readLayout(file)).problems.map((p) => p.kind);
}

describe.each(KINDS)('%s', (kind) => {
  test(`${cuts} power cuts lose nothing that was flushed`, async () => {
    const repairs = new Map<string, number>();
    for (let n = 0, seed = firstSeed; n < cuts; seed++) {
      const random = new Random(seed);
      const small = await makeSmallDisk(kind, random);
      const model = new SectorModel(SECTORS, small.initial);
      let { file } = small;
      for (let life = 0; life < LIVES && n < cuts; life++, n++) {
        const where = `seed ${seed}, life ${life}`;
        const disk = await openSmallDisk(small, file);
        const work = exercise(disk, model, random, { requests: 400, atOnce: 1 + random.below(8), longest: 60 });
        // The power goes in the middle of it: anywhere, or while a flush writes tables, where it is most delicate.
        let turns = random.below(random.oneIn(4) ? 60 : 800);
        if (random.oneIn(2)) {
          let tables = 1 + random.below(6);
          file.onWrite = (offset) => {
            if (offset < TABLES_END && --tables === 0) turns = random.below(12);
          };
        }
        const cut = (async () => {
          while (turns-- > 0) await undefined;
        })();
        const problems = await Promise.race([work, cut]);
        expect([where, problems ?? []]).toEqual([where, []]);
        file = file.cut();
        if (kind !== 'raw') {
          for (const problem of await soundness(file)) repairs.set(problem, (repairs.get(problem) ?? 0) + 1);
        }
        const again = await openSmallDisk(small, file);
        if (kind !== 'raw') expect([where, await soundness(file)]).toEqual([where, []]);
        const bytes = await readAll(again);
        expect([where, model.check(0, bytes, true)]).toEqual([where, undefined]);
        model.settle(bytes);
        await again.close();
        file = file.reopened();
      }
    }
    // Nothing but the footer at the end was ever missing; and it was, or the cuts were none.
    const allowed = kind === 'raw' || kind === 'fixed' ? [] : ['footer-missing'];
    expect([...repairs.keys()]).toEqual(allowed);
  });
});
