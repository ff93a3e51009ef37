/**
 * Page tables and typed frames of the trap module: tests/native/mm_test.c, compiled and run for the host.
 */
import { execFileSync, spawnSync } from 'node:child_process';
import { existsSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';

const ROOT = resolve(__dirname, '../../..');
const HEADERS = join(ROOT, 'native/include');

const CASES = [
  'pin and unpin count references recursively',
  'entries are fixed up at ring 3',
  'entries are left alone at ring 1',
  'L1 entries are refused as by Xen',
  'L2 to L4 entries are refused as by Xen',
  'mmu_update',
  'batches, done and foreign domains',
  'TLB flushes and update_va_mapping',
  'tables are dropped after the flush',
  'the other mmuext operations',
  'kernel and user roots',
  'isolated user roots',
  'emulated writes',
  'walks and spurious faults',
  'linear page tables',
  'entries and TLBs that change meanwhile',
  'changes of root without a load of CR3',
  'random changes of root',
  'random operations at ring 3',
  'random operations at ring 1',
  'random operations with isolated user roots',
  'two VPs at once',
];

/** What the host lacks to run these tests. */
function missing(): string | undefined {
  if (process.platform !== 'linux' || process.arch !== 'x64') return 'an x86-64 Linux host';
  if (spawnSync('gcc', ['--version']).status !== 0) return 'gcc';
  if (!existsSync(join(HEADERS, 'abi/trap.h'))) return 'generated headers (npm run build)';
  return undefined;
}

const lacking = missing();
const suite = lacking === undefined ? describe : describe.skip;

suite(`page tables${lacking === undefined ? '' : ` (needs ${lacking})`}`, () => {
  let dir: string;
  let program: string;

  beforeAll(() => {
    dir = mkdtempSync(join(tmpdir(), 'xenlighten-mm-'));
    program = join(dir, 'mm_test');
    const flags = '-std=gnu11 -Wall -Wextra -Werror -O1 -g'.split(' ');
    execFileSync('gcc', [...flags, '-I', HEADERS, join(ROOT, 'tests/native/mm_test.c'), '-o', program, '-lpthread']);
  }, 60_000);

  afterAll(() => rmSync(dir, { recursive: true, force: true }));

  test.each(CASES)(
    '%s',
    (name) => {
      const run = spawnSync(program, [name], { encoding: 'utf8', timeout: 60_000 });
      expect(run.signal).toBeNull();
      expect(run.stdout).toBe(`ok ${name}\n`);
    },
    60_000,
  );

  test('every case of the program is listed here', () => {
    expect(execFileSync(program, ['--list'], { encoding: 'utf8' }).trimEnd().split('\n')).toEqual(CASES);
  });
});
