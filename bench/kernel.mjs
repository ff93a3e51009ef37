/* The kernel that all machines run: its file unpacked, and its modules, from the package that the oracle keeps. */
import { existsSync, readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import path from 'node:path';
import { fail } from '../scripts/lib/progress.mjs';
import { cache as oracleCache } from '../tests/oracle/lab.mjs';

const require = createRequire(import.meta.url);

/** The kernel unpacked, for xl; this also fills the cache that `xenlighten run` uses. */
export async function unpackedKernel(file) {
  const { KernelCache, defaultCacheDirectory } = require('../dist/shim/xen/builder/cache.js');
  const { loadImage } = require('../dist/shim/xen/builder/image.js');
  return (await loadImage(file, { cache: new KernelCache(defaultCacheDirectory()) })).elf;
}

/** Linux' boot protocol: where the file says at which offset, less 0x200, its version is written. */
const VERSION_POINTER = 0x20e;

function versionOf(file) {
  const image = readFileSync(file);
  const at = image.readUInt16LE(VERSION_POINTER) + 0x200;
  return image.toString('latin1', at, image.indexOf(0, at)).split(' ', 1)[0];
}

/** {name: file} of modules, which are named by their path below the package's kernel/, without ".ko". */
export function kernelModules(kernel, names) {
  const version = versionOf(kernel);
  const unpacked = process.env.KDEB || path.join(oracleCache, `kernel-${version}`);
  return Object.fromEntries(
    names.map((name) => {
      const file = path.join(unpacked, 'lib', 'modules', version, 'kernel', `${name}.ko`);
      if (!existsSync(file)) fail(`${file} is missing: remove ${oracleCache}, to have it made again`);
      return [path.basename(name), file];
    }),
  );
}
