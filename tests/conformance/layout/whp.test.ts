/**
 * Windows Hypervisor Platform declarations against mingw-w64's winhvplatformdefs.h.
 *
 * Nothing of WHP is declared in abi/ so far; the suite appears with the first declaration, and until then says why it
 * does not run.
 */
import { existsSync } from 'node:fs';
import { join } from 'node:path';

const declared = existsSync(join(__dirname, '..', '..', '..', 'abi', 'whp'));

test('WHP declarations have a comparison as soon as there are any', () => {
  expect(declared).toBe(false);
});

test.skip('abi/whp against winhvplatformdefs.h: abi/ declares nothing of WHP yet', () => {});
