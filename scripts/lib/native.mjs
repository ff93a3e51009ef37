/*
 * Compiles the native parts with the system's C compiler.
 *
 * binding.gyp is the one description of what is built from what: it is written as plain JSON, so that `node-gyp
 * rebuild` and this file read the same targets. Compiling against the node-api-headers package needs neither Python
 * nor a download of Node's headers, and Node-API binaries work on every Node version.
 */

import { mkdirSync, readFileSync, renameSync, rmSync } from 'node:fs';
import { createRequire } from 'node:module';
import path from 'node:path';
import { exists, upToDate } from './newer.mjs';
import { fail, root, runAsync, which } from './progress.mjs';

const require = createRequire(import.meta.url);
const release = 'build/Release';

/** The C compiler, or an error that names the package to install. */
export function compiler() {
  const cc = process.env.CC ?? 'gcc';
  if (which(cc) === undefined) fail(`${cc} is missing: install it with 'apt-get install gcc libc6-dev'`);
  if (!exists('/usr/include/stdio.h') && process.platform === 'linux') {
    fail("the C library's headers are missing: install them with 'apt-get install libc6-dev'");
  }
  return cc;
}

/** What binding.gyp says for an operating system ('linux', 'win'): conditions that name it are merged in. */
export function targetsFor(system) {
  const resolve = (node) => {
    const { conditions = [], ...plain } = node;
    const merged = structuredClone(plain);
    for (const [condition, more] of conditions) {
      const name = /^OS=='(\w+)'$/.exec(condition)?.[1];
      if (name === undefined) fail(`binding.gyp: condition ${condition}: only OS=='...' is understood`);
      if (name !== system) continue;
      for (const [key, value] of Object.entries(resolve(more))) merged[key] = [...(merged[key] ?? []), ...value];
    }
    return merged;
  };
  const { targets } = resolve(JSON.parse(readFileSync(path.join(root, 'binding.gyp'), 'utf8')));
  return targets.map(resolve);
}

async function compileTarget(target) {
  const isAddon = target.type !== 'executable';
  const output = `${release}/${target.target_name}${isAddon ? '.node' : ''}`;
  const folders = [...new Set(target.sources.map((source) => path.dirname(source)))];
  if (upToDate([output], ['binding.gyp', ...folders], /\.[ch]$|binding\.gyp$/)) return;
  const cc = compiler();
  const includes = (target.include_dirs ?? []).map((directory) => `-I${directory}`);
  if (isAddon) includes.push(`-I${require('node-api-headers').include_dir}`);
  mkdirSync(path.join(root, release), { recursive: true });
  // A running process may have the old binary mapped: never write into it, put a new file in its place.
  const temporary = `${output}.${process.pid}.tmp`;
  try {
    await runAsync(cc, [
      '-O2',
      '-g',
      ...(target.cflags ?? []),
      ...(target.defines ?? []).map((define) => `-D${define}`),
      ...includes,
      ...(isAddon ? ['-shared', '-fPIC', '-fvisibility=hidden'] : []),
      ...target.sources,
      ...(target.ldflags ?? []),
      ...(target.libraries ?? []),
      '-o',
      temporary,
    ]);
    renameSync(path.join(root, temporary), path.join(root, output));
  } finally {
    rmSync(path.join(root, temporary), { force: true });
  }
}

/** Builds the Node-API addon and the launcher into build/Release. */
export async function buildHost() {
  if (process.platform !== 'linux') return;
  for (const target of targetsFor('linux')) await compileTarget(target);
}

/** Assembles the reset ROM into build/rom/reset.bin. */
export async function buildRom() {
  const source = 'native/rom/reset.S';
  const output = 'build/rom/reset.bin';
  if (process.platform !== 'linux' || !exists(source)) return;
  if (upToDate([output], ['native/rom'])) return;
  const cc = compiler();
  mkdirSync(path.join(root, 'build/rom'), { recursive: true });
  const elf = `build/rom/reset.${process.pid}.elf`;
  try {
    await runAsync(cc, [
      '-nostdlib',
      '-static',
      '-Wl,--build-id=none',
      '-Wl,-T,native/rom/reset.ld',
      '-o',
      elf,
      source,
    ]);
    await runAsync('objcopy', ['-O', 'binary', '--gap-fill=0xff', elf, `${output}.${process.pid}.tmp`]);
    renameSync(path.join(root, `${output}.${process.pid}.tmp`), path.join(root, output));
  } finally {
    rmSync(path.join(root, elf), { force: true });
  }
}

/** Builds the trap module with its own Makefile. */
export async function buildTrap() {
  if (process.platform !== 'linux' || !exists('native/trap/Makefile')) return;
  compiler();
  if (which('make') === undefined) fail("make is missing: install it with 'apt-get install make'");
  await runAsync('make', ['-s', '-C', 'native/trap']);
}
