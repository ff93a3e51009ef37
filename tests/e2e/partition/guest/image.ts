/** Builds the tests' own little guest, and lays it out in a partition's memory with its page tables. */
import { execFileSync } from 'node:child_process';
import { existsSync, mkdirSync, mkdtempSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { asmOffsetsText, collect, headerText } from '../../../../scripts/gen-headers';
import type { GuestMemory } from '../../../../shim/partition/guest-memory';
import { packageRoot } from '../../../../shim/partition/native-files';
import { BOOT_PARAMETERS } from '../../../../shim/partition/partition';
import * as abi from './abi';

const FOLDER = path.join(packageRoot(), 'build', 'tests', 'partition');
const IMAGE = path.join(FOLDER, 'guest.bin');
const SOURCES = ['start.S', 'guest.c', 'platform.c', 'hostile.c'];

/** Builds the image, and says where it is; a machine without a compiler (the lab, Windows) uses what was built before. */
export function buildGuest(): string {
  if ((process.env.XENLIGHTEN_LAB !== undefined || process.platform === 'win32') && existsSync(IMAGE)) return IMAGE;
  mkdirSync(FOLDER, { recursive: true });
  const work = mkdtempSync(path.join(FOLDER, 'work-'));
  try {
    const declarations = collect(abi);
    writeFileSync(path.join(work, 'layout.h'), headerText(declarations, []));
    writeFileSync(path.join(work, 'offsets.h'), asmOffsetsText([declarations]));
    const elf = path.join(work, 'guest.elf');
    execFileSync('gcc', [
      ...['-std=gnu11', '-O2', '-g', '-Wall', '-Wextra', '-Werror', '-ffreestanding', '-fno-pic', '-fno-pie'],
      ...['-mno-red-zone', '-mgeneral-regs-only', '-fno-stack-protector', '-fcf-protection=none', '-fno-common'],
      ...[
        '-fno-asynchronous-unwind-tables',
        '-fno-strict-aliasing',
        '-mcmodel=small',
        '-nostdlib',
        '-static',
        '-no-pie',
      ],
      `-Wl,-T,${path.join(__dirname, 'guest.lds')},--defsym,GUEST_CODE=0x${abi.GUEST.GUEST_CODE.toString(16)}`,
      '-Wl,--build-id=none,--no-warn-rwx-segments,-e,start',
      ...['-I', work, '-I', __dirname, '-I', path.join(packageRoot(), 'native', 'include')],
      ...['-o', elf, ...SOURCES.map((name) => path.join(__dirname, name))],
    ]);
    execFileSync('objcopy', ['-O', 'binary', elf, path.join(work, 'guest.bin')]);
    renameSync(path.join(work, 'guest.bin'), IMAGE);
    renameSync(elf, path.join(FOLDER, 'guest.elf'));
  } finally {
    rmSync(work, { recursive: true });
  }
  return IMAGE;
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

let image: Buffer | undefined;

/** Puts the guest into memory of at least 16 MiB. `platform`: the partition's trapEngine. */
export function loadGuest(memory: GuestMemory, platform: number, vpCount: number): void {
  image ??= readFileSync(IMAGE);
  memory.copyIn(abi.GUEST.GUEST_CODE, image);
  const last = memory.regions[memory.regions.length - 1];
  const limit = Math.max(2 ** 32, last === undefined ? 0 : last.gpa + last.size);
  memory.setU64(BOOT_PARAMETERS.cr3, BigInt(pageTables(memory, limit)));
  memory.setU64(BOOT_PARAMETERS.entry, BigInt(abi.GUEST.GUEST_CODE));
  memory.setU64(BOOT_PARAMETERS.argument, BigInt(abi.GUEST.GUEST_CONTROL));
  const control = memory.view(abi.GUEST.GUEST_CONTROL, abi.GuestControl.size);
  abi.GuestControl.set.platform(control, 0, platform);
  abi.GuestControl.set.nr_vps(control, 0, vpCount);
  abi.GuestControl.set.interrupts_twice(control, 0, process.env.XENLIGHTEN_LAB === undefined ? 0 : 1);
}
