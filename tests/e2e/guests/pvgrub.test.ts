/**
 * GRUB as a PV kernel without a disk: an image of its own, with a kernel in its memory disk, hands the domain over to that.
 * In ring 3 and with two vCPUs; debian.test.ts has the way from a disk in the ring that is usual.
 */
import { execFileSync } from 'node:child_process';
import { copyFileSync, existsSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { hasProgram } from '../lib/debian';
import { guestImage } from '../lib/guest-image';
import { debianKernels } from '../lib/kernels';
import { endAll, leftovers, uniqueName, Xenlighten, xenlighten } from '../lib/xenlighten';

const MODULES = '/usr/lib/grub/x86_64-xen';
const problem = !hasProgram('grub-mkimage')
  ? 'grub-mkimage is not installed here'
  : existsSync(MODULES)
    ? undefined
    : `there is no ${MODULES} here`;
if (problem !== undefined) console.warn(`skipped: GRUB's hand-over: ${problem}`);

const directory = mkdtempSync(path.join(tmpdir(), 'xenlighten-grub-'));
afterEach(endAll);
afterAll(() => rmSync(directory, { recursive: true, force: true }));

/** A GRUB that boots `kernel` and `ramdisk` out of itself. */
function grubWith(kernel: string, ramdisk: string, cmdline: string): string {
  const inside = path.join(directory, 'inside');
  mkdirSync(inside, { recursive: true });
  copyFileSync(kernel, path.join(inside, 'vmlinuz'));
  copyFileSync(ramdisk, path.join(inside, 'initrd'));
  const [archive, script, image] = ['memdisk.tar', 'early.cfg', 'grub.bin'].map((name) => path.join(directory, name));
  execFileSync('tar', ['-cf', archive ?? '', '-C', inside, '.']);
  writeFileSync(script ?? '', `linux (memdisk)/vmlinuz ${cmdline}\ninitrd (memdisk)/initrd\nboot\n`);
  execFileSync('grub-mkimage', [
    ...['-O', 'x86_64-xen', '-d', MODULES, '-m', archive ?? '', '-c', script ?? '', '-p', '(memdisk)/boot/grub'],
    ...['-o', image ?? '', 'memdisk', 'tar', 'linux', 'xzio', 'gzio'],
  ]);
  return image ?? '';
}

(problem === undefined ? test : test.skip)(
  'GRUB hands over to a kernel: ring 3, two vCPUs',
  async () => {
    const grub = grubWith(debianKernels().stock, guestImage().ramdisk, 'console=hvc0 quiet by-grub');
    const name = uniqueName();
    const args = ['--name', name, '--kernel', grub, '--guest-ring', '3', '--vcpus', '2', '--memory', '512'];
    const guest = new Xenlighten(['run', ...args]);
    await guest.says(/^READY\r?\n[\s\S]*\/ # /m);
    expect(guest.stdout).not.toMatch(/^trouble: /m);
    expect(guest.stdout).toContain('dmesg: on Xen');
    guest.type('cat /proc/cmdline; grep -c ^processor /proc/cpuinfo; echo "end$((6*7))"\n');
    await guest.says(/^console=hvc0 quiet by-grub\r?\n2\r?\nend42\r?$/m);
    guest.type('poweroff -f\n');
    expect(await guest.ended).toEqual({ status: 0, signal: null });
    expect(guest.complaints).toBe('');
    expect(await leftovers(name)).toEqual([]);
  },
  180_000,
);

test('a boot loader without a disk, or one that is not had, is wrong usage', async () => {
  expect(await xenlighten('run', '--bootloader', 'pvgrub')).toMatchObject({
    status: 1,
    stdout: '',
    stderr: expect.stringContaining('no disk to boot from') as string,
  });
  expect(await xenlighten('run', '--bootloader', 'pvgrub32')).toMatchObject({
    status: 1,
    stderr: expect.stringContaining('--bootloader: unusable value: found "pvgrub32", wanted pvgrub') as string,
  });
  const both = await xenlighten('run', '--bootloader', 'pygrub', '--kernel', '/k');
  expect(both).toMatchObject({ status: 1, stderr: expect.stringContaining('--bootloader and --kernel') as string });
});
