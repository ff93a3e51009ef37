/**
 * The trap module's instruction emulator, compiled for the host and run as programs of their own: page-table writes are
 * compared with the real processor, privileged instructions with the table of who may do what.
 */
import { execFileSync, spawnSync } from 'node:child_process';
import { existsSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';

const ROOT = resolve(__dirname, '../../..');
const TRAP = join(ROOT, 'native/trap');
const PROGRAMS = ['emulate_test', 'ptwr_test'];
const SOURCES = ['decode.c', 'emulate.c', 'msr.c', 'cpuid.c', 'xstate.c', 'debugreg.c', 'ptwr.c'];

function missing(): string | undefined {
  if (process.arch !== 'x64' || process.platform !== 'linux') return 'an x86-64 Linux host';
  if (spawnSync('gcc', ['--version']).status !== 0) return 'gcc';
  if (!existsSync(join(ROOT, 'native/include/abi/trap.h'))) return 'generated headers (npm run build)';
  return undefined;
}

const lacking = missing();
const suite = lacking === undefined ? describe : describe.skip;

suite(`instruction emulator${lacking === undefined ? '' : ` (needs ${lacking})`}`, () => {
  let dir: string;
  const lines: string[] = [];

  beforeAll(() => {
    dir = mkdtempSync(join(tmpdir(), 'xenlighten-emulate-'));
    const flags = '-std=gnu11 -D_GNU_SOURCE -Wall -Wextra -Werror -O2 -mno-red-zone'.split(' ');
    const include = ['-I', join(ROOT, 'native/include'), '-I', TRAP];
    const prelude = ['-include', join(ROOT, 'tests/native/emulate_prelude.h')];
    for (const name of PROGRAMS) {
      const program = join(dir, name);
      const sources = [join(ROOT, 'tests/native', `${name}.c`), ...SOURCES.map((s) => join(TRAP, s))];
      execFileSync('gcc', [...flags, ...include, ...prelude, ...sources, '-o', program]);
      const run = spawnSync(program, { encoding: 'utf8' });
      if (run.error) throw run.error;
      if (run.signal) throw new Error(`${name} died of ${run.signal} after: ${run.stdout.slice(-300)}`);
      lines.push(...run.stdout.trimEnd().split('\n'));
    }
  });

  afterAll(() => rmSync(dir, { recursive: true, force: true }));

  test.each([
    ['privop', 90],
    ['msr', 20],
    ['cpuid', 12],
    ['xstate', 40],
    ['int n', 10],
    ['ptwr', 47],
    ['ptwr refuses', 12],
  ])('%s', (group, atLeast) => {
    const of = (prefix: string) => lines.filter((l) => l.startsWith(`${prefix} ${group}: `));
    expect(of('not ok')).toEqual([]);
    expect(of('ok').length).toBeGreaterThanOrEqual(atLeast);
  });

  test('the programs ran to their ends', () => {
    expect(lines.filter((line) => line === '0 failed')).toHaveLength(PROGRAMS.length);
  });
});
