/**
 * The hypercalls that have two implementations, on the same random sequences: native/trap's C in one world, shim/xen's
 * TypeScript in the other, and after every step the same result and the same memory. See twins/world.ts.
 *
 * XENLIGHTEN_RUNS sets how many sequences each case runs, XENLIGHTEN_SEED the seed.
 */
import { execFileSync, spawnSync } from 'node:child_process';
import { existsSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import fc from 'fast-check';
import { nativeFile } from '../../../shim/partition/native-files';
import {
  ALL,
  DESCRIPTORS,
  DESCRIPTORS_BEFORE,
  describeStep,
  ENTRIES_AND_TIMERS,
  EVENTS,
  EVENTS_BEFORE,
  PAGE_TABLES,
  sequenceOf,
  TABLES_BEFORE,
  WITHOUT,
} from './twins/steps';
import { type Options, ProgramEnded, type Step, Twins } from './twins/world';

const ROOT = resolve(__dirname, '../../..');
const HEADERS = join(ROOT, 'native/include');
const RUNS = Number(process.env['XENLIGHTEN_RUNS'] ?? 200);
const SEED = Number(process.env['XENLIGHTEN_SEED'] ?? 417);

/** What the host lacks to run these tests. */
function missing(): string | undefined {
  if (process.platform !== 'linux' || process.arch !== 'x64') return 'an x86-64 Linux host';
  if (spawnSync('gcc', ['--version']).status !== 0) return 'gcc';
  if (!existsSync(join(HEADERS, 'abi/trap.h'))) return 'generated headers (npm run build)';
  try {
    nativeFile('Release', 'xenlighten_host.node');
  } catch {
    return 'the addon (npm run build)';
  }
  return undefined;
}

/** Steps, and what may come before them. */
const KINDS: readonly (readonly [string, fc.Arbitrary<Step>, readonly (readonly Step[])[]])[] = [
  ['page tables', PAGE_TABLES, TABLES_BEFORE],
  ['descriptor tables', DESCRIPTORS, DESCRIPTORS_BEFORE],
  ['events', EVENTS, EVENTS_BEFORE],
  ['entry points and timers', ENTRIES_AND_TIMERS, WITHOUT],
  ['everything at once', ALL, [...TABLES_BEFORE, ...EVENTS_BEFORE, ...DESCRIPTORS_BEFORE]],
];
const DOMAINS: readonly (readonly [string, Options])[] = [
  ['ring 3', { ring: 3, isolate: false, vcpus: 1 }],
  ['ring 3, isolated user roots, two vCPUs', { ring: 3, isolate: true, vcpus: 2 }],
  ['ring 1, two vCPUs', { ring: 1, isolate: false, vcpus: 2 }],
];

const lacking = missing();
const suite = lacking === undefined ? describe : describe.skip;

suite(`two implementations of the same hypercalls${lacking === undefined ? '' : ` (needs ${lacking})`}`, () => {
  let dir: string;
  let twins: Twins;

  beforeAll(() => {
    dir = mkdtempSync(join(tmpdir(), 'xenlighten-twins-'));
    const program = join(dir, 'twins');
    const flags = '-std=gnu11 -Wall -Wextra -Werror -O1 -g'.split(' ');
    execFileSync('gcc', [...flags, '-I', HEADERS, join(ROOT, 'tests/native/twins.c'), '-o', program]);
    twins = new Twins(program);
  }, 60_000);

  afterAll(async () => {
    await twins?.end();
    rmSync(dir, { recursive: true, force: true });
  });

  /** Fails with the whole sequence in words; fast-check shortens it. */
  function compare(options: Options, steps: readonly Step[]): void {
    twins.reset(options);
    for (const [i, step] of steps.entries()) {
      let different: string | undefined;
      try {
        different = twins.step(step);
      } catch (err) {
        if (!(err instanceof ProgramEnded)) throw err;
        different = err.message;
      }
      if (different === undefined) continue;
      const history = steps.slice(0, i + 1).map((s, n) => `  ${n + 1}. ${describeStep(s)}`);
      throw new Error(`${different}\n${history.join('\n')}`);
    }
  }

  describe.each(KINDS)('%s', (_kind, step, before) => {
    test.each(DOMAINS)(
      '%s',
      (_domain, options) => {
        const details = fc.check(
          fc.property(fc.constantFrom(...before), sequenceOf(step), (first, rest) =>
            compare(options, [...first, ...rest]),
          ),
          { numRuns: RUNS, seed: SEED },
        );
        if (!details.failed) return;
        const { numRuns, seed, counterexamplePath, errorInstance } = details;
        const why = errorInstance instanceof Error ? errorInstance.message : String(errorInstance);
        throw new Error(`after ${numRuns} sequences (seed ${seed}, path ${counterexamplePath}): ${why}`);
      },
      3_600_000,
    );
  });

  test('the sequences have worked and have failed with every hypercall', () => {
    const both = [
      'callback_op',
      'event_channel_op',
      'mmu_update',
      'mmuext_op',
      'set_gdt',
      'set_trap_table',
      'update_descriptor',
      'update_va_mapping',
      'update_va_mapping_otherdomain',
      'vcpu_op',
    ].flatMap((name) => [`${name} error`, `${name} ok`]);
    const seen = [...twins.seen.keys()];
    expect(seen).toEqual(expect.arrayContaining([...both, 'multicall ok', 'set_callbacks ok', 'set_timer_op ok']));
  });
});
