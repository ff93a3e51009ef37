/** The host addon's own functions, and that nothing of it outlives its owner. */
import { fstatSync, readFileSync, readlinkSync, writeSync } from 'node:fs';
import {
  closeFile,
  createMemory,
  createSealedFile,
  createSocketPair,
  destroyMemory,
  discardMemory,
  fill64,
  Machine,
  readClocks,
  sendByte,
} from '../../../shim/partition/host';

const linux = process.platform === 'linux';
/** What only Linux has, or lets a process see of itself. */
const onLinux = linux ? test : test.skip;

function mappings(): number {
  if (!linux) return 0;
  return readFileSync('/proc/self/maps', 'utf8').match(/memfd:xenlighten-ram/g)?.length ?? 0;
}

test('memory comes as 1 GiB windows, the last one smaller, all zero', () => {
  const memory = createMemory(2.5 * 2 ** 30);
  expect(memory.windows.map((window) => window.byteLength)).toEqual([2 ** 30, 2 ** 30, 2 ** 29]);
  expect(new Uint32Array(memory.windows[2], 0, 4)).toEqual(Uint32Array.of(0, 0, 0, 0));
  if (linux) expect(readlinkSync(`/proc/self/fd/${memory.fd}`)).toMatch(/memfd:xenlighten-ram/);
  else expect(memory.fd).toBe(-1);
  destroyMemory(memory);
});

test('destroyMemory detaches, unmaps and closes; a second time does nothing', () => {
  const before = mappings();
  const memory = createMemory(2 ** 20 * 16, { hugePages: true });
  const { fd } = memory;
  if (linux) expect(mappings()).toBe(before + 1);
  const bytes = new Uint8Array(memory.windows[0]);
  destroyMemory(memory);
  expect(bytes.length).toBe(0);
  expect(mappings()).toBe(before);
  if (linux) expect(() => readlinkSync(`/proc/self/fd/${fd}`)).toThrow('ENOENT');
  expect(() => destroyMemory(memory)).not.toThrow();
});

test('destroyMemory refuses windows and handles of others, and then unmaps nothing', () => {
  const one = createMemory(4096);
  const two = createMemory(4096);
  expect(() => destroyMemory({ ...one, windows: two.windows })).toThrow('window 0 belongs to another memory');
  expect(() => destroyMemory({ ...one, windows: [] })).toThrow('0 windows given, the memory has 1');
  expect(() => destroyMemory({ ...one, handle: {} })).toThrow('not a memory handle');
  new Uint8Array(one.windows[0])[0] = 1;
  destroyMemory(one);
  destroyMemory(two);
});

const MIB = 2 ** 20;

onLinux('discardMemory makes holes in the file, which read as zeros and take no memory', async () => {
  const memory = createMemory(16 * MIB);
  const bytes = new Uint8Array(memory.windows[0]);
  bytes.fill(7);
  const blocks = (): number => fstatSync(memory.fd).blocks * 512;
  expect(blocks()).toBe(16 * MIB);
  await discardMemory(memory, Float64Array.of(4096, 4096, 8 * MIB, 4 * MIB));
  expect(blocks()).toBe(12 * MIB - 4096);
  expect([bytes[4095], bytes[4096], bytes[8191], bytes[8192]]).toEqual([7, 0, 0, 7]);
  expect([bytes[8 * MIB - 1], bytes[8 * MIB], bytes[12 * MIB - 1], bytes[12 * MIB]]).toEqual([7, 0, 0, 7]);
  // Three pages of the holes have been looked at.
  expect(blocks()).toBe(12 * MIB + 8192);
  destroyMemory(memory);
});

/** Resident memory of the mapping that a window is, in KiB. */
function resident(size: number): number[] {
  const smaps = readFileSync('/proc/self/smaps', 'utf8').split(/^(?=[0-9a-f]+-[0-9a-f]+ )/m);
  return smaps
    .filter((map) => new RegExp(`^Size: +${size / 1024} kB$`, 'm').test(map))
    .map((map) => Number(/^Rss: +(\d+) kB$/m.exec(map)?.[1]));
}

test('discardMemory lets go of private memory, across windows', async () => {
  const size = 1024 * MIB + 24 * MIB;
  const memory = createMemory(size, { private: true });
  const [first, second] = memory.windows.map((w) => new Uint8Array(w)) as [Uint8Array, Uint8Array];
  first.fill(5, 1020 * MIB);
  second.fill(6);
  if (linux) expect(Math.max(...resident(24 * MIB))).toBe(24 * 1024);
  await discardMemory(memory, Float64Array.of(1022 * MIB, 12 * MIB));
  if (linux) expect(Math.max(...resident(24 * MIB))).toBe(14 * 1024);
  expect([first[1022 * MIB - 1], first[1022 * MIB], first[1024 * MIB - 1]]).toEqual([5, 0, 0]);
  expect([second[0], second[10 * MIB - 1], second[10 * MIB]]).toEqual([0, 0, 6]);
  destroyMemory(memory);
});

test('discardMemory takes pages of its memory only, and nothing is unmapped under it', async () => {
  const memory = createMemory(16 * MIB);
  for (const range of [
    [0, 0],
    [0, 100],
    [100, 4096],
    [0, 16 * MIB + 4096],
    [16 * MIB, 4096],
    [-4096, 4096],
    [4096, -4096],
    [4096.5, 4096],
    [Number.NaN, 4096],
    [0, Number.POSITIVE_INFINITY],
    [2 ** 60, 4096],
  ]) {
    expect(() => discardMemory(memory, Float64Array.from(range))).toThrow('not pages of this memory');
  }
  expect(() => discardMemory(memory, Float64Array.of(0))).toThrow('pairs of numbers');
  expect(() => discardMemory({ ...memory, handle: {} }, Float64Array.of(0, 4096))).toThrow('not a memory handle');
  await discardMemory(memory, new Float64Array(0));
  new Uint8Array(memory.windows[0]).fill(1);
  const running = discardMemory(memory, Float64Array.of(0, 16 * MIB));
  expect(() => destroyMemory(memory)).toThrow('1 discards are under way');
  await running;
  destroyMemory(memory);
  expect(() => discardMemory(memory, Float64Array.of(0, 4096))).toThrow('the memory is gone');
});

onLinux('a sealed file has its content and cannot be changed', () => {
  const fd = createSealedFile('test', Buffer.from('content'));
  expect(readFileSync(`/proc/self/fd/${fd}`, 'utf8')).toBe('content');
  expect(() => writeSync(fd, 'x', 0)).toThrow('EPERM');
  closeFile(fd);
  expect(() => closeFile(fd)).toThrow(/closing a file: Bad file descriptor/);
});

onLinux('sendByte says when nobody can take it, and never blocks', () => {
  const [ours, theirs] = createSocketPair();
  expect(sendByte(ours)).toBe(true);
  let sent = 1;
  while (sendByte(ours) && sent < 1_000_000) sent++;
  expect(sent).toBeLessThan(1_000_000);
  closeFile(theirs);
  expect(sendByte(ours)).toBe(false);
  closeFile(ours);
});

onLinux('the hypervisor is not asked for anything before a machine has all that it wants of JavaScript', () => {
  const memory = createMemory(2 ** 20, { private: true });
  const region = { gpa: 0, buffer: memory.windows[0] as ArrayBuffer, offset: 0, size: 2 ** 20 };
  const make = (onDoorbell: unknown) =>
    Machine.kvm(
      {
        ...{ vpCount: 1, callPort: 1, bellPort: 2, useFlags: false, sint: 2, flag: 0, regions: [region] },
        // No descriptor.
        ...{ vmFd: 0xffff, runSize: 2 ** 16, doorbellFd: 0xffff, vps: [{ fd: 0xffff, kick: 0xffff }] },
      },
      onDoorbell as () => void,
      () => undefined,
    );
  expect(() => make(() => undefined)).toThrow('KVM_SET_USER_MEMORY_REGION: Bad file descriptor');
  expect(() => make('no function')).toThrow(/napi_create_threadsafe_function/);
  destroyMemory(memory);
});

test('fill64 checks its bounds and alignment', () => {
  const buffer = new ArrayBuffer(64);
  fill64(buffer, 8, 7, 10n, 2n);
  expect([...new BigUint64Array(buffer)]).toEqual([0n, 10n, 12n, 14n, 16n, 18n, 20n, 22n]);
  expect(() => fill64(buffer, 4, 1, 0n, 0n)).toThrow('fill64: byteOffset 4 is not a multiple of 8');
  expect(() => fill64(buffer, 8, 8, 0n, 0n)).toThrow('fill64: 8 values at byte 8 do not fit into 64 bytes');
  expect(() => fill64(buffer, 72, 0, 0n, 0n)).toThrow('fill64: 0 values at byte 72 do not fit into 64 bytes');
  expect(() => fill64(buffer, 0, 2 ** 52, 0n, 0n)).toThrow('do not fit');
  expect(() => fill64(buffer, -8, 1, 0n, 0n)).toThrow('byteOffset: -8 is not an integer from 0 to 2^53 - 1');
});

test('clock readings go forward together', async () => {
  const first = readClocks();
  await new Promise((resolve) => setTimeout(resolve, 20));
  const second = readClocks();
  expect(second.tsc).toBeGreaterThan(first.tsc);
  const ns = Number(second.monotonicRawNs - first.monotonicRawNs);
  expect(ns).toBeGreaterThan(15e6);
  expect(Math.abs(Number(second.monotonicNs - first.monotonicNs) - ns) / ns).toBeLessThan(0.01);
  const hz = Number(second.tsc - first.tsc) / (ns / 1e9);
  expect(hz).toBeGreaterThan(5e8);
  expect(hz).toBeLessThan(1e10);
  expect(Math.abs(Number(second.realtimeNs / 1_000_000n) - Date.now())).toBeLessThan(2000);
});
