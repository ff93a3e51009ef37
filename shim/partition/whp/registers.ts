/**
 * A VP's first registers, as WHvSetVirtualProcessorRegisters takes them. Implements the Windows Hypervisor Platform,
 * WHV_REGISTER_NAME, WHV_REGISTER_VALUE.
 *
 * Quirks: every VP but the first would wait for a start-up IPI; InternalActivityState 0 makes all of them run. A
 * segment's attributes are the descriptor's bits 40 to 55 with the limit's bits cut out. The values must lie at a multiple of
 * 16 (WinHvPlatform.dll crashes otherwise), as memory of Buffer.alloc() does; that of Buffer.allocUnsafe() and
 * Buffer.from() may not.
 */
import {
  WHV_REGISTER_NAME as R,
  WhvRegisterValue,
  WhvX64SegmentRegister,
  WhvX64TableRegister,
} from '../../../abi/hyperv/whp';
import { type InitialRegisters, LONG_MODE, SELECTORS } from '../long-mode';

/** Present, ring 0, granularity 4 KiB: 64-bit code; data; a busy 64-bit task state segment; a local descriptor table. */
const ATTRIBUTES = { code: 0xa09b, data: 0xc093, task: 0x008b, ldt: 0x0082 } as const;
const FLAT = 0xffff_ffff;
const TASK_LIMIT = 0x67;

type Value =
  | bigint
  | { readonly selector: number; readonly attributes: number; readonly limit: number }
  | 'empty table';

/** Names and values for the call, in the same order. */
export function initialRegisters({ cr3, rip, rdi, rsi }: InitialRegisters): { names: Buffer; values: Buffer } {
  const data = { selector: SELECTORS.data, attributes: ATTRIBUTES.data, limit: FLAT };
  const registers: [number, Value][] = [
    [R.WHvX64RegisterRip, rip],
    [R.WHvX64RegisterRflags, BigInt(LONG_MODE.rflags)],
    [R.WHvX64RegisterRdi, BigInt(rdi)],
    [R.WHvX64RegisterRsi, BigInt(rsi)],
    [R.WHvX64RegisterRsp, 0n],
    [R.WHvX64RegisterCr0, BigInt(LONG_MODE.cr0)],
    [R.WHvX64RegisterCr3, BigInt(cr3)],
    [R.WHvX64RegisterCr4, BigInt(LONG_MODE.cr4)],
    [R.WHvX64RegisterEfer, BigInt(LONG_MODE.efer)],
    [R.WHvX64RegisterCs, { selector: SELECTORS.code, attributes: ATTRIBUTES.code, limit: FLAT }],
    ...[R.WHvX64RegisterDs, R.WHvX64RegisterEs, R.WHvX64RegisterFs, R.WHvX64RegisterGs, R.WHvX64RegisterSs].map(
      (name): [number, Value] => [name, data],
    ),
    [R.WHvX64RegisterTr, { selector: SELECTORS.task, attributes: ATTRIBUTES.task, limit: TASK_LIMIT }],
    [R.WHvX64RegisterLdtr, { selector: 0, attributes: ATTRIBUTES.ldt, limit: 0 }],
    [R.WHvX64RegisterGdtr, 'empty table'],
    [R.WHvX64RegisterIdtr, 'empty table'],
    [R.WHvRegisterInternalActivityState, 0n],
  ];
  const names = Buffer.alloc(4 * registers.length);
  const values = Buffer.alloc(WhvRegisterValue.size * registers.length);
  const view = new DataView(values.buffer, values.byteOffset, values.length);
  registers.forEach(([name, value], i) => {
    names.writeUInt32LE(name >>> 0, 4 * i);
    const at = WhvRegisterValue.size * i;
    if (value === 'empty table') {
      WhvX64TableRegister.set.Limit(view, at, 0);
    } else if (typeof value === 'bigint') {
      WhvRegisterValue.set.Reg64(view, at, value);
    } else {
      WhvX64SegmentRegister.set.Selector(view, at, value.selector);
      WhvX64SegmentRegister.set.Attributes(view, at, value.attributes);
      WhvX64SegmentRegister.set.Limit(view, at, value.limit);
    }
  });
  return { names, values };
}
