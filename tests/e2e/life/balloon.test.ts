/**
 * Ballooning: what a guest gives up the host gets back, and what it is given takes memory of the host when it is used.
 * Measured on the file that is the guest's RAM, which QEMU and this process share.
 */
import { fstatSync, rmSync } from 'node:fs';
import { Domain } from '../../../shim/domain/domain';
import { debianKernels } from '../lib/kernels';
import { leftovers, uniqueName } from '../lib/xenlighten';
import { lifeRamdisk } from './guest';

const ramdisk = lifeRamdisk();
afterAll(() => rmSync(ramdisk, { force: true }));

const soon = (): Promise<void> => new Promise((resolve) => setTimeout(resolve, 50));

test('from 512 to 128 MB and back', async () => {
  const name = uniqueName();
  const domain = await Domain.create({
    name,
    kernel: debianKernels().stock,
    ramdisk,
    cmdline: 'console=hvc0 quiet',
    memory: 512,
    guestRing: 'auto',
  });
  try {
    await domain.start();
    const said = (): string => Buffer.from(domain.console.history.bytes()).toString('latin1');
    const until = async (what: string, done: () => boolean): Promise<void> => {
      const by = Date.now() + 60_000;
      while (!done()) {
        if (Date.now() > by) throw new Error(`not in time: ${what}\n${said()}`);
        await soon();
      }
    };
    let commands = 0;
    /** Runs a command of the guest's shell, whose end is seen by what it echoes. */
    const run = async (command: string): Promise<string> => {
      const end = `end-of-${++commands}:`;
      const from = said().length;
      domain.console.type(Buffer.from(`${command}; echo "end-of-"${commands}:\n`));
      await until(command, () => said().includes(`\n${end}`));
      return said().slice(from);
    };
    const hostMiB = (): number => (fstatSync(domain.partition.memory.fd as number).blocks * 512) / 2 ** 20;
    const meminfo = async (): Promise<Record<string, number>> =>
      Object.fromEntries(
        [...(await run('cat /proc/meminfo')).matchAll(/^(Mem\w+): +(\d+) kB\r?$/gm)].map(([, key, kib]) => [
          key as string,
          Number(kib) / 1024,
        ]),
      );
    const settled = (mib: number): Promise<void> =>
      until(`${mib} MiB`, () => domain.info().memoryMiB === mib && domain.xen.frames.nrUsed === 0);
    const touch = (): Promise<string> => run('dd if=/dev/zero of=/mem/f bs=1M count=380 2>/dev/null; rm /mem/f');

    await until('a shell', () => /READY[\s\S]*\/ # /.test(said()));
    await touch();
    const full = await meminfo();
    const used = hostMiB();
    // All but what Linux had no reason to touch.
    expect(used).toBeGreaterThan(430);
    expect(full['MemTotal']).toBeGreaterThan(430);

    domain.guest.setMemory(128);
    await settled(128);
    await until('the last batch', () => !domain.xen.frameReturn.busy);
    const small = await meminfo();
    // The domain's 128 MiB, and the trap module's tables.
    expect(hostMiB()).toBeLessThan(150);
    expect((full['MemTotal'] as number) - (small['MemTotal'] as number)).toBeCloseTo(384, -1);
    expect((full['MemFree'] as number) - (small['MemFree'] as number)).toBeGreaterThan(360);

    // It may not take back what it was told to give, nor more than that is used before it touches it.
    await run('echo 524288 > /sys/devices/system/xen_memory/xen_memory0/target_kb; sleep 1');
    expect(domain.info().memoryMiB).toBeLessThanOrEqual(129);
    domain.guest.setMemory(512);
    await settled(512);
    expect(hostMiB()).toBeLessThan(170);
    const again = await meminfo();
    expect(again['MemTotal']).toBeCloseTo(full['MemTotal'] as number, 0);
    await touch();
    expect(hostMiB()).toBeGreaterThan(430);
    // What came back works: the guest fills it, and finds everything there.
    const found = await run(
      [
        'size=$(stat -c %s /bin/busybox)',
        'for i in $(seq 180); do cat /bin/busybox; done > /mem/f',
        'for i in 0 40 80 120 160; do dd if=/mem/f bs=$size skip=$i count=1 2>/dev/null | cmp - /bin/busybox && echo same; done',
        'rm /mem/f',
      ].join('; '),
    );
    expect(found.match(/^same\r?$/gm)).toHaveLength(5);
  } finally {
    await domain.destroy();
  }
  expect(await leftovers(name)).toEqual([]);
}, 240_000);
