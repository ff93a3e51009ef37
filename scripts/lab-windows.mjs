#!/usr/bin/env node
/*
 * `npm run lab:windows -- [LAB OPTION...] [--] ARGUMENT...`: Node.js for Windows with these arguments, under Wine in the
 * nested lab, with the stand-in for WinHvPlatform.dll on KVM's Hyper-V emulation. See CONTRIBUTING.md, "The lab".
 *
 * The working directory is the copy of this checkout for Windows; this checkout is Z:\project, the cache
 * Z:\root\.cache\xenlighten. The options are lab:hyperv's, such as --timeout 600.
 */
import path from 'node:path';
import { cacheDirectory } from './lib/debian-kernel.mjs';
import { buildPackages, ensureApt, ensureNodeModules } from './lib/ensure.mjs';
import { parseOptions } from './lib/lab/options.mjs';
import { withLock } from './lib/lock.mjs';
import { run, runMain } from './lib/progress.mjs';
import { endWine, ensureWine, winePackages } from './lib/wine.mjs';
import { ensureWineInLab } from './lib/wine-lab.mjs';

const LOCK_SECONDS = 2400;

runMain(async () => {
  const args = process.argv.slice(2);
  const { command } = parseOptions(args);
  const options = args.slice(0, args.length - command.length).filter((word) => word !== '--');
  await ensureApt([...buildPackages, ...winePackages]);
  await ensureNodeModules();
  run(process.execPath, ['scripts/build-win32.mjs']);
  run('make', ['-s', '-C', 'tests/windows/stand-in'], { capture: true });
  // Ending what runs in the prefix would end a test run as well.
  const lock = path.join(cacheDirectory('wine'), '.lock');
  await withLock(
    lock,
    async () => {
      const windows = await ensureWine();
      endWine();
      ensureWineInLab(windows.nodeFile);
    },
    LOCK_SECONDS,
  );
  const wine = ['sh', '/project/scripts/lib/lab/wine.sh', 'node', ...command];
  return run(process.execPath, ['scripts/lab-hyperv.mjs', ...options, '--', ...wine], { allowFailure: true }).status;
});
