/**
 * A guest's life while it runs, through the command: its console for several at once, what it is asked through xenstore,
 * reboot and power-off, asked for by commands and by signals.
 */
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { LINUX_NOTES, makeElf } from '../../unit/builder/images';
import { debianKernels } from '../lib/kernels';
import { endAll, leftovers, uniqueName, Xenlighten, xenlighten } from '../lib/xenlighten';
import { lifeRamdisk, PROMPT } from './guest';

let kernel: string;
let directory: string;
const ramdisk = lifeRamdisk();
const before = process.env['XDG_RUNTIME_DIR'];

beforeAll(() => {
  kernel = debianKernels().stock;
  directory = mkdtempSync(path.join(tmpdir(), 'xenlighten-life-'));
  process.env['XDG_RUNTIME_DIR'] = directory;
}, 300_000);
afterEach(endAll);
afterAll(() => {
  if (before === undefined) delete process.env['XDG_RUNTIME_DIR'];
  else process.env['XDG_RUNTIME_DIR'] = before;
  rmSync(ramdisk, { force: true });
  rmSync(directory, { recursive: true });
});

function configuration(name: string, more: string): string {
  const file = path.join(directory, `${name}.cfg`);
  const common = `name = "${name}"\nkernel = "${kernel}"\nramdisk = "${ramdisk}"\nextra = "console=hvc0"\nmemory = 128\n`;
  writeFileSync(file, common + more);
  return file;
}

test('console, list, sysrq, vcpu-set, mem-set; reboot starts it again, with its viewers; shutdown ends it', async () => {
  const name = uniqueName();
  const guest = new Xenlighten(['run', configuration(name, 'maxmem = 192\nmaxvcpus = 2\n')]);
  await guest.says(PROMPT);

  const [one, two] = [new Xenlighten(['console', name]), new Xenlighten(['console', name, '--no-history'])];
  await one.says(PROMPT);
  one.type('echo from-one$((6*7))\n');
  for (const viewer of [guest, one]) await viewer.says(/^from-one42\r?$/m);
  two.type('echo from-two$((6*7))\n');
  for (const viewer of [guest, one, two]) await viewer.says(/^from-two42\r?$/m);
  guest.type('echo from-run$((6*7))\n');
  for (const viewer of [guest, one, two]) await viewer.says(/^from-run42\r?$/m);
  expect(two.stdout).not.toContain('Linux version');
  // A viewer that is killed is nobody's loss.
  two.kill('SIGKILL');
  await two.ended;

  const row = async (): Promise<string[]> => {
    const { status, stdout } = await xenlighten('list', name);
    expect(status).toBe(0);
    const [header, line = '', ...rest] = stdout.trimEnd().split('\n');
    expect(header).toMatch(/^Name +ID +Mem VCPUs\tState\tTime\(s\)$/);
    expect(rest).toEqual([]);
    return line.split(/ +/);
  };
  expect((await row()).slice(0, 4)).toEqual([name, '1', '128', '1']);
  expect(await xenlighten('list', `${name}-not`)).toMatchObject({
    status: 1,
    stderr: expect.stringContaining('no such domain') as string,
  });

  expect(await xenlighten('sysrq', name, 'h')).toEqual({ status: 0, signal: null, stdout: '', stderr: '' });
  await guest.says(/sysrq: HELP : /);
  expect(await xenlighten('sysrq', name, 'hh')).toMatchObject({
    status: 1,
    stderr: 'xenlighten: unusable key: found "hh", wanted one character\n',
  });

  const cpu = '/sys/devices/system/cpu';
  expect(await xenlighten('vcpu-set', name, '2')).toMatchObject({ status: 0, stdout: '', stderr: '' });
  // As under Xen, the kernel makes a processor that comes present; the rest is for udev, which is not there.
  guest.type(`until echo 1 > ${cpu}/cpu1/online; do sleep 0.2; done 2>/tmp/e; echo cpus $(cat ${cpu}/online)\n`);
  await guest.says(/^cpus 0-1\r?$/m);
  expect((await row())[3]).toBe('2');
  expect(await xenlighten('vcpu-set', name, '1')).toMatchObject({ status: 0 });
  guest.type(`while [ -e ${cpu}/cpu1/online ]; do sleep 0.2; done; echo cpus $(cat ${cpu}/online)\n`);
  await guest.says(/^cpus 0\r?$/m);
  expect(await xenlighten('vcpu-set', name, '3')).toMatchObject({
    status: 1,
    stderr: `xenlighten: ${name}: cannot set the vCPUs to 3: wanted 1 to 2 (maxvcpus of the guest)\n`,
  });

  // memory was less than maxmem from the start.
  expect(await xenlighten('mem-set', name, '192')).toMatchObject({ status: 0, stdout: '', stderr: '' });
  for (let i = 0; i < 100 && (await row())[2] !== '192'; i++) await new Promise((resolve) => setTimeout(resolve, 100));
  expect((await row())[2]).toBe('192');
  expect(await xenlighten('mem-set', name, '193m')).toMatchObject({
    status: 1,
    stderr: `xenlighten: ${name}: cannot set the memory to 193 MiB: wanted at most 192 MiB (maxmem of the guest)\n`,
  });

  expect(await xenlighten('mem-max', name, '191')).toMatchObject({
    status: 1,
    stderr: `xenlighten: ${name}: cannot set the maximum to 191 MiB: wanted 192 (what the guest is to have) to 192 MiB (maxmem of its configuration)\n`,
  });

  expect(await xenlighten('pause', name)).toMatchObject({ status: 0 });
  expect(await xenlighten('shutdown', name)).toMatchObject({
    status: 1,
    stderr: `Shutting down domain ${name}\nxenlighten: ${name}: cannot shut the domain down: it is paused, wanted one that is running\n`,
  });
  expect(await xenlighten('unpause', name)).toMatchObject({ status: 0 });

  expect(await xenlighten('reboot', '-w', name)).toEqual({
    status: 0,
    signal: null,
    stdout: `Domain ${name} has been shut down, reason code 1\n`,
    stderr: `Rebooting domain ${name}\n`,
  });
  const twice = /^READY\r?\n[\s\S]*^READY\r?\n[\s\S]*\/ # /m;
  await Promise.all([guest.says(twice), one.says(twice)]);
  one.type('echo second-life$((6*7))\n');
  await guest.says(/^second-life42\r?$/m);

  expect(await xenlighten('shutdown', '-F', '--wait', name)).toEqual({
    status: 0,
    signal: null,
    stdout: `Domain ${name} has been shut down, reason code 0\n`,
    stderr: `Shutting down domain ${name}\n`,
  });
  expect(await guest.ended).toEqual({ status: 0, signal: null });
  expect(await one.ended).toEqual({ status: 0, signal: null });
  expect(one.stdout).toBe(guest.stdout);
  expect([guest.complaints, one.complaints]).toEqual(['', '']);
  expect(await leftovers(name)).toEqual([]);
}, 180_000);

// SIGINT and SIGHUP: tests/e2e/linux, and tests/e2e/cli for a terminal that goes away.
test('SIGTERM: the guest powers off, and that is the end whatever on_poweroff says', async () => {
  const name = uniqueName();
  const guest = new Xenlighten(['run', configuration(name, 'on_poweroff = "restart"\n')]);
  await guest.says(PROMPT);
  guest.kill('SIGTERM');
  expect(await guest.ended).toEqual({ status: 0, signal: null });
  expect(guest.stdout).toMatch(/reboot: (System halted|Power down)/);
  expect(guest.complaints).toBe('xenlighten: SIGTERM: asking the guest to power off; a second signal destroys it\n');
  expect(await leftovers(name)).toEqual([]);
}, 120_000);

test('on_poweroff = "restart" is obeyed for a shutdown that a command asked for', async () => {
  const name = uniqueName();
  const guest = new Xenlighten(['run', configuration(name, 'on_poweroff = "restart"\n')]);
  await guest.says(PROMPT);
  expect((await xenlighten('shutdown', '--all', '-w')).stdout).toBe(
    `Domain ${name} has been shut down, reason code 0\n`,
  );
  await guest.says(/^READY\r?\n[\s\S]*^READY\r?\n/m);
  expect((await xenlighten('destroy', name)).status).toBe(0);
  expect((await guest.ended).status).toBe(2);
}, 120_000);

test('a guest that does not listen: commands say so, and the second signal destroys it', async () => {
  const name = uniqueName();
  const text = Buffer.alloc(0x1000, 0x90);
  // jmp to itself, at the entry, which is 0x40 behind the start of the segment.
  Buffer.from([0xeb, 0xfe]).copy(text, 0x40);
  const file = path.join(directory, 'spin');
  const segments = [{ paddr: 0x1000000n, vaddr: 0xffffffff81000000n, bytes: text }];
  writeFileSync(file, makeElf({ segments, notes: LINUX_NOTES, entry: 0x1000000n }));
  const guest = new Xenlighten(['run', '--name', name, '--kernel', file, '--memory', '32', '--timeout', '60']);
  for (let i = 0; i < 200; i++) {
    if (/ r----- /.test((await xenlighten('list')).stdout)) break;
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
  const asked = await xenlighten('shutdown', name, '--timeout', '1');
  expect(asked.status).toBe(4);
  expect(asked.stderr).toMatch(
    /: the guest does not listen for shutdown requests \(control\/feature-poweroff is not set: .*\), and did not acknowledge poweroff within 1 s; the request is withdrawn\n$/,
  );
  guest.kill('SIGTERM');
  await guest.complains(/^xenlighten: the guest does not listen for shutdown requests .*a second signal destroys it$/m);
  guest.kill('SIGINT');
  expect(await guest.ended).toEqual({ status: 130, signal: null });
  expect(await leftovers(name)).toEqual([]);
}, 120_000);
