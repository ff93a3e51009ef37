/**
 * pvgrub: GRUB as a Xen PV kernel. It boots inside the partition in the kernel's place, finds /boot/grub/grub.cfg on the
 * guest's own disks, loads the kernel that it names, and hands the domain over to it. So no code in the host ever looks
 * into a guest's file system. Implements `bootloader` and `firmware` of xl.cfg(5) for PV guests, as far as pvgrub can
 * answer them.
 *
 * Quirks: pygrub reads the disk in the host and starts GRUB legacy's menu.lst as well; Debian's pvgrub looks for grub.cfg
 * only, and reads a menu.lst when it is told to at its prompt (legacy_configfile). Of the command line GRUB takes nothing
 * but words xen_grub_env_NAME=VALUE, which it makes variables of its scripts.
 */
import { accessSync, constants } from 'node:fs';
import path, { basename } from 'node:path';
import { UsageError } from '../errors';

export type Bootloader = 'pvgrub';

/** Where 64-bit pvgrub is looked for, in this order. */
export function pvgrubPlaces(platform = process.platform, env: NodeJS.ProcessEnv = process.env): readonly string[] {
  // No package of Windows has one: where an administrator puts it for everybody.
  if (platform === 'win32')
    return [path.win32.join(env['ProgramData'] ?? 'C:\\ProgramData', 'xenlighten', 'pvgrub64.bin')];
  return [
    // Where xl expects firmware = "pvgrub64": the administrator's choice, usually a link.
    '/usr/lib/xen/boot/pvgrub64.bin',
    // Debian, Ubuntu: grub-xen-host.
    '/usr/lib/grub-xen/grub-x86_64-xen.bin',
    // openSUSE: grub2-x86_64-xen.
    '/usr/share/grub2/x86_64-xen/grub.xen',
    '/usr/lib/grub2/x86_64-xen/grub.xen',
  ];
}

function readable(file: string): boolean {
  try {
    accessSync(file, constants.R_OK);
    return true;
  } catch {
    return false;
  }
}

/** The file of 64-bit pvgrub. `where` names the key or option that asked for it. Throws UsageError when there is none. */
export function findPvgrub(
  where: string,
  places: readonly string[] = pvgrubPlaces(),
  platform = process.platform,
): string {
  const found = places.find(readable);
  if (found !== undefined) return found;
  throw new UsageError('no pvgrub', {
    file: where,
    found: `none of ${places.join(', ')}`,
    wanted:
      platform === 'win32'
        ? "pvgrub there: the file grub-x86_64-xen.bin of Debian's package grub-xen-host; or kernel= with its path"
        : "pvgrub, as 'apt-get install grub-xen-host' installs it on Debian; or kernel= with the path of a GRUB for Xen",
  });
}

/** A boot loader's name or path, in the configuration or on the command line. */
export interface NamedBootloader {
  readonly bootloader: Bootloader;
  /** What a user should know about it: a half sentence. */
  readonly notice?: string;
}

/** What a bootloader= or firmware= asks for; undefined for one that we have not. */
export function namedBootloader(name: string): NamedBootloader | undefined {
  switch (basename(name)) {
    case 'pvgrub':
    case 'pvgrub64':
      return { bootloader: 'pvgrub' };
    case 'pygrub':
      return {
        bootloader: 'pvgrub',
        notice: "pygrub is answered by pvgrub: GRUB runs in the guest and reads the guest's own /boot/grub/grub.cfg",
      };
    default:
      return undefined;
  }
}

/** pvgrub for 32-bit PV kernels, by any path. */
export function isPvgrub32(name: string): boolean {
  return /^pvgrub32(\.bin)?$/.test(basename(name));
}

/** Does GRUB take anything from this command line? */
export function grubTakes(cmdline: string): boolean {
  return cmdline.split(/\s+/).some((word) => word.startsWith('xen_grub_env_'));
}
