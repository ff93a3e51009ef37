#!/usr/bin/env node
/*
 * npm's prepack and postpack: makes the prebuilds, and gives the package a package.json that works for who installs it.
 *
 * The project replaces node-gyp-build by a stand-in of its own (native/compat), through "overrides"; npm heeds the overrides
 * of a project, not those of a package that it installs. So the package brings along what needs the stand-in, as
 * bundled dependencies, and names no folder. postpack (`--restore`) puts the project's own package.json back; prepack
 * does so first, if it was interrupted.
 */
import { copyFileSync, existsSync, mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { root, run, runMain } from './lib/progress.mjs';

const manifest = path.join(root, 'package.json');
const kept = path.join(root, 'build', 'package.json');

/** Those whose install scripts would try to compile without the stand-in. */
const BUNDLED = ['ffi-napi', 'ref-napi', 'ref-struct-di', 'node-gyp-build'];

/** What a package has; npm adds README and LICENSE. */
const FILES = [
  ...['dist/abi', 'dist/shim', 'prebuilds', 'docs', 'binding.gyp', 'SECURITY.md', 'SUPPORT.md', 'ARCHITECTURE.md'],
  // To compile from source where there is no prebuild.
  ...['native/host', 'native/rom', 'native/third-party', 'scripts/install.mjs', 'scripts/build.mjs'],
  ...['scripts/lib/lock.mjs', 'scripts/lib/native.mjs', 'scripts/lib/newer.mjs', 'scripts/lib/progress.mjs'],
];

function restore() {
  if (!existsSync(kept)) return;
  copyFileSync(kept, manifest);
  rmSync(kept);
}

runMain(() => {
  restore();
  if (process.argv.includes('--restore')) return;
  run(process.execPath, ['scripts/prebuild.mjs']);
  mkdirSync(path.dirname(kept), { recursive: true });
  copyFileSync(manifest, kept);
  const original = JSON.parse(readFileSync(manifest, 'utf8'));
  const { overrides: _project, allowScripts: _here, devDependencies: _dev, ...published } = original;
  published.files = FILES;
  published.scripts = { install: original.scripts.install };
  published.dependencies['node-gyp-build'] = '4.8.4';
  published.bundleDependencies = BUNDLED;
  writeFileSync(manifest, `${JSON.stringify(published, undefined, 2)}\n`);
});
