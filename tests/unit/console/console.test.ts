/** The PV console: ring, back-pressure both ways, history, and a guest that writes nonsense into the page. */
import { PassThrough, Writable } from 'node:stream';
import * as fc from 'fast-check';
import { XenconsInterface } from '../../../abi/xen/console-ring';
import { GuestConsole, SINK_HIGH_WATER, SINK_LIMIT } from '../../../shim/xen/console/console';
import { ConsoleHistory, HISTORY_BYTES } from '../../../shim/xen/console/history';
import { ConsoleRing, INPUT_HIGH_WATER } from '../../../shim/xen/console/ring';
import { TestPage } from '../xenstore/support';

const { fields } = XenconsInterface;
const [IN_CONS, IN_PROD] = [fields.in_cons.offset, fields.in_prod.offset];
const [OUT_CONS, OUT_PROD] = [fields.out_cons.offset, fields.out_prod.offset];
const OUT_SIZE = fields.out.count;
const turn = () => new Promise((resolve) => setImmediate(resolve));

/** The guest's side of the page. */
class GuestSide extends TestPage {
  print(text: string | Uint8Array): number {
    const bytes = typeof text === 'string' ? Buffer.from(text) : text;
    const prod = this.getU32(OUT_PROD);
    const n = Math.min(bytes.length, OUT_SIZE - ((prod - this.getU32(OUT_CONS)) >>> 0));
    for (let i = 0; i < n; i++) this.bytes[fields.out.offset + ((prod + i) & (OUT_SIZE - 1))] = bytes[i]!;
    this.setU32(OUT_PROD, (prod + n) >>> 0);
    return n;
  }

  read(max = 1024): string {
    const cons = this.getU32(IN_CONS);
    const n = Math.min(max, (this.getU32(IN_PROD) - cons) >>> 0);
    let text = '';
    for (let i = 0; i < n; i++) text += String.fromCharCode(this.bytes[(cons + i) & 1023]!);
    this.setU32(IN_CONS, (cons + n) >>> 0);
    return text;
  }
}

/** A sink that keeps everything and finishes writes only when told to. */
class SlowSink extends Writable {
  text = '';
  private waiting: (() => void)[] = [];

  override _write(chunk: Buffer, _encoding: string, done: () => void): void {
    this.text += chunk.toString('latin1');
    this.waiting.push(done);
  }

  /** Finishes writes until none is under way. */
  async flush(): Promise<void> {
    while (this.waiting.length > 0) {
      this.waiting.shift()!();
      await turn();
    }
  }
}

describe('ring', () => {
  function ring(page: GuestSide, accept: () => boolean = () => true) {
    let out = '';
    let notified = 0;
    const broken: string[] = [];
    const console = new ConsoleRing({
      page,
      notify: () => {
        notified++;
      },
      onOutput: (bytes) => {
        out += Buffer.from(bytes).toString('latin1');
        return accept();
      },
      onBroken: (direction) => broken.push(direction),
    });
    return { console, broken, out: () => out, notified: () => notified };
  }

  test('attaches as connected and leaves the indices alone', () => {
    const page = new GuestSide();
    page.bytes[fields.connection.offset] = 1;
    page.setU32(OUT_PROD, 5);
    ring(page);
    expect(page.bytes[fields.connection.offset]).toBe(0);
    expect([IN_CONS, IN_PROD, OUT_CONS, OUT_PROD].map((offset) => page.getU32(offset))).toEqual([0, 0, 0, 5]);
  });

  test.each([0, 2000, 0xffff_fff8])('drains output across the wrap, indices starting at %d, and notifies', (start) => {
    const page = new GuestSide();
    page.setU32(OUT_CONS, start);
    page.setU32(OUT_PROD, start);
    const { console, out, notified } = ring(page);
    let expected = '';
    for (let i = 0; i < 5; i++) {
      const text = `line ${i} ${'x'.repeat(900)}\n`;
      page.print(text);
      expected += text;
      console.service();
    }
    expect(out()).toBe(expected);
    expect(notified()).toBe(5);
    console.service();
    expect(notified()).toBe(5);
  });

  test('input waits for room, in order, and says when to go on', () => {
    const page = new GuestSide();
    let drained = 0;
    const console = new ConsoleRing({
      page,
      notify: () => {},
      onOutput: () => true,
      onInputDrained: () => {
        drained++;
      },
    });
    const text = Array.from({ length: INPUT_HIGH_WATER + 2000 }, (_, i) => String.fromCharCode(33 + (i % 90))).join('');
    expect(console.pushInput(Buffer.from('a'))).toBe(true);
    expect(console.pushInput(Buffer.from(text))).toBe(false);
    expect(console.queuedInput).toBe(text.length - 1023);
    drained = 0;
    let got = '';
    for (let i = 0; i < 100 && got.length < text.length + 1; i++) {
      got += page.read(700);
      console.service();
    }
    expect(got).toBe(`a${text}`);
    expect(drained).toBe(1);
  });

  test('input that nobody should have pushed is dropped, not kept', () => {
    const page = new GuestSide();
    const { console } = ring(page);
    for (let i = 0; i < 100; i++) console.pushInput(new Uint8Array(4096));
    expect(console.queuedInput).toBeLessThanOrEqual(2 * INPUT_HIGH_WATER + 4096);
  });

  test('output stays on the ring while the receiver refuses it', async () => {
    const page = new GuestSide();
    let accept = false;
    const { console, out } = ring(page, () => accept);
    page.print('one');
    console.service();
    page.print('two');
    console.service();
    expect(out()).toBe('one');
    expect((page.getU32(OUT_PROD) - page.getU32(OUT_CONS)) >>> 0).toBe(3);
    accept = true;
    console.resumeOutput();
    await turn();
    expect(out()).toBe('onetwo');
  });

  test('while it is held the page does not change; what came in both ways goes on its way afterwards', async () => {
    const page = new GuestSide();
    const { console, out, notified } = ring(page);
    console.hold();
    page.print('out');
    const before = Buffer.from(page.bytes);
    console.service();
    expect(console.pushInput(Buffer.from('in'))).toBe(true);
    console.resumeOutput();
    await turn();
    expect(Buffer.from(page.bytes)).toEqual(before);
    expect([out(), notified()]).toEqual(['', 0]);
    console.release();
    expect([out(), page.read(), notified()]).toEqual(['out', 'in', 1]);
  });

  test('a turn that was to come is not taken while it is held', async () => {
    const page = new GuestSide();
    let accept = false;
    const { console, out } = ring(page, () => accept);
    page.print('one');
    console.service();
    page.print('two');
    accept = true;
    console.resumeOutput();
    console.hold();
    await turn();
    expect(out()).toBe('one');
    console.release();
    expect(out()).toBe('onetwo');
  });

  test('impossible indices stop one direction only, and are reported once', () => {
    const page = new GuestSide();
    const { console, broken, out } = ring(page);
    page.setU32(OUT_PROD, 2049);
    console.service();
    console.service();
    expect(broken).toEqual(['out']);
    page.setU32(OUT_PROD, 0);
    page.print('late');
    console.service();
    expect(out()).toBe('');
    console.pushInput(Buffer.from('still'));
    expect(page.read()).toBe('still');
    page.setU32(IN_CONS, 5000);
    console.pushInput(Buffer.from('x'));
    console.pushInput(Buffer.from('x'));
    expect(broken).toEqual(['out', 'in']);
    expect(console.queuedInput).toBe(0);
  });

  test('a guest that prints without end does not hold up the event loop', async () => {
    const page = new GuestSide();
    let taken = 0;
    const console = new ConsoleRing({
      page,
      notify: () => {},
      onOutput: (bytes) => {
        taken += bytes.length;
        page.print(new Uint8Array(OUT_SIZE));
        return true;
      },
    });
    page.print(new Uint8Array(OUT_SIZE));
    console.service();
    expect(taken).toBeLessThanOrEqual(8 * OUT_SIZE);
    await turn();
    expect(taken).toBeGreaterThan(8 * OUT_SIZE);
    console.close();
    const before = taken;
    await turn();
    expect(taken).toBe(before);
  });

  test('no contents of the page make it throw or hold much', () => {
    const action = fc.oneof(
      fc.record({ kind: fc.constant('print' as const), bytes: fc.uint8Array({ maxLength: 300 }) }),
      fc.record({ kind: fc.constant('type' as const), bytes: fc.uint8Array({ maxLength: 300 }) }),
      fc.record({
        kind: fc.constant('poke' as const),
        offset: fc.constantFrom(IN_CONS, IN_PROD, OUT_CONS, OUT_PROD),
        value: fc.oneof(fc.nat({ max: 4096 }), fc.nat({ max: 0xffff_ffff })),
      }),
    );
    fc.assert(
      fc.property(fc.array(action, { maxLength: 60 }), (actions) => {
        const page = new GuestSide();
        const { console, broken } = ring(page);
        for (const a of actions) {
          if (a.kind === 'print') page.print(a.bytes);
          else if (a.kind === 'type') console.pushInput(a.bytes);
          else page.setU32(a.offset, a.value);
          console.service();
          expect(console.queuedInput).toBeLessThanOrEqual(2 * INPUT_HIGH_WATER);
        }
        console.close();
        expect(broken.length).toBeLessThanOrEqual(2);
      }),
      { numRuns: 300, interruptAfterTimeLimit: 2000, markInterruptAsFailure: false },
    );
  });
});

describe('streams', () => {
  test('output and input reach each other', async () => {
    const page = new GuestSide();
    const output = new PassThrough();
    const input = new PassThrough();
    const console = new GuestConsole({ page, notify: () => {}, output, input });
    page.print('login: ');
    console.service();
    console.write(Buffer.from('(XEN) hello\n'));
    input.write('root\n');
    await turn();
    expect(output.read().toString()).toBe('login: (XEN) hello\n');
    expect(page.read()).toBe('root\n');
    expect(console.type(Buffer.from('x'))).toBe(true);
    expect(page.read()).toBe('x');
    console.close();
  });

  test('a slow sink holds the guest back and loses nothing', async () => {
    const page = new GuestSide();
    const sink = new SlowSink({ highWaterMark: 1024 });
    const console = new GuestConsole({ page, notify: () => {}, output: sink });
    const text = Array.from({ length: 200_000 }, (_, i) => String.fromCharCode(33 + (i % 93))).join('');
    let printed = 0;
    let largest = 0;
    for (let idle = 0; idle < 3; ) {
      const n = page.print(text.slice(printed, printed + OUT_SIZE));
      printed += n;
      idle = n === 0 ? idle + 1 : 0;
      console.service();
      largest = Math.max(largest, sink.writableLength);
    }
    expect(printed).toBeLessThan(text.length);
    expect(largest).toBeLessThanOrEqual(SINK_HIGH_WATER + OUT_SIZE);
    while (printed < text.length) {
      await sink.flush();
      printed += page.print(text.slice(printed, printed + OUT_SIZE));
      console.service();
    }
    await sink.flush();
    console.service();
    await sink.flush();
    expect(sink.text).toBe(text);
    console.close();
  });

  test('CONSOLEIO_write cannot wait: beyond the limit it is left out of the sink, not of the history', () => {
    const sink = new SlowSink();
    const console = new GuestConsole({ page: new GuestSide(), notify: () => {}, output: sink });
    const line = Buffer.from(`${'y'.repeat(9999)}\n`);
    for (let i = 0; i < 200; i++) console.write(line);
    expect(sink.writableLength).toBeLessThanOrEqual(SINK_LIMIT);
    expect(console.droppedBytes).toBeGreaterThan(900_000);
    console.write(Buffer.from('the end'));
    expect(console.history.lastLines(1)).toEqual(['the end']);
    console.close();
  });

  test('input stops when the guest does not read, and goes on when it does', async () => {
    const page = new GuestSide();
    const input = new PassThrough({ highWaterMark: 1024 });
    const console = new GuestConsole({ page, notify: () => {}, input });
    const text = 'z'.repeat(100_000);
    input.end(text);
    for (let i = 0; i < 50; i++) await turn();
    expect(input.isPaused()).toBe(true);
    let got = '';
    for (let i = 0; i < 1000 && got.length < text.length; i++) {
      got += page.read();
      console.service();
      await turn();
    }
    expect(got.length).toBe(text.length);
    console.close();
  });

  test('the guest runs on when the sink breaks', async () => {
    const page = new GuestSide();
    const sink = new Writable({ write: (_chunk, _encoding, done) => done(new Error('EPIPE')) });
    const console = new GuestConsole({ page, notify: () => {}, output: sink });
    page.print('one ');
    console.service();
    await turn();
    page.print('two');
    console.service();
    expect(console.history.lastLines(5)).toEqual(['one two']);
    expect(page.getU32(OUT_CONS)).toBe(7);
    const next = new PassThrough();
    console.attachOutput(next);
    page.print('three');
    console.service();
    expect(next.read().toString()).toBe('three');
    console.close();
  });

  test('close takes the last words and leaves the streams open', () => {
    const page = new GuestSide();
    const output = new PassThrough();
    const console = new GuestConsole({ page, notify: () => {}, output });
    page.print('panic');
    console.close();
    expect(output.read().toString()).toBe('panic');
    expect(output.destroyed).toBe(false);
    expect(output.listenerCount('drain')).toBe(0);
  });
});

describe('history', () => {
  test('keeps the last bytes, whatever the pieces', () => {
    fc.assert(
      fc.property(fc.array(fc.uint8Array({ maxLength: 40 })), fc.integer({ min: 1, max: 50 }), (pieces, capacity) => {
        const history = new ConsoleHistory(capacity);
        for (const piece of pieces) history.push(piece);
        const all = Buffer.concat(pieces);
        const expected = all.subarray(Math.max(0, all.length - capacity));
        expect(Buffer.from(history.bytes()).equals(expected)).toBe(true);
      }),
      { numRuns: 300 },
    );
  });

  test('shows lines without control characters', () => {
    const history = new ConsoleHistory();
    history.push(Buffer.from('a\r\n\x1b[1mb\tc\x07\nd'));
    expect(history.lastLines(10)).toEqual(['a', '[1mb\tc', 'd']);
    expect(history.lastLines(1)).toEqual(['d']);
    expect(history.lastLines(0)).toEqual([]);
    expect(new ConsoleHistory().bytes()).toHaveLength(0);
    expect(HISTORY_BYTES).toBe(65536);
  });
});

describe('viewers', () => {
  class Viewer {
    text = '';
    paused: boolean | undefined;
    show(bytes: Uint8Array): void {
      this.text += Buffer.from(bytes).toString('latin1');
    }
    pauseInput(pause: boolean): void {
      this.paused = pause;
    }
  }

  test('see both kinds of output, beside the sink, and do not hold it up', () => {
    const page = new GuestSide();
    const console = new GuestConsole({ page, notify: () => {} });
    page.print('before ');
    console.service();
    const [one, two] = [new Viewer(), new Viewer()];
    console.addViewer(one);
    console.addViewer(two);
    page.print('ring ');
    console.service();
    console.write(Buffer.from('call '));
    console.removeViewer(two);
    page.print('last');
    console.close();
    expect([one.text, two.text]).toEqual(['ring call last', 'ring call ']);
    expect(Buffer.from(console.history.bytes()).toString()).toBe('before ring call last');
  });

  test('type too; when the guest reads slowly all of them wait, and what comes in time is never dropped', () => {
    const page = new GuestSide();
    const input = new PassThrough();
    const console = new GuestConsole({ page, notify: () => {}, input });
    const [one, two, late] = [new Viewer(), new Viewer(), new Viewer()];
    console.addViewer(one);
    console.addViewer(two);
    console.type(Buffer.from('a'.repeat(INPUT_HIGH_WATER)));
    expect([one.paused, two.paused, input.isPaused()]).toEqual([undefined, undefined, false]);
    expect(console.type(Buffer.from('b'.repeat(2048)))).toBe(false);
    console.addViewer(late);
    expect([one.paused, two.paused, late.paused, input.isPaused()]).toEqual([true, true, true, true]);
    let got = '';
    for (let i = 0; i < 100 && got.length < INPUT_HIGH_WATER + 2048; i++) {
      got += page.read();
      console.service();
    }
    expect(got).toBe('a'.repeat(INPUT_HIGH_WATER) + 'b'.repeat(2048));
    expect([one.paused, two.paused, late.paused, input.isPaused()]).toEqual([false, false, false, false]);
  });
});
