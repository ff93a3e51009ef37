/*
 * `npm run demo -- --debian`: a whole Debian with systemd, from its own disk image to a login prompt. On a terminal the
 * login is yours; without one (or with --proof) the demo logs in, looks around, and powers off.
 */

import { rmSync } from 'node:fs';
import path from 'node:path';
import { cacheDirectory } from '../debian-kernel.mjs';
import { ensureApt, pvgrubPackages } from '../ensure.mjs';
import { root, runAsync, say, timed } from '../progress.mjs';
import { Console } from './console.mjs';
import { debianImage } from './image.mjs';

const BOOT_S = 300;
const COMMAND_S = 60;
const LOGIN = /login: $/;
const PASSWORD = /Password: $/;
const SHELL = /root@debian:~# $/;
const COMMANDS = [
  'uname -a',
  'systemd-detect-virt',
  'mount | grep ^/dev',
  'df -h /',
  'systemctl --failed --no-legend; systemctl is-system-running --wait',
  'systemd-analyze',
];

/** A copy for the guest to write to: only the parts that are there take room. */
export async function imageCopy(image, name) {
  const copy = path.join(cacheDirectory('debian'), `${name}-${process.pid}.img`);
  await timed('copying the image', () => runAsync('cp', ['--sparse=always', '--reflink=auto', image, copy]));
  return copy;
}

/** Types at the guest's console what the proof wants to see. */
async function lookAround(guest, { user, password }) {
  await guest.until(LOGIN, BOOT_S);
  guest.type(`${user}\n`);
  await guest.until(PASSWORD, COMMAND_S);
  guest.type(`${password}\n`);
  for (const command of COMMANDS) {
    await guest.until(SHELL, COMMAND_S);
    guest.type(`${command}\n`);
  }
  await guest.until(SHELL, COMMAND_S);
  guest.type('poweroff\n');
}

/** Boots it. `boot` is the demo's own way to run the command on this terminal. Returns the exit status. */
export async function debianDemo({ proof, pvgrub, statsFile, boot }) {
  if (pvgrub) await ensureApt(pvgrubPackages);
  const debian = await debianImage();
  const copy = await imageCopy(debian.image, 'demo');
  try {
    const args = ['--name', 'debian', '--memory', '512', '--disk', `${copy},raw,xvda,w`, '--stats', statsFile];
    if (pvgrub) args.push('--bootloader', 'pvgrub');
    else {
      args.push('--kernel', debian.kernel, '--ramdisk', debian.ramdisk);
      args.push('--cmdline', 'root=/dev/xvda ro console=hvc0 quiet');
    }
    const by = pvgrub ? "pvgrub, from the guest's own disk" : 'xvda';
    say(`booting ${debian.release}, unmodified, by ${by}; log in as ${debian.user}, password ${debian.password}`);
    if (!proof) return await boot(args);
    const command = ['dist/shim/cli/main.js', 'run', ...args, '--timeout', `${2 * BOOT_S}`];
    const guest = new Console(process.execPath, command, (text) => process.stdout.write(text, 'latin1'), { cwd: root });
    const pass = (signal) => guest.child.kill(signal);
    for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP']) process.on(signal, pass);
    try {
      await lookAround(guest, debian);
    } catch (error) {
      guest.child.kill('SIGTERM');
      await guest.status;
      throw error;
    }
    return await guest.status;
  } finally {
    rmSync(copy, { force: true });
  }
}
