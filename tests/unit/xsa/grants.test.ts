/** Security advisories of Xen about grant tables, as tests of ours. */
import fc from 'fast-check';
import { GNTST, GNTTAB_FLAGS } from '../../../abi/xen/grant-ops';
import { GTF } from '../../../abi/xen/grant-table';
import type { AcquiredGrant } from '../../../shim/xen/grant/grant-table';
import { pteMfn } from '../../../shim/xen/guest-virtual';
import { type Fixture, GRANTS, L1, PAGE, setUp } from '../hypercalls/fixture';

const { GNTMAP_host_map: HOST, GNTMAP_device_map: DEVICE, GNTMAP_readonly: READ_ONLY } = GNTTAB_FLAGS;
const BOTH = GTF.GTF_reading | GTF.GTF_writing;
const SELF = 7;
const call = { effects: 0 };

function grant(f: Fixture, ref: number, mfn: number, domid = SELF): void {
  f.memory.setU32(GRANTS * PAGE + ref * 8 + 4, mfn);
  f.memory.setU32(GRANTS * PAGE + ref * 8, GTF.GTF_permit_access | (domid << 16));
}
const map = (f: Fixture, n: number, flags: number = HOST, ref = 9) =>
  f.d.grantMaps.map(f.guest, f.page(n), flags, ref, SELF, call);
const unmap = (f: Fixture, n: number, handle: number, bus = 0n) =>
  f.d.grantMaps.unmap(f.guest, n === 0 ? 0n : f.page(n), bus, handle, call);
const pte = (f: Fixture, n: number) => f.memory.getU64(L1 * PAGE + n * 8);
const writers = (f: Fixture, mfn: number) => Number(f.d.frames.info(mfn) & 0xfffffffn);

/**
 * XSA-218: of two unmaps at the same time each could believe to be the last, so that the owner was told too early that its
 * page was not in use any more, and a reference was dropped twice.
 */
describe('unmapping twice (XSA-218)', () => {
  test('a grant is given back once, however often its handle is unmapped, and not before its last mapping', () => {
    const f = setUp();
    grant(f, 9, 60);
    const maps = [200, 201].map((n) => map(f, n));
    expect(maps.map((m) => m.status)).toEqual([0, 0]);
    const before = writers(f, 60);
    expect(unmap(f, 200, maps[0]!.handle!)).toBe(GNTST.GNTST_okay);
    expect(unmap(f, 200, maps[0]!.handle!)).toBe(GNTST.GNTST_bad_handle);
    expect(unmap(f, 201, maps[0]!.handle!)).toBe(GNTST.GNTST_bad_handle);
    expect(f.d.grants.statusBits(9)).toBe(BOTH);
    expect(writers(f, 60)).toBe(before - 1);
    expect(unmap(f, 201, maps[1]!.handle!)).toBe(GNTST.GNTST_okay);
    expect(f.d.grants.statusBits(9)).toBe(0);
  });

  test('an unmap that is refused has given nothing back', () => {
    const f = setUp();
    grant(f, 9, 60);
    const { handle } = map(f, 200);
    const before = writers(f, 60);
    for (const n of [201, 61]) expect(unmap(f, n, handle!)).toBe(GNTST.GNTST_general_error);
    expect([f.d.grants.statusBits(9), writers(f, 60), f.d.grantMaps.count]).toEqual([BOTH, before, 1]);
  });
});

/** XSA-224: a map for host and device counted two uses, an unmap of one of them gave back what belonged to the other. */
test('a map for host and device is two uses, each given back once (XSA-224)', () => {
  const f = setUp();
  grant(f, 9, 60);
  const { handle, busAddress } = map(f, 200, HOST | DEVICE);
  expect(unmap(f, 200, handle!)).toBe(0);
  expect(f.d.grants.statusBits(9)).toBe(BOTH);
  // The host's part is gone: to name it again does nothing.
  expect(unmap(f, 200, handle!)).toBe(0);
  expect(f.d.grants.statusBits(9)).toBe(BOTH);
  expect(unmap(f, 0, handle!, busAddress!)).toBe(0);
  expect(f.d.grants.statusBits(9)).toBe(0);
  expect(unmap(f, 0, handle!, busAddress!)).toBe(GNTST.GNTST_bad_handle);
});

/** XSA-228: vCPUs that took and gave back handles at once damaged the list of free ones; two maps got the same handle. */
test('no handle is handed out while it is in use, in whatever order they come and go (XSA-228)', () => {
  const f = setUp();
  for (let ref = 9; ref < 13; ref++) grant(f, ref, 60 + ref);
  fc.assert(
    fc.property(
      fc.array(fc.tuple(fc.integer({ min: 9, max: 12 }), fc.nat(), fc.boolean()), { maxLength: 60 }),
      (steps) => {
        const used = new Map<number, number>();
        for (const [ref, pick, give] of steps) {
          if (give && used.size > 0) {
            const [handle] = [...used.keys()].sort((a, b) => a - b).slice(pick % used.size);
            const at = used.get(handle!)!;
            used.delete(handle!);
            expect(unmap(f, 0, handle!, BigInt(60 + at) << 12n)).toBe(0);
            expect(unmap(f, 0, handle!, BigInt(60 + at) << 12n)).toBe(GNTST.GNTST_bad_handle);
          } else {
            const made = f.d.grantMaps.map(f.guest, 0n, DEVICE, ref, SELF, call);
            expect(made.status).toBe(0);
            expect(used.has(made.handle!)).toBe(false);
            used.set(made.handle!, ref);
          }
          for (let r = 9; r < 13; r++) expect(f.d.grants.isActive(r)).toBe([...used.values()].includes(r));
        }
        for (const [handle, ref] of used) unmap(f, 0, handle, BigInt(60 + ref) << 12n);
      },
    ),
    { numRuns: 60 },
  );
  expect(f.d.grantMaps.count).toBe(0);
});

/** XSA-230: the bits that say that a grant is in use were cleared while somebody still used it. */
test('the bits stay until the last user is done, whoever else comes and goes (XSA-230)', () => {
  const f = setUp();
  grant(f, 10, 61, 0);
  const first = f.d.grants.acquire(10, true) as AcquiredGrant;
  const reader = f.d.grants.acquire(10, false) as AcquiredGrant;
  reader.release();
  reader.release();
  // Another domain's attempt is refused and changes nothing.
  expect(f.d.grants.acquire(10, true, SELF)).toBe(GNTST.GNTST_general_error);
  expect(f.d.grants.statusBits(10)).toBe(BOTH);
  first.release();
  expect(f.d.grants.statusBits(10)).toBe(0);
});

/**
 * XSA-234: an unmap looked whether the page-table entry named the right frame, and not whether it was present and had the
 * rights of the mapping; so another entry could be taken away in its place, and a writable one stay behind uncounted.
 */
describe('unmapping another entry (XSA-234)', () => {
  test.each([
    ['a writable mapping by a read-only entry', HOST, HOST | READ_ONLY],
    ['a read-only mapping by a writable entry', HOST | READ_ONLY, HOST],
  ])('%s of the same frame is refused', (_, one, other) => {
    const f = setUp();
    grant(f, 9, 60);
    const first = map(f, 200, one);
    const second = map(f, 201, other);
    expect(unmap(f, 201, first.handle!)).toBe(GNTST.GNTST_general_error);
    expect(f.d.grantMaps.unmapAndReplace(f.guest, f.page(201), f.page(202), first.handle!, call)).toBe(
      GNTST.GNTST_general_error,
    );
    expect(pteMfn(pte(f, 201))).toBe(60);
    expect(f.d.grants.statusBits(9)).toBe(BOTH);
    expect(unmap(f, 200, first.handle!)).toBe(0);
    expect(unmap(f, 201, second.handle!)).toBe(0);
    expect(f.d.grants.statusBits(9)).toBe(0);
  });

  test('an entry that is not present is refused', () => {
    const f = setUp();
    grant(f, 9, 60);
    const { handle } = map(f, 200);
    expect(f.now('update_va_mapping', f.page(200), 60n << 12n, 0)).toBe(0);
    expect(unmap(f, 200, handle!)).toBe(GNTST.GNTST_general_error);
    expect(f.d.grants.statusBits(9)).toBe(BOTH);
  });

  test('what is mapped is the frame of the grant when it was taken, whatever its entry says later', () => {
    const f = setUp();
    grant(f, 9, 60);
    const first = map(f, 200);
    f.memory.setU32(GRANTS * PAGE + 9 * 8 + 4, 1001);
    const second = map(f, 201);
    expect(second.busAddress).toBe(first.busAddress);
    expect(pteMfn(pte(f, 201))).toBe(60);
  });
});
