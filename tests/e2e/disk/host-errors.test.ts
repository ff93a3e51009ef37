/**
 * The host's storage fails under a running guest: the guest sees an I/O error and goes on, the person who runs it sees one line
 * that names the file and says why.
 */
import { execFileSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, rmSync, truncateSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { PassThrough, Writable } from 'node:stream';
import pino from 'pino';
import { parseDiskSpec } from '../../../shim/domain/disks/disk-spec';
import type { GuestDisk, GuestDisks } from '../../../shim/domain/disks/guest-disk';
import { Domain } from '../../../shim/domain/domain';
import { ScsiDisk } from '../../../shim/hyperv/storage/scsi-disk';
import { StorageVsp } from '../../../shim/hyperv/storage/storvsp';
import { type Disk, DiskError } from '../../../shim/image/disk';
import { openDisk } from '../../../shim/image/open';
import { type DiskGuest, diskGuest } from '../lib/disk-guest';
import { endAll, leftovers, uniqueName, Xenlighten } from '../lib/xenlighten';

const MIB = 2 ** 20;

/** Why no small file system can be made here, or undefined. */
function mountProblem(): string | undefined {
  if (process.platform !== 'linux' || process.getuid?.() !== 0) return 'not root';
  const probe = mkdtempSync(path.join(tmpdir(), 'xenlighten-mount-'));
  try {
    execFileSync('mount', ['-t', 'tmpfs', '-o', 'size=1m', 'none', probe], { stdio: 'ignore' });
    execFileSync('umount', [probe], { stdio: 'ignore' });
    return undefined;
  } catch {
    return 'mount is not allowed here';
  } finally {
    rmSync(probe, { recursive: true, force: true });
  }
}

const noMount = mountProblem();
let folder: string;
let guest: DiskGuest;
beforeAll(() => {
  folder = mkdtempSync(path.join(tmpdir(), 'xenlighten-errors-'));
  guest = diskGuest();
});
afterAll(() => rmSync(folder, { recursive: true, force: true }));
afterEach(endAll);

function start(disks: readonly string[]): { run: Xenlighten; name: string } {
  const name = uniqueName();
  const run = new Xenlighten([
    'run',
    ...['--name', name, '--kernel', guest.kernel, '--ramdisk', guest.ramdisk],
    ...['--cmdline', 'console=hvc0 quiet', '--memory', '256', '--timeout', '120'],
    ...disks.flatMap((disk) => ['--disk', disk]),
  ]);
  return { run, name };
}

/** The lines about disks on stderr. */
function said(text: string): { msg: string; disk: string; file: string; level: number }[] {
  return text
    .split('\n')
    .filter((line) => line.startsWith('{') && line.includes('"disk"'))
    .map((line) => JSON.parse(line) as { msg: string; disk: string; file: string; level: number });
}

interface Shell {
  readonly type: (text: string) => void;
  readonly says: (wanted: RegExp) => Promise<RegExpExecArray>;
  readonly text: () => string;
}
const shellOf = (run: Xenlighten): Shell => ({
  type: (text) => run.type(text),
  says: (wanted) => run.says(wanted, 60_000),
  text: () => run.stdout,
});

let marks = 0;
/** Types a command and resolves with what it printed. */
async function ask(shell: Shell, command: string): Promise<string> {
  const n = marks++;
  shell.type(`${command}; echo "do""ne-${n} $?"\n`);
  await shell.says(new RegExp(`\\ndone-${n} \\d+`));
  const text = shell.text().replaceAll('\r', '');
  const echo = text.lastIndexOf(`ne-${n} $?"`);
  return text.slice(text.indexOf('\n', echo) + 1, text.lastIndexOf(`done-${n} `));
}

(noMount === undefined ? test : test.skip)(
  `a full file system under a disk${noMount === undefined ? '' : ` (${noMount})`}`,
  async () => {
    const small = path.join(folder, 'small');
    mkdirSync(small);
    execFileSync('mount', ['-t', 'tmpfs', '-o', 'size=8m', 'none', small]);
    try {
      const image = path.join(small, 'full.img');
      writeFileSync(image, '');
      truncateSync(image, 64 * MIB);
      const other = path.join(folder, 'other.img');
      writeFileSync(other, Buffer.alloc(MIB, 'x'));
      const { run, name } = start([`${image},raw,xvda,w`, `${other},raw,xvdb,w`]);
      await run.says(/READY/);
      const shell = shellOf(run);
      // The device's cache takes it all; what counts is what fsync says.
      expect(await ask(shell, 'dd if=/dev/urandom of=/dev/xvda bs=1M count=24 conv=fsync; echo status $?')).toContain(
        'status 1',
      );
      expect(await ask(shell, 'dmesg | grep -c "I/O error, dev xvda"')).toMatch(/^[1-9]/);
      // What fits is there, reads work, the other disk does not mind, the guest goes on.
      expect(
        await ask(shell, 'dd if=/dev/xvda of=/dev/null bs=1M count=64 iflag=direct 2>/dev/null; echo status $?'),
      ).toContain('status 0');
      expect(
        await ask(shell, 'dd if=/dev/zero of=/dev/xvdb bs=1M count=1 conv=fsync 2>/dev/null; echo status $?'),
      ).toContain('status 0');
      run.type('poweroff -f\n');
      await run.ended;
      const lines = said(run.stderr);
      expect(lines).toHaveLength(1);
      expect(lines[0]).toMatchObject({ disk: 'xvda', file: image, level: 50 });
      expect(lines[0]!.msg).toMatch(/full\.img: cannot write \d+ bytes at \d+: ENOSPC: no space left on device$/);
      expect(await leftovers(name)).toEqual([]);
    } finally {
      execFileSync('umount', ['-l', small]);
    }
  },
);

test('an image that is truncated while it is in use', async () => {
  const image = path.join(folder, 'cut.img');
  writeFileSync(image, Buffer.alloc(16 * MIB, 'y'));
  const { run, name } = start([`${image},raw,xvda,w`]);
  await run.says(/READY/);
  const shell = shellOf(run);
  expect(
    await ask(shell, 'dd if=/dev/xvda of=/dev/null bs=1M count=1 skip=12 iflag=direct 2>/dev/null; echo status $?'),
  ).toContain('status 0');
  truncateSync(image, 4 * MIB);
  expect(await ask(shell, 'dd if=/dev/xvda of=/dev/null bs=1M count=1 skip=12 iflag=direct; echo status $?')).toContain(
    'status 1',
  );
  expect(await ask(shell, 'dmesg | grep -c "I/O error, dev xvda"')).toMatch(/^[1-9]/);
  expect(await ask(shell, 'dd if=/dev/xvda bs=1M count=1 skip=2 iflag=direct 2>/dev/null | head -c 4; echo')).toBe(
    'yyyy\n',
  );
  run.type('poweroff -f\n');
  expect((await run.ended).status).toBe(0);
  const lines = said(run.stderr);
  expect(lines).toHaveLength(1);
  expect(lines[0]).toMatchObject({ disk: 'xvda', file: image, level: 50 });
  expect(lines[0]!.msg).toMatch(/cut\.img: cannot read \d+ bytes at \d+: the file has shrunk$/);
  expect(await leftovers(name)).toEqual([]);
});

/** A disk whose medium has gone bad: some of it cannot be read, and it cannot be flushed when told so. */
function badDisk(image: Disk, bad: { from: number; to: number; flush: boolean }): Disk {
  const io = (what: string) => Promise.reject(new DiskError('io', `${image.path}: cannot ${what}: EIO: i/o error`));
  return Object.assign(Object.create(image) as Disk, {
    read: (offset: number, buffers: readonly Uint8Array[]) => {
      const length = buffers.reduce((sum, b) => sum + b.length, 0);
      return offset < bad.to && offset + length > bad.from ? io('read') : image.read(offset, buffers);
    },
    flush: () => (bad.flush ? io('flush') : image.flush()),
  });
}

test('a medium that cannot be read in one place, and later not be flushed', async () => {
  const file = path.join(folder, 'bad.img');
  writeFileSync(file, Buffer.alloc(8 * MIB, 'z'));
  const image = await openDisk({ path: file, format: 'raw', readOnly: false, snapshot: false });
  const bad = { from: 2 * MIB, to: 2 * MIB + 4096, flush: false };
  const told: string[] = [];
  const device = new ScsiDisk(badDisk(image, bad), {
    serial: 'xvda',
    onDiskError: (error) => told.push(error.message),
  });
  const vsp = new StorageVsp({
    instanceId: '11111111-1111-1111-1111-111111111111',
    luns: [{ target: 0, lun: 0, device }],
  });
  const { disk: spec } = parseDiskSpec(`${file},raw,xvda,w`, 'test');
  const disks = { list: () => [{ spec, image, vsp } as unknown as GuestDisk] } as unknown as GuestDisks;
  let console = '';
  const watchers: (() => void)[] = [];
  const output = new Writable({
    write: (chunk: Buffer, _, done) => {
      console += chunk.toString('latin1');
      for (const watcher of watchers.splice(0)) watcher();
      done();
    },
  });
  const domain = await Domain.create(
    {
      name: uniqueName(),
      kernel: guest.kernel,
      ramdisk: guest.ramdisk,
      cmdline: 'console=hvc0 quiet',
      memory: 256,
      vcpus: 1,
      guestRing: 'auto',
      disks,
    },
    pino({ level: 'silent' }),
  );
  const input = new PassThrough();
  domain.console.attachOutput(output);
  domain.console.attachInput(input);
  const shell: Shell = {
    text: () => console,
    type: (text) => input.write(text),
    says: async (wanted) => {
      const until = Date.now() + 90_000;
      for (;;) {
        const match = wanted.exec(console);
        if (match !== null) return match;
        if (Date.now() > until) throw new Error(`${wanted}: not said\n${console.slice(-2000)}`);
        await new Promise<void>((resolve) => {
          const timer = setTimeout(resolve, 1000);
          watchers.push(() => {
            clearTimeout(timer);
            resolve();
          });
        });
      }
    },
  };
  try {
    await domain.start();
    await shell.says(/READY/);
    const dd = (more: string) => ask(shell, `dd ${more} 2>/dev/null; echo status $?`);
    expect(await dd('if=/dev/xvda of=/dev/null bs=4k skip=511 count=1 iflag=direct')).toContain('status 0');
    expect(await dd('if=/dev/xvda of=/dev/null bs=4k skip=512 count=1 iflag=direct')).toContain('status 1');
    expect(await dd('if=/dev/xvda of=/dev/null bs=4k skip=513 count=1 iflag=direct')).toContain('status 0');
    expect(await dd('if=/dev/zero of=/dev/xvda bs=4k count=1 conv=fsync')).toContain('status 0');
    bad.flush = true;
    expect(await dd('if=/dev/zero of=/dev/xvda bs=4k count=1 conv=fsync')).toContain('status 1');
    // The driver does not flush any more: writes must not look as if they were safe.
    expect(await dd('if=/dev/zero of=/dev/xvda bs=4k count=1 conv=fsync')).toContain('status 1');
    expect(await dd('if=/dev/zero of=/dev/xvda bs=4k count=1 oflag=direct')).toContain('status 1');
    expect(await dd('if=/dev/xvda of=/dev/null bs=4k count=1 iflag=direct')).toContain('status 0');
    expect(await ask(shell, 'echo still here')).toBe('still here\n');
    expect(told).toEqual([`${file}: cannot read: EIO: i/o error`]);
    shell.type('poweroff -f\n');
    expect((await domain.ended).kind).toBe('poweroff');
  } finally {
    await domain.destroy();
    await image.close();
  }
});
