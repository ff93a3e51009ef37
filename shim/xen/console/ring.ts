/**
 * The PV console's ring page: struct xencons_interface, Xen public/io/console.h. `out` comes from the guest, `in` goes
 * to it; plain bytes both ways.
 *
 * The guest notifies after writing `out` and after reading `in`; we notify whenever one of our indices advanced, because
 * Linux waits with sched_op yield for room in a full `out` while booting or panicking.
 *
 * Output is handed on as fast as the receiver takes it and otherwise left on the ring, where the guest meets it as a
 * full ring; nothing here blocks. Input that finds the ring full waits in a bounded queue. One turn moves a bounded
 * number of bytes.
 *
 * Quirk: a direction whose indices are further apart than its ring stops for good and is reported once; the other
 * direction goes on.
 */
import { XENCONSOLE, XenconsInterface } from '../../../abi/xen/console-ring';
import { RingConsumer, type RingPage, RingProducer } from '../ring-page';

const { fields } = XenconsInterface;
const IN_SIZE = fields.in.count;
const OUT_SIZE = fields.out.count;
/** Ringfuls of output taken in one turn. */
const ROUNDS_PER_TURN = 8;
/** Input bytes queued beyond the ring before pushInput() asks to wait. */
export const INPUT_HIGH_WATER = 16 * 1024;

export interface ConsoleRingOptions {
  readonly page: RingPage;
  /** Sends the event to the guest's console port. */
  readonly notify: () => void;
  /** Takes output; the bytes are the receiver's. False means: no more until resumeOutput(). */
  readonly onOutput: (bytes: Uint8Array) => boolean;
  /** Queued input has gone to the guest: pushInput() may be called again. */
  readonly onInputDrained?: () => void;
  /** The guest made the indices of one direction impossible. */
  readonly onBroken?: (direction: 'in' | 'out') => void;
}

export class ConsoleRing {
  private readonly out: RingConsumer;
  private readonly input: RingProducer;
  private queue: Uint8Array[] = [];
  private queued = 0;
  private paused = false;
  private held = false;
  private stopped = false;
  private serving = false;
  private immediate: NodeJS.Immediate | undefined;
  private readonly reported = new Set<'in' | 'out'>();

  /** Attaches to the page and marks the console connected. Call service() at each event. */
  constructor(private readonly options: ConsoleRingOptions) {
    const { page } = options;
    this.out = new RingConsumer(page, {
      data: fields.out.offset,
      size: OUT_SIZE,
      prod: fields.out_prod.offset,
      cons: fields.out_cons.offset,
    });
    this.input = new RingProducer(page, {
      data: fields.in.offset,
      size: IN_SIZE,
      prod: fields.in_prod.offset,
      cons: fields.in_cons.offset,
    });
    page.copyIn(fields.connection.offset, Uint8Array.of(XENCONSOLE.XENCONSOLE_CONNECTED));
  }

  /** Bytes of input that wait for room on the ring. */
  get queuedInput(): number {
    return this.queued;
  }

  /** Moves what there is to move. To be called when the guest signals the console port; harmless at other times. */
  service(): void {
    if (this.stopped || this.serving || this.held) return;
    this.serving = true;
    let advanced = this.flushInput();
    let more = false;
    for (let round = 0; !this.paused; round++) {
      if (round === ROUNDS_PER_TURN) {
        more = true;
        break;
      }
      const bytes = this.out.consume(OUT_SIZE);
      if (bytes.length === 0) break;
      advanced = true;
      if (!this.options.onOutput(bytes)) this.paused = true;
    }
    this.serving = false;
    if (this.out.broken) this.report('out');
    if (advanced) this.options.notify();
    if (more) this.schedule();
  }

  /** Leaves the page alone until release(); input waits in the queue. */
  hold(): void {
    this.held = true;
  }

  release(): void {
    this.held = false;
    this.service();
  }

  /** The receiver takes output again. */
  resumeOutput(): void {
    if (!this.paused) return;
    this.paused = false;
    this.schedule();
  }

  /**
   * Sends bytes to the guest. All of them are taken; false means: wait for onInputDrained. While more than twice
   * INPUT_HIGH_WATER bytes are queued, bytes are dropped: only a caller that does not wait meets that.
   */
  pushInput(bytes: Uint8Array): boolean {
    if (this.stopped || this.input.broken) return true;
    if (bytes.length > 0 && this.queued <= 2 * INPUT_HIGH_WATER) {
      this.queue.push(bytes.slice());
      this.queued += bytes.length;
    }
    if (this.flushInput()) this.options.notify();
    return this.queued < INPUT_HIGH_WATER;
  }

  /** Takes what the guest has written up to now, whether or not the receiver is ready: for the last words at its end. */
  drain(): void {
    if (this.stopped) return;
    for (let round = 0; round < ROUNDS_PER_TURN; round++) {
      const bytes = this.out.consume(OUT_SIZE);
      if (bytes.length === 0) return;
      this.options.onOutput(bytes);
    }
  }

  /** Detaches. */
  close(): void {
    this.stopped = true;
    if (this.immediate !== undefined) clearImmediate(this.immediate);
    this.immediate = undefined;
    this.queue = [];
    this.queued = 0;
  }

  private flushInput(): boolean {
    if (this.queued === 0 || this.held) return false;
    let moved = false;
    while (this.queue.length > 0) {
      const first = this.queue[0]!;
      const n = this.input.produce(first);
      if (n === 0) break;
      moved = true;
      this.queued -= n;
      if (n < first.length) {
        this.queue[0] = first.subarray(n);
        break;
      }
      this.queue.shift();
    }
    if (this.input.broken) {
      this.queue = [];
      this.queued = 0;
      this.report('in');
    }
    if (this.queued === 0) this.options.onInputDrained?.();
    return moved;
  }

  private report(direction: 'in' | 'out'): void {
    if (this.reported.has(direction)) return;
    this.reported.add(direction);
    this.options.onBroken?.(direction);
  }

  private schedule(): void {
    if (this.stopped || this.immediate !== undefined) return;
    this.immediate = setImmediate(() => {
      this.immediate = undefined;
      this.service();
    });
  }
}
