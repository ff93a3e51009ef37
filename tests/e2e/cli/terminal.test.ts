/** The guest's console on a real terminal: raw while the guest runs, Ctrl-] leaves, the terminal is as before. */
import { execFileSync, spawn } from 'node:child_process';
import { rmSync } from 'node:fs';
import { guestImage } from '../lib/guest-image';
import { debianKernels } from '../lib/kernels';
import { COMMAND, leftovers, uniqueName } from '../lib/xenlighten';

const image = guestImage();
afterAll(() => rmSync(image.ramdisk, { force: true }));

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
  const settings = `stty -a | tr ' ;' '\\n\\n' | grep -x -e '-*icanon' -e '-*echo' -e '-*isig' | tr '\\n' ' '`;
  const said = await onTerminal(
    `echo "before: $(${settings})"; ${run}; echo "status: $?"; echo "after: $(${settings})"`,
    [
      [/\/ # /, 'echo sleeping$((6*7)); sleep 1000\r'],
      [/\nsleeping42\r+\n/, '\x03'],
      [/\^C\r+\n/, 'echo alive$((6*7))\r'],
      [/\nalive42\r+\n/, 'echo leaving\x1d'],
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
