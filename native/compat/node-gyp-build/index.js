'use strict';
/*
 * A small stand-in for the npm package node-gyp-build, put in its place by "overrides" in the top package.json.
 *
 * Why: ffi-napi and ref-napi ship binaries that load on every Node version we support. Their install script checks
 * those binaries by loading the bare .node file without the initialization that the package's own JavaScript does;
 * that aborts at exit, so the check fails, so npm compiles from source, and that fails as well. This stand-in checks
 * by loading the package as a program would, and never compiles.
 */
const fs = require('node:fs');
const path = require('node:path');

function firstNode(directory, pattern) {
  let names;
  try {
    names = fs.readdirSync(directory);
  } catch {
    return undefined;
  }
  const name = names.sort().find((n) => pattern.test(n));
  return name === undefined ? undefined : path.join(directory, name);
}

function resolve(packageDirectory) {
  const directory = path.resolve(packageDirectory || '.');
  const prebuilds = path.join(directory, 'prebuilds', `${process.platform}-${process.arch}`);
  const found =
    firstNode(path.join(directory, 'build', 'Release'), /\.node$/) ||
    firstNode(prebuilds, /^(?!electron).*napi.*\.node$/);
  if (found === undefined) {
    throw new Error(
      `no binary for ${process.platform}-${process.arch} in ${directory} (looked in build/Release and ${prebuilds})`,
    );
  }
  return found;
}

function load(packageDirectory) {
  return require(resolve(packageDirectory));
}

load.resolve = resolve;
load.path = resolve;
module.exports = load;
