#!/usr/bin/env node
/* Installs everything that the checks and tests need, before the first of them runs. */
import {
  buildPackages,
  conformancePackages,
  ensureApt,
  ensureNodeModules,
  labPackages,
  runPackages,
} from './lib/ensure.mjs';
import { runMain } from './lib/progress.mjs';

runMain(async () => {
  await ensureApt([...buildPackages, ...runPackages, ...labPackages, ...conformancePackages, 'clang-format']);
  await ensureNodeModules();
});
