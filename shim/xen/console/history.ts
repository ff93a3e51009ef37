/** The last bytes that went to a console, kept for the report after a crash. */

export const HISTORY_BYTES = 64 * 1024;

/** Keeps the last `capacity` bytes written to it, in one buffer that never grows. */
export class ConsoleHistory {
  private readonly buffer: Uint8Array;
  private at = 0;
  private full = false;

  constructor(capacity = HISTORY_BYTES) {
    this.buffer = new Uint8Array(capacity);
  }

  push(bytes: Uint8Array): void {
    const capacity = this.buffer.length;
    if (bytes.length >= capacity) {
      this.buffer.set(bytes.subarray(bytes.length - capacity));
      this.at = 0;
      this.full = true;
      return;
    }
    const first = Math.min(bytes.length, capacity - this.at);
    this.buffer.set(bytes.subarray(0, first), this.at);
    this.buffer.set(bytes.subarray(first), 0);
    if (this.at + bytes.length >= capacity) this.full = true;
    this.at = (this.at + bytes.length) % capacity;
  }

  /** A copy, oldest byte first. */
  bytes(): Uint8Array {
    if (!this.full) return this.buffer.slice(0, this.at);
    const out = new Uint8Array(this.buffer.length);
    out.set(this.buffer.subarray(this.at));
    out.set(this.buffer.subarray(0, this.at), this.buffer.length - this.at);
    return out;
  }

  /** The last `count` lines as text, without control characters other than line ends and tabs. */
  lastLines(count: number): string[] {
    const lines = Buffer.from(this.bytes())
      .toString('utf8')
      .replace(/\r/g, '')
      .split('\n')
      .map((line) => [...line].filter((c) => c === '\t' || (c >= ' ' && c !== '\x7f')).join(''));
    if (lines[lines.length - 1] === '') lines.pop();
    return count <= 0 ? [] : lines.slice(-count);
  }
}
