#!/usr/bin/env node
/*
 * `npm run lab:windows -- [LAB OPTION...] [--] ARGUMENT...`: Node.js for Windows with these arguments, under Wine in the
 * nested lab, with the stand-in for WinHvPlatform.dll on KVM's Hyper-V emulation. See CONTRIBUTING.md, "The lab".
 *
 * The working directory is the copy of this checkout for Windows; this checkout is Z:\project, the cache
 * Z:\root\.cache\xenlighten. The options are lab:hyperv's, such as --timeout 600.
 */
import { buildPackages, ensureApt, ensureNodeModules } from './lib/ensure.mjs';
import { parseOptions } from './lib/lab/options.mjs';
import { run, runMain } from './lib/progress.mjs';
import { endWine, ensureWine, winePackages } from './lib/wine.mjs';
import { ensureWineInLab } from './lib/wine-lab.mjs';

runMain(async () => {
  const args = process.argv.slice(2);
  const { command } = parseOptions(args);
  const options = args.slice(0, args.length - command.length).filter((word) => word !== '--');
  await ensureApt([...buildPackages, ...winePackages]);
  await ensureNodeModules();
  run(process.execPath, ['scripts/build-win32.mjs']);
  run('make', ['-s', '-C', 'tests/windows/stand-in'], { capture: true });
  const windows = await ensureWine();
  endWine();
  ensureWineInLab(windows.nodeFile);
  const wine = ['sh', '/project/scripts/lib/lab/wine.sh', 'node', ...command];
  return run(process.execPath, ['scripts/lab-hyperv.mjs', ...options, '--', ...wine], { allowFailure: true }).status;
});
