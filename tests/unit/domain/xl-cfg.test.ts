/** The keys of xl configuration files. */
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import fc from 'fast-check';
import { applyCpuidSettings, missingFeatures } from '../../../shim/domain/cpuid-option';
import { completeConfig } from '../../../shim/domain/guest-config';
import { decodeConfig, parseXlConfig, readXlConfig } from '../../../shim/domain/xl-cfg';
import { IGNORED_KEYS, REFUSED_KEYS, USED_KEYS } from '../../../shim/domain/xl-keys';
import { UsageError } from '../../../shim/errors';
import { CPUID_POLICY, type CpuidRow } from '../../../shim/xen/cpuid-policy';

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
    vcpus = 2
    maxvcpus = 4
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
    vcpus: 2,
    maxvcpus: 4,
    onEnd: { poweroff: 'destroy', reboot: 'restart', crash: 'destroy' },
    tscMode: 'native',
    uuid: '06ed00fe-1162-4fc4-b5d8-11993ee4a8b9',
    maxEventChannels: 256,
  });
  expect(config.cpuid).toMatchObject([
    { leaf: 1, subleaf: 0xffffffff, reg: 'ecx', bit: 0, setting: '0', name: 'sse3' },
  ]);
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
  ['no vCPU', '\nvcpus=0', 'g.cfg:2: unusable number of vCPUs: found vcpus = 0, wanted 1 to 64'],
  ['too many vCPUs', 'maxvcpus=65', 'g.cfg:1: unusable number of vCPUs: found maxvcpus = 65, wanted 1 to 64'],
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
    '\n\ndisk=["phy:/dev/sda,xvda,w",\n"x.img,raw,vda"]',
    'g.cfg:4: unknown vdev: found "vda", wanted a name such as xvda, xvdb1, hda or sda',
  ],
  [
    'a network interface',
    'vif=[""]',
    'g.cfg:1: vif is not supported: found vif = a list of 1, wanted no vif: xenlighten has no virtual network interfaces',
  ],
  [
    'a boot loader of its own',
    'bootloader="/opt/bin/my-loader"',
    'g.cfg:1: bootloader is not supported: found bootloader = "/opt/bin/my-loader", wanted "pvgrub" or "pygrub"',
  ],
  [
    'a 32-bit boot loader',
    '\nbootloader="pvgrub32"',
    'g.cfg:2: a boot loader for 32-bit guests: found bootloader = "pvgrub32", wanted "pvgrub" or "pygrub": 32-bit PV kernels are not supported',
  ],
  [
    '32-bit firmware',
    'firmware="pvgrub32"',
    'g.cfg:1: a boot loader for 32-bit guests: found firmware = "pvgrub32", wanted "pvgrub64": 32-bit PV kernels are not supported',
  ],
  [
    'firmware of an HVM guest',
    'firmware="uefi"',
    'g.cfg:1: firmware is not supported: found firmware = "uefi", wanted "pvgrub64"',
  ],
  [
    'firmware beside a kernel',
    'firmware="pvgrub64"\nkernel="/k"',
    'g.cfg:2: both kernel and firmware: found kernel = "/k", wanted one of them, as in xl',
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
    'a feature that the policy hides',
    'name="a"\ncpuid="host,smep=1"',
    'g.cfg:2: unsupported CPUID setting: found smep=1, wanted smep set to 0 or x: it is hidden (its CR4 bit is not virtualised)',
  ],
  [
    'a hidden feature of the host',
    'cpuid="host,mtrr=k"',
    'g.cfg:1: unsupported CPUID setting: found mtrr=k, wanted mtrr set to 0 or x: it is hidden (memory types are the hypervisor’s; the MTRRs are not virtualised)',
  ],
  [
    'a computed feature',
    'cpuid="host,osxsave=0"',
    'g.cfg:1: unsupported CPUID setting: found osxsave=0, wanted no osxsave: it shows the guest’s CR4.OSXSAVE; a kernel that uses the forced-emulation prefix sees it set with XSAVE',
  ],
  [
    'a value that is none',
    'cpuid="host,avx=2"',
    'g.cfg:1: unsupported CPUID setting: found avx="2", wanted avx set to 0 (hidden), x (by policy), k or s (as the host has it) or 1 (must be there)',
  ],
  [
    'a hidden bit of a cpuid list',
    `cpuid=["7,0:ebx=${'x'.repeat(24)}1${'x'.repeat(7)}"]`,
    'g.cfg:1: unsupported CPUID setting: found leaf 0x7 ebx bit 7 (SMEP)=1, wanted leaf 0x7 ebx bit 7 (SMEP) set to 0 or x: it is hidden (its CR4 bit is not virtualised)',
  ],
  [
    'another family',
    'cpuid="host,family=6"',
    `g.cfg:1: unsupported CPUID setting: found "family=6", wanted no family: it is the processor's own`,
  ],
  [
    'an unknown feature',
    'cpuid="host,warpdrive=0"',
    'g.cfg:1: unknown feature in cpuid: found "warpdrive", wanted a name of docs/cpuid-policy.md',
  ],
  [
    'a misspelt feature',
    'memory=64\ncpuid="host,avx22=0"',
    'g.cfg:2: unknown feature in cpuid: found "avx22", wanted "avx2", or another name of docs/cpuid-policy.md',
  ],
  [
    'a misspelt name of xl',
    'cpuid="host,invtcs=0"',
    'g.cfg:1: unknown feature in cpuid: found "invtcs", wanted "itsc", or another name of docs/cpuid-policy.md',
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
  const settings = (text: string) => parseXlConfig('g.cfg', text).config.cpuid ?? [];
  const places = (text: string) =>
    settings(text).map(({ leaf, subleaf, reg, bit, setting }) => ({ leaf, subleaf, reg, bit, setting }));

  test('the two forms say the same', () => {
    const xend = places(`cpuid=["1:ecx=${'x'.repeat(31)}0,edx=xx0${'x'.repeat(29)}"]`);
    // Thermal monitor is bit 29 of EDX; the policy hides it anyway.
    expect(xend).toEqual([{ leaf: 1, subleaf: 0xffffffff, reg: 'ecx', bit: 0, setting: '0' }]);
    expect(places('cpuid="host,sse3=0,tm=0"')).toEqual(xend);
    expect(places(`cpuid=["7,0:ebx=${'x'.repeat(26)}1${'x'.repeat(5)}"]`)).toEqual(places('cpuid="host,avx2=1"'));
  });

  test('x changes nothing', () => {
    expect(settings('cpuid="host,sse3=x,smep=x,tm=0"')).toEqual([]);
  });

  test('a feature of two leaves is hidden in both', () => {
    expect(places('cpuid="host,mmx=0"')).toMatchObject([{ leaf: 1 }, { leaf: 0x80000001 }]);
  });

  test("xl's own names", () => {
    for (const name of 'cmpxchg16 clfsh aes lahfsahf sysenter altmovcr8 ibrsb cntxid avx512-4vnniw tsc-deadline'.split(
      ' ',
    )) {
      expect(() => settings(`cpuid="host,${name}=x"`)).not.toThrow();
    }
  });

  const rows = (text: string) => applyCpuidSettings(CPUID_POLICY, settings(text));
  const shown = (text: string) =>
    rows(text).flatMap((row) =>
      [...row.visible, ...row.optional].filter((b) => (row.andMask >>> b.bit) & 1).map((b) => b.name),
    );

  test('what needs a hidden feature goes with it', () => {
    const all = shown('');
    expect(all).toEqual(
      expect.arrayContaining(['XSAVE', 'AVX', 'AVX2', 'FMA', 'XSTATE_AVX', 'AVX512VL', 'XSTATE_OPMASK']),
    );
    const gone = (text: string) => all.filter((name) => !shown(text).includes(name)).sort();
    expect(gone('cpuid="host,rdrand=0"')).toEqual(['RDRAND']);
    expect(gone('cpuid="host,avx512bw=0"')).toEqual([
      'AVX512BW',
      'AVX512_BF16',
      'AVX512_BITALG',
      'AVX512_VBMI',
      'AVX512_VBMI2',
    ]);
    expect(gone('cpuid="host,avx2=0"')).toEqual(gone('cpuid="host,avx512f=0,avx-vnni=0,avx2=0"'));
    expect(gone('cpuid="host,avx=0"')).toEqual(
      expect.arrayContaining(['AVX', 'AVX2', 'F16C', 'XSTATE_AVX', 'XSTATE_ZMM_HI256']),
    );
    expect(gone('cpuid="host,avx=0"')).not.toContain('XSAVE');
    expect(gone('cpuid="host,xsave=0"')).toEqual(
      expect.arrayContaining(['AVX', 'XSAVEOPT', 'XSTATE_SSE', 'XSTATE_AVX']),
    );
  });

  test('what is shown on request comes on request', () => {
    expect(shown('')).not.toContain('ITSC');
    for (const value of ['1', 'k', 's']) expect(shown(`cpuid="host,invtsc=${value}"`)).toContain('ITSC');
    expect(shown('nomigrate=1')).toContain('ITSC');
    expect(shown('nomigrate=0')).not.toContain('ITSC');
    expect(shown('nomigrate=1\ncpuid="host,invtsc=0"')).not.toContain('ITSC');
  });

  test('a feature without the one that it needs is a contradiction', () => {
    expect(failure(() => rows('cpuid="host,avx=0,avx2=1"'))).toBe(
      'g.cfg:1: contradiction in cpuid: found avx2=1 beside 0 for a feature that it needs, wanted both or neither',
    );
  });

  test('what is wanted and missing is found, k and s are not wishes', () => {
    const wants = settings('cpuid="host,avx2=1,fma=1,bmi2=k,adx=s"');
    const hardware = (row: CpuidRow): number => (row.leaf === 1 && row.reg === 'ecx' ? 1 << 12 : 0);
    expect(missingFeatures(CPUID_POLICY, wants, hardware).map((s) => s.name)).toEqual(['avx2']);
    expect(missingFeatures(CPUID_POLICY, wants, () => 0xffffffff)).toEqual([]);
  });
});

test('completeConfig fills in defaults and wants a kernel', () => {
  expect(completeConfig({ kernel: '/boot/vm linuz' }, 'run')).toMatchObject({
    name: 'vm_linuz',
    memory: 256,
    cmdline: '',
  });
  expect(failure(() => completeConfig({}, 'g.cfg'))).toBe(
    'g.cfg: no kernel: found neither kernel= nor --kernel, and no boot loader, wanted a kernel to boot',
  );
  expect(failure(() => completeConfig({ kernel: 'k', memory: 128, maxmem: 64 }, 'g.cfg'))).toContain(
    'maxmem below memory',
  );
});

test('a key is either used, refused or ignored', () => {
  const all = [...USED_KEYS, ...REFUSED_KEYS.keys(), ...IGNORED_KEYS];
  expect(new Set(all).size).toBe(all.length);
});

describe('written on Windows', () => {
  const text = [
    'name = "web"',
    'kernel = "C:\\\\guests\\\\vmlinuz"',
    "disk = [ 'C:/guests/a.vhd,vhd,xvda,w',",
    '# more',
    ']',
  ];

  test('lines that end in CR and LF, everywhere', () => {
    const unix = parseXlConfig('g.cfg', `${text.join('\n')}\n`);
    expect(parseXlConfig('g.cfg', `${text.join('\r\n')}\r\n`)).toEqual(unix);
    expect(unix.config).toMatchObject({ kernel: 'C:\\guests\\vmlinuz', disks: [{ path: 'C:/guests/a.vhd' }] });
    expect(failure(() => parseXlConfig('g.cfg', 'a = 1\r\n\r\nname = "x\r\n'))).toMatch(/^g\.cfg:3: unfinished string/);
  });

  test('UTF-16 of either order, and UTF-8 with a mark', () => {
    const line = 'name = "web" # ä\r\n';
    const little = Buffer.concat([Buffer.of(0xff, 0xfe), Buffer.from(line, 'utf16le')]);
    const big = Buffer.concat([Buffer.of(0xfe, 0xff), Buffer.from(line, 'utf16le').swap16()]);
    for (const bytes of [little, big, Buffer.from(`\uFEFF${line}`), Buffer.from(line)])
      expect(parseXlConfig('g.cfg', decodeConfig(bytes)).config.name).toBe('web');
    // Half a character at the end.
    expect(() => decodeConfig(Buffer.concat([big, Buffer.of(0)]))).not.toThrow();
  });

  test('paths of the network', () => {
    const { config } = parseXlConfig('g.cfg', String.raw`disk = ["\\\\srv\\share\\a.vhd,vhd,xvda,w"]`);
    expect(config.disks?.[0]?.path).toBe('\\\\srv\\share\\a.vhd');
  });

  test.each([
    [
      String.raw`kernel = "C:\guests\vmlinuz"`,
      /unknown escape in a string: found "\\g", wanted \\\\ for a backslash, or \/ in a path/,
    ],
    [String.raw`kernel = "C:\new\vmlinuz"`, /g\.cfg:1: (unknown escape|a control character in the path of the kernel)/],
    [
      String.raw`kernel = "C:\new"`,
      /a control character in the path of the kernel: found "C:\\new", wanted two backslashes/,
    ],
    [String.raw`ramdisk = "C:\boot"`, /a control character in the path of the ramdisk/],
    [String.raw`disk = [ "D:\tmp\a.img,raw,xvda,w" ]`, /a control character in the path of a disk/],
    [String.raw`kernel = "\\srv\new"`, /a control character in the path of the kernel/],
  ])('a backslash that C takes: %s', (line, message) => {
    expect(failure(() => parseXlConfig('g.cfg', line))).toMatch(message);
  });

  test('a path in a code page of Windows is said to be one; elsewhere it does no harm', () => {
    const text = (line: string): string => decodeConfig(Buffer.from(line, 'latin1'));
    for (const line of ['kernel = "C:/Gäste/vmlinuz"', 'disk = [ "C:/Gäste/a.img,raw,xvda,w" ]'])
      expect(failure(() => parseXlConfig('g.cfg', text(line)))).toMatch(
        /^g\.cfg:1: characters in the path of (the kernel|a disk) that are not in UTF-8: found "C:\/G.ste.*, wanted a file in UTF-8/,
      );
    expect(parseXlConfig('g.cfg', text('kernel = "v" # für alle')).config.kernel).toBe('v');
  });

  // Windows' file systems have no such names.
  (process.platform === 'win32' ? test.skip : test)("what else is in a path is the file system's business", () => {
    expect(parseXlConfig('g.cfg', String.raw`kernel = "/a\tb"`).config.kernel).toBe('/a\tb');
  });
});

describe('files', () => {
  const directory = mkdtempSync(path.join(tmpdir(), 'xl-cfg-'));
  afterAll(() => rmSync(directory, { recursive: true }));
  test('are read, and named when they are missing', async () => {
    const file = path.join(directory, 'g.cfg');
    writeFileSync(file, 'kernel="k"');
    expect((await readXlConfig(file)).config.kernel).toBe('k');
    await expect(readXlConfig(path.join(directory, 'none.cfg'))).rejects.toThrow(
      `${path.join(directory, 'none.cfg')}: cannot read the configuration: found no such file, wanted a readable configuration file`,
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
