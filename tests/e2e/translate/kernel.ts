/**
 * A PV kernel made of one SYSCALL after the other, assembled here: each hypercall with constant arguments, in order, then
 * SCHEDOP_block for good. What answered each call is seen from outside.
 */

import { XEN_ELFNOTE as N } from '../../../abi/xen/elf-note';
import { HYPERVISOR } from '../../../abi/xen/hypercall-numbers';
import { SCHEDOP } from '../../../abi/xen/sched';
import { makeElf, text, u32, u64 } from '../../unit/builder/images';

export interface Call {
  readonly nr: number;
  readonly args?: readonly bigint[];
  /** Bytes in memory; argument 0 becomes their address. */
  readonly data?: Buffer;
}

const BASE = 0xffff_ffff_8000_0000n;
const START = 0x10_0000n;

/** Opcodes of MOV r64, imm64 for rdi, rsi, rdx, r10, r8. */
const MOV = ['48bf', '48be', '48ba', '49ba', '49b8'].map((hex) => Buffer.from(hex, 'hex'));

function assemble({ nr, args = [] }: Call): Buffer {
  const loads = MOV.flatMap((opcode, i) => [opcode, u64(args[i] ?? 0n)]);
  // MOV EAX, imm32; SYSCALL
  return Buffer.concat([...loads, Buffer.from([0xb8]), u32(nr), Buffer.from([0x0f, 0x05])]);
}

/** The kernel's ELF file. */
export function hypercallKernel(calls: readonly Call[]): Buffer {
  const all: Call[] = [...calls, { nr: HYPERVISOR.__HYPERVISOR_sched_op, args: [BigInt(SCHEDOP.SCHEDOP_block)] }];
  const codeSize = all.reduce((sum, call) => sum + assemble(call).length, 0) + 2;
  let at = (codeSize + 63) & ~63;
  const data: Buffer[] = [Buffer.alloc(at - codeSize)];
  const code = all.map((call) => {
    if (call.data === undefined) return assemble(call);
    const address = BASE + START + BigInt(at);
    const padded = Buffer.concat([call.data, Buffer.alloc((8 - (call.data.length % 8)) % 8)]);
    data.push(padded);
    at += padded.length;
    return assemble({ ...call, args: [address, ...(call.args ?? []).slice(1)] });
  });
  // JMP to itself: never reached.
  const bytes = Buffer.concat([...code, Buffer.from([0xeb, 0xfe]), ...data]);
  return makeElf({
    segments: [{ paddr: START, vaddr: BASE + START, bytes }],
    entry: BASE + START,
    notes: [
      { type: N.XEN_ELFNOTE_ENTRY, desc: u64(BASE + START) },
      { type: N.XEN_ELFNOTE_VIRT_BASE, desc: u64(BASE) },
      { type: N.XEN_ELFNOTE_PADDR_OFFSET, desc: u64(0n) },
      { type: N.XEN_ELFNOTE_XEN_VERSION, desc: text('xen-3.0') },
      { type: N.XEN_ELFNOTE_GUEST_OS, desc: text('calls') },
      { type: N.XEN_ELFNOTE_LOADER, desc: text('generic') },
      { type: N.XEN_ELFNOTE_PAE_MODE, desc: text('yes') },
    ],
  });
}
