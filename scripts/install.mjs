#!/usr/bin/env node
/*
 * npm's install script: compiles the native parts where the package has no prebuild for this platform, or one that does not
 * load here (an older C library, musl). In a checkout they are always compiled: its prebuilds may be older than its sources.
 */
import { existsSync } from 'node:fs';
import { createRequire } from 'node:module';
import path from 'node:path';
import { fileURLToPath } from 'node:url';

const root = path.resolve(path.dirname(fileURLToPath(import.meta.url)), '..');
const shipped = path.join(root, 'prebuilds', `${process.platform}-${process.arch}`, 'xenlighten_host.node');
const isCheckout = existsSync(path.join(root, 'tsconfig.json'));

/** Why the prebuild will not do; undefined if it will. */
function lacking() {
  if (isCheckout) return 'this is a checkout';
  if (!existsSync(shipped)) return `there is no prebuild for ${process.platform}-${process.arch}`;
  try {
    createRequire(import.meta.url)(shipped);
    return undefined;
  } catch (error) {
    return error.message;
  }
}

const why = lacking();
if (why !== undefined) {
  // Shown by npm when the compilation fails, and with --foreground-scripts.
  if (!isCheckout) process.stderr.write(`xenlighten: the prebuild cannot be used: ${why}\n`);
  process.argv.push('--native');
  // Does nothing but on Linux.
  await import('./build.mjs');
}
