/**
 * Debian's unmodified kernel on a processor with AVX2, in both guest rings: the kernel finds the features and manages
 * XSAVE, and YMM registers of several processes are not mixed up across time slices, system calls, page faults and
 * signals (avx.c). The same without AVX where the configuration hides it, and what the command says of a processor that
 * is not what was wanted.
 */
import { execFileSync } from 'node:child_process';
import { mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { busyboxInitramfs, type InitramfsEntry } from '../../../scripts/lib/initramfs';
import { packageRoot } from '../../../shim/partition/native-files';
import { debianKernels } from '../lib/kernels';
import { endAll, uniqueName, Xenlighten, xenlighten } from '../lib/xenlighten';

const FOLDER = path.join(packageRoot(), 'build', 'tests', 'linux');
const PROCESSES = 4;

const INIT = `#!/bin/sh
/bin/busybox --install -s /bin
mount -t proc proc /proc
mount -t devtmpfs devtmpfs /dev 2>/dev/null
echo "flags: $(grep -m 1 ^flags /proc/cpuinfo) end"
/bin/avx
dmesg | grep -i -e "x86/fpu" -e "BUG:" -e "WARNING:" -e "Oops" | sed 's/^/dmesg: /'
echo ALL DONE
poweroff -f
`;

let ramdisk: string;
let config: string;
let kernel: string;

beforeAll(() => {
  mkdirSync(FOLDER, { recursive: true });
  const program = path.join(FOLDER, `avx.${process.pid}`);
  execFileSync('gcc', [
    '-O1',
    '-Wall',
    '-Wextra',
    '-Werror',
    '-mavx2',
    '-static',
    '-o',
    program,
    path.join(__dirname, 'avx.c'),
  ]);
  const entries: InitramfsEntry[] = [{ path: 'bin/avx', kind: 'file', data: readFileSync(program), executable: true }];
  rmSync(program);
  ramdisk = path.join(FOLDER, `avx-initramfs.${process.pid}.gz`);
  writeFileSync(ramdisk, busyboxInitramfs(INIT, entries));
  config = path.join(FOLDER, `avx.${process.pid}.cfg`);
  kernel = debianKernels().stock;
}, 300_000);
afterEach(endAll);
afterAll(() => {
  for (const file of [ramdisk, config]) rmSync(file, { force: true });
});

/** A configuration file; its third line is the setting of cpuid. */
function configure(cpuid: string): string {
  writeFileSync(config, `kernel = "${kernel}"\nramdisk = "${ramdisk}"\ncpuid = "${cpuid}"\nmemory = 256\n`);
  return config;
}

async function boot(ring: 1 | 3, vcpus = 1, cpuid = 'host'): Promise<string> {
  const guest = new Xenlighten([
    ...['run', configure(cpuid), '--name', uniqueName(), '--cmdline', 'console=hvc0 loglevel=1', '--timeout', '120'],
    ...['--guest-ring', `${ring}`, '--vcpus', `${vcpus}`, '--cpu', 'max'],
  ]);
  const { status } = await guest.ended;
  if (status !== 0)
    throw new Error(`exit status ${status}\n${guest.stdout.slice(-3000)}\n${guest.stderr.slice(-3000)}`);
  expect(guest.stdout).toContain('ALL DONE');
  expect(guest.stdout).not.toMatch(/^dmesg: .*(BUG:|WARNING:|Oops)/m);
  return guest.stdout.replaceAll('\r', '');
}

const flagsOf = (console: string): string[] => (/^flags: .*?: (.*) end$/m.exec(console)?.[1] ?? '').split(' ');

test.each([1, 3] as const)(
  'ring %d: AVX2 works, and states are kept apart',
  async (ring) => {
    const said = await boot(ring);
    const flags = flagsOf(said);
    expect(flags).toEqual(expect.arrayContaining(['xsave', 'avx', 'avx2', 'fma', 'f16c', 'fsgsbase', 'xsaveopt']));
    expect(
      flags.filter((f) =>
        ['bmi2', 'smep', 'smap', 'umip', 'pku', 'ospke', 'mtrr', 'pcid', 'pdpe1gb', 'la57'].includes(f),
      ),
    ).toEqual([]);
    expect(said).toMatch(/^dmesg: .*x86\/fpu: Enabled xstate features 0x7, context size is 832 bytes/m);
    const [, vectors, scalar] = /^sum: (-?\d+) (-?\d+)$/m.exec(said) ?? [];
    expect([vectors, scalar]).toEqual(['284488192', '284488192']);
    for (let id = 0; id < PROCESSES; id++) expect(said).toContain(`process ${id}: 400 of 400, alarms yes\n`);
    expect(said).toContain('avx: 0 failed\n');
  },
  180_000,
);

test('a feature that is hidden is gone, with what needs it', async () => {
  const said = await boot(1, 1, 'host,avx=0');
  const flags = flagsOf(said);
  expect(flags).toContain('xsave');
  expect(flags.filter((f) => /^(avx|fma|f16c|vaes)/.test(f))).toEqual([]);
  expect(said).toMatch(/^dmesg: .*x86\/fpu: Enabled xstate features 0x3/m);
}, 180_000);

test('a feature that is wanted and missing keeps the guest from starting', async () => {
  const { status, stdout, stderr } = await xenlighten('run', configure('host,avx2=1,sse3=1'));
  expect({ status, stdout }).toEqual({ status: 2, stdout: '' });
  expect(stderr).toBe(
    `xenlighten: ${config}:3: cpuid wants avx2, which the processor of engine qemu does not have; 'run --cpu max' has all that QEMU can do\n`,
  );
});

test('a processor without long mode is refused', async () => {
  const { status, stderr } = await xenlighten('run', configure('host'), '--cpu', 'pentium3');
  expect(status).toBe(2);
  expect(stderr).toBe(
    'xenlighten: --cpu: a processor "pentium3" cannot run a 64-bit guest: long mode, SYSCALL and NX are wanted\n',
  );
});

test.each([
  ['Haswel', /^xenlighten: --cpu: unknown processor model: found "Haswel", wanted "Haswell", or another model of /],
  ['max -S', /^xenlighten: --cpu: unusable processor model: found "max -S", wanted a model such as max/],
])('--cpu %p is refused', async (cpu, message) => {
  const { status, stderr } = await xenlighten('run', configure('host'), '--cpu', cpu);
  expect(status).toBe(1);
  expect(stderr).toMatch(message);
});
