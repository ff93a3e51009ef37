/** How much a fuzzer has left behind. */
import { setImmediate as turn } from 'node:timers/promises';
import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';

/** Collections that must find nothing more before a figure counts, and collections at most. */
const QUIET = 3;
const COLLECTIONS = 30;

/**
 * Bytes of live JavaScript objects and buffers: the least that garbage collections come down to.
 *
 * One collection is not enough: a buffer's bytes are given back by a finalizer in a later turn, and what it held is
 * garbage only then; on a busy machine a loaded figure of some ten MB may follow a single one.
 */
export async function heapInUse(): Promise<number> {
  setFlagsFromString('--expose-gc');
  const collect = runInNewContext('gc') as () => void;
  let least = Number.POSITIVE_INFINITY;
  for (let i = 0, quiet = 0; quiet < QUIET && i < COLLECTIONS; i++) {
    collect();
    await turn();
    const { heapUsed, arrayBuffers } = process.memoryUsage();
    const now = heapUsed + arrayBuffers;
    quiet = now < least - 64 * 1024 ? 0 : quiet + 1;
    least = Math.min(least, now);
  }
  return least;
}
