/**
 * Names of virtual disks (xvda, hdb1, sdc, d0p1) and the numbers by which xenstore and front ends know them. Implements
 * the device numbers of xen-pv-abi 10.4 and xen-vbd-interface(7).
 *
 * Quirks: xvd has two encodings: major 202 with 16 minors for each of the first 16 disks, else bit 28 and 256
 * partitions. hd and sd exist only where IDE and SCSI had names for them. Linux calls all of them xvd.
 */

export interface Vdev {
  /** As the user wrote it. */
  readonly name: string;
  /** The virtual-device node: an integer below 2^29. */
  readonly id: number;
}

const LETTERS = 26;
const EXTENDED = 1 << 28;
const XVD_MAJOR = 202;
const SD_MAJOR = 8;
const HD_MAJORS = [3, 22] as const;

/** 'a' is 0, 'z' 25, 'aa' 26. */
function letters(text: string): number {
  let value = 0;
  for (const c of text) value = value * LETTERS + (c.charCodeAt(0) - 96);
  return value - 1;
}

function xvd(disk: number, partition: number): number | undefined {
  if (disk < 16 && partition < 16) return (XVD_MAJOR << 8) | (disk << 4) | partition;
  if (disk < 1 << 20 && partition < 256) return EXTENDED | (disk << 8) | partition;
  return undefined;
}

/** Undefined if there is no such device. */
export function parseVdev(name: string): Vdev | undefined {
  const id = deviceNumber(name);
  return id === undefined ? undefined : { name, id };
}

function deviceNumber(name: string): number | undefined {
  const named = /^(xvd|hd|sd)([a-z]{1,4})([0-9]{0,3})$/.exec(name);
  if (named !== null) {
    const [, kind, disks, partitions] = named as unknown as [string, string, string, string];
    const disk = letters(disks);
    const partition = partitions === '' ? 0 : Number(partitions);
    // "xvda01" and "xvda0" are not what anybody calls a partition.
    if (partitions.startsWith('0')) return undefined;
    if (kind === 'xvd') return xvd(disk, partition);
    if (kind === 'sd') return disk < 16 && partition < 16 ? (SD_MAJOR << 8) | (disk << 4) | partition : undefined;
    const major = HD_MAJORS[disk >> 1];
    return major === undefined || partition >= 64 ? undefined : (major << 8) | ((disk & 1) << 6) | partition;
  }
  const numbered = /^d([0-9]{1,7})(?:p([0-9]{1,3}))?$/.exec(name);
  return numbered === null ? undefined : xvd(Number(numbered[1]), Number(numbered[2] ?? 0));
}

/** The first names of whole disks, for messages and defaults. */
export function xvdName(disk: number): string {
  let name = '';
  for (let n = disk + 1; n > 0; n = Math.floor((n - 1) / LETTERS))
    name = String.fromCharCode(97 + ((n - 1) % LETTERS)) + name;
  return `xvd${name}`;
}
