/** Linux's own xen-blkfront on disks of ours: contents, sizes, kinds of disks, queues, pauses, reboots. */
import { execFileSync } from 'node:child_process';
import { createHash, randomBytes } from 'node:crypto';
import { mkdtempSync, readFileSync, rmSync, truncateSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import pino from 'pino';
import { type DiskSpec, parseDiskSpec } from '../../../shim/domain/disks/disk-spec';
import { GuestDisks } from '../../../shim/domain/disks/guest-disk';
import { Domain } from '../../../shim/domain/domain';
import { type DiskGuest, diskGuest } from '../lib/disk-guest';
import { compile } from '../lib/guest-image';
import { endAll, leftovers, uniqueName, Xenlighten, xenlighten } from '../lib/xenlighten';

const MIB = 2 ** 20;
const md5 = (bytes: Uint8Array): string => createHash('md5').update(bytes).digest('hex');

let folder: string;
let guest: DiskGuest;
beforeAll(() => {
  folder = mkdtempSync(path.join(tmpdir(), 'xenlighten-disk-'));
  const newcode = compile('newcode', ['-mno-red-zone']);
  if (newcode === undefined) throw new Error('gcc cannot compile newcode.c');
  guest = diskGuest({ programs: { newcode } });
});
afterAll(() => rmSync(folder, { recursive: true, force: true }));
afterEach(endAll);

function image(name: string, bytes: Uint8Array | number): string {
  const file = path.join(folder, name);
  if (typeof bytes === 'number') {
    writeFileSync(file, '');
    truncateSync(file, bytes);
  } else writeFileSync(file, bytes);
  return file;
}

function start(disks: readonly string[], more: readonly string[] = []): { run: Xenlighten; name: string } {
  const name = uniqueName();
  const run = new Xenlighten([
    'run',
    ...['--name', name, '--kernel', guest.kernel, '--ramdisk', guest.ramdisk],
    ...['--cmdline', 'console=hvc0 quiet', '--memory', '256', '--timeout', '120'],
    ...disks.flatMap((disk) => ['--disk', disk]),
    ...more,
  ]);
  return { run, name };
}

let marks = 0;

/** Types a command and resolves with what it printed. */
async function ask(run: Xenlighten, command: string, ms = 40_000): Promise<string> {
  const n = marks++;
  // The echo of what is typed must not be taken for the answer.
  run.type(`${command}; echo "do""ne-${n} $?"\n`);
  await run.says(new RegExp(`\\ndone-${n} \\d+`), ms);
  const said = run.stdout.replaceAll('\r', '');
  const echo = said.lastIndexOf(`ne-${n} $?"`);
  return said.slice(said.indexOf('\n', echo) + 1, said.lastIndexOf(`done-${n} `));
}

describe.each([
  { ring: '1', vcpus: '1' },
  { ring: '3', vcpus: '2' },
])('ring $ring, $vcpus vCPU(s)', ({ ring, vcpus }) => {
  test('reads what is in the image, writes to it, and what was synced is there', async () => {
    const content = randomBytes(8 * MIB);
    const first = image(`a${ring}.img`, content);
    const second = image(`b${ring}.img`, 24 * MIB);
    const { run, name } = start(
      [`${first},raw,xvda,w`, `${second},raw,xvdb,w`],
      ['--guest-ring', ring, '--vcpus', vcpus],
    );
    await run.says(/READY/);
    expect(await ask(run, 'cat /proc/partitions')).toMatch(/202 +0 +8192 xvda\n +202 +16 +24576 xvdb/);
    expect(await ask(run, 'md5sum < /dev/xvda')).toContain(md5(content));
    expect(await ask(run, 'mke2fs /dev/xvdb && mount -t ext4 /dev/xvdb /mnt && echo mounted')).toContain('\nmounted\n');
    await ask(run, 'dd if=/dev/urandom of=/mnt/file bs=1M count=8 2>/dev/null; echo hello > /mnt/note; sync');
    const sum = /[0-9a-f]{32}/.exec(await ask(run, 'md5sum < /mnt/file'))?.[0];
    await ask(run, 'umount /mnt');
    // 512 bytes in the middle of a page, at an odd place, and the last sector.
    await ask(run, 'echo -n ABCD | dd of=/dev/xvda bs=4 seek=129 conv=notrunc 2>/dev/null; sync');
    await ask(run, 'dd if=/dev/zero of=/dev/xvda bs=512 seek=16383 count=1 oflag=direct 2>/dev/null; sync');
    run.type('poweroff -f\n');
    expect(await run.ended).toEqual({ status: 0, signal: null });
    const written = readFileSync(first);
    content.write('ABCD', 516);
    content.fill(0, 16383 * 512);
    expect(md5(written)).toBe(md5(content));
    expect(execFileSync('e2fsck', ['-fn', second], { encoding: 'utf8', stdio: 'pipe' })).toMatch(/files/);
    const file = execFileSync('debugfs', ['-R', 'cat /file', second], { maxBuffer: 16 * MIB, stdio: 'pipe' });
    expect(md5(file)).toBe(sum);
    expect(run.complaints).toBe('');
    expect(await leftovers(name)).toEqual([]);
  });
});

test('each vCPU has a queue of its own; read-only disks and CD-ROMs are what they are', async () => {
  const disk = image('ro.img', randomBytes(MIB));
  const cd = image('cd.iso', randomBytes(2 * MIB));
  const { run } = start([`${disk},raw,xvda,r`, `${cd},raw,xvdb,cdrom`, ',,xvdc,cdrom'], ['--vcpus', '2']);
  await run.says(/READY/);
  expect(await ask(run, 'ls /sys/block/xvda/mq')).toBe('0  1\n');
  expect(await ask(run, 'cat /sys/block/xvda/ro /sys/block/xvdb/ro /sys/block/xvdb/queue/logical_block_size')).toBe(
    '1\n1\n2048\n',
  );
  expect(await ask(run, 'dd if=/dev/zero of=/dev/xvda count=1; echo status $?')).toContain('status 1');
  expect(await ask(run, 'md5sum < /dev/xvdb')).toContain(md5(readFileSync(cd)));
  run.type('poweroff -f\n');
  expect((await run.ended).status).toBe(0);
});

test('sectors of 4096 bytes; persistent grants; what came over the ring is counted', async () => {
  const [large, grants] = [image('4k.img', 16 * MIB), image('grants.img', 8 * MIB)];
  const { run, name } = start([`${large},raw,xvda,w,sector-size=4096`, `${grants},raw,xvdb,w,persistent-grants`]);
  await run.says(/READY/);
  expect(await ask(run, 'cat /sys/block/xvda/queue/logical_block_size /sys/block/xvdb/queue/logical_block_size')).toBe(
    '4096\n512\n',
  );
  expect(await ask(run, 'dmesg | grep -c "xvdb.*persistent grants: enabled"')).toBe('1\n');
  for (const disk of ['xvda', 'xvdb']) {
    await ask(
      run,
      `dd if=/dev/urandom of=/dev/${disk} bs=1M count=8 conv=fsync 2>/dev/null; echo 3 > /proc/sys/vm/drop_caches`,
    );
    const sums = await ask(
      run,
      `dd if=/dev/${disk} bs=1M count=8 2>/dev/null | md5sum; dd if=/dev/${disk} bs=4096 count=2048 iflag=direct 2>/dev/null | md5sum`,
    );
    const [first, second] = sums.match(/[0-9a-f]{32}/g) ?? [];
    expect(second).toBe(first);
    expect(md5(readFileSync(disk === 'xvda' ? large : grants).subarray(0, 8 * MIB))).toBe(first);
  }
  const stats = await xenlighten('stats', name);
  expect(stats.stdout).toMatch(/^xvda: blkif write +\d+ +8\.0 +0 +vstor EXECUTE_SRB, SCSI WRITE\(10\)/m);
  expect(stats.stdout).toMatch(/^xvdb: blkif flush +\d+ +- +0 +vstor EXECUTE_SRB, SCSI SYNCHRONIZE CACHE\(10\)/m);
  run.type('poweroff -f\n');
  expect((await run.ended).status).toBe(0);
});

test('a trace shows the stages of a read', async () => {
  const trace = path.join(folder, 'trace.json');
  const { run } = start([`${image('traced.img', 4 * MIB)},raw,xvda,r`], ['--trace', trace]);
  await run.says(/READY/);
  await ask(run, 'dd if=/dev/xvda of=/dev/null bs=4096 count=1 skip=100 iflag=direct');
  run.type('poweroff -f\n');
  expect((await run.ended).status).toBe(0);
  type Event = { name: string; ph: string; id?: number; ts: number; args?: { sector: number; bytes: number } };
  const { traceEvents } = JSON.parse(readFileSync(trace, 'utf8')) as { traceEvents: Event[] };
  const read = traceEvents.find((e) => e.name === 'xvda read' && e.ph === 'b' && e.args?.sector === 800);
  expect(read?.args).toMatchObject({ bytes: 4096, ok: true });
  const stages = traceEvents.filter((e) => e.id === read?.id && e.ph === 'b').map((e) => e.name);
  expect(stages).toEqual(['xvda read', 'ring and grants', 'vstor, SCSI, begin of I/O', 'host I/O', 'response']);
  const times = traceEvents.filter((e) => e.id === read?.id).map((e) => e.ts);
  expect(Math.max(...times) - Math.min(...times)).toBeLessThan(1e6);
  expect([...times.slice(1, -1)]).toEqual([...times.slice(1, -1)].sort((a, b) => a - b));
});

test('a domain that is paused while it writes goes on, and its disk is whole', async () => {
  const disk = image('paused.img', 32 * MIB);
  const { run, name } = start([`${disk},raw,xvda,w`]);
  await run.says(/READY/);
  run.type(
    'i=0; while [ $i -lt 300 ]; do echo $i | dd of=/dev/xvda bs=4k seek=$i conv=sync,fsync 2>/dev/null; i=$((i+1)); done; echo wrote""all\n',
  );
  for (let i = 0; i < 20; i++) {
    expect((await xenlighten('pause', name)).stderr).toBe('');
    expect((await xenlighten('unpause', name)).stderr).toBe('');
  }
  await run.says(/wroteall/);
  run.type('poweroff -f\n');
  expect((await run.ended).status).toBe(0);
  const bytes = readFileSync(disk);
  for (let i = 0; i < 300; i++) expect(bytes.toString('latin1', i * 4096, i * 4096 + 4)).toBe(`${i}\n`.padEnd(4, '\0'));
});

test('a disk is attached and detached while the guest uses it; a mounted one stays until it is unmounted', async () => {
  const first = image('first.img', 32 * MIB);
  const second = image('second.img', 32 * MIB);
  const { run, name } = start([`${first},raw,xvda,w`]);
  await run.says(/READY/);
  run.type('(while true; do dd if=/dev/zero of=/dev/xvda bs=64k count=400 oflag=direct; done) 2>/dev/null &\n');
  for (let round = 0; round < 3; round++) {
    expect(await xenlighten('block-attach', name, `${second},raw,xvdb,w`)).toMatchObject({ status: 0, stderr: '' });
    await ask(run, 'while [ ! -b /dev/xvdb ]; do sleep 0.05; done').catch(async (error: Error) => {
      const { stdout } = await xenlighten('block-list', name);
      run.type('\x03dmesg | tail -n 12; ls /sys/bus/xen/devices; cat /sys/bus/xen/devices/vbd-51728/state\n');
      await new Promise((resolve) => setTimeout(resolve, 5000));
      throw new Error(`the guest has not found the disk: ${error.message}\n${stdout}\n${run.stdout.slice(-3000)}`);
    });
    await ask(run, `echo round ${round} | dd of=/dev/xvdb bs=4k conv=sync,fsync 2>/dev/null`);
    const list = (await xenlighten('block-list', name)).stdout;
    expect(list.split('\n')[0]).toMatch(/^Vdev +BE +handle +state +evt-ch +ring-ref +BE-path/);
    expect(list).toMatch(
      /^51728 0 +51728 +4 +\d+ +\d+ +\/local\/domain\/0\/backend\/vbd\/1\/51728 +xvdb +w raw +\S+second\.img$/m,
    );
    // Under load: reads of the disk that goes, writes to the one that stays.
    run.type('dd if=/dev/xvdb of=/dev/null bs=4k iflag=direct 2>/dev/null &\n');
    expect(await xenlighten('block-detach', name, round === 1 ? '51728' : 'xvdb')).toMatchObject({
      status: 0,
      stderr: '',
    });
    await ask(run, 'while [ -b /dev/xvdb ]; do sleep 0.05; done');
    expect(readFileSync(second).toString('latin1', 0, 8)).toBe(`round ${round}\n`);
    expect((await xenlighten('block-list', name)).stdout).not.toContain('xvdb');
  }
  expect((await xenlighten('block-attach', name, `${second},raw,xvda,w`)).stderr).toContain('xvda is attached already');
  expect(await xenlighten('block-attach', name, `${folder}/none.img,raw,xvdb,w`)).toMatchObject({ status: 1 });
  expect((await xenlighten('block-detach', name, 'xvdq')).stderr).toContain('no disk xvdq: the guest has xvda');
  run.type('poweroff -f\n');
  expect((await run.ended).status).toBe(0);
});

test('a disk that the guest has thrown away can be replaced, and the guest can start again', async () => {
  const log = pino({ level: 'silent' });
  const spec = (name: string, vdev: string): DiskSpec =>
    parseDiskSpec(`${image(name, 8192)},raw,${vdev},w`, 'test').disk;
  const disks = await GuestDisks.open([spec('kept.img', 'xvda'), spec('thrown.img', 'xvdb')], false, log);
  const config = { kernel: guest.kernel, cmdline: '', memory: 512, guestRing: 'auto' as const, disks };
  const domain = await Domain.create({ ...config, name: uniqueName() }, log);
  try {
    domain.toolstack.rm('/local/domain/1/device/vbd/51728');
    while (domain.blocks.list().length > 1) await new Promise((resolve) => setImmediate(resolve));
    // The same file: nobody has it open any more.
    await domain.attachDisk(spec('thrown.img', 'xvdb'));
    await expect(domain.attachDisk(spec('other.img', 'xvdb'))).rejects.toThrow('xvdb is attached already');
    await domain.destroy();
    const next = await Domain.create({ ...config, name: uniqueName() }, log);
    expect(next.blocks.list().map(({ vdev }) => vdev)).toEqual(['xvda', 'xvdb']);
    await next.destroy();
  } finally {
    await domain.destroy();
    await disks.close();
  }
});

describe.each(['1', '3'])('ring %s', (ring) => {
  test('code that is read into a page that was executed before is what runs next', async () => {
    const programs = Buffer.alloc(16 * 4096);
    // mov $n, %eax; ret
    for (let n = 0; n < 16; n++) programs.set([0xb8, n, 0, 0, 0, 0xc3], n * 4096);
    const { run } = start([`${image(`code${ring}.img`, programs)},raw,xvda,r`], ['--guest-ring', ring]);
    await run.says(/READY/);
    for (let i = 0; i < 3; i++) expect(await ask(run, 'newcode /dev/xvda; echo status $?')).toBe('status 0\n');
    run.type('poweroff -f\n');
    expect((await run.ended).status).toBe(0);
  });
});

test('a guest that reboots has the same disks again', async () => {
  const disk = image('reboot.img', 4 * MIB);
  const { run } = start([`${disk},raw,xvda,w`]);
  await run.says(/READY/);
  await ask(run, 'echo survived | dd of=/dev/xvda conv=sync,fsync 2>/dev/null');
  await new Promise((resolve) => setTimeout(resolve, 1000));
  const before = run.stdout.length;
  run.type('reboot -f\n');
  await run.says(/READY[\s\S]*READY/);
  expect(run.stdout.slice(before)).toContain('READY');
  expect(await ask(run, 'head -n 1 /dev/xvda')).toBe('survived\n');
  run.type('poweroff -f\n');
  expect((await run.ended).status).toBe(0);
});

test('with --snapshot nothing is written to the image', async () => {
  const content = randomBytes(4 * MIB);
  const disk = image('snapshot.img', content);
  const { run } = start([`${disk},raw,xvda,w`], ['--snapshot']);
  await run.says(/READY/);
  await ask(run, 'dd if=/dev/zero of=/dev/xvda bs=1M count=4 conv=fsync 2>/dev/null');
  expect(await ask(run, 'md5sum < /dev/xvda')).toContain(md5(new Uint8Array(4 * MIB)));
  run.type('poweroff -f\n');
  expect((await run.ended).status).toBe(0);
  expect(md5(readFileSync(disk))).toBe(md5(content));
});

test.each([
  ['a missing image', () => `${folder}/missing.img,raw,xvda,w`, /missing\.img/],
  ['a disk of a strange format', () => 'a.qcow2,qcow2,xvda,w', /no disks of format qcow2 yet/],
  ['a strange vdev', () => 'a.img,raw,vda,w', /unknown vdev: found "vda"/],
])('%s: an error, exit 1, and nothing is left', async (_, disk, message) => {
  const { run, name } = start([disk()]);
  expect((await run.ended).status).toBe(1);
  expect(run.stderr).toMatch(message);
  expect(await leftovers(name)).toEqual([]);
});
