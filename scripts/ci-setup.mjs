#!/usr/bin/env node
/* Installs everything that the checks and tests need, before the first of them runs. */
import {
  buildPackages,
  conformancePackages,
  ensureApt,
  ensureNodeModules,
  imagePackages,
  labPackages,
  pvgrubPackages,
  runPackages,
} from './lib/ensure.mjs';
import { runMain } from './lib/progress.mjs';
import { winePackages } from './lib/wine.mjs';

runMain(async () => {
  await ensureApt([
    ...buildPackages,
    ...runPackages,
    ...labPackages,
    ...imagePackages,
    ...pvgrubPackages,
    ...conformancePackages,
    ...winePackages,
    'clang-format',
  ]);
  await ensureNodeModules();
});
