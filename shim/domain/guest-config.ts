/**
 * What a guest is configured to be, wherever that was said: a configuration file, options on the command line, a
 * program. Defaults and limits live here.
 */
import { basename } from 'node:path';
import { TRAP } from '../../abi/trap';
import { UsageError } from '../errors';
import { type Bootloader, findPvgrub } from './bootloader';
import type { CpuidSetting } from './cpuid-option';
import { checkDistinct, type DiskSpec } from './disks/disk-spec';

/** What follows when a domain ends (xl.cfg's on_*). */
export type EndAction = 'destroy' | 'restart';
export type EndEvent = 'poweroff' | 'reboot' | 'crash' | 'watchdog';

export interface GuestConfig {
  readonly name?: string | undefined;
  readonly kernel?: string | undefined;
  /** Boots the guest's own kernel from its disk, in the place of `kernel`; a kernel that is given as well wins. */
  readonly bootloader?: Bootloader | undefined;
  readonly ramdisk?: string | undefined;
  readonly cmdline?: string | undefined;
  /** MiB. */
  readonly memory?: number | undefined;
  /** MiB. */
  readonly maxmem?: number | undefined;
  /** vCPUs that are online at start; default 1. */
  readonly vcpus?: number | undefined;
  /** vCPUs that there are; default: vcpus. */
  readonly maxvcpus?: number | undefined;
  readonly uuid?: string | undefined;
  readonly onEnd?: Readonly<Partial<Record<EndEvent, EndAction>>> | undefined;
  /** Number of event channel ports, port 0 included. */
  readonly maxEventChannels?: number | undefined;
  readonly tscMode?: 'default' | 'native' | undefined;
  readonly cpuid?: readonly CpuidSetting[] | undefined;
  readonly disks?: readonly DiskSpec[] | undefined;
  /** Nothing is written to the disks' images: what the guest writes is gone when it ends. */
  readonly snapshot?: boolean | undefined;
}

export const DEFAULT_MEMORY_MB = 256;
/** The largest machine of the engines has 64 GiB, of which the trap module's tables take some. */
export const MAX_MEMORY_MB = 61_440;
/** As xl has it when the configuration says nothing. */
export const DEFAULT_ACTIONS: Readonly<Record<EndEvent, EndAction>> = {
  poweroff: 'destroy',
  reboot: 'restart',
  crash: 'destroy',
  watchdog: 'destroy',
};
/** What the trap module has room for. */
export const MAX_VCPUS = TRAP.TRAP_MAX_VPS;
const NAME = /^[A-Za-z0-9_.:+@-]{1,64}$/;

/** Checks a domain's name. `where` is the option or file that it comes from. */
export function checkName(name: string, where: string): string {
  if (!NAME.test(name)) {
    throw new UsageError('unusable name', {
      file: where,
      found: JSON.stringify(name.slice(0, 80)),
      wanted: '1 to 64 letters, digits and _.:+@-',
    });
  }
  return name;
}

export function isVcpuCount(value: number): boolean {
  return Number.isInteger(value) && value >= 1 && value <= MAX_VCPUS;
}

/** Checks a size of memory in MiB. */
export function checkMemory(value: number, where: string): number {
  if (!Number.isInteger(value) || value < 1 || value > MAX_MEMORY_MB) {
    throw new UsageError('unusable memory size', {
      file: where,
      found: `${value} MB`,
      wanted: `1 to ${MAX_MEMORY_MB} MB`,
    });
  }
  return value;
}

/** A configuration that is complete. */
export interface CompleteGuestConfig extends GuestConfig {
  readonly name: string;
  readonly kernel: string;
  readonly cmdline: string;
  readonly memory: number;
}

/**
 * Fills in what is not said. `where` names the source for errors. Throws UsageError when there is neither a kernel nor a
 * boot loader, or when the boot loader is not installed or has no disk.
 */
export function completeConfig(config: GuestConfig, where: string): CompleteGuestConfig {
  if (config.kernel === undefined && config.bootloader !== undefined && (config.disks ?? []).length === 0) {
    throw new UsageError('no disk to boot from', {
      file: where,
      found: `the boot loader ${config.bootloader} and no disk`,
      wanted: "disk=, or --disk, with the guest's own boot directory on it",
    });
  }
  const kernel = config.kernel ?? (config.bootloader === undefined ? undefined : findPvgrub(where));
  if (kernel === undefined) {
    throw new UsageError('no kernel', {
      file: where,
      found: 'neither kernel= nor --kernel, and no boot loader',
      wanted: 'a kernel to boot',
    });
  }
  const memory = config.memory ?? DEFAULT_MEMORY_MB;
  if (config.maxmem !== undefined && config.maxmem < memory) {
    throw new UsageError('maxmem below memory', {
      file: where,
      found: `maxmem of ${config.maxmem} MB with memory of ${memory} MB`,
      wanted: 'maxmem at least as large as memory',
    });
  }
  if (config.maxvcpus !== undefined && config.maxvcpus < (config.vcpus ?? 1)) {
    throw new UsageError('maxvcpus below vcpus', {
      file: where,
      found: `maxvcpus of ${config.maxvcpus} with vcpus of ${config.vcpus}`,
      wanted: 'maxvcpus at least as large as vcpus',
    });
  }
  checkDistinct(config.disks ?? [], where);
  const fromFile = basename(kernel)
    .replaceAll(/[^A-Za-z0-9_.:+@-]/g, '_')
    .slice(0, 64);
  return { ...config, kernel, memory, name: config.name ?? (fromFile || 'guest'), cmdline: config.cmdline ?? '' };
}
