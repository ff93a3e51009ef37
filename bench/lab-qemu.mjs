/*
 * A QEMU that runs in the lab's L1, which has neither it nor its libraries: the host's binary, what it links to and the
 * firmware of a machine with nothing but a serial port, copied to the cache (25 MB for a Debian package), which L1 sees.
 */
import { cpSync, mkdirSync, readdirSync, renameSync, rmSync, statSync } from 'node:fs';
import path from 'node:path';
import { temporaryName } from '../scripts/lib/lab/temporary.mjs';
import { fail, run } from '../scripts/lib/progress.mjs';

/** A BIOS, and what the `pc` machine loads with -kernel and with KVM's local APIC. */
export const BIOS = 'qboot.rom';
const FIRMWARE = [BIOS, 'linuxboot_dma.bin', 'kvmvapic.bin'];

/** The folders that QEMU looks for firmware in. */
function firmwareFolders(qemu) {
  return run(qemu, ['-L', 'help'], { capture: true }).stdout.split('\n').filter(Boolean);
}

function libraries(qemu) {
  const said = run('ldd', [qemu], { capture: true, env: { ...process.env, LC_ALL: 'C' } }).stdout;
  const missing = /^\s*(\S+) => not found/m.exec(said);
  if (missing !== null) fail(`${qemu} needs ${missing[1]}, which is not installed`);
  return [...said.matchAll(/=> (\/\S+) \(0x/g)].map((match) => match[1]);
}

function isFile(file) {
  return statSync(file, { throwIfNoEntry: false })?.isFile() === true;
}

/** Copies QEMU to a folder of `cache`, unless it is there, and returns the folder; labQemu() says how it is run. */
export function packQemu(qemu, cache) {
  const { size, mtimeMs } = statSync(qemu);
  const directory = path.join(cache, `qemu-${size.toString(36)}-${Math.floor(mtimeMs).toString(36)}`);
  if (statSync(directory, { throwIfNoEntry: false }) !== undefined) return directory;
  mkdirSync(cache, { recursive: true });
  for (const name of readdirSync(cache)) {
    if (name.startsWith('qemu-')) rmSync(path.join(cache, name), { recursive: true, force: true });
  }
  const work = temporaryName(directory);
  for (const folder of ['lib', 'share']) mkdirSync(path.join(work, folder), { recursive: true });
  const copy = (file, ...to) => cpSync(file, path.join(work, ...to), { dereference: true });
  copy(qemu, 'qemu');
  for (const library of libraries(qemu)) copy(library, 'lib', path.basename(library));
  const folders = firmwareFolders(qemu);
  for (const name of FIRMWARE) {
    const found = folders.map((folder) => path.join(folder, name)).find(isFile);
    if (found === undefined) fail(`${qemu} has no ${name} (looked in ${folders.join(', ')})`);
    copy(found, 'share', name);
  }
  renameSync(work, directory);
  return directory;
}

/**
 * The command that starts such a copy, and the variables that it needs. The BIOS is not QEMU's usual one: SeaBIOS has the
 * second processor wait in ROM with HLT, and changes meanwhile what that ROM is made of. Where HLT does not leave the
 * guest, KVM then finds no memory at its instruction, and half of all starts fail ("emulation failure").
 */
export function labQemu(directory) {
  return {
    command: [path.posix.join(directory, 'qemu'), '-L', path.posix.join(directory, 'share'), '-bios', BIOS],
    env: { LD_LIBRARY_PATH: path.posix.join(directory, 'lib') },
  };
}
