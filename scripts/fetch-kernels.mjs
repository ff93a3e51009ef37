#!/usr/bin/env node
/*
 * Fetches Debian kernels into the cache and prints their paths as JSON: { "stock": "...", "other": "..." }. With
 * --modules NAME,NAME... also those of the stock kernel's modules: { ..., "modules": ["..."] }.
 */
import { debianKernel, kernelModules } from './lib/debian-kernel.mjs';
import { runMain } from './lib/progress.mjs';

runMain(async () => {
  const stock = await debianKernel('stock');
  const other = process.argv.includes('--stock-only') ? undefined : await debianKernel('other');
  const wanted = process.argv[process.argv.indexOf('--modules') + 1];
  const modules = process.argv.includes('--modules') ? await kernelModules(stock, wanted.split(',')) : undefined;
  process.stdout.write(`${JSON.stringify({ stock, other, modules })}\n`);
});
