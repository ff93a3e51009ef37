/**
 * abi/hyperv/whp against mingw-w64's winhvplatformdefs.h, compiled for Windows.
 *
 * Quirks: nothing is run: the cross compiler's object file has the values.
 */
import { existsSync } from 'node:fs';
import * as whp from '../../../abi/hyperv/whp';
import { type Comparison, compare, hasProgram, judge, namesIn, type Vendor } from './vendor';

const HEADER = '/usr/x86_64-w64-mingw32/include/winhvplatformdefs.h';
const CROSS = 'x86_64-w64-mingw32-';

const VENDOR: Vendor = {
  preamble: '#include <windows.h>\n#include <winhvplatformdefs.h>',
  cross: CROSS,
  // The tag of this one starts with an underscore.
  tags: { WHV_HYPERCALL_CONTEXT: 'WHV_HYPERCALL_CONTEXT' },
};

/** What we declare and the header has otherwise, with the reason. */
const ALLOWED: Readonly<Record<string, string>> = {
  'WHV_VP_EXIT_CONTEXT.InstructionLengthAndCr8': 'two bit-fields in the header',
  'sizeof WHV_VP_EXIT_CONTEXT.InstructionLengthAndCr8': 'two bit-fields in the header',
  ...Object.fromEntries(namesIn(whp.WHV_IO_PORT_ACCESS).map((n) => [n, 'bit-fields in the header'])),
};

const absent = !existsSync(HEADER)
  ? 'mingw-w64-x86-64-dev'
  : !hasProgram(`${CROSS}gcc`) || !hasProgram(`${CROSS}objcopy`)
    ? 'gcc-mingw-w64-x86-64'
    : undefined;

if (absent !== undefined) {
  test.skip(`abi/hyperv/whp against winhvplatformdefs.h: package ${absent} is not installed`, () => {});
} else {
  describe('abi/hyperv/whp against winhvplatformdefs.h', () => {
    let result: Comparison;
    beforeAll(() => {
      result = compare(whp, VENDOR);
    });

    test('every struct, field and constant has the vendor’s layout and value', () => {
      expect(judge(result, ALLOWED).unexpected).toEqual([]);
    });

    test('the allow-list has no stale entry', () => {
      expect(judge(result, ALLOWED).stale).toEqual([]);
    });

    test('the comparison covered the exit contexts', () => {
      expect(result.equal).toEqual(
        expect.arrayContaining([
          'struct WHV_RUN_VP_EXIT_CONTEXT',
          'WHV_RUN_VP_EXIT_CONTEXT.IoPortAccess',
          'struct WHV_HYPERCALL_CONTEXT',
          'WHvX64RegisterCr3',
          'WHvRunVpExitReasonCanceled',
        ]),
      );
    });
  });
}
