/** The keys of xl configuration files. */
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import fc from 'fast-check';
import { completeConfig } from '../../../shim/domain/guest-config';
import { parseXlConfig, readXlConfig } from '../../../shim/domain/xl-cfg';
import { IGNORED_KEYS, REFUSED_KEYS, USED_KEYS } from '../../../shim/domain/xl-keys';
import { UsageError } from '../../../shim/errors';

function failure(body: () => unknown): string {
  try {
    body();
  } catch (error) {
    if (error instanceof UsageError) return error.message;
    throw error;
  }
  throw new Error('no error');
}

test('a whole configuration', () => {
  const { config, warnings } = parseXlConfig(
    'g.cfg',
    `
    # A guest as xl create takes it.
    name = "web-1"
    type = "pv"
    kernel = "/boot/vmlinuz"
    ramdisk = '/boot/initrd.img'
    root = "/dev/xvda1 ro"
    extra = "console=hvc0 quiet"
    memory = 512
    maxmem = "0x400"
    vcpus = 1
    on_poweroff = "destroy"; on_reboot = 'restart'; on_crash = "destroy"
    tsc_mode = "native"
    uuid = "06ED00FE-1162-4FC4-B5D8-11993EE4A8B9"
    max_event_channels = 255
    cpuid = "host,tm=0,sse3=0"
    disk = []
    vif = [ ]
    `,
  );
  expect(warnings).toEqual([]);
  expect(config).toMatchObject({
    name: 'web-1',
    kernel: '/boot/vmlinuz',
    ramdisk: '/boot/initrd.img',
    cmdline: 'root=/dev/xvda1 ro console=hvc0 quiet',
    memory: 512,
    maxmem: 1024,
    vcpus: 1,
    onEnd: { poweroff: 'destroy', reboot: 'restart', crash: 'destroy' },
    tscMode: 'native',
    uuid: '06ed00fe-1162-4fc4-b5d8-11993ee4a8b9',
    maxEventChannels: 256,
  });
  expect(config.cpuid).toContainEqual({ leaf: 1, subleaf: 0xffffffff, reg: 'ecx', mask: 1 });
});

test.each([
  ['cmdline alone', 'cmdline="a b"', 'a b', 0],
  ['cmdline wins over root and extra', 'root="r"\nextra="e"\ncmdline="c"', 'c', 2],
  ['root alone', 'root="/dev/xvda"', 'root=/dev/xvda', 0],
  ['extra alone', 'extra="quiet"', 'quiet', 0],
  ['none', 'memory=64', undefined, 0],
])('command line: %s', (_name, text, cmdline, nrWarnings) => {
  const { config, warnings } = parseXlConfig('g.cfg', text);
  expect(config.cmdline).toBe(cmdline);
  expect(warnings).toHaveLength(nrWarnings);
});

test.each([
  ['an unknown key', '\nfrobnicate = 1', 'g.cfg:2: unknown key "frobnicate"'],
  ['a key for the host', 'cpus = "all"', 'g.cfg:1: cpus has no effect here'],
  ['a key given twice', 'memory=64\nmemory=128', 'g.cfg:2: memory was set in line 1 already; this value counts'],
  [
    'an action that is not had',
    'on_crash="preserve"',
    'g.cfg:1: on_crash = "preserve" is not supported: the domain is destroyed instead',
  ],
])('%s is a warning', (_name, text, warning) => expect(parseXlConfig('g.cfg', text).warnings).toEqual([warning]));

test.each<[string, string, string]>([
  ['HVM', 'type="hvm"', 'g.cfg:1: not a PV guest: found type = "hvm", wanted type = "pv"'],
  ['PVH', 'type="pvh"', 'g.cfg:1: not a PV guest: found type = "pvh", wanted type = "pv"'],
  ['builder hvm', 'builder="hvm"', 'g.cfg:1: not a PV guest: found builder = "hvm", wanted builder = "generic"'],
  ['vcpus', '\nvcpus=2', 'g.cfg:2: more than one vCPU is not supported yet: found vcpus = 2, wanted vcpus = 1'],
  [
    'maxvcpus',
    'maxvcpus=4',
    'g.cfg:1: more than one vCPU is not supported yet: found maxvcpus = 4, wanted maxvcpus = 1',
  ],
  ['memory as a word', 'memory="much"', 'g.cfg:1: memory of the wrong kind: found "much", wanted a number'],
  ['no memory', 'memory=0', 'g.cfg:1: unusable memory size: found 0 MB, wanted 1 to 61440 MB'],
  [
    'a name with a slash',
    'name="a/b"',
    'g.cfg:1: unusable name: found "a/b", wanted 1 to 64 letters, digits and _.:+@-',
  ],
  ['a list for a kernel', 'kernel=["x"]', 'g.cfg:1: kernel of the wrong kind: found a list of 1, wanted a string'],
  ['an empty kernel', 'kernel=""', 'g.cfg:1: empty kernel: found "", wanted a value for kernel'],
  [
    'a disk',
    '\n\ndisk=["phy:/dev/sda,xvda,w"]',
    'g.cfg:3: disk is not supported: found disk = a list of 1, wanted no disk: xenlighten has no virtual disks',
  ],
  [
    'a network interface',
    'vif=[""]',
    'g.cfg:1: vif is not supported: found vif = a list of 1, wanted no vif: xenlighten has no virtual network interfaces',
  ],
  [
    'a boot loader',
    'bootloader="pygrub"',
    'g.cfg:1: bootloader is not supported: found bootloader = "pygrub", wanted no bootloader: xenlighten has no boot loaders in the host; give kernel=',
  ],
  [
    'a device model',
    'device_model_version="qemu-xen"',
    'g.cfg:1: device_model_version is not supported: found device_model_version = "qemu-xen", wanted no device_model_version: xenlighten has no device models',
  ],
  [
    'an emulated TSC',
    'tsc_mode="always_emulate"',
    'g.cfg:1: unsupported tsc_mode: found "always_emulate", wanted "default" or "native": RDTSC runs natively',
  ],
  ['an unknown tsc_mode', 'tsc_mode=9', 'g.cfg:1: unknown tsc_mode: found 9, wanted "default" or "native"'],
  [
    'an action',
    'on_reboot="explode"',
    'g.cfg:1: unusable on_reboot: found "explode", wanted "destroy", "restart", "rename-restart", "preserve", "coredump-destroy" or "coredump-restart"',
  ],
  ['a uuid', 'uuid="1-2"', 'g.cfg:1: unusable uuid: found "1-2", wanted 32 hexadecimal digits, as uuidgen prints them'],
  [
    'too many ports',
    'max_event_channels=100000',
    'g.cfg:1: unusable max_event_channels: found 100000, wanted 8 to 4095',
  ],
  [
    'a feature forced on',
    'cpuid="host,avx=1"',
    'g.cfg:1: unsupported CPUID setting: found avx=1: a feature cannot be forced on, wanted avx set to 0 (hidden) or x (by policy)',
  ],
  [
    'a hidden feature of the host',
    'cpuid="host,avx=k"',
    'g.cfg:1: unsupported CPUID setting: found avx=k, but the policy hides it, wanted avx set to 0 (hidden) or x (by policy)',
  ],
  [
    'another family',
    'cpuid="host,family=6"',
    `g.cfg:1: unsupported CPUID setting: found "family=6", wanted no family: it is the processor's own`,
  ],
  [
    'an unknown feature',
    'cpuid="host,warp=0"',
    'g.cfg:1: unknown CPUID feature: found "warp", wanted a feature name as in docs/cpuid.md, such as sse3',
  ],
  [
    'a cpuid list entry',
    `cpuid=[\n"1:ecx=${'x'.repeat(31)}"]`,
    'g.cfg:2: malformed cpuid: found 31 bits for ecx, wanted 32 of them, bit 31 first',
  ],
])('%s is an error with file, line, found and wanted', (_name, text, message) => {
  expect(failure(() => parseXlConfig('g.cfg', text))).toBe(message);
});

describe('cpuid', () => {
  const hidden = (text: string) => parseXlConfig('g.cfg', text).config.cpuid;
  test('the two forms say the same', () => {
    const xend = hidden(`cpuid=["1:ecx=${'x'.repeat(31)}0,edx=xx0${'x'.repeat(29)}"]`);
    // Thermal monitor is bit 29 of EDX; the policy hides it anyway.
    expect(xend).toEqual([
      { leaf: 1, subleaf: 0xffffffff, reg: 'ecx', mask: 1 },
      { leaf: 1, subleaf: 0xffffffff, reg: 'edx', mask: 0x2000_0000 },
    ]);
    expect(hidden('cpuid="host,sse3=0,tm=0"')).toEqual(xend);
  });
  test('leaves with subleaves', () => {
    expect(hidden(`cpuid=["7,0:ebx=${'x'.repeat(31)}0"]`)).toEqual([{ leaf: 7, subleaf: 0, reg: 'ebx', mask: 1 }]);
  });
  test('x, k and s change nothing where the policy shows the feature', () => {
    expect(hidden('cpuid="host,sse3=x,ssse3=k,popcnt=s"')).toEqual([]);
  });
});

test('completeConfig fills in defaults and wants a kernel', () => {
  expect(completeConfig({ kernel: '/boot/vm linuz' }, 'run')).toMatchObject({
    name: 'vm_linuz',
    memory: 256,
    cmdline: '',
  });
  expect(failure(() => completeConfig({}, 'g.cfg'))).toBe(
    'g.cfg: no kernel: found neither kernel= nor --kernel, wanted a kernel to boot',
  );
  expect(failure(() => completeConfig({ kernel: 'k', memory: 128, maxmem: 64 }, 'g.cfg'))).toContain(
    'maxmem below memory',
  );
});

test('a key is either used, refused or ignored', () => {
  const all = [...USED_KEYS, ...REFUSED_KEYS.keys(), ...IGNORED_KEYS];
  expect(new Set(all).size).toBe(all.length);
});

describe('files', () => {
  const directory = mkdtempSync(path.join(tmpdir(), 'xl-cfg-'));
  afterAll(() => rmSync(directory, { recursive: true }));
  test('are read, and named when they are missing', async () => {
    const file = path.join(directory, 'g.cfg');
    writeFileSync(file, 'kernel="k"');
    expect((await readXlConfig(file)).config.kernel).toBe('k');
    await expect(readXlConfig(path.join(directory, 'none.cfg'))).rejects.toThrow(
      `${directory}/none.cfg: cannot read the configuration: found no such file, wanted a readable configuration file`,
    );
  });
});

test('no configuration makes it throw anything but UsageError', () => {
  const key = fc.constantFrom(...USED_KEYS, ...REFUSED_KEYS.keys(), 'unheard_of');
  const scalar = fc.oneof(
    fc.string().map((s) => JSON.stringify(s)),
    fc.constantFrom('"host,sse3=0"', '"host,="', '"1:eax="', '"1,2:ecx=x"', '"restart"', '"native"', '"pv"', '"0x10"'),
    fc.integer().map(String),
  );
  const value = fc.oneof(
    scalar,
    fc.array(scalar, { maxLength: 3 }).map((list) => `[${list.join(',')}]`),
  );
  fc.assert(
    fc.property(fc.array(fc.tuple(key, value), { maxLength: 6 }), (settings) => {
      try {
        const { warnings } = parseXlConfig('g.cfg', settings.map(([k, v]) => `${k}=${v}`).join('\n'));
        for (const warning of warnings) expect(warning).toMatch(/^g\.cfg:\d+: /);
      } catch (error) {
        expect(error).toBeInstanceOf(UsageError);
        expect((error as Error).message).toMatch(/^g\.cfg:\d+: /);
      }
    }),
    { numRuns: 1000 },
  );
});
