/**
 * Input that is wrong, given to the command: exit status 1, one line on stderr that names the file, what was found and
 * what was wanted, nothing on stdout, nothing left behind.
 */
import { chmodSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { gzipSync } from 'node:zlib';
import { XEN_ELFNOTE as N } from '../../../abi/xen/elf-note';
import { packageRoot } from '../../../shim/partition/native-files';
import { makeBzImage, makeElf, notes, text, tinyLinux, u32, u64 } from '../../unit/builder/images';
import { leftovers, uniqueName, Xenlighten, xenlighten } from '../lib/xenlighten';

const directory = mkdtempSync(path.join(tmpdir(), 'xenlighten-bad-input-'));
afterAll(() => rmSync(directory, { recursive: true, force: true }));

function file(name: string, bytes: Buffer | string): string {
  const full = path.join(directory, name);
  writeFileSync(full, bytes);
  return full;
}

const code = { paddr: 0x1000000n, vaddr: 0xffffffff81000000n, bytes: Buffer.alloc(0x2000, 0x90) };
const linux = (...more: Parameters<typeof notes>[1][]): Buffer =>
  makeElf({ segments: [code], notes: notes([], ...more) });
const xz = readFileSync(path.join(packageRoot(), 'tests', 'fixtures', 'builder', 'tiny.xz'));
const good = file('good.elf', tinyLinux());

/** Arguments behind `run --name NAME`; the file (or option) that the message starts with; found; wanted. */
const CASES: readonly (readonly [string, () => string[], string, string, string])[] = [
  [
    'a text file',
    () => ['--kernel', file('text', 'hello\n')],
    'text',
    'a text file',
    'a bzImage (vmlinuz), an x86-64 ELF, or a gzipped one',
  ],
  ['an empty file', () => ['--kernel', file('empty', '')], 'empty', 'an empty file', 'a bzImage'],
  ['a gzipped text', () => ['--kernel', file('gz', gzipSync('hello\n'))], 'gz', 'gzipped a text file', 'a bzImage'],
  ['a payload cut short', () => ['--kernel', file('cut', makeBzImage(xz.subarray(0, 9000)))], 'cut', '', ''],
  [
    'a bzImage cut short',
    () => ['--kernel', file('short', makeBzImage(xz).subarray(0, 8000))],
    'short',
    '8000 bytes',
    '',
  ],
  [
    'a damaged payload',
    () => [
      '--kernel',
      file('damaged', makeBzImage(Buffer.concat([xz.subarray(0, 400), Buffer.alloc(500), xz.subarray(900)]))),
    ],
    'damaged',
    '',
    '',
  ],
  [
    'no Xen notes',
    () => ['--kernel', file('bare', makeElf({ segments: [code], notes: [] }))],
    'bare',
    'no Xen ELF notes',
    'a kernel built with Xen PV support (Linux: CONFIG_XEN_PV=y)',
  ],
  [
    'a PVH-only kernel',
    () => ['--kernel', file('pvh', makeElf({ segments: [code], notes: notes([N.XEN_ELFNOTE_ENTRY]) }))],
    'pvh',
    'the note PHYS32_ENTRY but no ENTRY',
    'a PV kernel (Linux: CONFIG_XEN_PV=y)',
  ],
  [
    'a 32-bit kernel',
    () => ['--kernel', file('i386', makeElf({ segments: [code], notes: notes([]), elfClass: 1, machine: 3 }))],
    'i386',
    '32-bit',
    'x86-64',
  ],
  [
    'a kernel for ARM',
    () => ['--kernel', file('arm', makeElf({ segments: [code], notes: notes([]), machine: 183 }))],
    'arm',
    '',
    'x86-64',
  ],
  [
    'a note that is not supported',
    () => ['--kernel', file('bsd', linux({ type: N.XEN_ELFNOTE_BSD_SYMTAB, desc: text('yes') }))],
    'bsd',
    'BSD_SYMTAB "yes"',
    'no such note',
  ],
  [
    'a required feature',
    () => ['--kernel', file('auto', linux({ type: N.XEN_ELFNOTE_FEATURES, desc: text('!auto_translated_physmap') }))],
    'auto',
    '"!auto_translated_physmap" (memory translated by the hypervisor (HVM or PVH))',
    'a kernel that runs without',
  ],
  [
    'another Xen',
    () => ['--kernel', file('xen4', linux({ type: N.XEN_ELFNOTE_XEN_VERSION, desc: text('xen-4.0') }))],
    'xen4',
    'XEN_VERSION "xen-4.0"',
    'XEN_VERSION "xen-3.0"',
  ],
  [
    'a malformed note',
    () => ['--kernel', file('note', linux({ type: N.XEN_ELFNOTE_ENTRY, desc: Buffer.concat([u64(0n), u32(0)]) }))],
    'note',
    'a descriptor of 12 bytes',
    'a number of 4 or 8 bytes',
  ],
  [
    'too little memory',
    () => ['--kernel', good, '--memory', '8'],
    'good.elf',
    '8 MB of memory',
    'at least 21 MB to place the kernel in',
  ],
  [
    'a ramdisk that is too large',
    () => ['--kernel', good, '--memory', '24', '--ramdisk', file('large', Buffer.alloc(30 << 20))],
    'large',
    '31457280 bytes of ramdisk for a domain with 24 MB of memory',
    'MB to place it in',
  ],
  [
    'a kernel that is missing',
    () => ['--kernel', path.join(directory, 'missing')],
    'missing',
    'no such file',
    'a readable kernel file',
  ],
  ['a kernel that is a directory', () => ['--kernel', directory], '', 'a directory', 'a readable kernel file'],
  [
    'a ramdisk that is missing',
    () => ['--kernel', good, '--ramdisk', path.join(directory, 'missing')],
    'missing',
    'no such file',
    'a readable ramdisk file',
  ],
  [
    'a configuration that is missing',
    () => [path.join(directory, 'none.cfg')],
    'none.cfg',
    'no such file',
    'a readable configuration file',
  ],
  [
    'a malformed line',
    () => [file('line.cfg', `kernel = "${good}"\nmemory 64\n`)],
    'line.cfg:2',
    '"64"',
    '"=" after memory',
  ],
  ['an unfinished string', () => [file('string.cfg', `kernel = "${good}\n`)], 'string.cfg:1', '', 'a closing "'],
  [
    'an HVM guest',
    () => [file('hvm.cfg', `kernel = "${good}"\ntype = "hvm"\n`)],
    'hvm.cfg:2',
    'type = "hvm"',
    'type = "pv"',
  ],
  [
    'a disk',
    () => [file('disk.cfg', `kernel = "${good}"\n\ndisk = [ "x.img,qcow2,xvda" ]\n`)],
    'disk.cfg:3',
    'x.img,qcow2,xvda',
    'a raw image or a VHD',
  ],
  ['65 vCPUs', () => [file('smp.cfg', `kernel = "${good}"\nvcpus = 65\n`)], 'smp.cfg:2', 'vcpus = 65', '1 to 64'],
  [
    'maxvcpus below vcpus',
    () => [file('fewer.cfg', `kernel = "${good}"\nvcpus = 4\nmaxvcpus = 2\n`)],
    'fewer.cfg',
    'maxvcpus of 2 with vcpus of 4',
    'maxvcpus at least as large as vcpus',
  ],
  ['no vCPU', () => ['--kernel', good, '--vcpus', '0'], '', '"0"', 'a whole number from 1 to 64'],
  [
    'a configuration without a kernel',
    () => [file('no-kernel.cfg', 'memory = 64\n')],
    'no-kernel.cfg',
    'neither kernel= nor --kernel',
    'a kernel to boot',
  ],
  [
    'maxmem below memory',
    () => ['--kernel', good, '--memory', '64', '--maxmem', '32'],
    '',
    'maxmem of 32 MB with memory of 64 MB',
    'maxmem at least as large as memory',
  ],
  [
    'a command line that is too long',
    () => ['--kernel', good, '--memory', '64', '--cmdline', 'x'.repeat(1100)],
    '',
    '1100 bytes',
    'at most 1023',
  ],
  ['an unknown option', () => ['--kernel', good, '--frobnicate'], '', "Unknown option '--frobnicate'", 'options as'],
  ['an unknown engine', () => ['--kernel', good, '--engine', 'vax'], '', '"vax"', 'auto, whp, kvm, qemu'],
  ['an unknown ring', () => ['--kernel', good, '--guest-ring', '2'], '', '"2"', 'auto, 1, 3'],
  ['memory that is no number', () => ['--kernel', good, '--memory', '1G'], '', '"1G"', 'a whole number'],
  ['a timeout of nothing', () => ['--kernel', good, '--timeout', '0'], '', '"0"', 'a whole number'],
  ['an unknown hypercall', () => ['--kernel', good, '--cold', 'mmu_updat'], '', '"mmu_updat"', 'mmu_update'],
  [
    'a hypercall that is never cold',
    () => ['--kernel', good, '--cold', 'iret'],
    '',
    'iret',
    'operations other than this one',
  ],
  [
    'statistics nowhere',
    () => ['--kernel', good, '--stats', path.join(directory, 'no', 'where.json')],
    '',
    'ENOENT',
    'a file that can be written',
  ],
];

test.each(CASES)('%s', async (_title, args, named, found, wanted) => {
  const name = uniqueName();
  // A configuration file brings its own name; the option wins.
  const result = await xenlighten('run', '--name', name, ...args());
  expect({ status: result.status, stdout: result.stdout }).toEqual({ status: 1, stdout: '' });
  const prefix = named === '' ? '' : `${directory}/${named}: `;
  expect(result.stderr).toMatch(/^xenlighten: [^\n]+: found [^\n]+, wanted [^\n]+\n$/);
  expect(result.stderr.startsWith(`xenlighten: ${prefix}`)).toBe(true);
  const [, told, asked] = /: found (.+?), wanted (.+)\n$/.exec(result.stderr) ?? [];
  expect(told).toContain(found);
  expect(asked).toContain(wanted);
  expect(await leftovers(name)).toEqual([]);
});

test('files that may not be read', async () => {
  const secret = file('secret', 'hello\n');
  chmodSync(secret, 0);
  const { status, stderr } = await xenlighten('run', '--kernel', secret);
  expect(status).toBe(1);
  // Root may read everything, and then sees what is in it.
  expect(stderr).toMatch(/found (no permission to read it|a text file), wanted /);
  expect(stderr).toContain(`${secret}: `);
});

test('no command, an unknown one, too many arguments', async () => {
  expect(await xenlighten()).toMatchObject({ status: 1, stdout: '' });
  expect((await xenlighten('walk')).stderr).toMatch(
    /^xenlighten: unknown command: found "walk", wanted run or .*inspect.*\n$/,
  );
  expect((await xenlighten('run', 'a', 'b')).stderr).toContain('found "a" "b", wanted xenlighten run [GUEST.cfg]');
});

test('help and version', async () => {
  const help = await xenlighten('--help');
  expect(help).toMatchObject({ status: 0, stderr: '' });
  expect(help.stdout).toContain('Exit status: 0 success');
  expect((await xenlighten('run', '--help')).stdout).toContain('--guest-ring');
  expect((await xenlighten('--version')).stdout).toMatch(/^xenlighten \d+\.\d+\.\d+\n$/);
});

describe('inspect', () => {
  test('a kernel that boots, and one that does not', async () => {
    const boots = await xenlighten('inspect', good);
    expect(boots.status).toBe(0);
    expect(boots.stdout).toMatch(/boots: yes\n/);
    const not = await xenlighten(
      'inspect',
      file('pvh2', makeElf({ segments: [code], notes: notes([N.XEN_ELFNOTE_ENTRY]) })),
    );
    expect(not.status).toBe(1);
    expect(not.stdout).toMatch(/boots: no\n.*PHYS32_ENTRY but no ENTRY/);
    expect(not.stderr).toBe('');
  });
  test('what is no kernel', async () => {
    expect(await xenlighten('inspect', file('text2', 'hello\n'))).toMatchObject({ status: 1, stdout: '' });
  });
});

describe('a host without what is needed', () => {
  test('no QEMU: exit status 2, the package to install, nothing left', async () => {
    const name = uniqueName();
    const empty = path.join(directory, 'empty-path');
    mkdirSync(empty);
    const run = new Xenlighten(['run', '--name', name, '--kernel', good, '--memory', '64'], { env: { PATH: empty } });
    expect((await run.ended).status).toBe(2);
    expect(run.complaints).toMatch(
      /^xenlighten: qemu-system-x86_64 is not in PATH: install it with 'apt-get install qemu-system-x86'\n$/,
    );
    expect(await leftovers(name)).toEqual([]);
    expect(readdirSync(empty)).toEqual([]);
  });
});
