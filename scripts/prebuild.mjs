#!/usr/bin/env node
/*
 * Makes prebuilds/ for every platform that a package is for: what native/ is compiled to, so that an installed package
 * needs no compiler. Linux's come from build/, Windows' from the cross compiler.
 */
import { copyFileSync, mkdirSync } from 'node:fs';
import path from 'node:path';
import { root, run, runMain } from './lib/progress.mjs';

const LINUX = [
  'build/Release/xenlighten_host.node',
  'build/Release/xl-launch',
  'build/rom/reset.bin',
  'build/trap/trap.elf',
];

runMain(() => {
  // Builds everything for Linux on the way.
  run(process.execPath, ['scripts/build-win32.mjs']);
  const folder = path.join(root, 'prebuilds', 'linux-x64');
  mkdirSync(folder, { recursive: true });
  for (const file of LINUX) copyFileSync(path.join(root, file), path.join(folder, path.basename(file)));
});
