import { chooseRing, hostMeltdown, windowsMeltdown } from '../../../shim/domain/guest-ring';

const LINUX = { isLinux: true, isGrub: false };
const GRUB = { isLinux: false, isGrub: true };
const OTHER = { isLinux: false, isGrub: false };

test('Linux runs in ring 1 on a CPU that is not open to Meltdown, and only there', () => {
  expect(chooseRing('auto', LINUX, 'not affected')).toMatchObject({ ring: 1, isolateUserRoots: false });
  for (const cpu of ['affected', 'unknown'] as const) {
    expect(chooseRing('auto', LINUX, cpu)).toMatchObject({ ring: 3, isolateUserRoots: true });
  }
});

test('GRUB gets the ring that the Linux it boots would get', () => {
  for (const cpu of ['not affected', 'affected', 'unknown'] as const) {
    const { ring, isolateUserRoots } = chooseRing('auto', LINUX, cpu);
    expect(chooseRing('auto', GRUB, cpu)).toMatchObject({ ring, isolateUserRoots });
  }
});

test('other kernels run in ring 3, isolated where the CPU is open', () => {
  expect(chooseRing('auto', OTHER, 'not affected')).toMatchObject({ ring: 3, isolateUserRoots: false });
  expect(chooseRing('auto', OTHER, 'affected')).toMatchObject({ ring: 3, isolateUserRoots: true });
});

test('what is asked for is done, with the isolation that the CPU needs', () => {
  expect(chooseRing(1, OTHER, 'affected')).toMatchObject({ ring: 1, isolateUserRoots: false, why: 'asked for' });
  expect(chooseRing(3, LINUX, 'affected')).toMatchObject({ ring: 3, isolateUserRoots: true });
  expect(chooseRing(3, LINUX, 'not affected')).toMatchObject({ ring: 3, isolateUserRoots: false });
});

test('the host answers for its CPU in one of three words', () => {
  expect(['not affected', 'affected', 'unknown']).toContain(hostMeltdown());
});

test.each([
  ['AMD64 Family 25 Model 1 Stepping 1, AuthenticAMD', undefined, 'not affected'],
  ['AMD64 Family 24 Model 0 Stepping 1, HygonGenuine', undefined, 'not affected'],
  ['Intel64 Family 6 Model 85 Stepping 4, GenuineIntel', 0x3d, 'affected'],
  ['Intel64 Family 6 Model 143 Stepping 8, GenuineIntel', 0x20, 'not affected'],
  // A Windows that does not say whether it is required, or anything.
  ['Intel64 Family 6 Model 63 Stepping 2, GenuineIntel', 0x1, 'unknown'],
  ['Intel64 Family 6 Model 63 Stepping 2, GenuineIntel', undefined, 'unknown'],
  ['AuthenticAMD, GenuineIntel', 0x31, 'affected'],
  ['', undefined, 'unknown'],
])('Windows on %s with flags %p: %s', (identifier, flags, wanted) => {
  expect(windowsMeltdown(identifier, () => flags)).toBe(wanted);
});
