/**
 * Where RAM lies in a partition's guest-physical addresses, on every engine: as QEMU's microvm machine puts it.
 *
 * Facts (QEMU 7.2 to 9, checked by tests/e2e/partition): up to 3 GiB of RAM start at GPA 0; what is left starts at
 * 4 GiB; the RAM file's bytes follow in that order. Local APICs lie in the hole at 0xfee00000. Under QEMU alone, the
 * reset ROM covers 0xf0000-0xfffff, so the RAM behind it cannot be reached by the VPs, though it exists in the file;
 * the I/O APIC is at 0xfec00000, virtio-mmio transports (unused) at 0xfeb00000, the ROM again at 0xffff0000.
 */
import type { RamRegion } from './guest-memory';

/** First GPA that is not RAM below the hole, when there is that much RAM. */
export const LOW_RAM_LIMIT = 0xc000_0000;
export const HIGH_RAM_START = 0x1_0000_0000;

/** GPAs below 1 MiB where a VP of the qemu engine sees the ROM instead of RAM. */
export const ROM_SHADOW = { gpa: 0xf_0000, size: 0x1_0000 } as const;

/** The ROM's own address, which the boot page tables must map to itself. */
export const ROM_GPA = 0xffff_0000;

/** SIPI vector that starts a VP in the ROM. */
export const ROM_SIPI_VECTOR = 0xf0;

export const MIN_MEMORY = 2 ** 21;
export const MAX_MEMORY = 2 ** 36;

/** RAM regions of a machine with `sizeBytes` of RAM: a multiple of 1 MiB from 2 MiB to 64 GiB, else RangeError. */
export function ramRegions(sizeBytes: number): RamRegion[] {
  if (
    !Number.isSafeInteger(sizeBytes) ||
    sizeBytes % 2 ** 20 !== 0 ||
    sizeBytes < MIN_MEMORY ||
    sizeBytes > MAX_MEMORY
  ) {
    throw new RangeError(`${sizeBytes} bytes of RAM: wanted a multiple of 1 MiB from 2 MiB to 64 GiB`);
  }
  if (sizeBytes <= LOW_RAM_LIMIT) return [{ gpa: 0, size: sizeBytes }];
  return [
    { gpa: 0, size: LOW_RAM_LIMIT },
    { gpa: HIGH_RAM_START, size: sizeBytes - LOW_RAM_LIMIT },
  ];
}
