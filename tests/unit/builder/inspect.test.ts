import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { XEN_ELFNOTE as N } from '../../../abi/xen/elf-note';
import { unpackImage } from '../../../shim/xen/builder/image';
import { formatReport, inspectImage, inspectKernel, type KernelReport } from '../../../shim/xen/builder/inspect';
import { codeLike, makeBzImage, makeElf, notes, text, tinyLinux, u32, u64 } from './images';

const inspect = async (bytes: Buffer): Promise<KernelReport> => inspectImage(await unpackImage('/boot/k', bytes));

test('a Linux bzImage, in full', async () => {
  const payload = readFileSync(join(__dirname, '../../fixtures/builder/tiny.xz'));
  const bytes = makeBzImage(payload, { version: '6.1.0-test (someone@host) #1 SMP' });
  expect(formatReport(await inspect(bytes))).toBe(`/boot/k
  format       bzImage, boot protocol 2.15, ${bytes.length} bytes
  version      6.1.0-test (someone@host) #1 SMP
  compression  xz, ${payload.length} bytes from ${tinyLinux().length}
  ELF notes
    Xen    6 GUEST_OS            "linux"
    Xen    7 GUEST_VERSION       "2.6"
    Xen    5 XEN_VERSION         "xen-3.0"
    Xen    3 VIRT_BASE           0xffffffff80000000
    Xen   15 INIT_P2M            0x8000000000
    Xen    1 ENTRY               0xffffffff81000040
    Xen   10 FEATURES            "!writable_page_tables|pae_pgdir_above_4gb"
    Xen   17 SUPPORTED_FEATURES  0x8801 (writable_page_tables|dom0|linux_rsdp_unrestricted)
    Xen    9 PAE_MODE            "yes"
    Xen    8 LOADER              "generic"
    Xen   13 L1_MFN_VALID        mask 0x1 value 0x1
    Xen   14 SUSPEND_CANCEL      0x1
    Xen   16 MOD_START_PFN       0x1
    Xen   12 HV_START_LOW        0xffff800000000000
    Xen    4 PADDR_OFFSET        0x0
    Xen   18 PHYS32_ENTRY        0x1000850
  boots: yes
    64-bit PV, entry at 0xffffffff81000040
    kernel in frames 0x1000 to 0x100b, mapped from 0xffffffff80000000
    no hypercall page asked for
    p2m list at 0x8000000000
    ramdisk by frame number, unmapped
    at least 21 MB of memory to place it in, ramdisk not counted`);
});

test('a small kernel with a hypercall page', async () => {
  const report = await inspect(
    makeElf({
      segments: [{ paddr: 0x100000n, bytes: codeLike(0x2000) }],
      entry: 0x100000n,
      notes: [
        { type: N.XEN_ELFNOTE_XEN_VERSION, desc: text('xen-3.0') },
        { type: N.XEN_ELFNOTE_LOADER, desc: text('generic') },
        { type: N.XEN_ELFNOTE_HYPERCALL_PAGE, desc: u64(0x101000n) },
        { type: N.XEN_ELFNOTE_PHYS32_RELOC, desc: Buffer.concat([u32(0x200000), u32(0x1000000), u32(0x3fffffff)]) },
        { type: 3, owner: 'GNU', desc: Buffer.from('0123456789abcdef', 'hex') },
      ],
    }),
  );
  expect(report).toMatchObject({ format: 'ELF', compression: 'none', boots: true, problems: [] });
  expect(report.notes.slice(-2)).toEqual([
    { owner: 'Xen', type: 19, name: 'PHYS32_RELOC', value: 'align 0x200000 from 0x1000000 to 0x3fffffff' },
    { owner: 'GNU', type: 3, name: 'type 3', value: '0123456789abcdef' },
  ]);
  expect(report.how).toEqual([
    '64-bit PV, entry at 0x100000',
    'kernel in frames 0x100 to 0x102, mapped from 0x0',
    'hypercall page in frame 0x101',
    'p2m list in the initial mapping',
    'ramdisk in the initial mapping',
    'at least 4 MB of memory to place it in, ramdisk not counted',
  ]);
});

test('every reason is given, not only the first', async () => {
  const report = await inspect(
    makeElf({
      segments: [{ paddr: 0x1000000n, bytes: codeLike(0x2000) }],
      notes: notes(
        [N.XEN_ELFNOTE_ENTRY],
        { type: N.XEN_ELFNOTE_XEN_VERSION, desc: text('xen-4.0\x07') },
        { type: N.XEN_ELFNOTE_FEATURES, desc: text('!dom0|!flying') },
      ),
    }),
  );
  expect(report.boots).toBe(false);
  expect(report.how).toEqual([]);
  expect(report.problems).toHaveLength(4);
  expect(formatReport(report)).toMatch(/boots: no\n {4}\/boot\/k: a PVH kernel without PV support: found/);
  // Nothing from the file reaches a terminal unfiltered in the notes.
  expect(report.notes.find((n) => n.name === 'XEN_VERSION')?.value).toBe('"xen-4.0?"');
});

test('a kernel for another machine is a report, not an exception', async () => {
  const report = await inspect(makeElf({ segments: [], machine: 183 }));
  expect(report).toMatchObject({ boots: false, notes: [] });
  expect(report.problems).toEqual([
    '/boot/k: a kernel for another machine: found a 64-bit ELF for ARM64, wanted a 64-bit kernel for x86-64',
  ]);
});

test('a file that is missing is an error', async () => {
  await expect(inspectKernel('/nonexistent/k')).rejects.toThrow(/no such file/);
});
