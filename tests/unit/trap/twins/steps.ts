/**
 * Random steps for the two worlds, biased to what matters: mostly valid calls on few frames, slots and ports, so that
 * sequences build, share, tear down and break page tables, and errors of every kind in between.
 */
import fc from 'fast-check';
import { TRAP_VA } from '../../../../abi/trap';
import { CALLBACK } from '../../../../abi/xen/callback';
import { DOMID } from '../../../../abi/xen/domid';
import { EVTCHNOP } from '../../../../abi/xen/event-channel';
import { HYPERCALLS, type HypercallName } from '../../../../abi/xen/hypercalls';
import { MMU, UVMF } from '../../../../abi/xen/mmu';
import { MMUEXT } from '../../../../abi/xen/mmuext';
import { SharedInfo } from '../../../../abi/xen/shared-info';
import { VCPUOP } from '../../../../abi/xen/vcpu';
import { VIRQ } from '../../../../abi/xen/virq';
import {
  ARGUMENTS_VA,
  DOMID_TEST,
  FRAMES,
  frameName,
  HOLE_FRAME,
  LDT_VA,
  mfn,
  NR_FRAMES,
  PAGE,
  PFN,
  SCRATCH_VA,
  type Step,
  VA_BASE,
} from './world';

const U64 = (1n << 64n) - 1n;
/** Where a call's second argument (done counter, vCPU mask) goes: behind everything else. */
const OUT_VA = ARGUMENTS_VA + 0x1800n;
const NOWHERE = VA_BASE + 0x40000000n;
const READ_ONLY = VA_BASE + BigInt(PFN.l4a * PAGE);
const BAD_POINTERS = [
  NOWHERE,
  READ_ONLY,
  TRAP_VA.TRAP_VA_M2P,
  TRAP_VA.TRAP_VA_DIRECTMAP,
  0x800000000000n,
  0x7ffffffffff8n,
  U64 - 7n,
  0n,
];

function little(words: readonly bigint[]): Uint8Array {
  const out = new BigUint64Array(words.map((word) => BigInt.asUintN(64, word)));
  return new Uint8Array(out.buffer);
}
function pair(low: number, high: number): bigint {
  return (BigInt(high >>> 0) << 32n) | BigInt(low >>> 0);
}
const hex = (value: bigint): string => `0x${value.toString(16)}`;

interface Call {
  readonly name: HypercallName;
  readonly args: readonly (bigint | number)[];
  /** What lies at ARGUMENTS_VA. */
  readonly words?: readonly bigint[];
  /** What lies at OUT_VA. */
  readonly out?: bigint;
  readonly text: string;
}

const vcpu = fc.constantFrom(0, 0, 0, 1);

function call(arbitrary: fc.Arbitrary<Call>): fc.Arbitrary<Step> {
  return fc.tuple(arbitrary, vcpu).map(([c, v]) => callOn(c, v));
}

function callOn(c: Call, v: number): Step {
  const memory = new Uint8Array(2 * PAGE);
  memory.set(little(c.words ?? []));
  memory.set(little([c.out ?? 5n]), Number(OUT_VA - ARGUMENTS_VA));
  const args = c.args.map((arg) => BigInt.asUintN(64, BigInt(arg)));
  while (args.length < 6) args.push(0n);
  return {
    kind: 'call',
    vcpu: v,
    nr: HYPERCALLS[c.name].number,
    args,
    memory,
    text: `${c.name}(${args
      .map(hex)
      .join(', ')
      .replace(/(, 0x0)+$/, '')})${v ? ' on vCPU 1' : ''}: ${c.text}`,
  };
}

function weighted<T>(...choices: readonly (readonly [number, fc.Arbitrary<T>])[]): fc.Arbitrary<T> {
  return fc.oneof(...choices.map(([weight, arbitrary]) => ({ weight, arbitrary })));
}
const of = <T>(...values: readonly T[]): fc.Arbitrary<T> => fc.constantFrom(...values);

// --- frames and entries ----------------------------------------------------------------------------------------------

const range = (first: number, count: number) => Array.from({ length: count }, (_, i) => first + i);
const TABLES = range(0, PFN.spare);
const table = fc.constantFrom(...TABLES.map(mfn));
const spare = fc.constantFrom(...range(PFN.spare, 4).map(mfn));
const data = fc.constantFrom(...range(PFN.data, 4).map(mfn));
const segment = fc.constantFrom(mfn(PFN.gdt), mfn(PFN.gdt + 1), mfn(PFN.ldt));
const strange = of(
  HOLE_FRAME,
  NR_FRAMES,
  NR_FRAMES - 1,
  2 ** 40 - 1,
  0,
  FRAMES.moduleL4,
  FRAMES.sharedInfo,
  FRAMES.m2p,
  FRAMES.frameInfo,
  FRAMES.unowned,
);
const frame = weighted([8, table], [5, spare], [3, data], [1, segment], [2, strange]);

const P = 1n;
const RW = 2n;
const US = 4n;
const ODD_BITS = [0x8n, 0x10n, 0x80n, 0x100n, 0x200n, 1n << 52n, 1n << 53n, 1n << 63n];
const flags = fc
  .tuple(
    of(true, true, true, true, true, false),
    fc.boolean(),
    fc.boolean(),
    of(0n, 0x20n, 0x60n, 0x60n),
    weighted([6, fc.constant(0n)], [1, fc.constantFrom(...ODD_BITS)]),
  )
  .map(([present, write, user, ad, odd]) => (present ? P : 0n) | (write ? RW : 0n) | (user ? US : 0n) | ad | odd);

interface Entry {
  readonly value: bigint;
  readonly text: string;
}
const entryOf = (f: number, bits: bigint): Entry => ({
  value: (BigInt(f) << 12n) | bits,
  text: bits === 0n && f === 0 ? '0' : `${frameName(f)}|${hex(bits)}`,
});
const entry: fc.Arbitrary<Entry> = weighted(
  [8, fc.tuple(frame, flags).map(([f, bits]) => entryOf(f, bits))],
  [2, fc.constant(entryOf(0, 0n))],
);
const slot = weighted(
  [4, of(0, 1, 2, 3, 4)],
  [3, fc.integer({ min: 0, max: 45 })],
  [3, of(273, 273, 255, 256, 257, 260, 261, 262, 271, 272, 511)],
);

/** A pin or an entry that fits: the level that the frame was built for. */
const LEVELS: readonly (readonly [pfn: number, level: number])[] = [
  [PFN.l4a, 4],
  [PFN.l3a, 3],
  [PFN.l2a, 2],
  [PFN.l1a, 1],
  [PFN.l1scratch, 1],
  [PFN.l4b, 4],
  [PFN.l3b, 3],
  [PFN.l2b, 2],
  [PFN.l1b, 1],
  [PFN.l4c, 4],
  [PFN.l3c, 3],
  [PFN.l2c, 2],
  [PFN.l1c, 1],
];
const fitting = fc.constantFrom(...LEVELS);
const user = P | RW | US | 0x60n;

/** The way to the arguments: without it every pointer faults from then on. Changed, but not often. */
const PRECIOUS = new Set([`${PFN.l4a} 273`, `${PFN.l4b} 273`, `${PFN.l3a} 0`, `${PFN.l2a} 0`]);
const rarely = fc.integer({ min: 0, max: 15 }).map((n) => n === 9);
function spared(f: number, at: number, anyhow: boolean): number {
  const pfn = f - mfn(0);
  return PRECIOUS.has(`${pfn} ${at}`) && !anyhow ? at + 1 : at;
}

interface Update extends Entry {
  readonly ptr: bigint;
}
const update: fc.Arbitrary<Update> = weighted(
  [
    6,
    fc
      .tuple(
        frame,
        slot,
        entry,
        weighted<number>(
          [6, fc.constant(MMU.MMU_NORMAL_PT_UPDATE)],
          [3, of(MMU.MMU_PT_UPDATE_PRESERVE_AD, MMU.MMU_PT_UPDATE_NO_TRANSLATE, MMU.MMU_MACHPHYS_UPDATE)],
          [1, of(4, 5, 6, 7)],
        ),
        rarely,
      )
      .map(([f, wanted, e, cmd, anyhow]) => {
        const at = spared(f, wanted, anyhow);
        return {
          ptr: (BigInt(f) << 12n) | BigInt(at * 8 + cmd),
          value: e.value,
          text: `${frameName(f)}[${at}]${cmd ? `/${cmd}` : ''} = ${e.text}`,
        };
      }),
  ],
  [
    4, // A table into a table of the level above: what builds trees.
    fc
      .tuple(fitting, fitting, spare, of(0, 1, 2, 273), fc.boolean(), rarely)
      .map(([[from, a], [to, b], s, wanted, useSpare, anyhow]) => {
        const target = useSpare ? s : mfn(to);
        const upper = a >= b ? from : to;
        const lower = upper === from ? target : mfn(from);
        const at = spared(mfn(upper), wanted, anyhow);
        return {
          ptr: (BigInt(mfn(upper)) << 12n) | BigInt(at * 8),
          value: (BigInt(lower) << 12n) | user,
          text: `${frameName(mfn(upper))}[${at}] = ${frameName(lower)}|user`,
        };
      }),
  ],
  [
    3, // A table into one of its own level ("linear page tables").
    fc.tuple(fitting, fitting, of(3, 4), of(0, 0, 0, 1, 2)).map(([[from, level], [to], at, what]) => {
      const same = LEVELS.filter(([, l]) => l === level).map(([pfn]) => pfn);
      const target = same[to % same.length] as number;
      return {
        ptr: (BigInt(mfn(from)) << 12n) | BigInt(at * 8),
        value: what === 2 ? 0n : (BigInt(mfn(target)) << 12n) | (what === 1 ? user : user & ~RW),
        text: `${frameName(mfn(from))}[${at}] = ${what === 2 ? '0' : `${frameName(mfn(target))}|linear${what === 1 ? ' RW' : ''}`}`,
      };
    }),
  ],
  [
    2, // The mapping of a table in the first tree: what makes it refusable.
    fc.tuple(fc.integer({ min: 0, max: PFN.ldt }), fc.boolean()).map(([pfn, write]) => ({
      ptr: (BigInt(mfn(PFN.l1a)) << 12n) | BigInt(pfn * 8),
      value: (BigInt(mfn(pfn)) << 12n) | P | 0x60n | (write ? RW : 0n),
      text: `map ${frameName(mfn(pfn))} ${write ? 'RW' : 'RO'}`,
    })),
  ],
);

const list = (size: number) =>
  weighted<bigint>(
    [14, fc.constant(ARGUMENTS_VA)],
    [1, fc.constant(ARGUMENTS_VA + BigInt(2 * PAGE - size))], // continues in a page of other things
    [1, fc.constantFrom(...BAD_POINTERS)],
  );
const done = weighted<bigint>(
  [3, fc.constant(0n)],
  [4, fc.constant(OUT_VA)],
  [1, of(ARGUMENTS_VA + BigInt(PAGE - 2), OUT_VA + BigInt(PAGE - 2))],
  [1, fc.constantFrom(...BAD_POINTERS)],
);
const count = (n: number) =>
  weighted<bigint>(
    [12, fc.constant(BigInt(n))],
    [1, fc.constant(BigInt(n) | 0x80000000n)],
    [1, of(0n, BigInt(n + 1), BigInt(n) | (1n << 32n), 0x80000000n)],
  );
const domid = (tables: boolean) =>
  weighted<bigint>(
    [14, fc.constant(BigInt(DOMID.DOMID_SELF))],
    [
      1,
      of<bigint>(
        0n,
        3n,
        BigInt(DOMID_TEST),
        BigInt(DOMID.DOMID_IO),
        BigInt(DOMID.DOMID_XEN),
        BigInt(DOMID.DOMID_SELF) | (1n << 32n),
        ...(tables
          ? [1, DOMID_TEST, DOMID_TEST + 1].flatMap((d) =>
              [DOMID.DOMID_SELF, DOMID.DOMID_IO].map((pages) => (BigInt(d) << 16n) | BigInt(pages)),
            )
          : []),
      ),
    ],
  );

const batchOf = <T>(item: fc.Arbitrary<T>) =>
  weighted([5, fc.array(item, { minLength: 1, maxLength: 3 })], [1, fc.array(item, { minLength: 4, maxLength: 40 })]);

const mmuUpdate = batchOf(update).chain((updates) =>
  fc.tuple(list(16), count(updates.length), done, domid(true)).map(
    ([va, nr, out, dom]): Call => ({
      name: 'mmu_update',
      args: [va, nr, out, dom],
      words: updates.flatMap(({ ptr, value }) => [ptr, value]),
      text: updates.map(({ text }) => text).join('; '),
    }),
  ),
);

const VAS = weighted<bigint>(
  [4, fc.integer({ min: 0, max: PFN.ldt }).map((pfn) => VA_BASE + BigInt(pfn * PAGE))],
  [4, of(0, 1, 2, 3).map((i) => SCRATCH_VA + BigInt(i * PAGE))],
  [2, of(0, 1, 2, 3).map((i) => BigInt(i * PAGE))],
  [1, fc.constantFrom(...BAD_POINTERS)],
);
const maskPointer = weighted<bigint>(
  [3, fc.constant(OUT_VA)],
  [1, fc.constantFrom(...BAD_POINTERS.map((va) => va & ~7n))],
);

const updateVaMapping = fc
  .tuple(
    VAS,
    entry,
    weighted<bigint>(
      [
        3,
        of(
          0n,
          BigInt(UVMF.UVMF_TLB_FLUSH | UVMF.UVMF_ALL),
          BigInt(UVMF.UVMF_INVLPG),
          BigInt(UVMF.UVMF_INVLPG | UVMF.UVMF_ALL),
          3n,
        ),
      ],
      [1, fc.tuple(maskPointer, of(1n, 2n)).map(([va, kind]) => va | kind)],
    ),
    of(0n, 1n, 2n, 3n, U64),
    of<'' | '_otherdomain'>('', '', '', '_otherdomain'),
    domid(false),
  )
  .map(
    ([va, e, how, mask, other, dom]): Call => ({
      name: `update_va_mapping${other}`,
      args: [va, e.value, how, dom],
      out: mask,
      text: `${hex(va)} = ${e.text}`,
    }),
  );

interface Ext {
  readonly words: readonly bigint[];
  readonly text: string;
}
const NAMES = new Map<number, string>(Object.entries(MMUEXT).map(([name, value]) => [value, name.slice(7)]));
const ext = (cmd: number, arg1: bigint, arg2: bigint, what: string): Ext => ({
  words: [BigInt(cmd), arg1, arg2],
  text: `${NAMES.get(cmd) ?? cmd} ${what}`,
});
const mmuext: fc.Arbitrary<Ext> = weighted(
  [
    4,
    fitting.map(([pfn, level]) =>
      ext(MMUEXT.MMUEXT_PIN_L1_TABLE + level - 1, BigInt(mfn(pfn)), 0n, frameName(mfn(pfn))),
    ),
  ],
  [
    2,
    fc
      .tuple(of(0, 1, 2, 3), frame)
      .map(([level, f]) => ext(MMUEXT.MMUEXT_PIN_L1_TABLE + level, BigInt(f), 0n, frameName(f))),
  ],
  [3, weighted([4, table], [1, frame]).map((f) => ext(MMUEXT.MMUEXT_UNPIN_TABLE, BigInt(f), 0n, frameName(f)))],
  [
    3,
    fc
      .tuple(
        of(MMUEXT.MMUEXT_NEW_BASEPTR, MMUEXT.MMUEXT_NEW_USER_BASEPTR, MMUEXT.MMUEXT_NEW_USER_BASEPTR),
        weighted([6, of(PFN.l4a, PFN.l4b, PFN.l4b, PFN.l4c).map(mfn)], [1, frame], [1, fc.constant(0)]),
      )
      .map(([cmd, f]) => ext(cmd, BigInt(f), 0n, frameName(f))),
  ],
  [
    2,
    fc
      .tuple(fc.integer({ min: MMUEXT.MMUEXT_TLB_FLUSH_LOCAL, max: MMUEXT.MMUEXT_FLUSH_CACHE }), VAS, maskPointer)
      .map(([cmd, va, mask]) => ext(cmd, va, mask, hex(va))),
  ],
  [
    2,
    fc
      .tuple(
        weighted<bigint>([4, fc.constant(LDT_VA)], [2, fc.constant(VA_BASE + BigInt(PFN.gdt * PAGE))], [1, VAS]),
        of(0n, 1n, 5n, 512n, 1024n, 8192n, 8193n, 0xffffffffn),
      )
      .map(([va, ents]) => ext(MMUEXT.MMUEXT_SET_LDT, va, ents, `${hex(va)}, ${ents}`)),
  ],
  [2, frame.map((f) => ext(MMUEXT.MMUEXT_CLEAR_PAGE, BigInt(f), 0n, frameName(f)))],
  [
    2,
    fc
      .tuple(weighted([2, spare], [1, frame]), frame)
      .map(([to, from]) =>
        ext(MMUEXT.MMUEXT_COPY_PAGE, BigInt(to), BigInt(from), `${frameName(to)} from ${frameName(from)}`),
      ),
  ],
  [1, of(14, 18, 19, 20, 21, 0xffffffff).map((cmd) => ext(cmd, 0n, 0n, ''))],
);
const mmuextOp = batchOf(mmuext).chain((ops) =>
  fc.tuple(list(24), count(ops.length), done, domid(false), of(0n, 1n, 2n, U64)).map(
    ([va, nr, out, dom, mask]): Call => ({
      name: 'mmuext_op',
      args: [va, nr, out, dom],
      words: ops.flatMap(({ words }) => words),
      out: mask,
      text: ops.map(({ text }) => text).join('; '),
    }),
  ),
);

// --- descriptors -----------------------------------------------------------------------------------------------------

const descriptor = weighted<bigint>(
  [
    4,
    of<bigint>(
      0n,
      0x00af9b000000ffffn, // kernel code
      0x00cff3000000ffffn, // user data
      0x00cf93000000ffffn,
      0x00409c000000ffffn, // conforming code
      0x00008c0000e00800n, // 32-bit call gate
      0x0000ec0000e00800n,
      0x0000840000e00800n, // 16-bit call gate
      0x0000890000000067n, // TSS
      0x0000820000000fffn, // LDT
      0x00008e0000000000n, // interrupt gate
      0x0000800000000000n, // present, type 0
      0x0000090000000067n, // TSS, not present
    ),
  ],
  [1, fc.bigInt({ min: 0n, max: U64 })],
);
const segmentFrame = weighted([6, segment], [2, spare], [1, frame]);
const setGdt = fc
  .tuple(
    fc.array(segmentFrame, { minLength: 0, maxLength: 3 }),
    weighted<bigint>([4, of(1n, 8n, 512n, 513n, 1024n, 1025n)], [1, of(0n, 7168n, 7169n, 8192n, 1n << 32n, U64)]),
    weighted<bigint>([8, fc.constant(ARGUMENTS_VA)], [1, fc.constantFrom(...BAD_POINTERS)]),
  )
  .map(
    ([frames, entries, va]): Call => ({
      name: 'set_gdt',
      args: [va, entries],
      words: frames.map(BigInt),
      text: `${frames.map(frameName).join(' ')}, ${entries} entries`,
    }),
  );
const updateDescriptor = fc
  .tuple(segmentFrame, fc.integer({ min: 0, max: 511 }), of(0n, 0n, 0n, 0n, 4n, 1n), descriptor)
  .map(
    ([f, index, odd, value]): Call => ({
      name: 'update_descriptor',
      args: [(BigInt(f) << 12n) | BigInt(index * 8) | odd, value],
      text: `${frameName(f)}[${index}] = ${hex(value)}`,
    }),
  );

// --- traps, callbacks, timers ----------------------------------------------------------------------------------------

const address = weighted<bigint>(
  [4, of(0xffffffff81000000n, 0xffffffff82000000n, 0x400000n)],
  [1, of(0x800000000000n, 0xffff7fffffffffffn, 0n, U64)],
);
const setTrapTable = fc
  .tuple(
    fc.array(
      fc.tuple(
        fc.integer({ min: 0, max: 255 }),
        fc.integer({ min: 0, max: 255 }),
        of(0xe033, 0xe008, 0, 0x10),
        address,
      ),
      { maxLength: 4 },
    ),
    weighted<bigint>(
      [6, fc.constant(ARGUMENTS_VA)],
      [1, fc.constant(ARGUMENTS_VA + BigInt(2 * PAGE - 16))],
      [2, fc.constantFrom(...BAD_POINTERS)],
    ),
  )
  .map(
    ([entries, va]): Call => ({
      name: 'set_trap_table',
      args: [va],
      words: entries.flatMap(([vector, bits, cs, handler]) => [
        BigInt(vector | (bits << 8)) | (BigInt(cs) << 16n),
        handler,
      ]),
      text: `${entries.length} entries`,
    }),
  );
const pointer = weighted<bigint>([12, fc.constant(ARGUMENTS_VA)], [1, fc.constantFrom(...BAD_POINTERS)]);
const callbackOp = fc
  .tuple(
    of<bigint | number>(
      CALLBACK.CALLBACKOP_register,
      CALLBACK.CALLBACKOP_register,
      CALLBACK.CALLBACKOP_unregister,
      2,
      1n << 32n,
    ),
    fc.integer({ min: 0, max: 9 }),
    fc.integer({ min: 0, max: 3 }),
    address,
    pointer,
  )
  .map(
    ([cmd, type, bits, handler, va]): Call => ({
      name: 'callback_op',
      args: [cmd, va],
      words: [BigInt(type | (bits << 16)), handler],
      text: `type ${type}, flags ${bits}, ${hex(handler)}`,
    }),
  );
const setCallbacks = fc
  .tuple(address, address, address)
  .map((args): Call => ({ name: 'set_callbacks', args, text: '' }));

const START = 1_000_000_000n;
const moment = weighted<bigint>(
  [4, fc.integer({ min: -50, max: 200 }).map((ms) => START + BigInt(ms) * 1_000_000n)],
  [1, of(0n, 1n, START, U64, 1n << 63n, (1n << 63n) - 1n, 1n << 52n)],
);
const setTimerOp = moment.map((at): Call => ({ name: 'set_timer_op', args: [at], text: '' }));
const vcpuOp = fc
  .tuple(
    weighted<bigint | number>(
      [
        8,
        of<number>(
          VCPUOP.VCPUOP_set_singleshot_timer,
          VCPUOP.VCPUOP_stop_singleshot_timer,
          VCPUOP.VCPUOP_set_periodic_timer,
          VCPUOP.VCPUOP_stop_periodic_timer,
          VCPUOP.VCPUOP_is_up,
        ),
      ],
      [1, of<bigint | number>(99, (1n << 32n) | BigInt(VCPUOP.VCPUOP_stop_periodic_timer))],
    ),
    of<bigint | number>(0, 0, 0, 1, 2, 1n << 32n),
    weighted<bigint>(
      [2, moment],
      [2, of(1_000_000n, 999_999n, 5_000_000n, 20_000_000n, (1n << 63n) - 1n - START, U64)],
    ),
    of(0n, 1n, 3n),
    pointer,
  )
  .map(
    ([cmd, who, time, bits, va]): Call => ({
      name: 'vcpu_op',
      args: [cmd, who, va],
      words: [time, bits],
      text: `${time}, flags ${bits}`,
    }),
  );

// --- events ----------------------------------------------------------------------------------------------------------

const port = weighted<number>(
  [8, fc.integer({ min: 4, max: 9 })],
  [4, fc.integer({ min: 0, max: 12 })],
  [1, of(63, 64, 65, 127, 1023, 1024, 4095, 4096, 0x20000, 0xffffffff)],
);
const vcpuId = of(0, 0, 1, 1, 2);
type EventCommand = keyof typeof EVTCHNOP & string;
const event = (command: EventCommand, ...words: bigint[]): Call => ({
  name: 'event_channel_op',
  args: [EVTCHNOP[command], ARGUMENTS_VA],
  words,
  text: `${command.slice(9)} ${words.map(hex).join(' ')}`,
});
const signal = fc
  .tuple(of<EventCommand>('EVTCHNOP_send', 'EVTCHNOP_unmask'), port, pointer)
  .map(([command, p, va]): Call => {
    const c = event(command, BigInt(p));
    return { ...c, args: [c.args[0] as number, va] };
  });
const arrangement: fc.Arbitrary<Call> = weighted(
  [
    2,
    of(DOMID.DOMID_SELF, 3).map((d) => event('EVTCHNOP_alloc_unbound', BigInt(DOMID.DOMID_SELF) | (BigInt(d) << 16n))),
  ],
  [
    2,
    fc
      .tuple(of(DOMID.DOMID_SELF, DOMID_TEST, 0), port)
      .map(([d, p]) => event('EVTCHNOP_bind_interdomain', pair(d, p), 0n)),
  ],
  [3, vcpuId.map((v) => event('EVTCHNOP_bind_ipi', BigInt(v)))],
  [
    2,
    fc
      .tuple(of<number>(VIRQ.VIRQ_TIMER, VIRQ.VIRQ_TIMER, VIRQ.VIRQ_DEBUG), vcpuId)
      .map(([q, v]) => event('EVTCHNOP_bind_virq', pair(q, v), 0n)),
  ],
  [2, port.map((p) => event('EVTCHNOP_close', BigInt(p)))],
  [2, fc.tuple(port, vcpuId).map(([p, v]) => event('EVTCHNOP_bind_vcpu', pair(p, v)))],
  [2, fc.tuple(port, of(0, 1, 7, 15, 16)).map(([p, prio]) => event('EVTCHNOP_set_priority', pair(p, prio)))],
  [
    3,
    fc
      .tuple(of(PFN.fifoControl, PFN.fifoControl + 1, PFN.l1a), of(0, 0, 64, 4024, 4032, 4), vcpuId)
      .map(([page, offset, v]) => event('EVTCHNOP_init_control', BigInt(mfn(page)), pair(offset, v), 0n)),
  ],
  [3, of(PFN.fifoArray, PFN.fifoArray + 1, PFN.l1a).map((page) => event('EVTCHNOP_expand_array', BigInt(mfn(page))))],
  [1, fc.constant(event('EVTCHNOP_reset', BigInt(DOMID.DOMID_SELF)))],
);

/** A word of shared memory that the guest's event code changes. */
const eventWord = weighted<number>(
  [3, fc.constant(FRAMES.sharedInfo * PAGE + SharedInfo.offsetOf('evtchn_mask'))],
  [3, fc.constant(FRAMES.sharedInfo * PAGE + SharedInfo.offsetOf('evtchn_pending'))],
  [2, of(0, 1).map((v) => FRAMES.sharedInfo * PAGE + SharedInfo.offsetOf('vcpu_info', v))],
  [1, of(0, 1).map((v) => FRAMES.sharedInfo * PAGE + SharedInfo.offsetOf('vcpu_info', v) + 8)],
);
const bits: fc.Arbitrary<Step> = weighted(
  [
    2,
    fc
      .tuple(eventWord, fc.integer({ min: 0, max: 0x1fff }), fc.integer({ min: 0, max: 0x1fff }))
      .map(([gpa, set, clear]): Step => {
        const info = gpa < FRAMES.sharedInfo * PAGE + SharedInfo.offsetOf('evtchn_pending');
        // upcall_pending and upcall_mask are booleans of one byte each.
        return {
          kind: 'bits',
          gpa,
          set: info && gpa % 64 === 0 ? set & 0x101 : set,
          clear: info && gpa % 64 === 0 ? 0xffff : clear,
        };
      }),
  ],
  [
    3,
    fc
      .tuple(
        of(4, 5, 6, 7, 8, 9, 4, 5, 6, 7, 8, 9, 0, 1, 2, 3),
        of(1 << 31, 1 << 30, 1 << 29, 1 << 28, 0x1ffff, 0xa0000000, 0xa0000000, 0xa0000000),
        fc.boolean(),
        fc.integer({ min: 0, max: 12 }),
      )
      .map(([p, which, set, link]): Step => {
        const value = which === 0x1ffff ? link : which;
        return {
          kind: 'bits',
          gpa: mfn(PFN.fifoArray) * PAGE + p * 4,
          set: set ? value >>> 0 : 0,
          clear: which >>> 0,
        };
      }),
  ],
  [
    1,
    fc.tuple(of(PFN.fifoControl, PFN.fifoControl + 1), of(0, 64), fc.integer({ min: 0, max: 17 })).map(
      ([page, offset, word]): Step => ({
        kind: 'bits',
        gpa: mfn(page) * PAGE + offset + word * 4,
        set: 0,
        clear: 0xffffffff,
      }),
    ),
  ],
);

// --- everything else -------------------------------------------------------------------------------------------------

const store: fc.Arbitrary<Step> = fc
  .tuple(
    fc.constantFrom(...range(0, PFN.ldt + 1)),
    slot,
    weighted<bigint>([3, entry.map((e) => e.value)], [1, descriptor]),
  )
  .map(([pfn, at, value]) => ({ kind: 'store', pfn, slot: at, value }));
const ldt: fc.Arbitrary<Step> = fc
  .tuple(vcpu, of(0, 8, 4096, 4104, 65528))
  .map(([v, offset]) => ({ kind: 'ldt', vcpu: v, offset }));
const pteWrite: fc.Arbitrary<Step> = fc
  .tuple(vcpu, of(PFN.l1a, PFN.l1scratch, PFN.l1b, PFN.l1c), fc.integer({ min: 0, max: 31 }), entry)
  .map(([v, pfn, at, e]) => ({ kind: 'pte', vcpu: v, pfn, slot: at, value: e.value }));
const time: fc.Arbitrary<Step> = of(1, 999_999, 1_000_000, 30_000_000, 5_000_000_000).map((ns) => ({
  kind: 'time',
  ns,
}));

/** Several small calls in one. */
const multicall = fc
  .array(
    weighted<Call>(
      [4, updateVaMapping.filter((c) => c.name === 'update_va_mapping' && (c.args[2] as bigint) < 8n)],
      [2, updateDescriptor],
      [1, setTimerOp],
      [1, setCallbacks],
    ),
    { minLength: 1, maxLength: 4 },
  )
  .map(
    (calls): Call => ({
      name: 'multicall',
      args: [ARGUMENTS_VA, calls.length],
      words: calls.flatMap((c) => {
        const args = [0, 1, 2, 3, 4, 5].map((i) => BigInt(c.args[i] ?? 0));
        return [BigInt(HYPERCALLS[c.name].number), 0xddn, ...args];
      }),
      text: calls.map((c) => `${c.name} ${c.args.map((a) => hex(BigInt(a))).join(', ')} (${c.text})`).join('; '),
    }),
  );

// --- what comes before a sequence ------------------------------------------------------------------------------------

const fixed = (...calls: readonly Call[]): readonly Step[] => calls.map((c) => callOn(c, 0));
/** Ports 4 to 9: a pair of the guest's own, an interrupt of each vCPU between them, timers. */
const PORTS = [
  event('EVTCHNOP_alloc_unbound', BigInt(DOMID.DOMID_SELF) | (BigInt(DOMID.DOMID_SELF) << 16n)),
  event('EVTCHNOP_bind_interdomain', pair(DOMID.DOMID_SELF, 4), 0n),
  event('EVTCHNOP_bind_ipi', 0n),
  event('EVTCHNOP_bind_ipi', 1n),
  event('EVTCHNOP_bind_virq', pair(VIRQ.VIRQ_TIMER, 0), 0n),
  event('EVTCHNOP_bind_virq', pair(VIRQ.VIRQ_TIMER, 1), 0n),
];
/** What Linux does with a port of FIFO events: an interrupt that is taken, moved, and raised again. */
const moved = fc
  .tuple(of(4, 5, 6, 7, 8, 9), of(0, 1, 7, 15), of(0, 1))
  .map(([p, priority, v]): readonly Step[] => [
    ...fixed(event('EVTCHNOP_send', BigInt(p))),
    { kind: 'bits', gpa: mfn(PFN.fifoArray) * PAGE + p * 4, set: 0, clear: 0xa0000000 },
    ...fixed(event('EVTCHNOP_set_priority', pair(p, priority)), event('EVTCHNOP_bind_vcpu', pair(p, v))),
    ...fixed(event('EVTCHNOP_send', BigInt(p))),
  ]);
const FIFO = [
  event('EVTCHNOP_init_control', BigInt(mfn(PFN.fifoControl)), pair(0, 0), 0n),
  event('EVTCHNOP_init_control', BigInt(mfn(PFN.fifoControl)), pair(128, 1), 0n),
  event('EVTCHNOP_expand_array', BigInt(mfn(PFN.fifoArray))),
];
/** An LDT, its first page in the window. */
export const DESCRIPTORS_BEFORE: readonly (readonly Step[])[] = [
  [],
  [
    ...fixed({
      name: 'mmuext_op',
      args: [ARGUMENTS_VA, 1, 0, DOMID.DOMID_SELF],
      words: [BigInt(MMUEXT.MMUEXT_SET_LDT), LDT_VA, 1024n],
      text: 'SET_LDT',
    }),
    { kind: 'ldt', vcpu: 0, offset: 0 },
  ],
];
export const WITHOUT: readonly (readonly Step[])[] = [[]];
export const EVENTS_BEFORE = [fixed(...PORTS), fixed(...FIFO, ...PORTS), fixed(...PORTS, ...FIFO)];
const one = (op: Ext): Call => ({
  name: 'mmuext_op',
  args: [ARGUMENTS_VA, 1, 0, DOMID.DOMID_SELF],
  words: op.words,
  text: op.text,
});
const on = (cmd: number, pfn: number): Call => one(ext(cmd, BigInt(mfn(pfn)), 0n, frameName(mfn(pfn))));
const PINS = [on(MMUEXT.MMUEXT_PIN_L4_TABLE, PFN.l4b), on(MMUEXT.MMUEXT_PIN_L4_TABLE, PFN.l4c)];
export const TABLES_BEFORE = [
  [],
  fixed(...PINS),
  fixed(...PINS, on(MMUEXT.MMUEXT_NEW_BASEPTR, PFN.l4b), on(MMUEXT.MMUEXT_NEW_USER_BASEPTR, PFN.l4c)),
  fixed(on(MMUEXT.MMUEXT_NEW_USER_BASEPTR, PFN.l4a), on(MMUEXT.MMUEXT_NEW_BASEPTR, PFN.l4b)),
  fixed(...PINS, ...[PFN.l4b, PFN.l4a].map((pfn) => on(MMUEXT.MMUEXT_NEW_BASEPTR, pfn))),
];

export const PAGE_TABLES = weighted<Step>(
  [6, call(mmuUpdate)],
  [4, call(updateVaMapping)],
  [6, call(mmuextOp)],
  [1, call(setGdt)],
  [1, call(multicall)],
  [3, store],
  [1, pteWrite],
);
export const DESCRIPTORS = weighted<Step>(
  [4, call(setGdt)],
  [4, call(updateDescriptor)],
  [3, call(mmuextOp)],
  [3, ldt],
  [2, store],
  [1, call(mmuUpdate)],
);
export const EVENTS = weighted<Step>(
  [6, call(signal)],
  [6, call(arrangement)],
  [4, bits],
  [1, call(setTimerOp)],
  [1, time],
);
export const ENTRIES_AND_TIMERS = weighted<Step>(
  [2, call(setTrapTable)],
  [3, call(callbackOp)],
  [1, call(setCallbacks)],
  [4, call(vcpuOp)],
  [2, call(setTimerOp)],
  [3, time],
  [1, call(fc.constant(event('EVTCHNOP_bind_virq', pair(VIRQ.VIRQ_TIMER, 0), 0n)))],
  [1, call(fc.constant(event('EVTCHNOP_bind_virq', pair(VIRQ.VIRQ_TIMER, 1), 0n)))],
);
export const ALL = weighted<Step>([4, PAGE_TABLES], [2, DESCRIPTORS], [3, EVENTS], [2, ENTRIES_AND_TIMERS]);

/** Sequences of steps of one kind; with events, some whole scenes in between. */
export function sequenceOf(step: fc.Arbitrary<Step>): fc.Arbitrary<readonly Step[]> {
  const single = step.map((s): readonly Step[] => [s]);
  const scenes = step === EVENTS || step === ALL ? weighted([12, single], [1, moved]) : single;
  return fc.array(scenes, { minLength: 1, maxLength: 40, size: 'max' }).map((groups) => groups.flat());
}

/** A step as a reader of a failure sees it. */
export function describeStep(step: Step): string {
  switch (step.kind) {
    case 'call':
      return step.text ?? '';
    case 'store':
      return `store ${frameName(mfn(step.pfn))}[${step.slot}] = ${hex(step.value)} (${frameName(Number((step.value >> 12n) & 0xffffffffffn))})`;
    case 'bits':
      return `word at ${frameName(Math.floor(step.gpa / PAGE))}+0x${(step.gpa % PAGE).toString(16)}: clear 0x${step.clear.toString(16)}, set 0x${step.set.toString(16)}`;
    case 'ldt':
      return `fault in the LDT window of vCPU ${step.vcpu} at 0x${step.offset.toString(16)}`;
    case 'pte':
      return `emulated store ${frameName(mfn(step.pfn))}[${step.slot}] = ${hex(step.value)} (${frameName(Number((step.value >> 12n) & 0xffffffffffn))})`;
    case 'time':
      return `${step.ns} ns later`;
  }
}
