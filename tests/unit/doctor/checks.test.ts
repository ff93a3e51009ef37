/** Every outcome of every check, on hosts that are made up. */
import { CHECKS } from '../../../shim/doctor';
import { type Check, type CheckResult, formatResults, isHealthy, runChecks } from '../../../shim/doctor/check';
import type { DoctorHost } from '../../../shim/doctor/host';
import { QemuUnusableError } from '../../../shim/partition/qemu/binary';
import { linuxHost, windowsHost } from './fake-host';

async function result(id: string, host: DoctorHost): Promise<CheckResult> {
  const found = (await runChecks(CHECKS, host)).find((r) => r.id === id);
  if (found === undefined) throw new Error(`no check ${id} here`);
  return found;
}

const fails = (message: string) => async (): Promise<never> => {
  throw new Error(message);
};

describe('a host that has everything', () => {
  test('Linux', async () => {
    const results = await runChecks(CHECKS, linuxHost());
    expect(results.map(({ id, status }) => `${id}: ${status}`)).toEqual([
      'node: ok',
      'memory: ok',
      'addon: ok',
      'trap-module: ok',
      'cache: ok',
      'control-directory: ok',
      'kvm: ok',
      'qemu: note',
      'engine: ok',
      'guest-ring: ok',
    ]);
    expect(isHealthy(results)).toBe(true);
  });

  test('Windows', async () => {
    const host = windowsHost();
    const results = await runChecks(CHECKS, host);
    expect(results.map(({ id, status }) => `${id}: ${status}`)).toEqual([
      'node: ok',
      'addon: ok',
      'trap-module: ok',
      'cache: ok',
      'control-directory: ok',
      'windows: ok',
      'windows-feature: ok',
      'windows-hypervisor: ok',
      'windows-launch-type: note',
      'windows-elevation: note',
      'windows-policy: ok',
      'memory: ok',
      'control-privacy: ok',
      'control-pipe: ok',
      'whp: ok',
      'engine: ok',
      'guest-ring: ok',
    ]);
    // Only programs of the system's own folder; the long query once, and the one about the folder.
    expect(host.ran.every((file) => file.startsWith('C:\\Windows\\System32\\'))).toBe(true);
    expect(host.ran.filter((file) => file.endsWith('powershell.exe'))).toHaveLength(2);
  });
});

test('a check that throws is an outcome, and no problem', async () => {
  const broken: Check = { id: 'x', title: 'X', run: fails('line one\nline two') };
  const results = await runChecks([broken], linuxHost());
  expect(results).toEqual([
    { id: 'x', title: 'X', status: 'unknown', found: 'the check itself failed: line one; line two' },
  ]);
  expect(isHealthy(results)).toBe(true);
});

test('what is printed: columns, and advice below what it is for', () => {
  const text = formatResults([
    { id: 'a', title: 'Short', status: 'ok', found: 'fine' },
    { id: 'b', title: 'Longer title', status: 'problem', found: 'not fine', advice: ['do this', '  by that'] },
  ]);
  expect(text.split('\n')).toEqual([
    'ok       Short         fine',
    'problem  Longer title  not fine',
    '                       do this',
    '                         by that',
  ]);
});

describe('Node.js', () => {
  test.each([
    ['18.20.8', 'problem'],
    ['19.0.0', 'problem'],
    ['20.0.0', 'ok'],
    ['21.7.0', 'warning'],
    ['22.22.2', 'ok'],
    ['24.21.0', 'ok'],
    ['27.1.0', 'warning'],
    ['nonsense', 'problem'],
  ])('%s: %s', async (nodeVersion, status) => {
    expect(await result('node', linuxHost({ nodeVersion }))).toMatchObject({ status });
  });

  test('for another processor', async () => {
    expect(await result('node', windowsHost({ arch: 'ia32' }))).toMatchObject({ status: 'problem' });
  });
});

describe('memory of Linux', () => {
  const meminfo = (available: number, limit: number, committed: number, strict: boolean): Partial<DoctorHost> => ({
    read: async (file) => {
      if (file === '/proc/sys/vm/overcommit_memory') return strict ? '2\n' : '0\n';
      if (file !== '/proc/meminfo') throw new Error('ENOENT');
      return `MemTotal: 8388608 kB\nMemAvailable: ${available} kB\nCommitLimit: ${limit} kB\nCommitted_AS: ${committed} kB\n`;
    },
  });

  test('what is available counts', async () => {
    expect(await result('memory', linuxHost(meminfo(1 << 20, 1, 0, false)))).toMatchObject({
      status: 'ok',
      found: '1024 MiB of 8192 MiB available',
    });
    expect(await result('memory', linuxHost(meminfo(200 << 10, 1 << 30, 0, false)))).toMatchObject({
      status: 'warning',
      found: '200 MiB of 8192 MiB available',
    });
  });

  test('the commit limit, where it is one', async () => {
    expect(await result('memory', linuxHost(meminfo(1 << 20, 1 << 20, 900 << 10, true)))).toMatchObject({
      status: 'warning',
      found: '1024 MiB of 8192 MiB available; 124 MiB left of the commit limit (vm.overcommit_memory is 2)',
    });
    expect(await result('memory', linuxHost(meminfo(1 << 20, 1 << 20, 0, true)))).toMatchObject({ status: 'ok' });
  });

  test('a system without /proc', async () => {
    expect(await result('memory', linuxHost({ freeMemory: 2 ** 20 }))).toMatchObject({ status: 'warning' });
  });
});

describe('native parts', () => {
  const useAddon = (): void => {
    throw new Error('cannot load x.node: bad format');
  };

  test('an addon that does not load', async () => {
    expect(await result('addon', linuxHost({ useAddon }))).toMatchObject({
      status: 'problem',
      found: 'cannot load x.node: bad format',
    });
    expect((await result('addon', windowsHost({ useAddon }))).advice?.[0]).toMatch(/security policy/);
  });

  test('a trap module that is not there, of another version, or of none', async () => {
    const trap = (trapImage: DoctorHost['trapImage']): Promise<CheckResult> =>
      result('trap-module', linuxHost({ trapImage }));
    const missing = (): never => {
      throw new Error('trap.elf is not built');
    };
    expect(await trap(missing)).toMatchObject({ status: 'problem', found: 'trap.elf is not built' });
    expect(await trap(() => ({ size: 1, abiVersion: 2 }))).toMatchObject({
      status: 'problem',
      found: 'has interface version 2, this program has 3',
    });
    expect(await trap(() => ({ size: 1, abiVersion: undefined }))).toMatchObject({ status: 'problem' });
  });
});

describe('folders', () => {
  test('a cache that cannot be written is no problem', async () => {
    const tryFolder = async (directory: string): Promise<void> => {
      if (directory.includes('cache')) throw new Error('EROFS: read-only file system');
    };
    expect(await result('cache', linuxHost({ tryFolder }))).toMatchObject({
      status: 'note',
      found: '/home/u/.cache/xenlighten cannot be written: EROFS: read-only file system',
    });
  });

  test('a control directory that is not the users own, or cannot be written, is one', async () => {
    const open = linuxHost({ tryControlDirectory: fails('/tmp/x: others may enter it (mode 0755, wanted 0700)') });
    expect(await result('control-directory', open)).toMatchObject({ status: 'problem' });
    const full = windowsHost({ tryFolder: fails('ENOSPC') });
    const found = await result('control-directory', full);
    expect(found).toMatchObject({ status: 'problem' });
    expect(found.advice).toEqual(['set LOCALAPPDATA to a folder of your own that can be written']);
    expect((await result('control-directory', linuxHost())).found).toMatch(/ is yours alone and can be written$/);
    // Whether it is, another check asks there.
    expect((await result('control-directory', windowsHost())).found).toMatch(/\\control can be written$/);
  });
});

describe('engines of Linux', () => {
  const none = { hyperv: false, maxVps: 0, ticksPerTurn: undefined };
  const probe = (impossible: string | undefined, unfit: string | undefined): Partial<DoctorHost> => ({
    probeKvm: async () => ({ ...none, impossible, unfit }),
  });

  test('a KVM that cannot be used, with what would help', async () => {
    const denied = await result('kvm', linuxHost(probe('/dev/kvm: permission denied', undefined)));
    expect(denied).toMatchObject({ status: 'note', found: 'cannot be used: /dev/kvm: permission denied' });
    expect(denied.advice?.[0]).toMatch(/group/);
    const missing = await result('kvm', linuxHost(probe('there is no /dev/kvm', undefined)));
    expect(missing.advice?.[0]).toMatch(/modprobe/);
    expect((await result('kvm', linuxHost(probe('it is odd', undefined)))).advice).toBeUndefined();
  });

  test('one that is unfit', async () => {
    expect(await result('kvm', linuxHost(probe(undefined, 'ring 0 is interpreted')))).toMatchObject({
      status: 'note',
      found: 'is not fit for guests: ring 0 is interpreted',
    });
  });

  test('QEMU: its version with its defects, or why not', async () => {
    const found = await result('qemu', linuxHost());
    expect(found.found).toMatch(/^7\.2\.22; its emulator \(TCG\) is no security boundary/);
    expect(found.advice?.length).toBeGreaterThan(5);
    const findQemu = async (): Promise<never> => {
      throw new QemuUnusableError('/usr/bin/q is QEMU 6.2.0: at least 7.2 is wanted');
    };
    expect(await result('qemu', linuxHost({ findQemu }))).toMatchObject({
      status: 'note',
      found: 'cannot be used: /usr/bin/q is QEMU 6.2.0: at least 7.2 is wanted',
    });
  });

  test('auto takes qemu, and there is none: nothing can run', async () => {
    const host = linuxHost({
      chooseEngine: async () => ({ name: 'qemu', why: 'there is no /dev/kvm', onHostCpu: false }),
      findQemu: fails('qemu-system-x86_64 is not in PATH'),
    });
    expect(await result('engine', host)).toMatchObject({
      status: 'problem',
      found: 'no engine can be used: qemu-system-x86_64 is not in PATH',
    });
  });

  test('the ring: by the CPU where guests run on it, emulated ones are not open', async () => {
    const open = linuxHost({ meltdown: () => 'affected' });
    expect(await result('guest-ring', open)).toMatchObject({
      status: 'warning',
      found: 'takes ring 3 for a Linux kernel: the CPU is affected by Meltdown',
    });
    const emulated = linuxHost({
      meltdown: () => 'affected',
      chooseEngine: async () => ({ name: 'qemu', why: 'no KVM', onHostCpu: false }),
    });
    expect(await result('guest-ring', emulated)).toMatchObject({ status: 'ok' });
    expect(await result('guest-ring', linuxHost({ chooseEngine: fails('none') }))).toMatchObject({ status: 'note' });
  });
});

describe('Windows', () => {
  test.each([
    ['10.0.14393', 'warning', /too old/],
    ['10.0.17763', 'warning', /Server 2022/],
    ['10.0.20348', 'ok', undefined],
    ['10.0.26100', 'ok', undefined],
    ['6.3', 'warning', /too old/],
  ])('release %s: %s', async (release, status, advice) => {
    const found = await result('windows', windowsHost({ release }));
    expect(found.status).toBe(status);
    if (advice !== undefined) expect(found.advice?.[0]).toMatch(advice);
  });

  const feature = (InstallState: number) => ({ facts: { features: [{ Name: 'HypervisorPlatform', InstallState }] } });

  test('the feature is disabled: what must be typed', async () => {
    const found = await result('windows-feature', windowsHost({}, feature(2)));
    expect(found).toMatchObject({ status: 'warning', found: 'HypervisorPlatform is not enabled' });
    expect(found.advice).toEqual([
      'in PowerShell as administrator:',
      '  Enable-WindowsOptionalFeature -Online -FeatureName HypervisorPlatform',
      '  Restart-Computer',
    ]);
  });

  test('the feature is absent, or nobody knows', async () => {
    expect(await result('windows-feature', windowsHost({}, feature(3)))).toMatchObject({ status: 'warning' });
    const others = { facts: { features: [{ Name: 'Microsoft-Hyper-V', InstallState: 1 }] } };
    expect(await result('windows-feature', windowsHost({}, others))).toMatchObject({
      status: 'warning',
      found: 'this Windows has no feature HypervisorPlatform',
    });
    expect(await result('windows-feature', windowsHost({}, feature(9)))).toMatchObject({ status: 'unknown' });
    const empty = { facts: { features: [null] } };
    expect(await result('windows-feature', windowsHost({}, empty))).toMatchObject({ status: 'unknown' });
  });

  test('PowerShell is forbidden, or prints something else', async () => {
    for (const powershell of [new Error('blocked by group policy'), 'Access denied', '']) {
      const host = windowsHost({}, { powershell });
      expect(await result('windows-feature', host)).toMatchObject({ status: 'unknown' });
      expect(await result('windows-hypervisor', host)).toMatchObject({ status: 'unknown' });
      expect(await result('windows-policy', host)).toMatchObject({ status: 'unknown' });
      expect((await result('memory', host)).found).toMatch(/the commit limit is not known/);
      expect(await result('control-privacy', host)).toMatchObject({ status: 'unknown' });
      expect(isHealthy(await runChecks(CHECKS, host))).toBe(true);
    }
  });

  test('no hypervisor: firmware, processor, boot option, or nothing that asks for one', async () => {
    const off = (processor: object, InstallState = 1) =>
      result(
        'windows-hypervisor',
        windowsHost({}, { facts: { system: { HypervisorPresent: false }, processor, ...feature(InstallState).facts } }),
      );
    const can = { VirtualizationFirmwareEnabled: true, SecondLevelAddressTranslationExtensions: true };
    expect((await off({ ...can, VirtualizationFirmwareEnabled: false })).advice?.join('\n')).toMatch(
      /Set-VMProcessor .* -ExposeVirtualizationExtensions \$true/,
    );
    expect((await off({ ...can, SecondLevelAddressTranslationExtensions: false })).found).toMatch(/second-level/);
    expect((await off(can)).advice).toContain('  bcdedit /set hypervisorlaunchtype auto');
    expect((await off(can, 2)).found).toMatch(/nothing that needs it is enabled/);
    const unsaid = windowsHost({}, { facts: { system: null } });
    expect(await result('windows-hypervisor', unsaid)).toMatchObject({ status: 'unknown' });
  });

  test('the boot option', async () => {
    const launch = (bcdedit?: string) =>
      result('windows-launch-type', windowsHost({}, bcdedit === undefined ? {} : { bcdedit }));
    expect(await launch()).toMatchObject({ status: 'note' });
    expect(await launch('identifier {current}\r\nhypervisorlaunchtype    Auto\r\n')).toMatchObject({ status: 'ok' });
    expect(await launch('identifier {current}\r\n')).toMatchObject({ status: 'ok' });
    const off = await launch('identifier {current}\r\nhypervisorlaunchtype    Off\r\n');
    expect(off).toMatchObject({ status: 'warning' });
    expect(off.advice).toContain('  bcdedit /set hypervisorlaunchtype auto');
  });

  test('elevation', async () => {
    const elevated = (groups: string) => result('windows-elevation', windowsHost({}, { groups }));
    expect((await elevated('"X","Label","S-1-16-12288",""')).found).toBe('this window is elevated');
    expect((await elevated('"X","Label","S-1-16-16384",""')).found).toBe('this window is elevated');
    expect((await elevated('"X","Label","S-1-16-8192",""')).found).toMatch(/^this window is not elevated/);
    expect(await elevated('')).toMatchObject({ status: 'unknown' });
  });

  test('a host that is locked down', async () => {
    const found = await result('windows-policy', windowsHost({}, { facts: { language: 'ConstrainedLanguage' } }));
    expect(found).toMatchObject({ status: 'note' });
    expect(found.advice?.[0]).toMatch(/\*\.node/);
  });

  test('memory: the commit limit counts, and how it is raised', async () => {
    const memory = (FreePhysicalMemory: number, FreeVirtualMemory: number) =>
      result(
        'memory',
        windowsHost(
          {},
          { facts: { memory: { FreePhysicalMemory, FreeVirtualMemory, TotalVirtualMemorySize: 9437184 } } },
        ),
      );
    expect(await memory(4194304, 6291456)).toEqual({
      id: 'memory',
      title: 'Memory',
      status: 'ok',
      found: '4096 MiB of 8192 MiB available; 6144 MiB left of the commit limit of 9216 MiB',
    });
    const tight = await memory(4194304, 102400);
    expect(tight).toMatchObject({ status: 'warning' });
    expect(tight.advice?.join('\n')).toMatch(/AutomaticManagedPagefile = \$true/);
    expect((await memory(102400, 6291456)).advice?.join('\n')).not.toMatch(/AutomaticManagedPagefile/);
  });

  test('a control directory that others may enter', async () => {
    const open = { sddl: 'O:BAD:AI(A;OICI;FA;;;SY)(A;OICI;0x1200a9;;;BU)(D;;FA;;;WD)(A;;FA;;;S-1-1-0)' };
    const found = await result('control-privacy', windowsHost({}, open));
    expect(found).toMatchObject({ status: 'warning', found: 'Users, Everyone may enter the control directory' });
    expect(found.advice?.[1]).toMatch(/^ {2}icacls 'C:\\Users\\Jane\\/);
    // A bare name may be another account's, of the machine in the place of the domain.
    expect(found.advice?.[1]).toMatch(/ \/grant:r \(\(whoami\) \+ ':\(OI\)\(CI\)F'\) /);
  });

  test('control pipes that others may connect to', async () => {
    const good = await result('control-pipe', windowsHost());
    expect(good.found).toMatch(/D:\(A;;FA;;;SY\)\(A;;FA;;;BA\)\(A;;FA;;;USER\)$/);
    const wide = await result('control-pipe', windowsHost({ pipeAccess: async () => 'D:(A;;FA;;;SY)(A;;FR;;;WD)' }));
    expect(wide).toMatchObject({ status: 'note', found: expect.stringContaining('others may connect') as string });
    const failed = await result('control-pipe', windowsHost({ pipeAccess: fails('Windows refuses') }));
    expect(failed).toMatchObject({ status: 'note', found: expect.stringContaining('Windows refuses') as string });
  });

  test("Windows PowerShell does not get PowerShell 7's modules", async () => {
    const env = { SystemRoot: 'C:\\Windows', PSModulePath: 'C:\\Program Files\\PowerShell\\7\\Modules', Path: 'C:\\x' };
    const host = windowsHost({ env });
    await runChecks(
      CHECKS.filter(({ id }) => id === 'windows-feature' || id === 'control-privacy'),
      host,
    );
    const wanted = { SystemRoot: 'C:\\Windows', Path: 'C:\\x' };
    expect(host.environments).toEqual([wanted, wanted]);
  });

  test('the platform: what probeWhp says', async () => {
    const probe = (impossible: string | undefined, unfit: string | undefined): Partial<DoctorHost> => ({
      probeWhp: async () => ({ impossible, unfit, hyperv: false, capabilities: undefined }),
    });
    expect(await result('whp', windowsHost(probe('no hypervisor runs', undefined)))).toMatchObject({
      status: 'warning',
      found: 'cannot be used: no hypervisor runs',
    });
    expect(await result('whp', windowsHost(probe(undefined, 'it lacks X')))).toMatchObject({
      found: 'is not fit for guests: it lacks X',
    });
  });

  test('no engine at all is a problem', async () => {
    const results = await runChecks(CHECKS, windowsHost({ chooseEngine: fails('the whp engine cannot be used') }));
    expect(isHealthy(results)).toBe(false);
  });
});
