#!/usr/bin/env node
/* Makes prebuilds/win32-x64: the addon for Windows, cross-compiled, and the trap module's image. */
import { copyFileSync } from 'node:fs';
import path from 'node:path';
import { buildPackages, ensureApt, ensureNodeModules, win32Packages } from './lib/ensure.mjs';
import { withLock } from './lib/lock.mjs';
import { root, run, runMain, timed } from './lib/progress.mjs';
import { buildWin32, prebuilt } from './lib/win32.mjs';

runMain(async () => {
  await ensureApt([...buildPackages, ...win32Packages]);
  await ensureNodeModules();
  run(process.execPath, ['scripts/build.mjs']);
  await withLock('.lock', async () => {
    await timed('building the host addon for Windows', () => buildWin32());
    copyFileSync(path.join(root, 'build/trap/trap.elf'), path.join(root, prebuilt, 'trap.elf'));
  });
});
