/*
 * What the guests boot: an initramfs with nothing in it but the benchmark (which is its own init) and the kernel modules
 * that it needs, and for a dom0 that starts a domU, an archive to be put in front of the oracle's dom0. Written here
 * because device nodes in an archive would otherwise need root.
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

/** Compiles bench/guest/NAME.c and packs it with `modules` ({name: path}); returns the initramfs's path. */
function guestInitramfs(name, modules = {}) {
  mkdirSync(outputDirectory, { recursive: true });
  if (which('gcc') === undefined) fail("gcc is not installed: 'apt-get install gcc libc6-dev'");
  const program = path.join(outputDirectory, name);
  run('gcc', ['-std=gnu11', '-O2', '-Wall', '-Wextra', '-static', '-o', program, `bench/guest/${name}.c`]);
  const image = path.join(outputDirectory, `${name}.cpio`);
  writeFileSync(
    image,
    archive({
      dev: directory,
      'dev/console': { mode: 0o20600, device: [5, 1] },
      proc: directory,
      sys: directory,
      init: file(readFileSync(program)),
      modules: directory,
      ...moduleFiles('modules', modules),
    }),
  );
  return image;
}

function moduleFiles(folder, modules) {
  return Object.fromEntries(
    Object.entries(modules).map(([name, from]) => [`${folder}/${name}.ko`, file(readFileSync(from), 0o100644)]),
  );
}

export const benchInitramfs = () => guestInitramfs('bench');
export const ioInitramfs = (modules) => guestInitramfs('iobench', modules);

/** An xl configuration; `lines` are its own. */
function guestConfig({ kernel, memory, cmdline, lines = [] }) {
  return [
    'name="bench"',
    'type="pv"',
    `kernel="${kernel}"`,
    'ramdisk="/bench/bench.cpio"',
    `memory=${memory}`,
    'vcpus=1',
    'tsc_mode="native"',
    ...lines,
    `extra="${cmdline}"`,
    'on_poweroff="destroy"',
    'on_reboot="destroy"',
    'on_crash="preserve"',
    '',
  ].join('\n');
}

/** Puts `files` in front of the oracle's dom0. */
function packDom0(name, dom0, initramfs, files) {
  const front = archive({
    bench: directory,
    'bench/bench.cpio': file(readFileSync(initramfs), 0o100644),
    'bench-init': file(readFileSync(path.join(root, 'bench', 'dom0-init'))),
    ...files,
  });
  const image = path.join(outputDirectory, name);
  writeFileSync(image, Buffer.concat([front, Buffer.alloc(-front.length & 511), readFileSync(dom0)]));
  return image;
}

/**
 * The initramfs of a dom0 that creates one domU with the benchmark, from the kernel file as packaged ("guest") or, for
 * a boot only, unpacked ("unpacked"); returns its path.
 */
export function dom0Initramfs({ dom0, kernel, vmlinux, initramfs, memory, cmdline, bootCmdline }) {
  const config = (kernelPath, words) =>
    file(Buffer.from(guestConfig({ kernel: kernelPath, memory, cmdline: words })), 0o100644);
  return packDom0('dom0.img', dom0, initramfs, {
    'bench/vmlinuz': file(readFileSync(kernel), 0o100644),
    'bench/vmlinux': file(vmlinux, 0o100644),
    'bench/guest.cfg': config('/bench/vmlinuz', cmdline),
    'bench/unpacked.cfg': config('/bench/vmlinux', bootCmdline),
  });
}

/**
 * The initramfs of a dom0 whose domU has a disk: the kernel unpacked, which saves time, and what bench/dom0-disk needs
 * ({name: path} of modules). xl calls the hotplug script; all xenstore-* are one program that looks at its name.
 */
export function ioDom0Initramfs({ dom0, vmlinux, initramfs, modules, memory, cmdline, diskBytes }) {
  const script = (name) => file(readFileSync(path.join(root, 'bench', name)));
  const config = guestConfig({
    kernel: '/bench/vmlinux',
    memory,
    cmdline,
    lines: ["disk=['phy:/dev/loop0,xvda,w']"],
  });
  return packDom0('dom0-io.img', dom0, initramfs, {
    'bench/vmlinux': file(vmlinux, 0o100644),
    'bench/guest.cfg': file(Buffer.from(config), 0o100644),
    'bench/prepare': script('dom0-disk'),
    'bench/disk-bytes': file(Buffer.from(`${diskBytes}\n`), 0o100644),
    'bench/modules': directory,
    ...moduleFiles('bench/modules', modules),
    bin: directory,
    'bin/xenstore-write': { mode: 0o120777, data: Buffer.from('xenstore-read') },
    etc: directory,
    'etc/xen': directory,
    'etc/xen/scripts': directory,
    'etc/xen/scripts/block': script('dom0-hotplug'),
  });
}
