#!/usr/bin/env node
/* Fetches Debian kernels into the cache and prints their paths as JSON: { "stock": "...", "other": "..." }. */
import { debianKernel } from './lib/debian-kernel.mjs';
import { runMain } from './lib/progress.mjs';

runMain(async () => {
  const stock = await debianKernel('stock');
  const other = process.argv.includes('--stock-only') ? undefined : await debianKernel('other');
  process.stdout.write(`${JSON.stringify({ stock, other })}\n`);
});
