/** Boot loaders in configuration files, and where pvgrub is looked for. */
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { findPvgrub } from '../../../shim/domain/bootloader';
import { completeConfig } from '../../../shim/domain/guest-config';
import { parseXlConfig } from '../../../shim/domain/xl-cfg';
import { UsageError } from '../../../shim/errors';

const PYGRUB_NOTICE =
  "g.cfg:1: pygrub is answered by pvgrub: GRUB runs in the guest and reads the guest's own /boot/grub/grub.cfg";

test.each([
  ['bootloader = "pvgrub"', []],
  ['firmware = "pvgrub64"', []],
  ['bootloader = "/usr/lib/xen/boot/pvgrub64"', []],
  ['bootloader = "pygrub"', [PYGRUB_NOTICE]],
  ['bootloader = "/usr/lib/xen-4.17/bin/pygrub"', [PYGRUB_NOTICE]],
])('%s boots by pvgrub', (text, warnings) => {
  const read = parseXlConfig('g.cfg', text);
  expect(read.warnings).toEqual(warnings);
  expect(read.config).toMatchObject({ bootloader: 'pvgrub' });
  expect(read.config.kernel).toBeUndefined();
});

test.each(['bootloader = ""', 'firmware = ""', 'memory = 64'])('%s asks for no boot loader', (text) => {
  const { config, warnings } = parseXlConfig('g.cfg', `${text}\nkernel = "/k"`);
  expect(warnings).toEqual([]);
  expect(config.bootloader).toBeUndefined();
  expect(config.kernel).toBe('/k');
});

test('a boot loader wins over kernel, ramdisk and command line, with a warning for each', () => {
  const { config, warnings } = parseXlConfig(
    'g.cfg',
    'kernel = "/boot/vmlinuz"\nramdisk = "/boot/initrd"\nroot = "/dev/xvda1"\nbootloader = "pvgrub"\nbootloader_args = ["-q"]\nbootargs = "-q"',
  );
  expect(config).toMatchObject({ bootloader: 'pvgrub' });
  expect([config.kernel, config.ramdisk]).toEqual([undefined, undefined]);
  expect([...warnings].sort()).toEqual([
    'g.cfg:1: kernel is ignored because there is a bootloader',
    'g.cfg:2: ramdisk is ignored because there is a bootloader',
    "g.cfg:3: root has no effect with a boot loader: the guest's grub.cfg has the command line",
    'g.cfg:5: bootloader_args has no effect here',
    'g.cfg:6: bootargs has no effect here',
  ]);
});

test('what GRUB reads from the command line is passed on without a warning', () => {
  const { config, warnings } = parseXlConfig('g.cfg', 'firmware = "pvgrub64"\nextra = "xen_grub_env_mode=rescue"');
  expect(warnings).toEqual([]);
  expect(config.cmdline).toBe('xen_grub_env_mode=rescue');
});

test('the first place that has pvgrub counts', () => {
  const directory = mkdtempSync(path.join(tmpdir(), 'xenlighten-pvgrub-'));
  try {
    const file = path.join(directory, 'grub.bin');
    writeFileSync(file, '');
    expect(findPvgrub('g.cfg', [path.join(directory, 'none'), file])).toBe(file);
    expect(() => findPvgrub('g.cfg', [path.join(directory, 'none')], 'linux')).toThrow(
      new UsageError('no pvgrub', {
        file: 'g.cfg',
        found: `none of ${path.join(directory, 'none')}`,
        wanted:
          "pvgrub, as 'apt-get install grub-xen-host' installs it on Debian; or kernel= with the path of a GRUB for Xen",
      }),
    );
  } finally {
    rmSync(directory, { recursive: true });
  }
});

test('a boot loader without a disk is an error, as in xl', () => {
  expect(() => completeConfig({ bootloader: 'pvgrub', disks: [] }, 'g.cfg')).toThrow(
    'g.cfg: no disk to boot from: found the boot loader pvgrub and no disk',
  );
});

test('a kernel that is given as well wins, wherever it was given', () => {
  expect(completeConfig({ kernel: '/k', bootloader: 'pvgrub' }, 'run').kernel).toBe('/k');
});
