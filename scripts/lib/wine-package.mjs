/*
 * The package on Windows: npm for Windows installs the tarball into an empty folder under Wine, and its commands run there.
 *
 * Quirks: npm under Wine 8 cannot reach a registry; it installs from the cache of this machine's npm, which is warmed
 * first. What it says is looked at, so that its log level is ours, not that of an `npm run -s` above. npm's scripts want
 * node in PATH, which is WINEPATH's business.
 */
import { copyFileSync, existsSync, mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { noTests } from './jest.mjs';
import { root, run, say } from './progress.mjs';
import { windowsPath } from './wine.mjs';

const NPM = '10.9.4';

function npm(args, cwd = root) {
  return run('npm', [...args, '--no-audit', '--no-fund'], { cwd, capture: true }).stdout.trim();
}

function emptyProject(folder) {
  rmSync(folder, { recursive: true, force: true });
  mkdirSync(folder, { recursive: true });
  writeFileSync(path.join(folder, 'package.json'), '{"name":"app","version":"1.0.0","private":true}\n');
  return folder;
}

/** What is run from the installed package: arguments, wanted status, what it must say. */
const COMMANDS = [
  [['--version'], [0], /^xenlighten \d+\.\d+\.\d+/m],
  [['inspect', 'kernel'], [0], /boots: yes/],
  [['image', 'create', 'd.vhd', '--size', '64M'], [0], /^$|sound/m],
  [['image', 'info', 'd.vhd'], [0], /format: +vhd, dynamic/],
  [['image', 'check', 'd.vhd'], [0], /^$|sound/m],
  // No real Windows: whether an engine is left is not the question.
  [['doctor'], [0, 2], /^ok +Native addon[\s\S]*^ok +Trap module/m],
];

/** `windows` as ensureWine() gives it. Returns totals. */
export async function packageOnWindows(windows) {
  const folder = path.join(root, 'build', 'windows', 'package');
  const app = emptyProject(path.join(folder, 'app'));
  const warm = emptyProject(path.join(folder, 'warm'));
  const tarball = npm(['pack', '--pack-destination', folder]).split('\n').at(-1);
  npm(['install', path.join(folder, tarball), '--os=win32', '--cpu=x64', '--ignore-scripts'], warm);
  rmSync(warm, { recursive: true });
  if (!existsSync(path.join(folder, `npm-${NPM}.tgz`))) npm(['pack', `npm@${NPM}`], folder);
  run('tar', ['xf', `npm-${NPM}.tgz`], { cwd: folder });
  copyFileSync(path.join(root, 'tests/fixtures/builder/tiny.gzip'), path.join(app, 'kernel'));

  const total = { ...noTests };
  const output = path.join(folder, 'output.txt');
  const env = { WINEPATH: windowsPath(path.dirname(windows.nodeFile)) };
  const step = async (label, args, statuses, wanted) => {
    const status = await windows.node(args, { cwd: app, output, env, seconds: 300 });
    const said = readFileSync(output, 'utf8').replaceAll('\r', '');
    const good = statuses.includes(status) && wanted.test(said);
    total[good ? 'passed' : 'failed']++;
    say(`package: ${label}: ${good ? 'as it should be' : `status ${status}:\n${said}`}`);
    return good;
  };
  const cache = windowsPath(npm(['config', 'get', 'cache']));
  const install = [
    'install',
    windowsPath(path.join(folder, tarball)),
    '--offline',
    '--cache',
    cache,
    '--loglevel=notice',
  ];
  const cli = windowsPath(path.join(folder, 'package', 'bin', 'npm-cli.js'));
  const installed = await step('npm install', [cli, ...install, '--no-audit', '--no-fund'], [0], /added \d+ packages/);
  if (!installed) return total;
  const main = 'node_modules\\xenlighten\\dist\\shim\\cli\\main.js';
  for (const [args, statuses, wanted] of COMMANDS) await step(args.join(' '), [main, ...args], statuses, wanted);
  return total;
}
