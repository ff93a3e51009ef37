/**
 * What user space can do to the border between guest user, guest kernel and hypervisor: torture.c prints one line of
 * facts per case, and in either guest ring, on a processor with and one without XSAVE, they must be those of the same
 * kernel on a bare machine.
 *
 * The bare machine's answers are recorded in tests/fixtures/torture. XENLIGHTEN_RECORD=1 records them anew: the same
 * kernel and initramfs boot in QEMU without us.
 */
import { execFileSync, spawnSync } from 'node:child_process';
import { existsSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { busyboxInitramfs, type InitramfsEntry } from '../../../scripts/lib/initramfs';
import { packageRoot } from '../../../shim/partition/native-files';
import { debianKernels } from '../lib/kernels';
import { endAll, Xenlighten } from '../lib/xenlighten';

const SOURCE = path.join(__dirname, 'torture.c');
const FIXTURES = path.join(packageRoot(), 'tests', 'fixtures', 'torture');
const FOLDER = path.join(packageRoot(), 'build', 'tests', 'torture');

const BITS = ['64', '32'] as const;
type Bits = (typeof BITS)[number];

const INIT = `#!/bin/sh
/bin/busybox --install -s /bin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev 2>/dev/null
ulimit -c 0
echo 1 > /proc/sys/kernel/printk
for bits in 64 32; do
  [ -x /bin/torture$bits ] && /bin/torture$bits
done
dmesg | grep -E "BUG:|WARNING:|Oops|multicall" | sed 's/^/trouble: /'
echo ALL DONE
poweroff -f
`;

/** Compiles for one width; undefined when this machine's compiler cannot (gcc-multilib is not installed). */
function compile(bits: Bits): Buffer | undefined {
  mkdirSync(FOLDER, { recursive: true });
  const output = path.join(FOLDER, `torture${bits}`);
  const flags = bits === '32' ? ['-m32', '-msse2'] : [];
  const built = spawnSync('gcc', ['-O1', '-static', '-no-pie', '-pthread', ...flags, '-o', output, SOURCE]);
  return built.status === 0 ? readFileSync(output) : undefined;
}

const programs = new Map<Bits, Buffer | undefined>(BITS.map((bits) => [bits, compile(bits)]));

function initramfs(): string {
  const entries: InitramfsEntry[] = [];
  for (const [bits, data] of programs) {
    if (data !== undefined) entries.push({ path: `bin/torture${bits}`, kind: 'file', data, executable: true });
  }
  const file = path.join(FOLDER, `initramfs.${process.pid}.gz`);
  writeFileSync(file, busyboxInitramfs(INIT, entries));
  return file;
}

/** The lines of one width, without the kernel's own. */
function facts(output: string, bits: Bits): string[] {
  const lines = output.replaceAll('\r', '').split('\n');
  const start = lines.findIndex((line) => line.endsWith(`torture ${bits}-bit`));
  const end = lines.indexOf('torture done', start);
  if (start < 0 || end < 0) throw new Error(`no whole run of torture${bits} in:\n${output.slice(-3000)}`);
  return lines.slice(start + 1, end).filter((line) => /^[a-z0-9-]+: /.test(line));
}

/** QEMU 7.2 reports n*16+2 where hardware reports n*8+2 for a refused INT n; the record holds what hardware does. */
function asHardware(line: string): string {
  return line.replace(/^(int-0x20: .*)err=0x202$/, '$1err=0x102').replace(/^(int-0x81: .*)err=0x812$/, '$1err=0x40a');
}

function fixture(bits: Bits): string {
  return path.join(FIXTURES, `bare-${bits}.txt`);
}

const CMDLINE = 'quiet loglevel=1';

if (process.env.XENLIGHTEN_RECORD === '1') {
  test('records the bare kernel', () => {
    const machine = ['-M', 'pc', '-accel', 'tcg', '-cpu', 'qemu64', '-m', '512', '-nographic', '-no-reboot'];
    const boot = ['-kernel', debianKernels().stock, '-initrd', initramfs()];
    const append = ['-append', `console=ttyS0 pti=off ${CMDLINE}`];
    const output = execFileSync('qemu-system-x86_64', [...machine, ...boot, ...append], {
      encoding: 'latin1',
      timeout: 120_000,
      stdio: ['ignore', 'pipe', 'ignore'],
    });
    mkdirSync(FIXTURES, { recursive: true });
    for (const bits of BITS) {
      if (programs.get(bits) === undefined) continue;
      const lines = facts(output, bits).map(asHardware);
      expect(lines.length).toBeGreaterThan(30);
      writeFileSync(fixture(bits), `${lines.join('\n')}\n`);
    }
  }, 150_000);
} else {
  afterEach(endAll);
  describe.each([
    [1, 'qemu64'],
    [3, 'qemu64'],
    [1, 'max'],
    [3, 'max'],
  ] as const)('guest ring %d, processor %s', (ring, cpu) => {
    let output = '';
    beforeAll(async () => {
      const guest = new Xenlighten([
        'run',
        `--kernel=${debianKernels().stock}`,
        `--ramdisk=${initramfs()}`,
        `--cmdline=console=hvc0 ${CMDLINE}`,
        '--memory=512',
        `--guest-ring=${ring}`,
        `--cpu=${cpu}`,
        '--timeout=150',
      ]);
      const { status } = await guest.ended;
      output = guest.stdout;
      if (status !== 0) throw new Error(`exit status ${status}\n${output.slice(-3000)}\n${guest.stderr.slice(-3000)}`);
    }, 180_000);

    test('the kernel met no trouble', () => {
      expect(output).toContain('ALL DONE');
      expect(output.split('\n').filter((line) => line.startsWith('trouble: '))).toEqual([]);
    });

    for (const bits of BITS) {
      const title = `${bits}-bit programs see what they see on a bare machine`;
      if (programs.get(bits) === undefined) test.skip(`${title} (gcc-multilib is not installed)`, () => undefined);
      else if (!existsSync(fixture(bits))) test.skip(`${title} (nothing is recorded)`, () => undefined);
      else {
        test(title, () => {
          expect(facts(output, bits)).toEqual(readFileSync(fixture(bits), 'utf8').trim().split('\n'));
        });
      }
    }
  });
}
