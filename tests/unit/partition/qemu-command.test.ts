/** QEMU's command line, version check, exit classification and RAM layout: the parts that need no QEMU. */
import { checkVersion, QemuUnusableError } from '../../../shim/partition/qemu/binary';
import { commandLine } from '../../../shim/partition/qemu/command-line';
import { parseCpuHelp } from '../../../shim/partition/qemu/cpu-models';
import { classifyExit } from '../../../shim/partition/qemu/qemu-partition';
import { ramRegions } from '../../../shim/partition/ram-layout';

const machine = { memoryBytes: 512 * 2 ** 20, vpCount: 1 };

function option(line: readonly string[], name: string): string {
  return line[line.indexOf(name) + 1];
}

test('one VP is never the only possible one, so that TCG keeps locked instructions atomic', () => {
  expect(option(commandLine(machine), '-smp')).toBe('cpus=1,maxcpus=2');
  expect(option(commandLine({ ...machine, vpCount: 4 }), '-smp')).toBe('cpus=4,maxcpus=4');
});

test('the sandbox denies everything, SMAP and SMEP are off with any CPU model', () => {
  const line = commandLine({ ...machine, cpu: 'max,+smap' });
  expect(option(line, '-sandbox')).toBe('on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny');
  expect(option(line, '-cpu')).toBe('max,+smap,xsaveopt=on,smap=off,smep=off,bmi2=off');
  expect(line).toEqual(expect.arrayContaining(['-nodefaults', '-no-user-config', '-no-reboot']));
});

test('the default model is given as it is', () => {
  expect(option(commandLine(machine), '-cpu')).toBe('qemu64,smap=off,smep=off,bmi2=off');
});

test('models are read from what -cpu help prints, not its flags', () => {
  const printed = `Available CPUs:
x86 486                   (alias configured by machine type)
x86 Haswell-noTSX-IBRS    (alias of Haswell-v4)
x86 max                   Enables all features

Recognized CPUID flags:
  3dnow avx
  x86 none
`;
  expect(parseCpuHelp(printed)).toEqual(['486', 'Haswell-noTSX-IBRS', 'max']);
  // As later versions print it.
  expect(parseCpuHelp('Available CPUs:\n  486                   (alias)\n  max\n')).toEqual(['486', 'max']);
  expect(parseCpuHelp('no such option')).toEqual([]);
});

test('names and paths cannot smuggle options in', () => {
  const line = commandLine({ ...machine, name: 'a,debug-threads=on b', debugLog: '/tmp/x,y' });
  expect(option(line, '-name')).toBe('xenlighten-a_debug-threads_on_b');
  expect(line).toContain('file,id=log,path=/tmp/x,,y');
});

test('icount excludes thread=multi', () => {
  const line = commandLine({ ...machine, icount: 'shift=0' });
  expect(option(line, '-accel')).toMatch(/thread=single/);
  expect(option(line, '-icount')).toBe('shift=0');
});

test.each([
  ['QEMU emulator version 7.2.22 (Debian 1:7.2+dfsg-7+deb12u18+b3)\nCopyright', '7.2.22'],
  ['QEMU emulator version 10.0.2', '10.0.2'],
  ['QEMU emulator version 8.0', '8.0'],
])('%s is new enough', (printed, version) => {
  expect(checkVersion('/usr/bin/qemu', printed)).toBe(version);
});

test.each([
  ['QEMU emulator version 7.1.0', /QEMU 7\.1\.0: at least 7\.2/],
  ['QEMU emulator version 5.2.0', /at least 7\.2/],
  ['something else', /printed no version but 'something else'/],
])('%s is refused', (printed, message) => {
  expect(() => checkVersion('/usr/bin/qemu', printed)).toThrow(QemuUnusableError);
  expect(() => checkVersion('/usr/bin/qemu', printed)).toThrow(message);
});

describe('how a partition ended', () => {
  const noise = 'qemu: module ui-ui-gtk not found, do you want to install qemu-system-gui package?\n';
  test.each([
    ['a stop', true, null, 'SIGKILL', '', 'stopped'],
    ['a triple fault', false, 0, null, noise, 'triple-fault'],
    ['SIGTERM', false, 0, null, 'qemu: terminating on signal 15 from pid 1 (init)\n', 'killed'],
    ['SIGKILL', false, null, 'SIGKILL', '', 'killed'],
    ['a complaint', false, 1, null, `${noise}qemu: no memory\n`, 'failed'],
  ] as const)('%s', (_, stopped, code, signal, stderr, reason) => {
    const exit = classifyExit(stopped, code, signal, stderr);
    expect(exit.reason).toBe(reason);
    expect(exit.message).not.toMatch(/not found/);
    if (reason === 'failed') expect(exit.message).toBe('QEMU ended with status 1: qemu: no memory');
  });
});

test('RAM lies below 3 GiB and above 4 GiB', () => {
  const gib = 2 ** 30;
  expect(ramRegions(64 * 2 ** 20)).toEqual([{ gpa: 0, size: 64 * 2 ** 20 }]);
  expect(ramRegions(3 * gib)).toEqual([{ gpa: 0, size: 3 * gib }]);
  expect(ramRegions(8 * gib)).toEqual([
    { gpa: 0, size: 3 * gib },
    { gpa: 4 * gib, size: 5 * gib },
  ]);
  for (const size of [0, 100, 2 ** 20, 2 ** 37, -gib, 64 * 2 ** 20 + 1])
    expect(() => ramRegions(size)).toThrow(RangeError);
});
