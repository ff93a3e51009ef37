/**
 * The guest's console on a real terminal, of `run` and of `console`: raw while the guest runs, Ctrl-] leaves, the terminal
 * is as before; and a terminal that goes away.
 */
import { execFileSync, spawn } from 'node:child_process';
import { existsSync, mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { listDomains } from '../../../shim/domain/control-client';
import { guestImage } from '../lib/guest-image';
import { debianKernels } from '../lib/kernels';
import { COMMAND, endAll, leftovers, uniqueName, Xenlighten } from '../lib/xenlighten';
import { lifeRamdisk, PROMPT } from '../life/guest';

const image = guestImage();
/** Of a guest that powers off when it is asked to. */
const ramdisk = lifeRamdisk();
afterEach(endAll);
afterAll(() => {
  rmSync(image.ramdisk, { force: true });
  rmSync(ramdisk, { force: true });
});

/** Says so when sleep has been in the foreground for a second: Ctrl-C must not come before it has begun. */
const SLEEP = '(sleep 1; echo sleeping$((6*7))) & sleep 1000\r';
/** Prints how the terminal is set. */
const settings = `stty -a | tr ' ;' '\\n\\n' | grep -x -e '-*icanon' -e '-*echo' -e '-*isig' | tr '\\n' ' '`;

function hasScript(): boolean {
  try {
    execFileSync('script', ['--version'], { stdio: 'pipe' });
    return true;
  } catch {
    return false;
  }
}

/** Runs a shell command on a new terminal; `steps` are typed one after the other, each when its text has appeared. */
function onTerminal(command: string, steps: readonly (readonly [RegExp, string])[]): Promise<string> {
  return new Promise((resolve, reject) => {
    const child = spawn('script', ['-qec', command, '/dev/null'], { stdio: ['pipe', 'pipe', 'inherit'] });
    const left = [...steps];
    let said = '';
    const timer = setTimeout(() => {
      child.kill('SIGKILL');
      reject(new Error(`not in time; said so far:\n${said}`));
    }, 90_000);
    child.stdout.on('data', (chunk: Buffer) => {
      said += chunk.toString('latin1');
      const next = left[0];
      if (next?.[0].test(said)) {
        left.shift();
        child.stdin.write(next[1]);
      }
    });
    child.on('close', () => {
      clearTimeout(timer);
      resolve(said);
    });
  });
}

test('Ctrl-C goes to the guest, Ctrl-] leaves with status 130, the terminal is restored', async () => {
  if (!hasScript()) {
    console.warn('skipped: there is no script program to make a terminal with');
    return;
  }
  const name = uniqueName();
  const { stock } = debianKernels();
  const run = `'${process.execPath}' '${COMMAND}' run --name ${name} --kernel '${stock}' --ramdisk '${image.ramdisk}' --cmdline 'console=hvc0 quiet'`;
  const said = await onTerminal(
    `echo "before: $(${settings})"; ${run}; echo "status: $?"; echo "after: $(${settings})"`,
    [
      [/\/ # /, SLEEP],
      [/\nsleeping42\r+\n/, '\x03'],
      [/\^C\r+\n/, 'echo alive$((6*7))\r'],
      [/\nalive42\r+\n[\s\S]*\/ # /, 'echo leaving\x1d'],
    ],
  );
  expect(said).toContain('status: 130\r\n');
  const before = /before: (.*?)\r\n/.exec(said)?.[1];
  expect(before).toMatch(/^isig icanon echo *$/);
  expect(said).toContain(`after: ${before}`);
  // Typed before Ctrl-] in the same breath: the guest got it, or not, but it never appears twice.
  expect(said.match(/\n(echo )?leaving/g) ?? []).toHaveLength(0);
  expect(await leftovers(name)).toEqual([]);
}, 120_000);

test('console on a terminal: Ctrl-C goes to the guest, Ctrl-] leaves with status 0, the guest runs on', async () => {
  if (!hasScript()) {
    console.warn('skipped: there is no script program to make a terminal with');
    return;
  }
  const name = uniqueName();
  const { stock } = debianKernels();
  const common = ['--kernel', stock, '--ramdisk', ramdisk, '--cmdline', 'console=hvc0 quiet'];
  const guest = new Xenlighten(['run', '--name', name, ...common]);
  await guest.says(PROMPT);
  const attach = `'${process.execPath}' '${COMMAND}' console ${name}`;
  const said = await onTerminal(
    `echo "before: $(${settings})"; ${attach}; echo "status: $?"; echo "after: $(${settings})"`,
    [
      [/\/ # /, SLEEP],
      [/\nsleeping42\r+\n/, '\x03'],
      [/\^C\r+\n/, 'echo alive$((6*7))\r'],
      [/\nalive42\r+\n/, '\x1d'],
    ],
  );
  expect(said).toContain('status: 0\r\n');
  expect(said).toContain(`after: ${/before: (.*?)\r\n/.exec(said)?.[1]}`);
  guest.type('echo on$((6*7))\n');
  await guest.says(/^on42\r?$/m);
  guest.kill('SIGTERM');
  expect(await guest.ended).toEqual({ status: 0, signal: null });
}, 120_000);

test('a terminal that goes away: the guest powers off', async () => {
  if (!hasScript()) {
    console.warn('skipped: there is no script program to make a terminal with');
    return;
  }
  const name = uniqueName();
  const { stock } = debianKernels();
  const directory = mkdtempSync(path.join(tmpdir(), 'xenlighten-terminal-'));
  const complaints = path.join(directory, 'complaints');
  // The shell's place is taken by the command: the kernel tells the leader of the session that its terminal has gone.
  const run = `exec '${process.execPath}' '${COMMAND}' run --name ${name} --kernel '${stock}' --ramdisk '${ramdisk}' --cmdline 'console=hvc0 quiet' 2>'${complaints}'`;
  const child = spawn('script', ['-qec', run, '/dev/null'], { stdio: ['pipe', 'pipe', 'inherit'] });
  let said = '';
  await new Promise<void>((resolve) => {
    child.stdout.on('data', (chunk: Buffer) => {
      said += chunk.toString('latin1');
      if (/READY[\s\S]*\/ # /.test(said)) resolve();
    });
  });
  const { pid } = (await listDomains()).find((domain) => domain.name === name)?.info ?? {};
  child.kill('SIGKILL');
  for (let i = 0; i < 300 && existsSync(`/proc/${pid}`); i++) await new Promise((resolve) => setTimeout(resolve, 100));
  expect(pid).toBeGreaterThan(1);
  expect(existsSync(`/proc/${pid}`)).toBe(false);
  expect(readFileSync(complaints, 'utf8')).toBe(
    'xenlighten: SIGHUP: asking the guest to power off; a second signal destroys it\n',
  );
  expect(await leftovers(name)).toEqual([]);
  rmSync(directory, { recursive: true });
}, 120_000);
