/** Sizes of memory on the command line, as xl takes them. */
import { parseMemory } from '../../../shim/cli/mem-set';
import { UsageError } from '../../../shim/errors';

test.each([
  ['512', 512],
  ['512m', 512],
  ['2g', 2048],
  ['1T', 1048576],
  ['262144k', 256],
  ['1048576b', 1],
  ['1537k', 1],
])('%s is %d MiB', (text, mib) => {
  expect(parseMemory(text)).toBe(mib);
});

test.each(['', 'm', '-1', '1.5', '0', '1023k', '12x', '5mm', '99999999999999999'])('%s is none', (text) => {
  expect(() => parseMemory(text)).toThrow(UsageError);
});
