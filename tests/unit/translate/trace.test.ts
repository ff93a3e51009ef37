/** The trace: reading the module's ring, also while it is overwritten; events; a file that is always valid JSON. */
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import fc from 'fast-check';
import { TRAP_DOM, TRAP_HV, TRAP_TRACE, TrapDomain, TrapTrace } from '../../../abi/trap';
import { HYPERVISOR as H } from '../../../abi/xen/hypercall-numbers';
import { UsageError } from '../../../shim/errors';
import { GuestMemory } from '../../../shim/partition/guest-memory';
import { Tracer, type TraceSummary } from '../../../shim/translate/trace';
import { resultText, TraceFormatter } from '../../../shim/translate/trace-events';
import { TraceFile } from '../../../shim/translate/trace-file';
import { TraceRing } from '../../../shim/translate/trace-ring';

const ENTRIES = 16;
const PLACE = { domainGpa: 0x1_0000, traceGpa: 0x4_0000 };
const NEXT = PLACE.domainGpa + TrapDomain.offsetOf('trace_next');
const FLAGS = PLACE.domainGpa + TrapDomain.offsetOf('flags');

/** Plays the trap module. */
class Writer {
  constructor(readonly memory: GuestMemory) {}
  begin(): number {
    const at = this.memory.add32(NEXT, 1) >>> 0;
    this.slot(at, (view, o) => TrapTrace.set.seq(view, o, 0n));
    return at;
  }
  finish(at: number, fields: { nr?: number; tsc?: bigint; callSeq?: number } = {}): void {
    this.slot(at, (view, o) => {
      TrapTrace.set.nr(view, o, fields.nr ?? at);
      TrapTrace.set.tsc(view, o, fields.tsc ?? BigInt(at) * 1000n);
      TrapTrace.set.cycles(view, o, 500n);
      TrapTrace.set.call_seq(view, o, fields.callSeq ?? 0);
      TrapTrace.set.seq(view, o, BigInt(at) + 1n);
    });
  }
  record(fields: { nr?: number; tsc?: bigint; callSeq?: number } = {}): void {
    this.finish(this.begin(), fields);
  }
  private slot(at: number, set: (view: DataView, offset: number) => void): void {
    set(this.memory.view(PLACE.traceGpa + (at % ENTRIES) * TrapTrace.size, TrapTrace.size), 0);
  }
}

let memory: GuestMemory;
let writer: Writer;
let ring: TraceRing;
let dir: string;

beforeEach(() => {
  memory = GuestMemory.create([{ gpa: 0, size: 0x10_0000 }]);
  writer = new Writer(memory);
  ring = new TraceRing(memory, PLACE, ENTRIES);
  dir = mkdtempSync(join(tmpdir(), 'xenlighten-trace-'));
});
afterEach(async () => {
  await memory.release();
  rmSync(dir, { recursive: true });
});

const ABOUT = {
  name: 'x',
  vcpus: 1,
  guestRing: 1,
  engine: 'qemu',
  hypervExecutedBy: 'trap module',
  toSystemTime: (ms: number) => ms * 1000,
} as const;

describe('the ring', () => {
  test('gives what was written, in order, once', () => {
    for (let i = 0; i < 5; i++) writer.record();
    expect(ring.read(3).records.map((r) => r.nr)).toEqual([0, 1, 2]);
    expect(ring.read(100)).toMatchObject({ lost: 0, more: false, records: [{ nr: 3 }, { nr: 4 }] });
    expect(ring.read(100).records).toEqual([]);
  });

  test('waits for a record that is being written', () => {
    writer.record();
    const open = writer.begin();
    writer.record();
    expect(ring.read(100)).toMatchObject({ more: false, records: [{ nr: 0 }] });
    writer.finish(open);
    expect(ring.read(100).records.map((r) => r.nr)).toEqual([1, 2]);
  });

  test('counts what was overwritten', () => {
    for (let i = 0; i < ENTRIES + 7; i++) writer.record();
    const { records, lost } = ring.read(100);
    expect(lost).toBe(7);
    expect(records.map((r) => r.nr)).toEqual(Array.from({ length: ENTRIES }, (_, i) => i + 7));
  });

  test('indexes wrap', () => {
    memory.store32(NEXT, 0xffff_fffd);
    ring.enable(true);
    for (let i = 0; i < 6; i++) writer.record();
    expect(ring.read(100).records.map((r) => r.nr)).toEqual([0xffff_fffd, 0xffff_fffe, 0xffff_ffff, 0, 1, 2]);
  });

  test('switching on forgets what is old, unless it was on already', () => {
    writer.record();
    ring.enable(true);
    expect(memory.load32(FLAGS)).toBe(TRAP_DOM.TRAP_DOM_TRACE);
    writer.record();
    ring.enable(true);
    expect(ring.read(100).records.map((r) => r.nr)).toEqual([1]);
    ring.enable(false);
    expect(memory.load32(FLAGS)).toBe(0);
  });

  test('records and losses add up, however writing and reading alternate', () => {
    fc.assert(
      fc.property(
        fc.array(fc.tuple(fc.integer({ min: 0, max: 40 }), fc.integer({ min: 1, max: 20 })), { maxLength: 20 }),
        (steps) => {
          memory.store32(NEXT, 0);
          memory.fill(PLACE.traceGpa, ENTRIES * TrapTrace.size);
          const fresh = new TraceRing(memory, PLACE, ENTRIES);
          let written = 0;
          let [got, lost, last] = [0, 0, -1];
          const take = (max: number): number => {
            const batch = fresh.read(max);
            for (const r of batch.records) {
              expect(r.nr).toBeGreaterThan(last);
              last = r.nr;
            }
            got += batch.records.length;
            lost += batch.lost;
            return batch.records.length;
          };
          for (const [writes, max] of steps) {
            for (let i = 0; i < writes; i++) writer.record();
            written += writes;
            take(max);
          }
          while (take(ENTRIES) > 0);
          expect(got + lost).toBe(written);
        },
      ),
      { numRuns: 200 },
    );
  });

  test('nothing in the ring or the counters can hurt', () => {
    fc.assert(
      fc.property(
        fc.uint8Array({ minLength: TrapTrace.size, maxLength: ENTRIES * TrapTrace.size }),
        fc.nat(0xffff_ffff),
        (bytes, next) => {
          memory.copyIn(PLACE.traceGpa, bytes);
          memory.store32(NEXT, next);
          const formatter = new TraceFormatter({ hz: 1e9, tsc: 0n, systemTime: 0n }, 1);
          for (let i = 0; i < 4; i++) {
            const { records } = ring.read(1000);
            expect(records.length).toBeLessThanOrEqual(ENTRIES);
            for (const r of records) JSON.stringify(formatter.events(r, undefined));
          }
        },
      ),
      { numRuns: 300 },
    );
  });

  test('the clock is known once the module has set it, and only if it is one', () => {
    expect(ring.clock()).toBeUndefined();
    const at = (f: 'tsc_hz' | 'time_tsc' | 'time_offset'): number => PLACE.domainGpa + TrapDomain.offsetOf(f);
    memory.store64(at('time_tsc'), 1000n);
    memory.store64(at('time_offset'), 5n);
    memory.store64(at('tsc_hz'), 2_000_000_000n);
    expect(ring.clock()).toEqual({ hz: 2e9, tsc: 1000n, systemTime: 5n });
    memory.store64(at('tsc_hz'), 0n);
    expect(ring.clock()).toBeUndefined();
  });
});

describe('events', () => {
  const formatter = new TraceFormatter({ hz: 2e9, tsc: 1000n, systemTime: 5000n }, 1);
  const base = {
    vcpu: 2,
    tsc: 3000n,
    cycles: 1000n,
    args: [0n, 0n, 0n, 0n, 0n],
    result: 0n,
    rip: 0x10n,
    hv: 0,
    callSeq: 0,
  };

  test('a hypercall that the module answered', () => {
    const [event, ...more] = formatter.events(
      {
        ...base,
        kind: TRAP_TRACE.TRAP_TRACE_HYPERCALL,
        nr: H.__HYPERVISOR_mmu_update,
        args: [0xffff_8880_0000_0000n, 3n, 0n, 0x7ff0n, 0n],
        result: -22n,
        hv: 1 << TRAP_HV.TRAP_HV_FLUSH_SPACE,
      },
      undefined,
    );
    expect(more).toEqual([]);
    // 2000 ticks at 2 GHz after the anchor at 5 us.
    expect(event).toMatchObject({ name: 'mmu_update', ph: 'X', tid: 2, ts: 6, dur: 0.5 });
    expect(event?.args).toEqual({
      req: '0xffff888000000000',
      count: 3,
      success_count: '0x0',
      domid: 0x7ff0,
      result: '-EINVAL',
      where: 'module',
      hyperv: ['HvCallFlushVirtualAddressSpace'],
      rip: '0x10',
    });
  });

  test('one that the shim answered contains the time that the shim took', () => {
    const record = {
      ...base,
      kind: 0,
      nr: H.__HYPERVISOR_event_channel_op,
      args: [6n, 1n, 0n, 0n, 0n],
      cycles: 20_000n,
      callSeq: 7,
    };
    const events = formatter.events(record, 0.004);
    expect(events).toMatchObject([
      { name: 'event_channel_op.alloc_unbound', dur: 10, args: { where: 'shim', shimUs: 4 } },
      { name: 'shim', ts: 9, dur: 4 },
    ]);
    expect(formatter.events(record, 1)[1]).toMatchObject({ dur: 10 });
    expect(formatter.events(record, undefined)).toHaveLength(1);
  });

  test('exceptions, upcalls, interrupts, and what nobody knows', () => {
    const of = (kind: number, nr: number): object | undefined =>
      formatter.events({ ...base, kind, nr, args: [2n, 0x1000n], result: 1n }, undefined)[0];
    expect(of(1, 14)).toMatchObject({ name: '#PF', ph: 'X', args: { errorCode: 2, address: '0x1000', bounced: true } });
    expect(of(1, 77)).toMatchObject({ name: 'exception 77' });
    expect(of(2, 0)).toMatchObject({ name: 'event upcall', ph: 'i', s: 't' });
    expect(of(4, 241)).toMatchObject({ name: 'timer interrupt', ph: 'i' });
    expect(of(9, 0)).toMatchObject({ name: 'record of kind 9' });
  });

  test('results', () => {
    expect(resultText(0n)).toBe(0);
    expect(resultText(-38n)).toBe('-ENOSYS');
    expect(resultText(-4000n)).toBe('-errno_4000');
    expect(resultText(1n << 40n)).toBe('0x10000000000');
    expect(resultText(-5000n)).toBe('0xffffffffffffec78');
  });
});

describe('the file', () => {
  const read = (file: string): { traceEvents: unknown[] } =>
    JSON.parse(readFileSync(file, 'utf8')) as { traceEvents: unknown[] };

  test('is valid JSON after every step', async () => {
    const path = join(dir, 't.json');
    const file = await TraceFile.create(path, { name: 'x' });
    expect(read(path)).toEqual({ displayTimeUnit: 'ns', otherData: { name: 'x' }, traceEvents: [] });
    for (let i = 1; i <= 5; i++) {
      await file.append([{ name: `é${i}`, ph: 'i', pid: 1, tid: 0 }]);
      await file.append([]);
      expect(read(path).traceEvents).toHaveLength(i);
    }
    await file.close();
  });

  test('that cannot be written is a usage error that names it', async () => {
    const path = join(dir, 'no', 'such', 'dir.json');
    await expect(TraceFile.create(path, {})).rejects.toThrow(UsageError);
    await expect(TraceFile.create(path, {})).rejects.toThrow(path);
  });

  test('a tracer writes what is recorded, handling times, losses and a summary', async () => {
    const path = join(dir, 't.json');
    const tracer = await Tracer.start(path, ring, ABOUT);
    tracer.shimHandled(0, 5, 0.0001);
    writer.record({ nr: H.__HYPERVISOR_vm_assist, callSeq: 5 });
    for (const until = Date.now() + 20_000; Date.now() < until; ) {
      await new Promise((resolve) => setTimeout(resolve, 30));
      if (JSON.stringify(read(path)).includes('vm_assist')) break;
    }
    expect(JSON.stringify(read(path))).toContain('vm_assist');
    for (let i = 0; i < ENTRIES + 3; i++) writer.record({ nr: H.__HYPERVISOR_iret });
    const summary = await tracer.stop();
    expect(summary).toEqual({ file: path, records: ENTRIES + 1, lost: 3 });
    expect(await tracer.stop()).toEqual(summary);
    writer.record();
    const events = read(path).traceEvents as { name: string; args?: Record<string, unknown> }[];
    const count = (name: string): number => events.filter((e) => e.name === name).length;
    expect(count('iret')).toBe(ENTRIES);
    expect(count('shim')).toBe(1);
    expect(events.find((e) => e.name === 'records lost')?.args).toEqual({ count: 3 });
    expect(events.at(-1)).toMatchObject({ name: 'trace_summary', args: { records: ENTRIES + 1, lost: 3 } });
    expect(memory.load32(FLAGS) & TRAP_DOM.TRAP_DOM_TRACE).toBe(0);
  });

  test('what is recorded while a look is being written, and the trace is stopped meanwhile, is not lost', async () => {
    const path = join(dir, 'late.json');
    const append = jest.spyOn(TraceFile.prototype, 'append');
    try {
      const tracer = await Tracer.start(path, ring, ABOUT);
      writer.record({ nr: H.__HYPERVISOR_vm_assist });
      const stopped = new Promise<TraceSummary>((resolve) => {
        append.mockImplementationOnce(async () => {
          writer.record({ nr: H.__HYPERVISOR_iret });
          resolve(tracer.stop());
        });
      });
      expect(await stopped).toMatchObject({ records: 2, lost: 0 });
      expect(JSON.stringify(read(path))).toContain('iret');
    } finally {
      append.mockRestore();
    }
  });

  test('a full disk ends the trace, not the domain', async () => {
    const tracer = await Tracer.start('/dev/full', ring, ABOUT).catch((e: unknown) => e);
    // The head cannot be written either: said at once.
    expect(tracer).toBeInstanceOf(UsageError);
  });
});
