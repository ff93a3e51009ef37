/*
 * What the guests boot: an initramfs with nothing in it but the benchmark (which is its own init), and for a dom0 that
 * starts a domU, an archive to be put in front of the oracle's dom0. Written here because device nodes in an archive
 * would otherwise need root.
 */
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { fail, root, run, which } from '../scripts/lib/progress.mjs';

export const outputDirectory = path.join(root, 'build', 'bench');

/** One entry of a "newc" archive, padded to 4 bytes. */
function entry(name, { mode, data = Buffer.alloc(0), device = [0, 0] }, inode) {
  const field = (n) => (n >>> 0).toString(16).padStart(8, '0');
  const fields = [inode, mode, 0, 0, 1, 0, data.length, 0, 0, ...device, name.length + 1, 0];
  const header = Buffer.from(`070701${fields.map(field).join('')}${name}\0`, 'latin1');
  const padded = (bytes) => Buffer.concat([bytes, Buffer.alloc(-bytes.length & 3)]);
  return Buffer.concat([padded(header), padded(data)]);
}

/** An archive of {name: {mode, data?, device?}}, in order: folders before what is in them. */
export function archive(files) {
  const parts = Object.entries(files).map(([name, file], i) => entry(name, file, i + 1));
  return Buffer.concat([...parts, entry('TRAILER!!!', { mode: 0 }, 0)]);
}

const directory = { mode: 0o40755 };
const file = (data, mode = 0o100755) => ({ mode, data });

/** Compiles the benchmark and packs it; returns the file's path. */
export function benchInitramfs() {
  mkdirSync(outputDirectory, { recursive: true });
  if (which('gcc') === undefined) fail("gcc is not installed: 'apt-get install gcc libc6-dev'");
  const program = path.join(outputDirectory, 'bench');
  run('gcc', ['-std=gnu11', '-O2', '-Wall', '-Wextra', '-static', '-o', program, 'bench/guest/bench.c']);
  const image = path.join(outputDirectory, 'bench.cpio');
  writeFileSync(
    image,
    archive({
      dev: directory,
      'dev/console': { mode: 0o20600, device: [5, 1] },
      proc: directory,
      sys: directory,
      init: file(readFileSync(program)),
    }),
  );
  return image;
}

/**
 * The initramfs of a dom0 that creates one domU with the benchmark, from the kernel file as packaged ("guest") or, for
 * a boot only, unpacked ("unpacked"); returns its path.
 */
export function dom0Initramfs({ dom0, kernel, vmlinux, initramfs, memory, cmdline, bootCmdline }) {
  const cfg = (kernelPath, extra) =>
    [
      'name="bench"',
      'type="pv"',
      `kernel="${kernelPath}"`,
      'ramdisk="/bench/bench.cpio"',
      `memory=${memory}`,
      'vcpus=1',
      'tsc_mode="native"',
      `extra="${extra}"`,
      'on_poweroff="destroy"',
      'on_reboot="destroy"',
      'on_crash="preserve"',
      '',
    ].join('\n');
  const front = archive({
    bench: directory,
    'bench/vmlinuz': file(readFileSync(kernel), 0o100644),
    'bench/vmlinux': file(vmlinux, 0o100644),
    'bench/bench.cpio': file(readFileSync(initramfs), 0o100644),
    'bench/guest.cfg': file(Buffer.from(cfg('/bench/vmlinuz', cmdline)), 0o100644),
    'bench/unpacked.cfg': file(Buffer.from(cfg('/bench/vmlinux', bootCmdline)), 0o100644),
    'bench-init': file(readFileSync(path.join(root, 'bench', 'dom0-init'))),
  });
  const image = path.join(outputDirectory, 'dom0.img');
  writeFileSync(image, Buffer.concat([front, Buffer.alloc(-front.length & 511), readFileSync(dom0)]));
  return image;
}
