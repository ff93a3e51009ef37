/** The cpio archives that become initramfs images. */
import { cpio } from '../../../scripts/lib/initramfs';

interface Member {
  readonly name: string;
  readonly mode: number;
  readonly data: string;
  readonly device: readonly [number, number];
  readonly inode: number;
}

/** An independent reader of the format, as strict as the kernel's. */
function read(archive: Buffer): Member[] {
  const members: Member[] = [];
  for (let at = 0; ; ) {
    expect(at % 4).toBe(0);
    expect(archive.toString('latin1', at, at + 6)).toBe('070701');
    const field = (i: number): number =>
      Number.parseInt(archive.toString('latin1', at + 6 + 8 * i, at + 14 + 8 * i), 16);
    const nameAt = at + 110;
    const name = archive.toString('utf8', nameAt, nameAt + field(11) - 1);
    expect(archive[nameAt + field(11) - 1]).toBe(0);
    if (name === 'TRAILER!!!') return members;
    const dataAt = (nameAt + field(11) + 3) & ~3;
    const data = archive.toString('utf8', dataAt, dataAt + field(6));
    members.push({ name, mode: field(1), data, device: [field(9), field(10)], inode: field(0) });
    at = (dataAt + field(6) + 3) & ~3;
  }
}

test('folders, files, links and devices with their modes and contents', () => {
  const archive = cpio([
    { path: 'bin', kind: 'directory' },
    { path: 'bin/x', kind: 'file', data: 'abcde', executable: true },
    { path: 'bin/äö', kind: 'file', data: Buffer.from('ü') },
    { path: 'bin/y', kind: 'link', to: 'x' },
    { path: 'console', kind: 'character', major: 5, minor: 1 },
  ]);
  expect(archive.length % 512).toBe(0);
  expect(read(archive)).toEqual([
    { name: 'bin', mode: 0o40755, data: '', device: [0, 0], inode: 1 },
    { name: 'bin/x', mode: 0o100755, data: 'abcde', device: [0, 0], inode: 2 },
    { name: 'bin/äö', mode: 0o100644, data: 'ü', device: [0, 0], inode: 3 },
    { name: 'bin/y', mode: 0o120777, data: 'x', device: [0, 0], inode: 4 },
    { name: 'console', mode: 0o20600, data: '', device: [5, 1], inode: 5 },
  ]);
});

test('the same contents give the same bytes', () => {
  const entries = [{ path: 'a', kind: 'file' as const, data: 'b' }];
  expect(cpio(entries).equals(cpio(entries))).toBe(true);
});
