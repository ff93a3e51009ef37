#!/usr/bin/env node
/*
 * `npm run test:windows [-- PART...] [--node VERSION]`: the Windows build under Wine. Parts: stand-in (the tests of the
 * stand-in for WinHvPlatform.dll itself), contract (the whp engine on it), console (`xenlighten console` on a console of
 * Windows), unit (the portable unit tests), package (npm for Windows installs the tarball, whose commands then run), lab
 * (the stand-in's tests once more, and Debian's kernel booted by the whp engine, in the nested lab on KVM's Hyper-V),
 * lab-contract (the contract of engines there, with each call failing in turn); all by default.
 * Ends with one line of totals. Where Wine or /dev/kvm is absent it says so, and what needs it counts as skipped.
 */
import { copyFileSync, existsSync, readFileSync, rmSync } from 'node:fs';
import path from 'node:path';
import { cacheDirectory } from './lib/debian-kernel.mjs';
import { buildPackages, ensureApt, ensureNodeModules } from './lib/ensure.mjs';
import { noTests, totalLine } from './lib/jest.mjs';
import { withLock } from './lib/lock.mjs';
import { fail, root, run, runMain, say, timed } from './lib/progress.mjs';
import {
  endWine,
  ensureWine,
  NODE_VERSION,
  runWine,
  systemFolder,
  windowsPath,
  wineLacks,
  winePackages,
} from './lib/wine.mjs';
import { consoleOnWindows } from './lib/wine-console.mjs';
import { ensureWineInLab } from './lib/wine-lab.mjs';
import { packageOnWindows } from './lib/wine-package.mjs';

const PARTS = ['stand-in', 'contract', 'console', 'unit', 'package', 'lab', 'lab-contract'];

function options(args) {
  const at = args.indexOf('--node');
  const version = at < 0 ? NODE_VERSION : args[at + 1];
  if (version === undefined) fail('--node: a version is wanted, such as 20.20.2');
  const parts = at < 0 ? args : args.toSpliced(at, 2);
  for (const part of parts) if (!PARTS.includes(part)) fail(`${part}: the parts are ${PARTS.join(', ')}`);
  return { version, parts: parts.length > 0 ? parts : PARTS };
}

/** Does this /dev/kvm execute ring 0 itself? Some interpret it, at a twentieth of the speed. */
function speed() {
  const probe =
    "require('./dist/shim/partition/kvm/probe.js').probeKvm().then((p) => console.log(p.ticksPerTurn ?? 0))";
  const { stdout } = run(process.execPath, ['-e', probe], { capture: true, allowFailure: true });
  return Number(stdout) > 200 ? '0.05' : '1';
}

function totalsOf(file, status) {
  if (!existsSync(file)) {
    say(`Jest left no result; its status is ${status}`);
    return { passed: 0, failed: 1, skipped: 0 };
  }
  const result = JSON.parse(readFileSync(file, 'utf8'));
  const failed = result.numFailedTests + result.numRuntimeErrorTestSuites;
  return {
    passed: result.numPassedTests,
    failed: failed === 0 && status !== 0 ? 1 : failed,
    skipped: result.numPendingTests + result.numTodoTests,
  };
}

/** Jest in one process under Windows' Node.js; what it says goes to stderr in the end. */
async function jest(windows, name, args, seconds, env = {}) {
  const json = path.join(root, 'build', `jest-windows-${name}.json`);
  const output = path.join(root, 'build', `jest-windows-${name}.txt`);
  rmSync(json, { force: true });
  const all = ['node_modules\\jest\\bin\\jest.js', '-i', '--json', '--outputFile', windowsPath(json), ...args];
  const status = await windows.node(all, { output, env, seconds });
  // With --json the whole result is there once more.
  const said = readFileSync(output, 'utf8').replace(/^\{"numFailed.*$/ms, '');
  process.stderr.write(said);
  return totalsOf(json, status);
}

/** TAP: "ok 1 - ...", "not ok 2 - ...", "ok 3 - ... # SKIP why". */
function tapTotals(text, status) {
  const total = { ...noTests };
  for (const [, not, rest] of text.matchAll(/^(not )?ok \d+(.*)$/gm)) {
    if (not !== undefined) total.failed++;
    else if (/# SKIP/i.test(rest)) total.skipped++;
    else total.passed++;
  }
  if (total.failed === 0 && (status !== 0 || total.passed === 0)) total.failed = 1;
  return total;
}

async function standIn(windows) {
  const output = path.join(root, 'build', 'windows', 'stand-in-test.txt');
  const status = await runWine([path.join(root, 'build/windows/stand-in-test.exe')], {
    output,
    cwd: windows.project,
    seconds: 300,
  });
  const said = readFileSync(output, 'utf8');
  process.stderr.write(said.replace(/^ok .*\n/gm, ''));
  return tapTotals(said, status);
}

/** Jest of this machine, which gives the lab its commands. */
async function lab(windows) {
  ensureWineInLab(windows.nodeFile);
  const json = path.join(root, 'build', 'jest-windows-lab.json');
  rmSync(json, { force: true });
  const { status } = run(
    process.execPath,
    [
      ...['node_modules/jest/bin/jest.js', '-i', '--json', '--outputFile', json],
      ...['--selectProjects', 'e2e', '--testPathPatterns', 'e2e/lab/windows'],
    ],
    { allowFailure: true, capture: true, env: { ...process.env, XENLIGHTEN_WINE_IN_LAB: '1' } },
  );
  const result = JSON.parse(readFileSync(json, 'utf8'));
  for (const { message } of result.testResults) process.stderr.write(message);
  return totalsOf(json, status);
}

/** Jest of Windows' Node.js in the lab, whose files are lost: what it says at the end counts. */
function labContract(windows) {
  ensureWineInLab(windows.nodeFile);
  const { stdout, stderr, status } = run(
    process.execPath,
    [
      ...['scripts/lab-hyperv.mjs', '--timeout', '2400', '--env', 'XENLIGHTEN_STAND_IN=1', '--'],
      ...['sh', '/project/scripts/lib/lab/wine.sh', 'node', 'node_modules\\jest\\bin\\jest.js', '-i', '--no-color'],
      ...['--testTimeout', '300000', '--selectProjects', 'e2e', '--testPathPatterns', 'partition.whp'],
    ],
    { allowFailure: true, capture: true },
  );
  const said = stdout + stderr;
  process.stderr.write(said);
  const line = /^Tests: .*$/m.exec(said)?.[0] ?? '';
  const count = (word) => Number(new RegExp(`(\\d+) ${word}`).exec(line)?.[1] ?? 0);
  const total = { passed: count('passed'), failed: count('failed'), skipped: count('skipped') };
  if (total.failed === 0 && (status !== 0 || total.passed === 0)) total.failed = 1;
  return total;
}

async function main() {
  const { version, parts } = options(process.argv.slice(2));
  const none = totalLine({ ...noTests, skipped: 1 });
  if (process.platform !== 'linux' || process.arch !== 'x64') {
    say('the Windows build is tested from Linux on x86-64');
    process.stdout.write(`${none}\n`);
    return 0;
  }
  await ensureApt([...buildPackages, ...winePackages]);
  if (wineLacks() !== undefined) {
    say(`there is no ${wineLacks()} here`);
    process.stdout.write(`${none}\n`);
    return 0;
  }
  await ensureNodeModules();
  run(process.execPath, ['scripts/build-win32.mjs']);
  await timed('building the stand-in for WinHvPlatform.dll', async () =>
    run('make', ['-s', '-C', 'tests/windows/stand-in'], { capture: true }),
  );
  // There is no compiler in our Windows.
  const guest = ['--selectProjects', 'e2e', '--testPathPatterns', 'partition/whp'];
  run(process.execPath, ['node_modules/jest/bin/jest.js', ...guest], { capture: true });
  const windows = await ensureWine(version);
  const kvm = existsSync('/dev/kvm');
  if (!kvm) say('there is no /dev/kvm here: the stand-in cannot run anything');
  const total = { ...noTests };
  const dll = path.join(systemFolder(), 'WinHvPlatform.dll');
  try {
    for (const part of parts) {
      let result;
      if (part === 'package') result = await timed('the package on Windows', () => packageOnWindows(windows));
      else if (part === 'console') result = await timed('a console of Windows', () => consoleOnWindows(windows));
      else if (part === 'lab') result = await timed('Windows in the lab', () => lab(windows));
      else if (part === 'lab-contract')
        result = await timed('the contract of engines in the lab', async () => labContract(windows));
      else if (part !== 'unit' && !kvm) result = { ...noTests, skipped: 1 };
      else if (part === 'unit') {
        rmSync(dll, { force: true });
        result = await timed('unit tests on Windows', () =>
          jest(windows, 'unit', ['--selectProjects', 'unit', '--testTimeout', '120000'], 1500),
        );
      } else {
        copyFileSync(path.join(root, 'build/windows/WinHvPlatform.dll'), dll);
        result = await timed(`${part} on Windows`, () =>
          part === 'stand-in'
            ? standIn(windows)
            : jest(windows, 'contract', ['--selectProjects', 'e2e', '--testPathPatterns', 'partition.whp'], 900, {
                XENLIGHTEN_TEST_SPEED: speed(),
                XENLIGHTEN_STAND_IN: '1',
              }),
        );
      }
      say(`${part}: ${totalLine(result)}`);
      for (const key of Object.keys(total)) total[key] += result[key];
    }
  } finally {
    endWine();
  }
  process.stdout.write(`${totalLine(total)}\n`);
  return total.failed > 0 ? 1 : 0;
}

// The prefix is everybody's, and the end of one run ends all that runs in it.
runMain(() => withLock(path.join(cacheDirectory('wine'), '.lock'), main, 2400));
