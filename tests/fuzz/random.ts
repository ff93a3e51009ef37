/**
 * Seeded randomness for the fuzzers: the same seed gives the same run on every machine. Not for secrets.
 *
 * sfc32: 128 bits of state, 32 bits a step; fast enough that choosing inputs never dominates a run.
 */
export class Random {
  private a = 0x9e3779b9;
  private b = 0x243f6a88;
  private c: number;
  private counter = 1;

  constructor(seed: number) {
    this.c = seed >>> 0;
    for (let i = 0; i < 16; i++) this.u32();
  }

  u32(): number {
    const t = (((this.a + this.b) | 0) + this.counter) | 0;
    this.counter = (this.counter + 1) | 0;
    this.a = this.b ^ (this.b >>> 9);
    this.b = (this.c + (this.c << 3)) | 0;
    this.c = ((this.c << 21) | (this.c >>> 11)) + t;
    return t >>> 0;
  }
  u64(): bigint {
    return (BigInt(this.u32()) << 32n) | BigInt(this.u32());
  }
  /** 0 to n - 1. */
  below(n: number): number {
    return this.u32() % n;
  }
  /** True once in `n` times. */
  oneIn(n: number): boolean {
    return this.u32() % n === 0;
  }
  pick<T>(values: readonly T[]): T {
    return values[this.u32() % values.length] as T;
  }
  bytes(length: number): Uint8Array {
    const out = new Uint8Array(length);
    for (let i = 0; i < length; i++) out[i] = this.u32();
    return out;
  }
}
