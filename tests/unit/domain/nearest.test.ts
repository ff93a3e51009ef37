import { nearest } from '../../../shim/domain/nearest';

test.each([
  ['avx22', 'avx2'],
  ['axv2', 'avx2'],
  ['ssse4', 'sse4'],
  ['haswel', 'haswell'],
  ['xyzzy', undefined],
  ['', undefined],
] as const)('%p is meant to be %p', (typed, meant) => {
  expect(nearest(typed, ['sse4', 'avx', 'avx2', 'haswell', 'popcnt'])).toBe(meant);
});
