/*
 * What `npm test` and `npm run demo` need before they can work straight after a clone: Debian packages and
 * node_modules. Every step that changes the machine says so in one line before it starts.
 */
import { readdirSync, readFileSync } from 'node:fs';
import path from 'node:path';
import { createInterface } from 'node:readline/promises';
import { exists } from './newer.mjs';
import { fail, root, run, runAsync, say, timed, which } from './progress.mjs';

function lockedPackages(file) {
  try {
    return JSON.parse(readFileSync(path.join(root, file), 'utf8')).packages ?? {};
  } catch {
    return undefined;
  }
}

/** Does node_modules hold what package-lock.json asks for? Returns why not, or undefined. */
export function nodeModulesProblem() {
  const wanted = lockedPackages('package-lock.json');
  if (wanted === undefined) fail('package-lock.json is missing or not readable: is this a complete checkout?');
  const installed = lockedPackages('node_modules/.package-lock.json');
  if (installed === undefined) return 'node_modules is missing';
  for (const [name, entry] of Object.entries(wanted)) {
    if (name === '' || entry.optional || entry.devOptional || entry.link) continue;
    if (installed[name]?.version !== entry.version) return `node_modules is out of date (${name})`;
  }
  return undefined;
}

/** Runs `npm ci` when node_modules is missing or does not match package-lock.json. */
export async function ensureNodeModules() {
  const problem = nodeModulesProblem();
  if (problem === undefined) return;
  if (which('npm') === undefined) fail("npm is missing: install it with 'apt-get install npm'");
  say(`${problem}: running npm ci`);
  await timed('npm ci', () => runAsync('npm', ['ci', '--no-audit', '--no-fund']));
}

function installed(name) {
  // biome-ignore lint/suspicious/noTemplateCurlyInString: dpkg-query's own format
  const query = run('dpkg-query', ['-W', '-f', '${db:Status-Status}', name], { capture: true, allowFailure: true });
  return query.status === 0 && query.stdout.trim() === 'installed';
}

/** The name of the package with the running Debian's kernel headers for all flavours, such as linux-headers-6.1.0-9-common. */
function kernelHeadersPackage() {
  const depends = run('apt-cache', ['depends', 'linux-headers-amd64'], { capture: true, allowFailure: true });
  const match = /Depends: (linux-headers-\S+)-amd64/.exec(depends.stdout ?? '');
  return match === null ? undefined : `${match[1]}-common`;
}

let hasAgreed = false;

/** Asks once in a run, before the first thing that needs root. */
async function agreed(command) {
  if (hasAgreed || !process.stdin.isTTY || !process.stderr.isTTY || process.env.CI) return true;
  const terminal = createInterface({ input: process.stdin, output: process.stderr });
  const answer = await terminal.question(`xenlighten: run '${command}' now? [Y/n] `);
  terminal.close();
  hasAgreed = !/^n/i.test(answer.trim());
  return hasAgreed;
}

let indexUpdated = false;

/** Runs apt-get as root, by sudo if need be; asks first on a terminal. */
async function aptGet(args, why) {
  const asRoot = process.getuid?.() === 0;
  const prefix = asRoot ? [] : ['sudo', ...(process.stdin.isTTY ? [] : ['-n'])];
  if (!asRoot && which('sudo') === undefined) fail(`as root, run this: apt-get ${args.join(' ')}`);
  if (!(await agreed(`${prefix.concat('apt-get').join(' ')} ${args.join(' ')}`))) fail(why);
  const options = ['-qq', '-o', 'DPkg::Lock::Timeout=600', '-o', 'Dpkg::Use-Pty=0'];
  const command = [...prefix, 'env', 'DEBIAN_FRONTEND=noninteractive', 'apt-get', ...options, ...args];
  await runAsync(command[0], command.slice(1), { capture: true });
}

/** Brings the package index up to date, once in a run. */
export async function updateIndex() {
  if (indexUpdated) return;
  say('updating the package index (apt-get update)');
  await timed('apt-get update', () => aptGet(['update'], 'the package index is needed'));
  indexUpdated = true;
}

/**
 * Makes sure that Debian packages are installed. The name 'linux-headers-common' stands for whichever kernel's
 * headers this Debian has. Without apt, says what is missing and goes on: what needs it will say so itself.
 */
export async function ensureApt(names) {
  if (process.platform !== 'linux') return;
  if (which('dpkg-query') === undefined || which('apt-get') === undefined) {
    say(`this is not a Debian system: make sure that these are installed: ${names.join(' ')}`);
    return;
  }
  const missing = names.filter((name) => (name === 'linux-headers-common' ? !haveKernelHeaders() : !installed(name)));
  if (missing.length === 0) return;
  const why = `these packages are needed: ${missing.join(' ')}`;
  const asRoot = process.getuid?.() === 0;
  if (!(await agreed(`${asRoot ? '' : 'sudo '}apt-get install ${missing.join(' ')}`))) fail(why);
  await updateIndex();
  const resolved = missing.map((name) => (name === 'linux-headers-common' ? kernelHeadersPackage() : name));
  const wanted = resolved.filter((name) => name !== undefined);
  say(`installing ${wanted.join(' ')} (apt-get install)`);
  await timed('apt-get install', () => aptGet(['install', '-y', '--no-install-recommends', ...wanted], why));
}

function haveKernelHeaders() {
  return exists('/usr/src') && readdirSync('/usr/src').some((name) => /^linux-headers-.*-common$/.test(name));
}

/** What the build needs, and what QEMU-based commands need besides. */
export const buildPackages = ['gcc', 'libc6-dev', 'binutils', 'make'];
/** For the end-to-end tests: the PV test kernel is compiled with Xen's headers. */
export const e2ePackages = ['libxen-dev'];
export const runPackages = ['qemu-system-x86', 'busybox-static'];
/** For a Debian guest: its image, and GRUB for Xen (which changes nothing in how the host boots). */
export const imagePackages = ['mmdebstrap', 'e2fsprogs'];
export const pvgrubPackages = ['grub-xen-host'];
/** For the lab: mkfs.ext4 makes its root image. */
export const labPackages = [...runPackages, 'e2fsprogs'];
/** For the addon for Windows. */
export const win32Packages = ['gcc-mingw-w64-x86-64-posix', 'mingw-w64-x86-64-dev'];
export const conformancePackages = [
  'libxen-dev',
  'linux-headers-common',
  'gcc-mingw-w64-x86-64',
  'mingw-w64-x86-64-dev',
];
