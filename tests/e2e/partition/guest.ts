/** Assembles the tests' own little guest and lays it out in a partition's memory with its page tables. */
import { execFileSync } from 'node:child_process';
import { mkdirSync, readFileSync, renameSync } from 'node:fs';
import path from 'node:path';
import type { GuestMemory } from '../../../shim/partition/guest-memory';
import { packageRoot } from '../../../shim/partition/native-files';
import { BOOT_PARAMETERS } from '../../../shim/partition/partition';

export const CODE = 0x20_0000;
export const CONTROL = 0x30_0000;
export const control = {
  alive: CONTROL,
  apicId: CONTROL + 0x08,
  kicks: CONTROL + 0x10,
  command: CONTROL + 0x18,
  arg0: CONTROL + 0x20,
  arg1: CONTROL + 0x28,
  counter: CONTROL + 0x40,
  ping: CONTROL + 0x48,
  pong: CONTROL + 0x50,
  firstTsc: CONTROL + 0x58,
  others: CONTROL + 0x60,
  times: CONTROL + 0x1000,
} as const;

export const command = { store: 1n, hammer: 2n, tripleFault: 3n, roundTrips: 4n, startOthers: 5n } as const;

let assembled: Buffer | undefined;

function assemble(): Buffer {
  if (assembled === undefined) {
    const folder = path.join(packageRoot(), 'build', 'tests');
    mkdirSync(folder, { recursive: true });
    const output = path.join(folder, `partition-guest.${process.pid}`);
    execFileSync('gcc', [
      '-nostdlib',
      '-static',
      '-no-pie',
      `-Wl,-Ttext=0x${CODE.toString(16)},--build-id=none,--omagic,--no-warn-rwx-segments`,
      '-Wl,-e,start',
      '-o',
      `${output}.elf`,
      path.join(__dirname, 'guest.S'),
    ]);
    execFileSync('objcopy', ['-O', 'binary', '-j', '.text', `${output}.elf`, `${output}.bin`]);
    assembled = readFileSync(`${output}.bin`);
    renameSync(`${output}.elf`, path.join(folder, 'partition-guest.elf'));
    renameSync(`${output}.bin`, path.join(folder, 'partition-guest.bin'));
  }
  return assembled;
}

/** Identity page tables of 2 MiB pages for 0 to `limit`, the APICs and the ROM included. */
function pageTables(memory: GuestMemory, limit: number): number {
  const root = 0x1000;
  const l3 = 0x2000;
  memory.setU64(root, BigInt(l3 | 3));
  let next = 0x3000;
  for (let gib = 0; gib * 2 ** 30 < limit; gib++) {
    memory.setU64(l3 + gib * 8, BigInt(next | 3));
    memory.fill64(next, 512, BigInt(gib) * (1n << 30n) + 0x83n, 1n << 21n);
    next += 0x1000;
  }
  return root;
}

export function loadGuest(memory: GuestMemory): void {
  memory.copyIn(CODE, assemble());
  const last = memory.regions[memory.regions.length - 1];
  memory.setU64(BOOT_PARAMETERS.cr3, BigInt(pageTables(memory, Math.max(2 ** 32, last.gpa + last.size))));
  memory.setU64(BOOT_PARAMETERS.entry, BigInt(CODE));
  memory.setU64(BOOT_PARAMETERS.argument, BigInt(CONTROL));
}
