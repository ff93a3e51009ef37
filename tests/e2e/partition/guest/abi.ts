/**
 * What the tests' own little guest and the tests say to each other in the guest's memory. The C header that the guest
 * includes is made from this file (./image.ts).
 */
import { constants, struct } from '../../../../abi/layout';

const SPEC = 'tests/e2e/partition/guest';

export const GUEST = constants(SPEC, {
  /** The image: linked and loaded here, identity-mapped like everything. */
  GUEST_CODE: 0x20_0000,
  /** struct guest_control; its address is the boot argument. */
  GUEST_CONTROL: 0x30_0000,
  /** Each VP's area: struct guest_vp, then the pages below, then its stack, which grows down from the end. */
  GUEST_AREAS: 0x40_0000,
  GUEST_AREA_SIZE: 0x1_0000,
  GUEST_PAGE_INPUT: 0x1000,
  GUEST_PAGE_MESSAGES: 0x2000,
  GUEST_PAGE_FLAGS: 0x3000,
  GUEST_PAGE_IDT: 0x4000,
  /** u64[]: ticks of the time stamp counter, of the first GUEST_TIMES calls. */
  GUEST_PAGE_TIMES: 0x5000,
  GUEST_TIMES: 2560,
});

/** The commands, with their arguments. */
export const COMMAND = constants(SPEC, {
  /** *args[0] = args[1] */
  COMMAND_STORE: 1,
  /** control.counter += 1, args[0] times, by locked additions */
  COMMAND_HAMMER: 2,
  /** an exception without a handler for anything */
  COMMAND_TRIPLE_FAULT: 3,
  /** args[0] calls to the shim; results[0]: wrong answers */
  COMMAND_CALLS: 4,
  /** runs, interrupts on, until control.halt_spinning; results[0]: turns */
  COMMAND_SPIN: 5,
  /** args[0] rounds of the doorbell's protocol, in windows of random size from the seed args[1] */
  COMMAND_PRODUCE: 6,
  /** timer: args[0] one-shots, args[1] 100 ns from now (as s64); args[2]: spin instead of halting; results[0]: ticks */
  COMMAND_TIMER: 7,
  /** timer: set to args[0], then to args[1]; counts expiries (results[0]) for args[2] ticks of the TSC */
  COMMAND_TIMER_REARM: 8,
  /** timer: set to args[0], stopped; counts expiries (results[0]) for args[2] ticks */
  COMMAND_TIMER_STOP: 9,
  /** args[1] times an IPI to VP args[0] and a wait for its answering IPI; args[2]: spin instead of halting */
  COMMAND_IPIS: 10,
  /** rings the doorbell (by OUT to port args[0], unless that is 0) until control.halt_spinning; results[0]: rings */
  COMMAND_FLOOD: 11,
  /** hypercall: control word args[0], RDX args[1], R8 args[2]; results[0]: RAX, results[1]: vector of a fault */
  COMMAND_HYPERCALL: 12,
  /** wrmsr: args[0] = args[1]; results[1]: vector of a fault */
  COMMAND_WRMSR: 13,
  /** rdmsr: results[0] = args[0]; results[1]: vector of a fault */
  COMMAND_RDMSR: 14,
  /** jumps to args[0] */
  COMMAND_JUMP: 15,
  /** args[1] random hypercalls from the seed args[0]; results[0]: faults; results[1..3]: statuses seen, as bit sets */
  COMMAND_FUZZ_HYPERCALLS: 16,
  /** args[1] random values to random synthetic MSRs; results[0]: faults */
  COMMAND_FUZZ_MSRS: 17,
  /** args[1] random accesses to ports and addresses without RAM */
  COMMAND_FUZZ_IO: 18,
  /** wild addresses in each MSR that names a page, args[0] times; results[0]: faults, results[1]: accepted */
  COMMAND_WILD_PAGES: 19,
});

export const GuestControl = struct('guest_control', SPEC, 64, {
  /** TRAP_ENGINE_*: what is below. */
  platform: { type: 'u32', offset: 0 },
  nr_vps: { type: 'u32', offset: 4 },
  /** The doorbell's busy flag: a ring is on its way. */
  bell: { type: 'u32', offset: 8 },
  /** Ends COMMAND_SPIN and the floods. */
  halt_spinning: { type: 'u32', offset: 12 },
  /** For the contended additions. */
  counter: { type: 'u32', offset: 16 },
  /** The processor below may deliver an interrupt twice (start.S). */
  interrupts_twice: { type: 'u32', offset: 20 },
});

export const GuestVp = struct('guest_vp', SPEC, 512, {
  /** 1 once the VP serves commands. */
  alive: { type: 'u32', offset: 0 },
  /** RSI and RDI as the engine passed them. */
  index: { type: 'u32', offset: 4 },
  argument: { type: 'u64', offset: 8 },
  first_tsc: { type: 'u64', offset: 16 },
  /** As the hypervisor, or the local APIC, has it. */
  vp_index: { type: 'u32', offset: 24 },
  /** Set before a kick, so that VP 0 can pass it on where all kicks arrive there; cleared by the VP first of all. */
  kick: { type: 'u32', offset: 28 },
  /** COMMAND_*: written last by the host, cleared by the guest when done. */
  command: { type: 'u64', offset: 32 },
  args: { type: 'u64', offset: 40, count: 4 },
  results: { type: 'u64', offset: 72, count: 4 },
  /** Kick interrupts taken. */
  kicks: { type: 'u64', offset: 104 },
  /** A kick's handler copies `wanted` to `seen`, and rings if `ring_on_kick` is set. */
  wanted: { type: 'u64', offset: 112 },
  seen: { type: 'u64', offset: 120 },
  ring_on_kick: { type: 'u32', offset: 128 },
  timers: { type: 'u64', offset: 136 },
  timer_tsc: { type: 'u64', offset: 144 },
  ipis: { type: 'u64', offset: 152 },
  /** IPI answers to whom: 1 + VP that waits, by COMMAND_IPIS of others. */
  pongs: { type: 'u64', offset: 160 },
  ping_from: { type: 'u64', offset: 168 },
  /** Rounds of COMMAND_PRODUCE, and how far the host has seen them. */
  produced: { type: 'u64', offset: 176 },
  consumed: { type: 'u64', offset: 184 },
  /** The mailbox: the guest writes question, then request; the host writes answer, then reply. */
  request: { type: 'u64', offset: 192 },
  reply: { type: 'u64', offset: 200 },
  question: { type: 'u64', offset: 208 },
  answer: { type: 'u64', offset: 216 },
  /** Where a fault goes on, and its vector; 0: faults are fatal. */
  fixup: { type: 'u64', offset: 224 },
  fault: { type: 'u64', offset: 232 },
  /** Of a long command. */
  progress: { type: 'u64', offset: 240 },
});

/** An answer that shows that the question was read. */
export function answerTo(question: bigint): bigint {
  return BigInt.asUintN(64, question * 3n + 1n);
}
