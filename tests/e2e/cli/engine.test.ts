/**
 * `--engine` on hosts where the kvm engine cannot be used, or is unfit: exit status 2, one line that says why, nothing on
 * stdout, nothing left behind. The command runs with a /dev of its own (a mount namespace) that has the device wanted.
 */
import { execFileSync, spawn } from 'node:child_process';
import { accessSync, chmodSync, constants, existsSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { tinyLinux } from '../../unit/builder/images';
import { COMMAND, leftovers, uniqueName, Xenlighten } from '../lib/xenlighten';

const directory = mkdtempSync(path.join(tmpdir(), 'xenlighten-engine-'));
chmodSync(directory, 0o755);
afterAll(() => rmSync(directory, { recursive: true, force: true }));
const kernel = path.join(directory, 'tiny.elf');
writeFileSync(kernel, tinyLinux());

const NAMESPACE = [
  ['unshare', '-m'],
  ['unshare', '-Urm'],
].find(([program = '', ...args]) => {
  try {
    execFileSync(program, [...args, 'mount', '-t', 'tmpfs', 'none', '/mnt'], { stdio: 'ignore' });
    return true;
  } catch {
    return false;
  }
});

/** A /dev with the usual devices, and what `kvm` makes of /dev/kvm; then the rest of the arguments. */
const SCRIPT = `
set -e
kvm=$1 old=$2; shift 2
mkdir -p "$old"
mount --rbind /dev "$old"
mount -t tmpfs none /dev
for name in null zero full random urandom; do : > /dev/$name; mount --bind "$old/$name" /dev/$name; done
mkdir /dev/shm
case $kvm in
missing) ;;
null) : > /dev/kvm; mount --bind "$old/null" /dev/kvm ;;
forbidden) : > /dev/kvm; chmod 0 /dev/kvm ;;
same) : > /dev/kvm; mount --bind "$old/kvm" /dev/kvm ;;
esac
exec "$@"
`;

type Device = 'missing' | 'null' | 'forbidden' | 'same';

async function run(device: Device, args: readonly string[], asUser: readonly string[] = []) {
  const home = mkdtempSync(path.join(directory, 'home-'));
  chmodSync(home, 0o777);
  const old = path.join(directory, 'dev');
  mkdirSync(old, { recursive: true });
  const [program = '', ...options] = NAMESPACE ?? [];
  const child = spawn(
    program,
    [...options, 'sh', '-c', SCRIPT, 'sh', device, old, ...asUser, process.execPath, COMMAND, 'run', ...args],
    {
      stdio: ['ignore', 'pipe', 'pipe'],
      env: { ...process.env, HOME: home, XDG_CACHE_HOME: home, XDG_RUNTIME_DIR: home },
    },
  );
  let stdout = '';
  let stderr = '';
  child.stdout.on('data', (chunk: Buffer) => (stdout += chunk.toString('latin1')));
  child.stderr.on('data', (chunk: Buffer) => (stderr += chunk.toString('latin1')));
  const status = await new Promise<number | null>((resolve) => child.once('close', resolve));
  return { status, stdout, stderr };
}

const inNamespace = NAMESPACE === undefined ? test.skip : test;
const why = NAMESPACE === undefined ? ': this user may not make a mount namespace' : '';

const CASES: readonly (readonly [string, Device, string])[] = [
  [
    'no /dev/kvm',
    'missing',
    'the kvm engine cannot be used: /dev/kvm does not exist: this machine has no hardware virtualization, or its kvm module is not loaded (modprobe kvm_amd or kvm_intel)',
  ],
  [
    'a /dev/kvm that is something else',
    'null',
    'the kvm engine cannot be used: /dev/kvm is no KVM device (KVM_GET_API_VERSION: ENOTTY)',
  ],
];

inNamespace.each(CASES)(`--engine kvm with %s, forced or not${why}`, async (_title, device, message) => {
  for (const force of [[], ['--force']]) {
    const name = uniqueName();
    const args = ['--name', name, '--kernel', kernel, '--memory', '64', '--engine', 'kvm', ...force];
    expect(await run(device, args)).toEqual({ status: 2, stdout: '', stderr: `xenlighten: ${message}\n` });
    expect(await leftovers(name)).toEqual([]);
  }
});

const asNobody = process.geteuid?.() === 0 && existsSync('/usr/bin/setpriv') ? inNamespace : test.skip;
asNobody(`--engine kvm without permission for /dev/kvm${why || ' (needs root, and setpriv)'}`, async () => {
  const nobody = ['setpriv', '--reuid=65534', '--regid=65534', '--clear-groups'];
  const args = ['--name', uniqueName(), '--kernel', kernel, '--memory', '64', '--engine', 'kvm'];
  expect(await run('forbidden', args, nobody)).toEqual({
    status: 2,
    stdout: '',
    stderr:
      'xenlighten: the kvm engine cannot be used: no permission to open /dev/kvm: add this user to the group kvm\n',
  });
});

inNamespace(`--engine auto without a usable /dev/kvm takes qemu, and says why in the log${why}`, async () => {
  const reasons: readonly [Device, string][] = [
    ['missing', 'there is no /dev/kvm'],
    ['null', 'the kvm engine will not do: /dev/kvm is no KVM device (KVM_GET_API_VERSION: ENOTTY)'],
  ];
  for (const [device, reason] of reasons) {
    const args = ['--kernel', kernel, '--memory', '64', '--log-level', 'info', '--timeout', '20'];
    const { stderr } = await run(device, ['--name', uniqueName(), ...args]);
    const line = stderr.split('\n').find((text) => text.includes('"engine":"')) ?? stderr;
    expect(line).toContain(`"engine":"qemu","why":"${reason}"`);
  }
});

const noKvm = ((): string | undefined => {
  try {
    accessSync('/dev/kvm', constants.R_OK | constants.W_OK);
    return undefined;
  } catch (error) {
    return (error as NodeJS.ErrnoException).code;
  }
})();
const withKvm = noKvm === undefined ? test : test.skip;

withKvm(`KVM that is lost while the guest runs: 2, in words${noKvm ? `: /dev/kvm: ${noKvm}` : ''}`, async () => {
  const name = uniqueName();
  const run = new Xenlighten(
    [
      ...['run', '--name', name, '--kernel', kernel, '--memory', '64', '--vcpus', '2'],
      ...['--engine', 'kvm', '--force', '--timeout', '60'],
    ],
    { env: { NODE_OPTIONS: `--require ${path.join(__dirname, 'lose-kvm.js')}` } },
  );
  expect((await run.ended).status).toBe(2);
  expect(run.stdout).toBe('');
  // A KVM that interprets ring 0 may give up before we take it away: that is the same to the user.
  expect(run.complaints).toMatch(
    /^xenlighten: (KVM_RUN failed on virtual processor 0: ENOTTY|KVM gave up on virtual processor \d: internal error 1 [^\n]+)\n$/,
  );
  expect(await leftovers(name)).toEqual([]);
});

test('--engine kvm as this machine has it: refused in words, or used', async () => {
  const { probeKvm } = await import('../../../shim/partition/kvm/probe.js');
  const probe = await probeKvm();
  const name = uniqueName();
  const args = ['run', '--name', name, '--kernel', kernel, '--memory', '64', '--engine', 'kvm', '--timeout', '20'];
  const child = spawn(process.execPath, [COMMAND, ...args], { stdio: ['ignore', 'pipe', 'pipe'] });
  let stderr = '';
  child.stdout.resume();
  child.stderr.on('data', (chunk: Buffer) => (stderr += chunk.toString('latin1')));
  const status = await new Promise<number | null>((resolve) => child.once('close', resolve));
  const problem = probe.impossible ?? probe.unfit;
  if (problem === undefined) {
    expect(stderr).not.toMatch(/the kvm engine/);
  } else {
    expect(status).toBe(2);
    // What it says about the speed of ring 0 is measured anew.
    const stable = (text: string) => text.replaceAll(/\d+ clock ticks/g, 'N clock ticks');
    expect(stable(stderr)).toContain(stable(problem));
    expect(stderr).toMatch(/^xenlighten: the kvm engine (cannot be used|is not fit for use here): [^\n]+\n$/);
  }
  expect(await leftovers(name)).toEqual([]);
});
