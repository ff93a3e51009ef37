/** ffi-napi and ref-struct-di load on this Node.js and call libc: what engines on real hypervisors set up with. */
import { arch, platform } from 'node:os';
import ffi from 'ffi-napi';
import ref from 'ref-napi';
import structDi from 'ref-struct-di';

const Struct = structDi(ref);
const timespec = Struct({ tv_sec: ref.types.int64, tv_nsec: ref.types.int64 });

const onLinux = platform() === 'linux' && arch() === 'x64' ? describe : describe.skip;

onLinux('ffi-napi', () => {
  // A suite that is skipped is looked through as well.
  const load = () =>
    ffi.Library('libc.so.6', {
      getpid: ['int', []],
      clock_gettime: ['int', ['int', ref.refType(timespec)]],
      memcmp: ['int', ['uint64', 'uint64', 'uint64']],
    });
  let libc: ReturnType<typeof load>;
  beforeAll(() => {
    libc = load();
  });

  test('calls a function without arguments', () => {
    expect(libc.getpid()).toBe(process.pid);
  });

  test('passes a structure that libc fills in', () => {
    const now = new timespec();
    expect(libc.clock_gettime(0, now.ref())).toBe(0);
    expect(Math.abs(Number(now.tv_sec) - Date.now() / 1000)).toBeLessThan(5);
    expect(Number(now.tv_nsec)).toBeGreaterThanOrEqual(0);
    expect(Number(now.tv_nsec)).toBeLessThan(1e9);
  });

  test('lays structures out as C does', () => {
    const mixed = Struct({ a: ref.types.uint8, b: ref.types.uint32, c: ref.types.uint16, d: ref.types.uint64 });
    expect(mixed.size).toBe(24);
    expect((mixed as unknown as { fields: Record<string, { offset: number }> }).fields.d.offset).toBe(16);
  });

  test('takes handles and addresses as uint64 numbers', () => {
    // ref.address of a Buffer's memory, as a number: the only way in which we pass pointers that are not structures.
    const address = ref.address(Buffer.from('same'));
    expect(libc.memcmp(address, address, 4)).toBe(0);
  });
});
