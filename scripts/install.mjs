#!/usr/bin/env node
/*
 * npm's install script: compiles the native parts where no prebuild is shipped for this platform. In a checkout they are
 * always compiled: its prebuilds may be older than its sources.
 */
import { existsSync } from 'node:fs';
import path from 'node:path';
import { fileURLToPath } from 'node:url';

const root = path.resolve(path.dirname(fileURLToPath(import.meta.url)), '..');
const shipped = path.join(root, 'prebuilds', `${process.platform}-${process.arch}`, 'xenlighten_host.node');
const isCheckout = existsSync(path.join(root, 'tsconfig.json'));

if (isCheckout || !existsSync(shipped)) {
  process.argv.push('--native');
  await import('./build.mjs');
}
