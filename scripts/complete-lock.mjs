#!/usr/bin/env node
/*
 * Puts into package-lock.json what `npm install` leaves out when its registry does not offer some platform's variant of
 * a package with native parts (an exactly pinned optional dependency such as @swc/core-darwin-arm64). Without an entry
 * for each of them, whichever platform it is for, `npm ci` calls the lock file incomplete. Run it after `npm install`;
 * `npm run check` says when it was forgotten. With --check nothing is written.
 */
import { readFileSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { root, runMain, say } from './lib/progress.mjs';

const systems = ['aix', 'android', 'darwin', 'freebsd', 'linux', 'netbsd', 'openbsd', 'openharmony', 'sunos', 'win32'];
const processors = ['arm', 'arm64', 'ia32', 'loong64', 'mips64el', 'ppc64', 'riscv64', 's390x', 'wasm32', 'x64'];

function variant(name, version) {
  const words = name.split('/').at(-1).split('-');
  const os = words.find((word) => systems.includes(word));
  const cpu = words.find((word) => processors.includes(word));
  const libc = words.includes('musl') ? 'musl' : words.includes('gnu') ? 'glibc' : undefined;
  if (os === undefined && cpu === undefined) return undefined;
  return {
    version,
    ...(cpu === undefined ? {} : { cpu: [cpu] }),
    ...(os === 'linux' && libc !== undefined ? { libc: [libc] } : {}),
    optional: true,
    ...(os === undefined ? {} : { os: [os] }),
  };
}

/** Is there an entry that this package would find the name at? */
function found(packages, from, name) {
  for (let folder = from; ; folder = folder.slice(0, Math.max(0, folder.lastIndexOf('/node_modules/')))) {
    if (packages[`${folder === '' ? '' : `${folder}/`}node_modules/${name}`] !== undefined) return true;
    if (folder === '') return false;
  }
}

runMain(() => {
  const file = path.join(root, 'package-lock.json');
  const lock = JSON.parse(readFileSync(file, 'utf8'));
  const added = [];
  for (const [from, entry] of Object.entries(lock.packages)) {
    for (const [name, version] of Object.entries(entry.optionalDependencies ?? {})) {
      if (found(lock.packages, from, name)) continue;
      const made = /^\d/.test(version) ? variant(name, version) : undefined;
      if (made === undefined) continue;
      // As for its package: only for development, or not.
      if (entry.dev) made.dev = true;
      lock.packages[`node_modules/${name}`] = made;
      added.push(name);
    }
  }
  if (added.length === 0) return 0;
  if (process.argv.includes('--check')) {
    say(`package-lock.json lacks ${added.length} packages of other platforms: run 'node scripts/complete-lock.mjs'`);
    return 1;
  }
  const sorted = Object.entries(lock.packages).sort(([a], [b]) => (a < b ? -1 : a > b ? 1 : 0));
  lock.packages = Object.fromEntries(sorted);
  writeFileSync(file, `${JSON.stringify(lock, null, 2)}\n`);
  say(`added ${added.length} packages of other platforms to package-lock.json`);
  return 0;
});
