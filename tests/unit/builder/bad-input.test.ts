/** Every way in which a kernel file can be wrong: the file, the thing found, the thing wanted. */
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { gzipSync } from 'node:zlib';
import { XEN_ELFNOTE as N } from '../../../abi/xen/elf-note';
import { UsageError } from '../../../shim/errors';
import { decodeKernel, loadKernel, unpackImage } from '../../../shim/xen/builder/image';
import { inspectImage } from '../../../shim/xen/builder/inspect';
import { LINUX_NOTES, makeBzImage, makeElf, makeNote, notes, text, tinyLinux, u32, u64 } from './images';

const FILE = '/boot/vmlinuz-test';
const code = Buffer.alloc(0x2000, 0x90);
const at16M = { paddr: 0x1000000n, vaddr: 0xffffffff81000000n, bytes: code };
const linux = (...more: Parameters<typeof notes>[1][]): Buffer =>
  makeElf({ segments: [at16M], notes: notes([], ...more) });
const without = (...types: number[]): Buffer => makeElf({ segments: [at16M], notes: notes(types) });

async function failure(bytes: Buffer): Promise<string> {
  const error = await unpackImage(FILE, bytes)
    .then(decodeKernel)
    .then(
      () => new Error('no error'),
      (e: unknown) => e,
    );
  expect(error).toBeInstanceOf(UsageError);
  const usage = error as UsageError;
  expect(usage.exitStatus).toBe(1);
  expect(usage.file).toBe(FILE);
  expect(usage.message).toBe(`${FILE}: ${usage.summary}: found ${usage.found}, wanted ${usage.wanted}`);
  expect(usage.message).not.toMatch(/undefined|\n/);
  return usage.message.slice(FILE.length + 2);
}

const KERNEL = 'a bzImage (vmlinuz), an x86-64 ELF, or a gzipped one';

const TABLE: readonly (readonly [string, Buffer, string])[] = [
  ['an empty file', Buffer.alloc(0), `not a kernel image: found an empty file, wanted ${KERNEL}`],
  ['a script', Buffer.from('#!/bin/sh\necho\n'), `not a kernel image: found a text file, wanted ${KERNEL}`],
  [
    'noise',
    Buffer.from([1, 2, 3, 4, 5, 6, 7, 8]),
    `not a kernel image: found data that starts with 01 02 03 04 05 06, wanted ${KERNEL}`,
  ],
  [
    'a ramdisk',
    Buffer.from(`070701${'\0'.repeat(200)}`),
    `not a kernel image: found a cpio archive (a ramdisk?), wanted ${KERNEL}`,
  ],
  [
    'a compressed ramdisk',
    gzipSync(Buffer.from(`070701${'\0'.repeat(200)}`)),
    `not a kernel image: found gzipped a cpio archive (a ramdisk?), wanted ${KERNEL}`,
  ],
  [
    'an xz file',
    Buffer.from('fd377a585a000001', 'hex'),
    `not a kernel image: found a file compressed with xz, wanted ${KERNEL}`,
  ],
  [
    'an EFI program',
    Buffer.concat([Buffer.from('MZ'), Buffer.alloc(600)]),
    `not a kernel image: found a PE executable without a Linux boot header, wanted ${KERNEL}`,
  ],
  [
    'half an ELF header',
    tinyLinux().subarray(0, 40),
    'truncated ELF image: found 40 bytes, wanted at least the 64 bytes of an ELF header',
  ],
  [
    'an ELF cut short',
    tinyLinux().subarray(0, 20000),
    'truncated ELF image: found 20000 bytes, wanted 24232, the end of program segment 0',
  ],
  [
    'an ELF cut in the program headers',
    tinyLinux().subarray(0, 100),
    'truncated ELF image: found 100 bytes, wanted 0xe8, the end of the program headers',
  ],
  [
    'a segment beyond 2^63',
    makeElf({ segments: [{ ...at16M, fileOffset: 0xffffffffffffff00n }], notes: LINUX_NOTES }),
    expect.stringMatching(/^truncated ELF image: found \d+ bytes, wanted 184467440737095\d+, the end of/) as never,
  ],
  [
    'a 32-bit kernel',
    makeElf({ segments: [at16M], notes: LINUX_NOTES, elfClass: 1, machine: 3 }),
    'a 32-bit kernel: found a 32-bit ELF for 32-bit x86, wanted a 64-bit kernel for x86-64',
  ],
  [
    'an x32 kernel',
    makeElf({ segments: [at16M], notes: LINUX_NOTES, elfClass: 1 }),
    'a 32-bit kernel: found a 32-bit ELF for x86-64, wanted a 64-bit kernel for x86-64',
  ],
  [
    'an ARM64 kernel',
    makeElf({ segments: [at16M], notes: LINUX_NOTES, machine: 183 }),
    'a kernel for another machine: found a 64-bit ELF for ARM64, wanted a 64-bit kernel for x86-64',
  ],
  [
    'a module',
    makeElf({ segments: [at16M], notes: LINUX_NOTES, type: 1 }),
    'not an executable ELF: found a relocatable object, wanted an executable (a vmlinux)',
  ],
  [
    'a program without notes',
    makeElf({ segments: [at16M] }),
    'not a Xen PV kernel: found no Xen ELF notes, wanted a kernel built with Xen PV support (Linux: CONFIG_XEN_PV=y)',
  ],
  [
    'notes of others only',
    makeElf({ segments: [at16M], notes: [{ type: 1, desc: text('x'), owner: 'GNU' }] }),
    'not a Xen PV kernel: found no Xen ELF notes, wanted a kernel built with Xen PV support (Linux: CONFIG_XEN_PV=y)',
  ],
  [
    'a PVH-only kernel',
    without(N.XEN_ELFNOTE_ENTRY),
    'a PVH kernel without PV support: found the note PHYS32_ENTRY but no ENTRY, wanted a PV kernel (Linux: CONFIG_XEN_PV=y)',
  ],
  [
    'another Xen',
    linux({ type: N.XEN_ELFNOTE_XEN_VERSION, desc: text('xen-2.0') }),
    'built for another Xen: found XEN_VERSION "xen-2.0", wanted XEN_VERSION "xen-3.0"',
  ],
  [
    'no Xen version',
    without(N.XEN_ELFNOTE_XEN_VERSION),
    'built for another Xen: found XEN_VERSION none, wanted XEN_VERSION "xen-3.0"',
  ],
  [
    'another loader',
    linux({ type: N.XEN_ELFNOTE_GUEST_OS, desc: text('Plan9') }, { type: N.XEN_ELFNOTE_LOADER, desc: text('special') }),
    'a kernel for another loader: found GUEST_OS "Plan9" and LOADER "special", wanted GUEST_OS "linux" or LOADER "generic"',
  ],
  [
    'symbols to be loaded',
    linux({ type: N.XEN_ELFNOTE_BSD_SYMTAB, desc: text('yes') }),
    'an unsupported note: found BSD_SYMTAB "yes" (symbols to be loaded behind the kernel), wanted no such note',
  ],
  [
    'a required feature that PV cannot have',
    linux({ type: N.XEN_ELFNOTE_FEATURES, desc: text('!auto_translated_physmap') }),
    'an unsupported required feature: found "!auto_translated_physmap" (memory translated by the hypervisor (HVM or PVH)), wanted a kernel that runs without',
  ],
  [
    'a required feature that nobody knows',
    linux({ type: N.XEN_ELFNOTE_FEATURES, desc: text('pae_pgdir_above_4gb|!time_travel') }),
    'an unsupported required feature: found "!time_travel" (not known), wanted a kernel that runs without',
  ],
  [
    'a control domain kernel',
    linux({ type: N.XEN_ELFNOTE_FEATURES, desc: text('!dom0') }),
    'an unsupported required feature: found "!dom0" (the privileges of the control domain), wanted a kernel that runs without',
  ],
  [
    'a number that is none',
    linux({ type: N.XEN_ELFNOTE_VIRT_BASE, desc: text('xen-3.0').subarray(0, 5) }),
    'malformed note VIRT_BASE: found a descriptor of 5 bytes, wanted a number of 4 or 8 bytes',
  ],
  [
    'VIRT_BASE inside a page',
    linux({ type: N.XEN_ELFNOTE_VIRT_BASE, desc: u64(0xffffffff80000010n) }),
    'malformed note VIRT_BASE: found 0xffffffff80000010, wanted a page-aligned address',
  ],
  [
    'the entry outside',
    linux({ type: N.XEN_ELFNOTE_ENTRY, desc: u64(0xffffffff81002000n) }),
    'entry point outside the kernel: found ENTRY 0xffffffff81002000, wanted an address from 0xffffffff81000000 to 0xffffffff81002000',
  ],
  [
    'the entry of the ELF header outside',
    makeElf({ segments: [at16M], entry: 0x10n, notes: notes([N.XEN_ELFNOTE_ENTRY, N.XEN_ELFNOTE_PHYS32_ENTRY]) }),
    'entry point outside the kernel: found e_entry 0x10, wanted an address from 0xffffffff81000000 to 0xffffffff81002000',
  ],
  [
    'the hypercall page outside',
    linux({ type: N.XEN_ELFNOTE_HYPERCALL_PAGE, desc: u64(0xffffffff80fff000n) }),
    'hypercall page outside the kernel: found HYPERCALL_PAGE 0xffffffff80fff000, wanted an address from 0xffffffff81000000 to 0xffffffff81002000, page-aligned',
  ],
  [
    'the hypercall page inside a page',
    linux({ type: N.XEN_ELFNOTE_HYPERCALL_PAGE, desc: u64(0xffffffff81001800n) }),
    'hypercall page outside the kernel: found HYPERCALL_PAGE 0xffffffff81001800, wanted an address from 0xffffffff81000000 to 0xffffffff81002000, page-aligned',
  ],
  [
    'overlapping segments',
    makeElf({ segments: [at16M, { paddr: 0x1001ff0n, bytes: code }], notes: LINUX_NOTES }),
    'overlapping kernel segments: found 0x1000000+0x2000 and 0x1001ff0+0x2000, wanted segments that do not overlap',
  ],
  [
    'more in the file than in memory',
    makeElf({ segments: [{ ...at16M, memSize: 0x1000n }], notes: LINUX_NOTES }),
    'malformed program segment: found 0x2000 bytes in the file for 0x1000 in memory, wanted no more in the file than in memory',
  ],
  [
    'a segment below PADDR_OFFSET',
    linux({ type: N.XEN_ELFNOTE_PADDR_OFFSET, desc: u64(0x2000000n) }),
    'a kernel segment outside memory: found a segment at 0x1000000 (PADDR_OFFSET 0x2000000) of 0x2000 bytes, wanted addresses below 0x400000000000 after PADDR_OFFSET is taken off',
  ],
  [
    'nothing to load',
    makeElf({ segments: [], notes: LINUX_NOTES }),
    'nothing to load: found no PT_LOAD segment, wanted a linked kernel',
  ],
  [
    'half a bzImage header',
    makeBzImage(Buffer.alloc(10)).subarray(0, 0x220),
    'truncated bzImage: found 544 bytes, wanted at least the 612 bytes of its header',
  ],
  [
    'a payload cut short',
    makeBzImage(Buffer.alloc(5000, 1)).subarray(0, 6000),
    'truncated payload: found a file of 6000 bytes, wanted 7764: its header places 5000 bytes of payload at 2764',
  ],
  [
    'an ancient bzImage',
    makeBzImage(Buffer.alloc(100), { protocol: 0x0206 }),
    "a bzImage too old to unpack: found boot protocol 2.06, wanted 2.08 or later (Linux 2.6.25), or the kernel's vmlinux",
  ],
  [
    'an empty payload',
    makeBzImage(Buffer.alloc(0)),
    'a bzImage without a kernel: found a payload of 0 bytes, wanted a payload',
  ],
  [
    'an unknown compression',
    makeBzImage(Buffer.from('Zebra compressed', 'latin1')),
    'unknown compression: found a payload that starts with 5a 65 62 72 61 20, wanted gzip, bzip2, xz, lzma, lz4 or zstd',
  ],
  [
    'something else in the payload',
    makeBzImage(gzipSync(Buffer.from('not an ELF'))),
    'not a kernel image: found payload without ELF magic, wanted an x86-64 ELF',
  ],
  [
    'a 32-bit kernel in a bzImage',
    makeBzImage(gzipSync(makeElf({ segments: [at16M], elfClass: 1, machine: 3 }))),
    'a 32-bit kernel: found a 32-bit ELF for 32-bit x86, wanted a 64-bit kernel for x86-64',
  ],
];

test.each(TABLE)('%s', async (_what, bytes, message) => {
  expect(await failure(bytes)).toEqual(message);
});

test('writable_page_tables may be required: every Linux does, and runs without', async () => {
  const kernel = decodeKernel(await unpackImage(FILE, tinyLinux()));
  expect(kernel.notes.requiredFeatures).toEqual(['writable_page_tables']);
  expect(kernel.facts.isLinux).toBe(true);
});

test('SUPPORTED_FEATURES requires nothing', async () => {
  const all = linux({ type: N.XEN_ELFNOTE_SUPPORTED_FEATURES, desc: u32(0xffffffff) });
  expect(inspectImage(await unpackImage(FILE, all)).boots).toBe(true);
});

test('unknown Xen notes are ignored', async () => {
  const odd = linux({ type: 77, desc: Buffer.from([1, 2, 3]) });
  const report = inspectImage(await unpackImage(FILE, odd));
  expect(report.boots).toBe(true);
  expect(report.notes).toContainEqual({ owner: 'Xen', type: 77, name: 'note_77', value: '010203' });
});

test('an ELF as the payload of a bzImage needs no compression', async () => {
  const image = await unpackImage(FILE, makeBzImage(tinyLinux(), { setupSects: 0 }));
  expect(image).toMatchObject({ format: 'bzImage', compression: undefined });
  expect(decodeKernel(image).facts.startPfn).toBe(0x1000);
});

test('notes with damaged sizes end the list without an error of their own', async () => {
  const bytes = tinyLinux();
  const firstNote = bytes.indexOf(makeNote(LINUX_NOTES[0]));
  for (const size of [0xffffffff, 0xfffffffe, 0x7fffffff, 0x10000]) {
    const damaged = Buffer.from(bytes);
    damaged.writeUInt32LE(size, firstNote + 4);
    expect(await failure(damaged)).toMatch(/^not a Xen PV kernel: found no Xen ELF notes/);
  }
});

describe('files', () => {
  let directory: string;
  beforeAll(() => {
    directory = mkdtempSync(join(tmpdir(), 'xl-files-'));
    writeFileSync(join(directory, 'empty'), '');
    writeFileSync(join(directory, 'good'), tinyLinux());
  });
  afterAll(() => rmSync(directory, { recursive: true, force: true }));

  test.each([
    ['missing', 'cannot read the kernel: found no such file, wanted a readable kernel file'],
    ['.', 'cannot read the kernel: found a directory, wanted a readable kernel file'],
    // Windows does not tell it from a missing one.
    [
      'good/x',
      `cannot read the kernel: found ${process.platform === 'win32' ? 'no such file' : 'a file where its path needs a directory'}, wanted a readable kernel file`,
    ],
    ['empty', `not a kernel image: found an empty file, wanted ${KERNEL}`],
  ])('%s', async (name, message) => {
    const file = join(directory, name);
    await expect(loadKernel(file)).rejects.toMatchObject({
      name: 'UsageError',
      exitStatus: 1,
      file,
      message: `${file}: ${message}`,
    });
  });

  test('a device', async () => {
    await expect(loadKernel('/dev/null')).rejects.toThrow(
      '/dev/null: cannot read the kernel: found something that is not a regular file, wanted a readable kernel file',
    );
  });

  test('good', async () => {
    const kernel = await loadKernel(join(directory, 'good'));
    expect(kernel.image.format).toBe('ELF');
    expect(kernel.facts).toMatchObject({ startPfn: 0x1000, endPfn: 0x100b, entry: 0xffffffff81000040n });
  });
});
