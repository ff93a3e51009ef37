/**
 * Bitmaps of sectors, one bit each, most significant bit first: VHD's sector bitmaps (specification, "Data Blocks") and
 * the overlay's.
 */

export function bitAt(bits: Uint8Array, index: number): boolean {
  return (((bits[index >>> 3] as number) >>> (7 - (index & 7))) & 1) === 1;
}

/** Sets bits `from` to `to` - 1. */
export function setBits(bits: Uint8Array, from: number, to: number): void {
  let i = from;
  for (; i < to && (i & 7) !== 0; i++) bits[i >>> 3] = (bits[i >>> 3] as number) | (0x80 >>> (i & 7));
  const wholeEnd = to & ~7;
  if (i < wholeEnd) {
    bits.fill(0xff, i >>> 3, wholeEnd >>> 3);
    i = wholeEnd;
  }
  for (; i < to; i++) bits[i >>> 3] = (bits[i >>> 3] as number) | (0x80 >>> (i & 7));
}

/** Where the run of equal bits that begins at `from` ends, at most `to`. */
export function runEnd(bits: Uint8Array, from: number, to: number): number {
  const value = bitAt(bits, from);
  const whole = value ? 0xff : 0;
  let i = from + 1;
  while (i < to) {
    if ((i & 7) === 0 && i + 8 <= to && bits[i >>> 3] === whole) i += 8;
    else if (bitAt(bits, i) === value) i++;
    else break;
  }
  return i;
}

/** Are the first `count` bits all set? */
export function allSet(bits: Uint8Array, count: number): boolean {
  return count === 0 || (bitAt(bits, 0) && runEnd(bits, 0, count) === count);
}
