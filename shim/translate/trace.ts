/**
 * The trace of a running domain: every Xen operation with its arguments, its Hyper-V translation, result and time, as a
 * file for Perfetto (ui.perfetto.dev) or chrome://tracing.
 *
 * While it runs, a timer empties the trap module's ring into the file; nothing runs when no trace does. The module never
 * waits: what is overwritten before it is read is counted and marked in the trace.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import type { RequestTimes } from './blkif/queue';
import type { Stats } from './stats';
import { diskEvents, type TraceEvent, TraceFormatter } from './trace-events';
import { TraceFile } from './trace-file';
import type { TraceRing } from './trace-ring';

/** Time between two looks at the ring, ms: at a million operations a second it is a third full by then. */
const INTERVAL_MS = 20;
/** Records formatted before other work gets its turn. */
const PER_TURN = 1024;
/** Handling times kept for records that have not been read yet. */
const MAX_PENDING = 8192;
const PID = 1;

export interface TraceDescription {
  readonly name: string;
  readonly vcpus: number;
  readonly guestRing: number;
  readonly engine: string;
  /** Who executes the Hyper-V operations that the trace names. */
  readonly hypervExecutedBy: Stats['hypervExecutedBy'];
  /** Turns ms of performance.now() into microseconds of the domain's system time. */
  readonly toSystemTime: (ms: number) => number;
}

export interface TraceSummary {
  readonly file: string;
  readonly records: number;
  readonly lost: number;
}

export class Tracer {
  private records = 0;
  private lost = 0;
  /** Lost records that no event tells of yet. */
  private untold = 0;
  private stopping = false;
  private failure: Error | undefined;
  private formatter: TraceFormatter | undefined;
  private disks: TraceEvent[] = [];
  private diskRequests = 0;
  private readonly shimTimes = new Map<number, number>();
  private readonly wake = new AbortController();
  private readonly loop: Promise<void>;

  private constructor(
    private readonly path: string,
    private readonly file: TraceFile,
    private readonly ring: TraceRing,
    private readonly about: TraceDescription,
  ) {
    ring.enable(true);
    this.loop = this.run();
  }

  /** Opens the file and switches recording on. UsageError when the file cannot be written. */
  static async start(path: string, ring: TraceRing, about: TraceDescription): Promise<Tracer> {
    const { toSystemTime: _, ...facts } = about;
    const file = await TraceFile.create(path, { program: 'xenlighten', ...facts });
    return new Tracer(path, file, ring, about);
  }

  /** The shim has worked `ms` on the call with this mailbox sequence number. */
  shimHandled(vcpu: number, seq: number, ms: number): void {
    if (this.shimTimes.size >= MAX_PENDING) {
      const [oldest] = this.shimTimes.keys();
      if (oldest !== undefined) this.shimTimes.delete(oldest);
    }
    this.shimTimes.set(key(vcpu, seq), ms);
  }

  /** A request of a disk is done. */
  readonly disk = (disk: string, times: RequestTimes): void => {
    if (this.stopping || this.disks.length >= MAX_PENDING) return;
    this.disks.push(...diskEvents(disk, times, ++this.diskRequests, PID, this.about.toSystemTime(times.noticed)));
  };

  /** Switches recording off, writes the rest and closes the file. Rejects when the file could not be written. */
  async stop(): Promise<TraceSummary> {
    if (!this.stopping) {
      this.stopping = true;
      this.ring.enable(false);
      this.wake.abort();
    }
    await this.loop;
    if (this.failure !== undefined) throw this.failure;
    return { file: this.path, records: this.records, lost: this.lost };
  }

  private async run(): Promise<void> {
    try {
      while (!this.stopping) {
        await sleep(INTERVAL_MS, undefined, { ref: false, signal: this.wake.signal }).catch(() => undefined);
        await this.drain();
      }
      // What was recorded while the last look was being written.
      await this.drain();
      await this.file.append(this.formatter === undefined ? [] : [this.summary()]);
    } catch (error) {
      this.failure = error as Error;
      this.ring.enable(false);
    } finally {
      await this.file.close().catch((error: Error) => {
        this.failure ??= error;
      });
    }
  }

  private async drain(): Promise<void> {
    for (;;) {
      const { records, lost, more } = this.ring.read(PER_TURN);
      const events: TraceEvent[] = [];
      this.records += records.length;
      this.lost += lost;
      this.untold += lost;
      const first = records[0];
      if (first !== undefined) {
        const formatter = this.format(first.tsc, events);
        if (this.untold > 0) events.push(formatter.lost(this.untold, formatter.time(first.tsc)));
        this.untold = 0;
        for (const record of records) {
          const at = key(record.vcpu, record.callSeq);
          const ms = record.callSeq === 0 ? undefined : this.shimTimes.get(at);
          if (ms !== undefined) this.shimTimes.delete(at);
          events.push(...formatter.events(record, ms));
        }
      }
      events.push(...this.disks.splice(0));
      // The write also lets the event loop turn.
      await this.file.append(events);
      if (!more) return;
    }
  }

  private format(tsc: bigint, events: TraceEvent[]): TraceFormatter {
    if (this.formatter === undefined) {
      this.formatter = new TraceFormatter(this.ring.clock() ?? { hz: 1e9, tsc, systemTime: 0n }, PID);
      events.push(...this.formatter.metadata(this.about.name, this.about.vcpus));
    }
    return this.formatter;
  }

  private summary(): TraceEvent {
    const { records, lost } = this;
    return { name: 'trace_summary', ph: 'M', pid: PID, tid: 0, args: { records, lost } };
  }
}

function key(vcpu: number, seq: number): number {
  return vcpu * 2 ** 32 + seq;
}
