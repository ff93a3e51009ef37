/**
 * The signalling rules of rings under every interleaving: no state in which something waits, the one who should see to it
 * sleeps, and no signal is under way.
 *
 * Writer and reader are the real classes, run step by step: a step is one access to the shared header, one signal, or one
 * waking up. JavaScript cannot stop in the middle of a function, so a step is made by running the party from its beginning,
 * with the results of its earlier steps from a log, until it has done one thing more. Data is copied with the step before it.
 * States that are equal (memory, logs, signals) are looked at once.
 *
 * That the explorer finds lost wake-ups is shown by breaking the rules, one at a time.
 */
import { HvRingBuffer } from '../../../abi/hyperv/vmbus';
import { encodePacket } from '../../../shim/hyperv/vmbus/packets';
import { type RingMemory, RingReader, RingWriter } from '../../../shim/hyperv/vmbus/ring-buffer';
import { inband } from './support';

/** What a party can do besides using the ring. */
interface World {
  readonly memory: RingMemory;
  /** Sleeps until the other end signals. */
  sleep(): void;
  /** Signals the other end. */
  signal(): void;
}

type Party = (world: World) => void;
type Log = readonly (number | Buffer)[];

/** Thrown to stop a party after its step. */
class Stop extends Error {}
/** Thrown by a party that sleeps and has no signal. */
class Asleep extends Error {}

interface State {
  readonly header: Int32Array;
  readonly data: Buffer;
  readonly signals: readonly [boolean, boolean];
  readonly logs: readonly [Log, Log];
  readonly done: readonly [boolean, boolean];
}

/** The state after one step of a party, or undefined when it sleeps. */
function step(parties: readonly Party[], state: State, who: 0 | 1): State | undefined {
  const header = Int32Array.from(state.header);
  const data = Buffer.from(state.data);
  const signals: [boolean, boolean] = [...state.signals];
  const log: (number | Buffer)[] = [...state.logs[who]];
  let position = 0;
  let stepped = false;
  const once = (live: () => number): number => {
    if (position < log.length) return log[position++] as number;
    if (stepped) throw new Stop();
    const value = live();
    stepped = true;
    log.push(value);
    position++;
    return value;
  };
  const memory: RingMemory = {
    size: data.length,
    load32: (offset) => once(() => header[offset / 4] as number) >>> 0,
    store32: (offset, value) => {
      once(() => {
        header[offset / 4] = value;
        return 0;
      });
    },
    copyOut: (offset, length) => {
      if (position < log.length) return log[position++] as Buffer;
      const copy = Buffer.from(data.subarray(offset, offset + length));
      log.push(copy);
      position++;
      return copy;
    },
    copyIn: (offset, bytes) => {
      if (position < log.length) {
        position++;
        return;
      }
      data.set(bytes, offset);
      log.push(0);
      position++;
    },
  };
  const world: World = {
    memory,
    sleep: () => {
      once(() => {
        if (!signals[who]) throw new Asleep();
        signals[who] = false;
        return 0;
      });
    },
    signal: () => {
      once(() => {
        signals[1 - who] = true;
        return 0;
      });
    },
  };
  const done: [boolean, boolean] = [...state.done];
  try {
    (parties[who] as Party)(world);
    done[who] = true;
  } catch (error) {
    if (error instanceof Asleep) return undefined;
    if (!(error instanceof Stop)) throw error;
  }
  const logs: [Log, Log] = [...state.logs];
  logs[who] = log;
  return { header, data, signals, logs, done };
}

function keyOf({ header, data, signals, logs, done }: State): string {
  const text = (log: Log): string => log.map((e) => (typeof e === 'number' ? e : `x${e[0]}`)).join(',');
  return `${header.join(',')};${data.toString('latin1')};${signals};${text(logs[0])};${text(logs[1])};${done}`;
}

/** Explores everything; returns the number of states and those in which nobody can go on although not both are done. */
function explore(parties: readonly [Party, Party], size: number): { states: number; stuck: number } {
  const words = HvRingBuffer.offsetOf('feature_bits') / 4 + 1;
  const first: State = {
    header: new Int32Array(words),
    data: Buffer.alloc(size),
    signals: [false, false],
    logs: [[], []],
    done: [false, false],
  };
  const seen = new Set<string>([keyOf(first)]);
  const open = [first];
  let stuck = 0;
  for (let state = open.pop(); state !== undefined; state = open.pop()) {
    if (seen.size > 3_000_000) throw new Error('too many states');
    let moved = false;
    for (const who of [0, 1] as const) {
      if (state.done[who]) continue;
      const next = step(parties, state, who);
      if (next === undefined) continue;
      moved = true;
      const key = keyOf(next);
      if (seen.has(key)) continue;
      seen.add(key);
      open.push(next);
    }
    if (!moved && !(state.done[0] && state.done[1])) stuck++;
  }
  return { states: seen.size, stuck };
}

/** Packets of 24 bytes, 32 with their trailers. */
function packets(count: number): Buffer[] {
  return Array.from({ length: count }, (_, i) => encodePacket(inband(Uint8Array.of(i + 1), BigInt(i))));
}

interface WriterFaults {
  /** Signals only if the ring looked empty before the packet was published. */
  readonly decidesEarly?: boolean;
  /** Goes to sleep without looking again after pending_send_sz was set. */
  readonly noSecondLook?: boolean;
}

function writer(count: number, faults: WriterFaults = {}): Party {
  return ({ memory, sleep, signal }) => {
    const ring = new RingWriter(memory);
    for (const packet of packets(count)) {
      for (;;) {
        const early =
          faults.decidesEarly === true &&
          memory.load32(HvRingBuffer.offsetOf('read_index')) === memory.load32(HvRingBuffer.offsetOf('write_index')) &&
          memory.load32(HvRingBuffer.offsetOf('interrupt_mask')) === 0;
        const result = ring.write(packet);
        if (result.written) {
          if (faults.decidesEarly === true ? early : result.signal) signal();
          break;
        }
        if (ring.await(packet) || faults.noSecondLook === true) sleep();
      }
    }
  };
}

interface ReaderFaults {
  /** Sleeps after clearing the mask without looking again. */
  readonly noSecondLook?: boolean;
  /** Clears the mask before it gives back the space. */
  readonly unmasksFirst?: boolean;
  /** Never signals that there is space. */
  readonly silent?: boolean;
  /** Gives space back after each packet. */
  readonly eager?: boolean;
}

function reader(count: number, faults: ReaderFaults = {}): Party {
  return ({ memory, sleep, signal }) => {
    const ring = new RingReader(memory);
    const commit = (): void => {
      if (ring.commit() && faults.silent !== true) signal();
    };
    for (let taken = 0; taken < count; ) {
      sleep();
      for (;;) {
        ring.mask();
        for (let bytes = ring.read(); bytes !== undefined; bytes = ring.read()) {
          taken++;
          if (bytes[16] !== taken) throw new Error(`packet ${bytes[16]} instead of ${taken}`);
          if (faults.eager === true) commit();
        }
        if (faults.unmasksFirst === true) {
          const more = ring.finish();
          commit();
          if (!more) break;
          continue;
        }
        commit();
        if (!ring.finish() || faults.noSecondLook === true) break;
      }
    }
  };
}

/** Room for one packet: free space must be more than the packet needs. */
const ONE = 64;
/** Room for two. */
const TWO = 96;

test.each([
  ['one packet at a time', 3, ONE, {}],
  ['two at a time', 3, TWO, {}],
  ['two at a time, with space given back after each', 3, TWO, { eager: true }],
  ['never full', 2, 256, {}],
] as const)('no wake-up is lost: %s', (_, count, size, how: ReaderFaults) => {
  const { states, stuck } = explore([writer(count), reader(count, how)], size);
  expect(states).toBeGreaterThan(200);
  expect(stuck).toBe(0);
});

test.each<[string, WriterFaults, ReaderFaults, number]>([
  ['a reader that does not look again after unmasking', {}, { noSecondLook: true }, TWO],
  ['a writer that decides before it publishes', { decidesEarly: true }, {}, TWO],
  ['a writer that sleeps without looking again', { noSecondLook: true }, {}, ONE],
  ['a reader that does not tell of space', {}, { silent: true }, ONE],
])('the explorer finds the lost wake-up of %s', (_, writerFaults, readerFaults, size) => {
  expect(explore([writer(3, writerFaults), reader(3, readerFaults)], size).stuck).toBeGreaterThan(0);
});
