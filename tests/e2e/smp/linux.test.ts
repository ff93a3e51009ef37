/**
 * Debian's unmodified kernel on several vCPUs: all come up, each runs programs, they go offline and come back while
 * processes are forked by the thousand, and the kernel has nothing to complain about.
 */
import { rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { busyboxInitramfs } from '../../../scripts/lib/initramfs';
import { Domain } from '../../../shim/domain/domain';
import { type DebianKernels, debianKernels } from '../lib/kernels';
import { endAll, leftovers, uniqueName, Xenlighten } from '../lib/xenlighten';
import { LONG, modes, SECONDS, type SmpMode, TEST_MS } from './modes';

const RUNS = modes<SmpMode>(
  [
    { ring: 1, vcpus: 4 },
    { ring: 3, vcpus: 2 },
  ],
  [
    { ring: 1, vcpus: 2 },
    { ring: 3, vcpus: 2 },
    { ring: 1, vcpus: 4 },
    { ring: 3, vcpus: 4 },
    { ring: 1, vcpus: 8 },
    { ring: 3, vcpus: 8 },
  ],
);

/**
 * Every line that a test looks at starts with a word and a colon. `stress=SECONDS` on the command line: workers fork and
 * pipe, sleep for moments, and move from vCPU to vCPU, while vCPUs go offline and online.
 */
const INIT = `#!/bin/sh
/bin/busybox --install -s /bin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev 2>/dev/null
cpu=/sys/devices/system/cpu
echo "vcpus: $(nproc) online $(cat $cpu/online) possible $(cat $cpu/possible)"
n=$(nproc)
i=0
while [ $i -lt $n ]; do echo "runs: $i $(taskset $(printf %x $((1<<i))) sh -c 'echo 49 | md5sum; cut -d " " -f 39 /proc/self/stat' | tr '\\n' ' ')"; i=$((i+1)); done
seconds=$(sed -n 's/.*stress=\\([0-9]*\\).*/\\1/p' /proc/cmdline)
end() { [ $(cut -d . -f 1 /proc/uptime) -ge $until ]; }
if [ -n "$seconds" ]; then
  until=$(($(cut -d . -f 1 /proc/uptime) + seconds))
  forks() { n=0; until end; do echo $n | cat | md5sum >/dev/null; n=$((n+1)); done; echo "forks: $n"; }
  pipes() { n=0; until end; do dd if=/dev/zero bs=4k count=256 2>/dev/null | cat | md5sum >/tmp/sum$1; n=$((n+1)); done; echo "pipes: $n $(cut -d ' ' -f 1 /tmp/sum$1)"; }
  naps() { n=0; until end; do usleep 1000; n=$((n+1)); done; echo "naps: $n"; }
  moves() { n=0; until end; do taskset -p $(printf %x $((1 << (n % 8)))) $$ >/dev/null 2>&1; n=$((n+1)); done; echo "moves: $n"; }
  forks & forks & forks & pipes a & pipes b & naps & moves &
  n=0
  until end; do
    for c in $cpu/cpu[1-9]*; do echo 0 > $c/online || echo "trouble: offline"; done
    [ "$(cat $cpu/online)" = 0 ] || echo "trouble: still online $(cat $cpu/online)"
    for c in $cpu/cpu[1-9]*; do echo 1 > $c/online || echo "trouble: online"; done
    n=$((n+1))
    echo "alive: $(cut -d ' ' -f 1 /proc/uptime)"
  done
  wait
  echo "plugs: $n, online $(cat $cpu/online)"
fi
dmesg | grep -i -e "rcu:.*\\(stall\\|self-detected\\|starved\\)" -e "BUG:" -e "WARNING:" -e "Oops" -e lockdep -e "soft lockup" -e "blocked for more" -e "clocksource.*unstable" -e "xen.*fail" | sed 's/^/trouble: /'
grep -e timer -e callfunc -e resched /proc/interrupts | sed 's/^/interrupts: /'
case " $(cat /proc/cmdline) " in
*" crash "*)
  while :; do :; done &
  taskset 2 sh -c 'echo c > /proc/sysrq-trigger';;
*" wait "*)
  echo READY
  # The kernel makes it present; taking it online is left to user space.
  while [ "$(cat $cpu/present)" != 0-1 ]; do usleep 50000; done
  echo 1 > $cpu/cpu1/online
  echo "plugged: $(cat $cpu/online)"
  while [ "$(cat $cpu/online)" != 0 ]; do usleep 50000; done
  echo "unplugged: $(cat $cpu/online)";;
esac
poweroff -f
`;

let kernels: DebianKernels;
const ramdisk = path.join(tmpdir(), `xenlighten-smp-${process.pid}.gz`);
beforeAll(() => {
  kernels = debianKernels();
  writeFileSync(ramdisk, busyboxInitramfs(INIT));
}, 300_000);
afterEach(endAll);
afterAll(() => rmSync(ramdisk, { force: true }));

const lines = (text: string, word: string): string[] =>
  [...text.matchAll(new RegExp(`^${word}: (.*?)\\r?$`, 'gm'))].map((match) => match[1] as string);

test.each(RUNS)(
  'ring $ring, $vcpus vCPUs: boot, stress, hotplug',
  async ({ ring, vcpus }) => {
    const name = uniqueName();
    const guest = new Xenlighten([
      ...['run', '--name', name, '--kernel', kernels.stock, '--ramdisk', ramdisk, '--memory', '256'],
      ...['--cmdline', `console=hvc0 quiet stress=${SECONDS}`, '--guest-ring', `${ring}`, '--vcpus', `${vcpus}`],
      ...['--timeout', `${Math.ceil(TEST_MS / 1000) - 10}`],
    ]);
    const ended = await guest.ended;
    const said = (word: string): string[] => lines(guest.stdout, word);
    if (LONG) {
      const summary = ['forks', 'pipes', 'naps', 'moves', 'plugs'].map((word) => `${word} ${said(word).join(' + ')}`);
      process.stderr.write(`ring ${ring}, ${vcpus} vCPUs: ${summary.join('; ')}\n`);
    }
    expect(said('trouble')).toEqual([]);
    expect(guest.complaints).toBe('');
    expect(ended).toEqual({ status: 0, signal: null });
    expect(said('vcpus')).toEqual([`${vcpus} online 0-${vcpus - 1} possible 0-${vcpus - 1}`]);
    // Each vCPU has run a program that was bound to it, and got the MD5 of "49" and a line end right.
    expect(said('runs').map((line) => line.trim())).toEqual(
      Array.from({ length: vcpus }, (_, i) => `${i} a75f5a8337c6699916182b6f7c10d7a9  - ${i}`),
    );
    expect(said('plugs')).toEqual([expect.stringMatching(new RegExp(`^[1-9]\\d*, online 0-${vcpus - 1}$`))]);
    for (const count of said('forks')) expect(Number(count)).toBeGreaterThan(0);
    expect(said('forks')).toHaveLength(3);
    // 1 MiB of zeroes.
    for (const line of said('pipes')) expect(line).toMatch(/^[1-9]\d* b6d81b360a5672d80c27430f39153e2c$/);
    expect(said('pipes')).toHaveLength(2);
    expect(Number(said('naps')[0])).toBeGreaterThan(0);
    expect(Number(said('moves')[0])).toBeGreaterThan(0);
    // Timer and IPIs of each vCPU.
    for (let i = 0; i < vcpus; i++) {
      expect(guest.stdout).toMatch(new RegExp(`^interrupts: .*timer${i}\\r?$`, 'm'));
      expect(guest.stdout).toMatch(new RegExp(`^interrupts: .*callfuncsingle${i}\\r?$`, 'm'));
    }
    expect(await leftovers(name)).toEqual([]);
  },
  TEST_MS,
);

test.each([1, 3] as const)('a crash on vCPU 1 in ring %d stops all, and the report has all', async (ring) => {
  const name = uniqueName();
  const guest = new Xenlighten([
    ...['run', '--name', name, '--kernel', kernels.stock, '--ramdisk', ramdisk, '--memory', '128', '--vcpus', '3'],
    ...['--cmdline', 'console=hvc0 quiet crash', '--guest-ring', `${ring}`],
  ]);
  expect(await guest.ended).toEqual({ status: 3, signal: null });
  const report = guest.stderr;
  expect(report).toMatch(/^Guest crash on vCPU 1$/m);
  expect(report).toMatch(/^ {2}The guest kernel panicked and reported it .*: sysrq triggered crash$/m);
  for (const vcpu of [0, 2]) {
    // Linux tells the others to go down, and does not wait for it. Where they are is known in any case.
    expect(report).toMatch(
      new RegExp(
        `^vCPU ${vcpu} \\(guest (kernel|user) mode(, down|, blocked)*\\)\n {2}rip [0-9a-f]{4}:0*[1-9a-f]`,
        'm',
      ),
    );
  }
  expect(await leftovers(name)).toEqual([]);
});

test('vCPUs beyond vcpus= are offline, and the toolstack takes one online and offline', async () => {
  const domain = await Domain.create({
    name: uniqueName(),
    kernel: kernels.stock,
    ramdisk,
    cmdline: 'console=hvc0 quiet wait',
    memory: 128,
    vcpus: 1,
    maxvcpus: 2,
    guestRing: 1,
  });
  let text = '';
  const { Writable } = await import('node:stream');
  const reached = (wanted: RegExp): Promise<void> =>
    new Promise((resolve) => {
      const look = (): void => {
        if (wanted.test(text)) resolve();
        else setTimeout(look, 20);
      };
      look();
    });
  domain.console.attachOutput(
    new Writable({
      write: (chunk: Buffer, _encoding, done) => {
        text += chunk.toString('latin1');
        done();
      },
    }),
  );
  try {
    await domain.start();
    await reached(/^READY/m);
    expect(lines(text, 'vcpus')).toEqual(['1 online 0 possible 0-1']);
    expect(domain.info().vcpus).toBe(1);
    domain.toolstack.write('/local/domain/1/cpu/1/availability', 'online');
    await reached(/^plugged: 0-1/m);
    expect(domain.info().vcpus).toBe(2);
    domain.toolstack.write('/local/domain/1/cpu/1/availability', 'offline');
    expect(await domain.ended).toEqual({ kind: 'poweroff' });
    expect(lines(text, 'unplugged')).toEqual(['0']);
    expect(lines(text, 'trouble')).toEqual([]);
  } finally {
    await domain.destroy();
  }
}, 120_000);
