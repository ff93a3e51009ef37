/** The PV test kernel and made-up kernels, run by the command: ends that Linux does not come to by itself. */
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { LINUX_NOTES, makeElf } from '../../unit/builder/images';
import { testKernel } from '../lib/kernels';
import { endAll, leftovers, uniqueName, xenlighten } from '../lib/xenlighten';

const directory = mkdtempSync(path.join(tmpdir(), 'xenlighten-kernels-'));
afterAll(() => rmSync(directory, { recursive: true, force: true }));
afterEach(endAll);

/** A kernel whose entry point holds these instructions. */
function kernel(name: string, code: readonly number[]): string {
  const text = Buffer.alloc(0x1000, 0x90);
  // LINUX_NOTES: the entry is 0x40 behind the start of the segment.
  Buffer.from(code).copy(text, 0x40);
  const bytes = makeElf({
    segments: [{ paddr: 0x1000000n, vaddr: 0xffffffff81000000n, bytes: text }],
    notes: LINUX_NOTES,
    entry: 0x1000000n,
  });
  const file = path.join(directory, name);
  writeFileSync(file, bytes);
  return file;
}

test.each([1, 3])('the test kernel in ring %d, by console_io and by the ring', async (ring) => {
  const file = testKernel();
  for (const console of ['io', 'ring']) {
    const name = uniqueName();
    const result = await xenlighten(
      ...['run', '--name', name, '--kernel', file, '--memory', '32', '--guest-ring', `${ring}`, '--timeout', '60'],
      ...['--cmdline', `con=${console} start-info`],
    );
    expect(result).toMatchObject({ status: 0, stderr: '' });
    expect(result.stdout).toMatch(/^case start-info: magic=xen-3\.0-x86_64 nr_pages=8192 /m);
    expect(await leftovers(name)).toEqual([]);
  }
});

test.each([
  [1, 'ud2', [0x0f, 0x0b], /#UD invalid opcode \(vector 6, error code 0x0\) in guest kernel mode/],
  [3, 'ud2', [0x0f, 0x0b], /#UD invalid opcode \(vector 6, error code 0x0\) in guest kernel mode/],
  // mov 0x10, %al
  [
    1,
    'null',
    [0x8a, 0x04, 0x25, 0x10, 0, 0, 0],
    /#PF page fault .* in guest kernel mode at address 0x10 \(read, not mapped\)/,
  ],
  [
    3,
    'null',
    [0x8a, 0x04, 0x25, 0x10, 0, 0, 0],
    /#PF page fault .* in guest kernel mode at address 0x10 \(read, not mapped\)/,
  ],
  // xor %esp, %esp; push %rax
  [3, 'stack', [0x31, 0xe4, 0x50], /#(PF|SS|DF) .* in guest kernel mode|kernel stack could not take/],
] as const)('ring %d: %s with no handler: exit status 3, cause in words', async (ring, what, code, cause) => {
  const name = uniqueName();
  const file = kernel(`${what}-${ring}`, code);
  const result = await xenlighten(
    ...['run', '--name', name, '--kernel', file, '--memory', '64', '--guest-ring', `${ring}`, '--timeout', '60'],
  );
  expect({ status: result.status, stdout: result.stdout }).toEqual({ status: 3, stdout: '' });
  expect(result.stderr).toMatch(cause);
  expect(result.stderr).toMatch(/^ {2}rip [0-9a-f]{4}:ffffffff8100004/m);
  expect(result.stderr).toMatch(/^Stack$/m);
  expect(result.stderr).toMatch(/^Last 0 hypercalls/m);
  expect(await leftovers(name)).toEqual([]);
});
