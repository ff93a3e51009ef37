/** The initramfs of the end-to-end tests: BusyBox, the little C programs beside this file, and an init script. */
import { execFileSync } from 'node:child_process';
import { mkdirSync, readFileSync, renameSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { busyboxInitramfs, type InitramfsEntry } from '../../../scripts/lib/initramfs';
import { packageRoot } from '../../../shim/partition/native-files';

const folder = path.join(packageRoot(), 'build', 'tests', 'linux');

/** Compiles a program without a C library; undefined if this machine's compiler cannot. */
export function compile(name: string, flags: readonly string[]): Buffer | undefined {
  mkdirSync(folder, { recursive: true });
  const output = path.join(folder, `${name}.${process.pid}`);
  const source = path.join(__dirname, `${name}.c`);
  const common = [
    '-O1',
    '-Wall',
    '-Wextra',
    '-Werror',
    '-nostdlib',
    '-static',
    '-ffreestanding',
    '-fno-pic',
    '-no-pie',
  ];
  try {
    execFileSync('gcc', [...common, '-fno-stack-protector', ...flags, '-o', output, source], { stdio: 'pipe' });
  } catch {
    return undefined;
  }
  renameSync(output, path.join(folder, name));
  return readFileSync(path.join(folder, name));
}

/** Prints one line of each thing to be checked, then serves a shell. */
const INIT = `#!/bin/sh
/bin/busybox --install -s /bin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev 2>/dev/null
echo "uname: $(uname -sr)"
echo "hypervisor: $(cat /sys/hypervisor/type) $(cat /sys/hypervisor/version/major).$(cat /sys/hypervisor/version/minor)"
echo "uuid: $(cat /sys/hypervisor/uuid)"
echo "memory: $(awk '/MemTotal/ { print $2 }' /proc/meminfo)"
echo "uptime: $(cat /proc/uptime)"
for program in "vsyscall call" "vsyscall read" "compat int80" "compat vdso"; do
  [ -x "/bin/\${program% *}" ] || continue
  /bin/$program >/tmp/out 2>&1
  echo "$program: $? $(head -n 1 /tmp/out)"
done
i=0
while [ $i -lt 50 ]; do echo $i | cat | md5sum > /tmp/sum; i=$((i+1)); done
echo "loop: $(cat /tmp/sum)"
dmesg | grep -q "Booting \\(paravirtualized \\)\\?kernel on Xen" && echo "dmesg: on Xen"
dmesg | grep -i -e "BUG:" -e "WARNING:" -e "Oops" -e "xen.*fail" | sed 's/^/trouble: /'
echo READY
setsid cttyhack sh
poweroff -f
`;

export interface GuestImage {
  readonly ramdisk: string;
  /** 32-bit programs are in it. */
  readonly has32Bit: boolean;
}

let built: GuestImage | undefined;

/** Builds the initramfs, once in a run. */
export function guestImage(): GuestImage {
  if (built !== undefined) return built;
  mkdirSync(folder, { recursive: true });
  const vsyscall = compile('vsyscall', ['-mno-red-zone']);
  const compat = compile('compat', ['-m32', '-mno-sse', '-mpreferred-stack-boundary=4']);
  if (vsyscall === undefined) throw new Error('gcc cannot compile vsyscall.c');
  const programs: InitramfsEntry[] = [{ path: 'bin/vsyscall', kind: 'file', data: vsyscall, executable: true }];
  if (compat !== undefined) programs.push({ path: 'bin/compat', kind: 'file', data: compat, executable: true });
  const ramdisk = path.join(folder, `initramfs.${process.pid}.gz`);
  writeFileSync(ramdisk, busyboxInitramfs(INIT, programs));
  built = { ramdisk, has32Bit: compat !== undefined };
  return built;
}
