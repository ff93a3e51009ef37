/**
 * abi/hyperv/whp against Microsoft's own headers (native/third-party/whp) and mingw-w64's, compiled for Windows.
 *
 * Quirks: nothing is run: the cross compiler's object file has the values. mingw-w64's headers are older.
 */
import { existsSync } from 'node:fs';
import path from 'node:path';
import * as whp from '../../../abi/hyperv/whp';
import { packageRoot } from '../../../shim/partition/native-files';
import { type Comparison, compare, hasProgram, judge, namesIn, type Vendor } from './vendor';

const HEADER = '/usr/x86_64-w64-mingw32/include/winhvplatformdefs.h';
const CROSS = 'x86_64-w64-mingw32-';

const COMMON = {
  cross: CROSS,
  // The tag of this one starts with an underscore.
  tags: { WHV_HYPERCALL_CONTEXT: 'WHV_HYPERCALL_CONTEXT' },
  bitFields: {
    WHV_FEATURE_: 'WHV_CAPABILITY_FEATURES',
    WHV_EXIT_: 'WHV_EXTENDED_VM_EXITS',
    WHV_MSR_EXIT_: 'WHV_X64_MSR_EXIT_BITMAP',
    WHV_SYNTHETIC_: 'WHV_SYNTHETIC_PROCESSOR_FEATURES',
  },
  // HRESULT is signed.
  expressions: Object.fromEntries(namesIn(whp.WIN32_E).map((name) => [name, `(unsigned)${name}`])),
} as const;

const MICROSOFT: Vendor = {
  ...COMMON,
  preamble: '#include <windows.h>\n#include <WinHvPlatform.h>',
  tags: { ...COMMON.tags, WHV_VP_EXIT_CONTEXT: 'struct WHV_X64_VP_EXIT_CONTEXT' },
  includeDirs: [path.join(packageRoot(), 'native', 'third-party', 'whp')],
};
const MINGW: Vendor = { ...COMMON, preamble: '#include <windows.h>\n#include <winhvplatformdefs.h>' };

/** Of virtual trust levels, which are newer than these headers: the bytes are reserved there. */
const WITHOUT_VTLS: Readonly<Record<string, string>> = Object.fromEntries(
  [
    'NOTIFICATION_PORT_PARAMETERS.Reserved1',
    'NOTIFICATION_PORT_PARAMETERS.ConnectionVtl',
    'SYNIC_EVENT_PARAMETERS.TargetVtl',
  ]
    .flatMap((field) => [`WHV_${field}`, `sizeof WHV_${field}`])
    .concat('sizeof WHV_NOTIFICATION_PORT_PARAMETERS.Reserved')
    .map((item) => [item, 'reserved, without virtual trust levels']),
);

/** What we declare and both have otherwise, with the reason. */
const ALLOWED: Readonly<Record<string, string>> = {
  'WHV_VP_EXIT_CONTEXT.InstructionLengthAndCr8': 'two bit-fields in the header',
  'sizeof WHV_VP_EXIT_CONTEXT.InstructionLengthAndCr8': 'two bit-fields in the header',
  'WHV_INTERRUPT_CONTROL.Modes': 'bit-fields in the header',
  'sizeof WHV_INTERRUPT_CONTROL.Modes': 'bit-fields in the header',
  ...Object.fromEntries(namesIn(whp.WHV_IO_PORT_ACCESS).map((n) => [n, 'bit-fields in the header'])),
  ...Object.fromEntries(namesIn(whp.WHV_E).map((n) => [n, "in Windows' winerror.h, which neither has"])),
};

const absent = !existsSync(HEADER)
  ? 'mingw-w64-x86-64-dev'
  : !hasProgram(`${CROSS}gcc`) || !hasProgram(`${CROSS}objcopy`)
    ? 'gcc-mingw-w64-x86-64'
    : undefined;

const VENDORS: readonly [string, Vendor, Readonly<Record<string, string>>][] = [
  ["Microsoft's headers", MICROSOFT, {}],
  ["mingw-w64's headers", MINGW, WITHOUT_VTLS],
];

if (absent !== undefined) {
  test.skip(`abi/hyperv/whp against the headers of Windows: package ${absent} is not installed`, () => {});
} else {
  describe.each(VENDORS)('abi/hyperv/whp against %s', (_name, vendor, more) => {
    let result: Comparison;
    beforeAll(() => {
      result = compare(whp, vendor);
    });

    test('every struct, field and constant has the vendor’s layout and value', () => {
      expect(judge(result, { ...ALLOWED, ...more }).unexpected).toEqual([]);
    });

    test('the allow-list has no stale entry', () => {
      expect(judge(result, { ...ALLOWED, ...more }).stale).toEqual([]);
    });

    test('the comparison covered the exit contexts, and bits of unions', () => {
      expect(result.equal).toEqual(
        expect.arrayContaining([
          'struct WHV_RUN_VP_EXIT_CONTEXT',
          'WHV_RUN_VP_EXIT_CONTEXT.IoPortAccess',
          'struct WHV_HYPERCALL_CONTEXT',
          'WHvX64RegisterCr3',
          'WHvRunVpExitReasonCanceled',
          'WHV_SYNTHETIC_SignalEvents',
          'WHV_EXIT_UnknownSynicConnection',
          'WHV_TRIGGER_PARAMETERS.SynicEvent',
          'WHV_NOTIFICATION_PORT_PARAMETERS.Event_ConnectionId',
          'WHV_ADVISE_GPA_RANGE_POPULATE.AccessType',
        ]),
      );
    });
  });
}
