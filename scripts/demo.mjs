#!/usr/bin/env node
/*
 * `npm run demo`: boots Debian's own kernel, unmodified, as a Xen PV guest to a BusyBox shell, and shows what its Xen
 * operations were translated to. Works straight after a clone: fetches what is missing and keeps it.
 *
 * On a terminal it is interactive; without one (or with --proof) the guest runs a short proof and powers off. With
 * --debian it is a whole Debian on a disk image of its own (scripts/lib/debian), with --pvgrub booted by GRUB from that.
 */
import { spawn } from 'node:child_process';
import { existsSync, mkdtempSync, readFileSync, renameSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import os from 'node:os';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { debianDemo } from './lib/debian/demo.mjs';
import { cacheDirectory, debianKernel } from './lib/debian-kernel.mjs';
import { buildPackages, ensureApt, ensureNodeModules, runPackages } from './lib/ensure.mjs';
import { root, run, runMain, say, timed } from './lib/progress.mjs';

const require = createRequire(import.meta.url);
const PROOF_TIMEOUT_S = '300';

const INIT = `#!/bin/sh
/bin/busybox --install -s /bin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev 2>/dev/null
export HOME=/root PS1='guest# '
cd /root
show() { echo "\\$ $*"; sh -c "$*" 2>&1; echo; }
echo
echo "This is $(uname -sr), a Xen $(cat /sys/hypervisor/version/major)$(cat /sys/hypervisor/version/minor 2>/dev/null | sed 's/^/./') PV guest."
case " $(cat /proc/cmdline) " in
*" proof "*)
  echo
  show uname -a
  show 'head -n 99 /sys/hypervisor/type /sys/hypervisor/version/* /sys/hypervisor/uuid'
  show cat /proc/uptime
  show 'i=0; while [ $i -lt 200 ]; do echo $i | cat | md5sum > /tmp/sum; i=$((i+1)); done; echo "200 times fork, exec and pipe: $(cat /tmp/sum)"'
  show 'dmesg | grep -i xen'
  show cat /proc/uptime
  echo PROOF COMPLETE
  ;;
*)
  echo "Leave with 'poweroff', or with Ctrl-] at any time."
  echo
  setsid cttyhack sh
  ;;
esac
poweroff -f
`;

/** The demo's initramfs, made anew when BusyBox or this script changed. */
function initramfs() {
  const { BUSYBOX, busyboxInitramfs, SHUTDOWN_PROGRAMS } = require('../dist/scripts/lib/initramfs.js');
  const file = path.join(cacheDirectory('demo'), 'initramfs.gz');
  const sources = [BUSYBOX, fileURLToPath(import.meta.url), path.join(root, 'dist/scripts/lib/initramfs.js')];
  const time = existsSync(file) ? statSync(file).mtimeMs : 0;
  if (sources.some((source) => Math.max(statSync(source).mtimeMs, statSync(source).ctimeMs) > time)) {
    const temporary = `${file}.${process.pid}`;
    writeFileSync(temporary, busyboxInitramfs(INIT, SHUTDOWN_PROGRAMS));
    renameSync(temporary, file);
  }
  return file;
}

/** What the guest's Xen operations were translated to, as text. */
function summaryTable(stats) {
  const { formatStats } = require('../dist/shim/translate/stats.js');
  return formatStats(stats);
}

function boot(args) {
  // Ctrl-C at a terminal goes to the guest; a signal sent to us alone is passed on.
  const child = spawn(process.execPath, ['dist/shim/cli/main.js', 'run', ...args], { cwd: root, stdio: 'inherit' });
  const pass = (signal) => child.kill(signal);
  for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP']) process.on(signal, pass);
  return new Promise((resolve, reject) => {
    child.on('error', reject);
    child.on('close', (status, signal) => resolve(status ?? 128 + os.constants.signals[signal]));
  });
}

/** Debian's kernel with BusyBox. */
async function shellDemo(proof, statsFile) {
  const kernel = await debianKernel('stock');
  const ramdisk = await timed('making the initramfs', async () => initramfs());
  const cmdline = `console=hvc0 quiet${proof ? ' proof' : ''}`;
  const what = ['--name', 'demo', '--kernel', kernel, '--ramdisk', ramdisk, '--cmdline', cmdline];
  say(`booting ${path.basename(kernel)}, as Debian ships it`);
  return boot([...what, '--stats', statsFile, ...(proof ? ['--timeout', PROOF_TIMEOUT_S] : [])]);
}

runMain(async () => {
  const proof = process.argv.includes('--proof') || !process.stdin.isTTY || !process.stdout.isTTY;
  await ensureApt([...buildPackages, ...runPackages]);
  await ensureNodeModules();
  run(process.execPath, ['scripts/build.mjs']);
  const work = mkdtempSync(path.join(os.tmpdir(), 'xenlighten-demo-'));
  try {
    const statsFile = path.join(work, 'stats.json');
    const [debian, pvgrub] = ['--debian', '--pvgrub'].map((option) => process.argv.includes(option));
    const status =
      debian || pvgrub ? await debianDemo({ proof, pvgrub, statsFile, boot }) : await shellDemo(proof, statsFile);
    if (existsSync(statsFile) && statSync(statsFile).size > 0) {
      process.stdout.write(`\n${summaryTable(JSON.parse(readFileSync(statsFile, 'utf8')))}`);
    }
    return status;
  } finally {
    rmSync(work, { recursive: true, force: true });
  }
});
