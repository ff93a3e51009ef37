/**
 * A whole Debian with systemd on its own disk image: boots to a login, keeps what was written over a reboot, leaves a
 * clean file system behind; by a kernel from the host, and by pvgrub from the guest's own disk.
 */
import { existsSync } from 'node:fs';
import { pvgrubPlaces } from '../../../shim/domain/bootloader';
import { DebianGuest, type DebianImage, debianImage, debianImageProblem, fsck, workingCopy } from '../lib/debian';
import { endAll, leftovers } from '../lib/xenlighten';

const problem = debianImageProblem();
const withoutGrub = pvgrubPlaces().some((place) => existsSync(place)) ? undefined : 'pvgrub is not installed here';
if (problem !== undefined) console.warn(`skipped: Debian guests: ${problem}`);
else if (withoutGrub !== undefined) console.warn(`skipped: pvgrub: ${withoutGrub}`);

let debian: DebianImage;
let copy: ReturnType<typeof workingCopy> | undefined;
beforeAll(() => {
  if (problem !== undefined) return;
  debian = debianImage();
  copy = workingCopy(debian.image);
}, 900_000);
afterEach(endAll);
afterAll(() => copy?.remove());

const disk = (): string => `${copy?.file},raw,xvda,w`;

/** 200 MB of noise, on the disk before its hash is known. */
const WRITE = 'head -c 200M /dev/urandom >/root/noise && sync && md5sum </root/noise';

(problem === undefined ? test : test.skip)(
  'boots to a login; 200 MB are there after a reboot; the file system is clean',
  async () => {
    const guest = new DebianGuest(debian, [
      ...['--kernel', debian.kernel, '--ramdisk', debian.ramdisk, '--disk', disk()],
      ...['--cmdline', 'root=/dev/xvda ro console=hvc0 quiet'],
    ]);
    await guest.login();
    expect(await guest.command('systemd-detect-virt')).toEqual({ status: 0, output: 'xen\n' });
    expect((await guest.command('findmnt -no SOURCE,FSTYPE /')).output).toMatch(/^\/dev\/xvda +ext4\n$/);
    // Nothing failed on the way.
    expect(await guest.command('systemctl --failed --no-legend --plain')).toEqual({ status: 0, output: '' });
    const written = await guest.command(WRITE, 120_000);
    expect(written.output).toMatch(/^[0-9a-f]{32} /);

    guest.type('reboot\n');
    await guest.login();
    expect((await guest.command('md5sum </root/noise', 60_000)).output).toBe(written.output);
    expect((await guest.command('dmesg --level=emerg,alert,crit,err')).output).toBe('');
    guest.type('poweroff\n');
    expect(await guest.run.ended).toEqual({ status: 0, signal: null });
    const checked = fsck(copy?.file ?? '');
    expect(`${checked.status}: ${checked.text}`).toMatch(/^0: /);
    expect(await leftovers(guest.name)).toEqual([]);
  },
  400_000,
);

(problem === undefined && withoutGrub === undefined ? test : test.skip)(
  "pvgrub boots the kernel of the guest's own disk",
  async () => {
    const guest = new DebianGuest(debian, ['--bootloader', 'pvgrub', '--disk', disk()]);
    await guest.login();
    expect(guest.run.stdout).toContain('Loading the initial ramdisk');
    // The command line is the guest's own.
    expect((await guest.command('cat /proc/cmdline')).output).toContain('root=/dev/xvda ro console=hvc0 quiet');
    expect(await guest.command('systemctl --failed --no-legend --plain')).toEqual({ status: 0, output: '' });
    // GRUB's page tables allow users everything: what Linux took over of them must not.
    for (const address of ['0xffffffff81000000', '0xffff888001000000']) {
      const read = await guest.command(`perl -e 'print unpack("P1", pack("Q", hex("${address}")))'`);
      expect(read.status).toBe(139);
    }
    guest.type('poweroff\n');
    expect(await guest.run.ended).toEqual({ status: 0, signal: null });
    const checked = fsck(copy?.file ?? '');
    expect(`${checked.status}: ${checked.text}`).toMatch(/^0: /);
    expect(await leftovers(guest.name)).toEqual([]);
  },
  300_000,
);
