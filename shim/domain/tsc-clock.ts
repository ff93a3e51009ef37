/**
 * How fast the host's time stamp counter ticks, which is also how fast a guest's does: by comparing it with the
 * monotonic clock over as long a time as the process has lived.
 *
 * Two readings 100 ms apart agree with the truth to about ten millionths; the estimate is asked for again as the domain
 * runs, at intervals that grow, and the guest's clock is told.
 */
import { type ClockReading, readClocks } from '../partition/host';

const MIN_BASELINE_NS = 20_000_000n;

/** A reading whose clocks were taken close together: the best of a few. */
function carefully(): ClockReading {
  let best = readClocks();
  for (let i = 0; i < 4; i++) {
    const next = readClocks();
    if (next.spread < best.spread) best = next;
  }
  return best;
}

export class TscClock {
  private readonly first = carefully();

  /** Ticks per second, from the time since this object was made; waits until that is long enough. */
  async frequency(): Promise<number> {
    for (;;) {
      const now = carefully();
      const ns = now.monotonicRawNs - this.first.monotonicRawNs;
      if (ns >= MIN_BASELINE_NS) return (Number(now.tsc - this.first.tsc) * 1e9) / Number(ns);
      await new Promise((resolve) => setTimeout(resolve, Number(MIN_BASELINE_NS - ns) / 1e6 + 1));
    }
  }
}
