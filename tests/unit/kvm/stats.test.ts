/** KVM's binary statistics, from a file that is laid out like a statistics descriptor. */
import { closeSync, mkdtempSync, openSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { VcpuStatistics } from '../../../shim/partition/kvm/stats';

let descriptor = -1;
jest.mock('../../../shim/partition/kvm/libc', () => ({ ioctl: () => descriptor }));

const directory = mkdtempSync(path.join(tmpdir(), 'xenlighten-stats-'));
afterAll(() => rmSync(directory, { recursive: true }));

interface Stat {
  readonly name: string;
  readonly offset: number;
  readonly size?: number;
}

const NAME_SIZE = 48;

function file(stats: readonly Stat[], data: readonly bigint[], cut = 0): string {
  const header = Buffer.alloc(24);
  const id = Buffer.alloc(NAME_SIZE, 0);
  id.write('kvm-1/vcpu-0');
  const at = header.length + id.length;
  const dataAt = at + stats.length * (16 + NAME_SIZE);
  const words = [0, NAME_SIZE, stats.length, header.length, at, dataAt];
  for (const [i, word] of words.entries()) header.writeUInt32LE(word, i * 4);
  const descriptors = stats.map(({ name, offset, size = 1 }) => {
    const bytes = Buffer.alloc(16 + NAME_SIZE);
    bytes.writeUInt16LE(size, 6);
    bytes.writeUInt32LE(offset, 8);
    bytes.write(name, 16);
    return bytes;
  });
  const values = Buffer.alloc(data.length * 8);
  for (const [i, value] of data.entries()) values.writeBigUInt64LE(value, i * 8);
  const whole = Buffer.concat([header, id, ...descriptors, values]);
  const name = path.join(directory, `stats-${Math.random()}`);
  writeFileSync(name, whole.subarray(0, whole.length - cut));
  return name;
}

function open(name: string): VcpuStatistics {
  descriptor = openSync(name, 'r');
  return VcpuStatistics.open(0);
}

test('counters by name, read anew each time; histograms are left out', () => {
  const stats = [
    { name: 'exits', offset: 0 },
    { name: 'halt_poll_hist', offset: 8, size: 3 },
    { name: 'hypercalls', offset: 32 },
  ];
  const name = file(stats, [7n, 1n, 2n, 3n, 2n ** 40n]);
  const statistics = open(name);
  expect(statistics.read()).toEqual({ exits: 7, hypercalls: 2 ** 40 });
  expect(statistics.read()).toEqual({ exits: 7, hypercalls: 2 ** 40 });
  statistics.close();
  expect(() => closeSync(descriptor)).toThrow('EBADF');
});

test('a KVM without any', () => {
  const statistics = open(file([], []));
  expect(statistics.read()).toEqual({});
  statistics.close();
});

test('what ends early, or claims to be large, is an error and no endless loop', () => {
  const statistics = open(file([{ name: 'exits', offset: 0 }], [1n], 4));
  expect(() => statistics.read()).toThrow('KVM statistics end early');
  statistics.close();
  const large = file([], []);
  descriptor = openSync(large, 'r+');
  const header = Buffer.alloc(24);
  header.writeUInt32LE(NAME_SIZE, 4);
  header.writeUInt32LE(0xffff_ffff, 8);
  writeFileSync(large, header);
  expect(() => VcpuStatistics.open(0)).toThrow('KVM describes 4294967295 statistics');
  expect(() => closeSync(descriptor)).toThrow('EBADF');
});
