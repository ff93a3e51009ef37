/**
 * Debian's unmodified kernels, booted to a shell by the command: in both guest rings, with little and much memory, with
 * every setting of the vsyscall page, with 32-bit programs; typed at, powered off. Each boot checks all it can.
 */
import { readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import type { Stats } from '../../../shim/translate/stats';
import { guestImage } from '../lib/guest-image';
import { type DebianKernels, debianKernels } from '../lib/kernels';
import { endAll, leftovers, uniqueName, Xenlighten, xenlighten } from '../lib/xenlighten';

type Vsyscall = 'none' | 'xonly' | 'emulate';
const SEGV = 139;
/** The guest's shell waits for a command; what is typed before would mix with what init says. */
const PROMPT = /^READY\r?\n[\s\S]*\/ # /m;

let kernels: DebianKernels;
const image = guestImage();
beforeAll(() => {
  kernels = debianKernels();
}, 300_000);
afterEach(endAll);
afterAll(() => rmSync(image.ramdisk, { force: true }));

interface Boot {
  readonly kernel: 'stock' | 'other';
  readonly ring: 1 | 3;
  readonly memory: number;
  readonly vsyscall: Vsyscall;
}

const BOOTS: readonly Boot[] = [
  { kernel: 'stock', ring: 1, memory: 128, vsyscall: 'none' },
  { kernel: 'stock', ring: 3, memory: 128, vsyscall: 'xonly' },
  { kernel: 'stock', ring: 1, memory: 1024, vsyscall: 'emulate' },
  { kernel: 'stock', ring: 3, memory: 1024, vsyscall: 'none' },
  { kernel: 'stock', ring: 1, memory: 6144, vsyscall: 'xonly' },
  { kernel: 'stock', ring: 3, memory: 6144, vsyscall: 'emulate' },
  { kernel: 'other', ring: 1, memory: 256, vsyscall: 'xonly' },
  { kernel: 'other', ring: 3, memory: 256, vsyscall: 'emulate' },
];

/** Exit statuses of the vsyscall program: call, read. */
const VSYSCALL: Readonly<Record<Vsyscall, readonly [number, number]>> = {
  none: [SEGV, SEGV],
  xonly: [0, SEGV],
  emulate: [0, 0],
};

test.each(BOOTS)(
  '$kernel kernel, ring $ring, $memory MB, vsyscall=$vsyscall',
  async ({ kernel, ring, memory, vsyscall }) => {
    const file = kernels[kernel];
    if (file === undefined) {
      console.warn(`skipped: apt offers no other kernel than ${path.basename(kernels.stock)}`);
      return;
    }
    const name = uniqueName();
    const statsFile = path.join(tmpdir(), `${name}.json`);
    const guest = new Xenlighten([
      ...['run', '--name', name, '--kernel', file, '--ramdisk', image.ramdisk, '--memory', `${memory}`],
      ...['--cmdline', `console=hvc0 quiet vsyscall=${vsyscall}`, '--guest-ring', `${ring}`, '--stats', statsFile],
    ]);
    await guest.says(PROMPT);
    const said = (key: string): string =>
      new RegExp(`^${key}: (.*?)\\r?$`, 'm').exec(guest.stdout)?.[1] ?? '(not said)';

    expect(said('uname')).toBe(`Linux ${path.basename(file).replace('vmlinuz-', '')}`);
    expect(said('hypervisor')).toBe('xen 4.17');
    expect(said('uuid')).toMatch(/^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/);
    expect(said('dmesg')).toBe('on Xen');
    // The MD5 of "49" and a line end.
    expect(said('loop')).toBe('a75f5a8337c6699916182b6f7c10d7a9  -');
    expect(guest.stdout).not.toMatch(/^trouble: /m);
    // The kernel, its tables and the ramdisk take up to 100 MB of it; struct pages 1/64.
    const total = Number(said('memory'));
    expect(total).toBeGreaterThan(memory * 1024 * 0.97 - 100 * 1024);
    expect(total).toBeLessThan(memory * 1024);

    const [call, read] = VSYSCALL[vsyscall];
    expect(said('vsyscall call')).toMatch(new RegExp(`^${call}\\b`));
    expect(said('vsyscall read')).toMatch(new RegExp(`^${read}\\b`));
    if (image.has32Bit) {
      expect(said('compat int80')).toBe('0 32-bit system calls work');
      expect(said('compat vdso')).toBe('0 32-bit system calls work');
    } else console.warn('32-bit programs are not tested: gcc -m32 does not work here');

    // What is typed is echoed by the guest's terminal, and answered by its shell.
    guest.type('echo typed$((6*7))back\n');
    await guest.says(/^typed42back\r?$/m);
    expect(guest.stdout).toContain('echo typed$((6*7))back');
    guest.type('poweroff -f\n');
    expect(await guest.ended).toEqual({ status: 0, signal: null });
    expect(guest.complaints).toBe('');

    const stats = JSON.parse(readFileSync(statsFile, 'utf8')) as Stats;
    rmSync(statsFile);
    expect(stats).toMatchObject({ name, guestRing: ring, vcpus: 1 });
    expect(stats.xen.find((o) => o.name === 'mmuext_op.new_baseptr')?.count).toBeGreaterThan(50);
    if (image.has32Bit) {
      expect(stats.module['guest_int80']).toBeGreaterThan(1000);
      expect((stats.module['guest_syscall32'] ?? 0) + (stats.module['guest_sysenter'] ?? 0)).toBeGreaterThan(1000);
    }
    expect(await leftovers(name)).toEqual([]);
  },
);

test.each([1, 3])('a panic in ring %d: exit status 3 and the report', async (ring) => {
  const name = uniqueName();
  const guest = new Xenlighten([
    ...['run', '--name', name, '--kernel', kernels.stock, '--ramdisk', image.ramdisk, '--guest-ring', `${ring}`],
    ...['--cmdline', 'console=hvc0 quiet'],
  ]);
  await guest.says(PROMPT);
  guest.type('echo c > /proc/sysrq-trigger\n');
  expect(await guest.ended).toEqual({ status: 3, signal: null });
  expect(guest.stdout).toContain('Kernel panic - not syncing: sysrq triggered crash');
  const report = guest.stderr;
  expect(report).toMatch(/^Guest crash on vCPU 0$/m);
  expect(report).toMatch(
    /guest kernel panicked and reported it .*: Kernel panic - not syncing: sysrq triggered crash$/m,
  );
  expect(report).toMatch(/^ {2}rip [0-9a-f]{4}:ffffffff8[0-9a-f]{7}/m);
  expect(report).toMatch(/^ {2}r13 [0-9a-f]{16} {2}r14 [0-9a-f]{16} {2}r15 [0-9a-f]{16}$/m);
  expect(report).toMatch(/^ {2}[0-9a-f]{16}:( [0-9a-f]{16}){4}$/m);
  // The call chain of the panic, by the kernel's own symbols.
  expect(report).toMatch(/panic\+0x[0-9a-f]+\n[\s\S]*sysrq_handle_crash\+0x[0-9a-f]+\n[\s\S]*vfs_write\+0x/);
  expect(report).toMatch(/^Last 32 hypercalls/m);
  expect(report).toMatch(/^ {2}event_channel_op\.send\(cmd=0x4, arg=0x[0-9a-f]+\) = 0/m);
  expect(report).toMatch(/^ {2}sched_op\.shutdown\(cmd=0x2, .*\), under way$/m);
  expect(await leftovers(name)).toEqual([]);
});

test('no root file system: exit status 3, by a configuration file', async () => {
  const name = uniqueName();
  const cfg = path.join(tmpdir(), `${name}.cfg`);
  writeFileSync(
    cfg,
    [
      `name = "${name}"; type = "pv"`,
      `kernel = "${kernels.stock}"`,
      'memory = 96   # MB',
      'extra = "console=hvc0 quiet panic=-1"',
      'on_crash = "preserve"',
      'frobnicate = 3',
      '',
    ].join('\n'),
  );
  const { status, stdout, stderr } = await xenlighten('run', cfg);
  rmSync(cfg);
  expect(status).toBe(3);
  expect(stdout).toContain('Kernel panic - not syncing: VFS: Unable to mount root fs');
  expect(stderr).toContain(`${cfg}:5: on_crash = "preserve" is not supported: the domain is destroyed instead`);
  expect(stderr).toContain(`${cfg}:6: unknown key "frobnicate"`);
  expect(stderr).toMatch(/VFS: Unable to mount root fs/);
  expect(await leftovers(name)).toEqual([]);
});

test('a reboot starts the guest again', async () => {
  const name = uniqueName();
  const common = ['--kernel', kernels.stock, '--ramdisk', image.ramdisk, '--cmdline', 'console=hvc0 quiet'];
  const guest = new Xenlighten(['run', '--name', name, ...common]);
  await guest.says(PROMPT);
  guest.type('echo first; reboot -f\n');
  await guest.says(/Restarting system[\s\S]*\/ # /);
  guest.type('echo second$((1+1)); poweroff -f\n');
  expect(await guest.ended).toEqual({ status: 0, signal: null });
  expect(guest.stdout).toMatch(/^second2\r?$/m);
  expect(await leftovers(name)).toEqual([]);
});

test('on_reboot = "destroy": a reboot is an orderly end', async () => {
  const name = uniqueName();
  const cfg = path.join(tmpdir(), `${name}.cfg`);
  writeFileSync(
    cfg,
    `kernel = "${kernels.stock}"\nramdisk = '${image.ramdisk}'\nextra = "console=hvc0 quiet"\non_reboot = "destroy"\n`,
  );
  const guest = new Xenlighten(['run', cfg, '--name', name]);
  await guest.says(PROMPT);
  guest.type('reboot -f\n');
  expect(await guest.ended).toEqual({ status: 0, signal: null });
  expect(guest.stdout.match(/^READY\r?$/gm)).toEqual(['READY\r']);
  rmSync(cfg);
});

test('--timeout: exit status 4', async () => {
  const name = uniqueName();
  const guest = new Xenlighten(['run', '--name', name, '--kernel', kernels.stock, '--timeout', '1']);
  expect(await guest.ended).toEqual({ status: 4, signal: null });
  expect(guest.stderr).toContain('the guest was ended after 1 s (--timeout)');
  expect(await leftovers(name)).toEqual([]);
});

test.each(['SIGINT', 'SIGTERM', 'SIGHUP'] as const)(
  '%s while the guest boots: it powers off when its driver is there, exit status 0',
  async (signal) => {
    const name = uniqueName();
    const common = ['--kernel', kernels.stock, '--ramdisk', image.ramdisk, '--cmdline', 'console=hvc0'];
    const guest = new Xenlighten(['run', '--name', name, ...common]);
    await guest.says(/Linux version/);
    guest.kill(signal);
    expect(await guest.ended).toEqual({ status: 0, signal: null });
    expect(guest.complaints).toMatch(new RegExp(`^xenlighten: ${signal}: asking the guest to power off;`));
    expect(await leftovers(name)).toEqual([]);
  },
);

test('SIGQUIT destroys the guest at once: exit status 131', async () => {
  const name = uniqueName();
  const guest = new Xenlighten(['run', '--name', name, '--kernel', kernels.stock, '--cmdline', 'console=hvc0']);
  await guest.says(/Linux version/);
  guest.kill('SIGQUIT');
  expect(await guest.ended).toEqual({ status: 131, signal: null });
  expect(await leftovers(name)).toEqual([]);
});

test('kill -9 leaves nothing', async () => {
  const name = uniqueName();
  const guest = new Xenlighten(['run', '--name', name, '--kernel', kernels.stock, '--cmdline', 'console=hvc0']);
  await guest.says(/Linux version/);
  guest.kill('SIGKILL');
  expect(await guest.ended).toEqual({ status: null, signal: 'SIGKILL' });
  expect(await leftovers(name)).toEqual([]);
});
