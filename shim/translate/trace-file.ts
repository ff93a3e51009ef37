/**
 * A file of trace events that is valid JSON at every moment, however the process ends: each write puts the new events
 * where the closing brackets were, followed by the closing brackets, in one go.
 */
import { type FileHandle, open } from 'node:fs/promises';
import { UsageError } from '../errors';
import type { TraceEvent } from './trace-events';

const TAIL = '\n]}\n';

export class TraceFile {
  private empty = true;
  /** Where the closing brackets begin. */
  private end: number;

  private constructor(
    private readonly handle: FileHandle,
    head: string,
  ) {
    this.end = Buffer.byteLength(head);
  }

  /** Creates or empties the file. UsageError when it cannot be written. */
  static async create(path: string, otherData: Readonly<Record<string, unknown>>): Promise<TraceFile> {
    const head = `{"displayTimeUnit":"ns","otherData":${JSON.stringify(otherData)},"traceEvents":[`;
    let handle: FileHandle | undefined;
    try {
      handle = await open(path, 'w');
      await handle.write(head + TAIL, 0);
      return new TraceFile(handle, head);
    } catch (error) {
      await handle?.close();
      throw new UsageError(
        'cannot write the trace',
        { file: path, found: (error as NodeJS.ErrnoException).code ?? String(error), wanted: 'a file to write' },
        { cause: error },
      );
    }
  }

  /** Adds events. Rejects when the file cannot be written any more (no space). One call at a time. */
  async append(events: readonly TraceEvent[]): Promise<void> {
    if (events.length === 0) return;
    const lines = events.map((event) => JSON.stringify(event)).join(',\n');
    const chunk = Buffer.from(`${this.empty ? '\n' : ',\n'}${lines}${TAIL}`);
    let written = 0;
    while (written < chunk.length) {
      const { bytesWritten } = await this.handle.write(chunk, written, chunk.length - written, this.end + written);
      written += bytesWritten;
    }
    this.end += chunk.length - TAIL.length;
    this.empty = false;
  }

  close(): Promise<void> {
    return this.handle.close();
  }
}
