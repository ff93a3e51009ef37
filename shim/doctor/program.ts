/**
 * Programs of some twenty instructions for self-tests: ring 0 of a partition without a kernel, in 64-bit mode, with the
 * first 2 MiB mapped to themselves and no interrupts or exceptions: a fault is a triple fault, which ends the partition.
 *
 * A program leaves numbers in slots of 8 bytes at RDI, and rings the doorbell when it has ended (`finish`). R9 counts loops, so
 * that loops do not nest. RSP is good for calls.
 */
import { TRAP_HV_PORT } from '../../abi/trap';
import { BOOT_PARAMETERS, type Partition, type PartitionExit, type VpExits } from '../partition/partition';

/** Guest-physical addresses, all in the first 2 MiB. */
export const PLACE = {
  pml4: 0x1000,
  pdpt: 0x2000,
  pd: 0x3000,
  code: 0x4000,
  results: 0x5000,
  stack: 0x7000,
  hypercallPage: 0x8000,
  eventFlags: 0x9000,
} as const;
export const MEMORY_BYTES = 4 * 2 ** 20;
/** Slot that says that the program has ended. */
const DONE_SLOT = 0;

const u32 = (value: number): number[] => [0, 8, 16, 24].map((shift) => (value >>> shift) & 255);
const u64 = (value: bigint): number[] => [
  ...u32(Number(value & 0xffff_ffffn)),
  ...u32(Number((value >> 32n) & 0xffff_ffffn)),
];

export class Program {
  private readonly bytes: number[] = [];

  constructor() {
    // mov $stack, %rsp
    this.emit(0x48, 0xbc, ...u64(BigInt(PLACE.stack)));
  }

  private emit(...bytes: number[]): this {
    this.bytes.push(...bytes);
    return this;
  }

  /** mov %rax, 8*slot(%rdi) */
  store(slot: number): this {
    return this.emit(0x48, 0x89, 0x87, ...u32(8 * slot));
  }

  /** A slot gets the MSR. */
  readMsr(msr: number, slot: number): this {
    // mov $msr, %ecx; rdmsr; shl $32, %rdx; or %rdx, %rax
    return this.emit(0xb9, ...u32(msr), 0x0f, 0x32, 0x48, 0xc1, 0xe2, 32, 0x48, 0x09, 0xd0).store(slot);
  }

  writeMsr(msr: number, value: bigint): this {
    const [low, high] = [Number(value & 0xffff_ffffn), Number(value >> 32n)];
    // mov $msr, %ecx; mov $low, %eax; mov $high, %edx; wrmsr
    return this.emit(0xb9, ...u32(msr), 0xb8, ...u32(low), 0xba, ...u32(high), 0x0f, 0x30);
  }

  /** A slot gets the time stamp counter. */
  readTsc(slot: number): this {
    // rdtsc; shl $32, %rdx; or %rdx, %rax
    return this.emit(0x0f, 0x31, 0x48, 0xc1, 0xe2, 32, 0x48, 0x09, 0xd0).store(slot);
  }

  /** 1 into the slot that is as many behind this one as the VP's index: mov $1, %eax; mov %rax, 8*slot(%rdi,%rsi,8) */
  markVp(slot: number): this {
    return this.emit(0xb8, ...u32(1), 0x48, 0x89, 0x84, 0xf7, ...u32(8 * slot));
  }

  /** A byte to a port: mov $port, %edx; out %al, %dx */
  out(port: number): this {
    return this.emit(0xba, ...u32(port), 0xee);
  }

  repeat(times: number, body: (program: this) => void): this {
    // mov $times, %r9d
    this.emit(0x41, 0xb9, ...u32(times));
    const start = this.bytes.length;
    body(this);
    return this.again(start);
  }

  /** dec %r9d; jnz start */
  private again(start: number): this {
    this.emit(0x41, 0xff, 0xc9);
    return this.emit(0x0f, 0x85, ...u32(start - (this.bytes.length + 6)));
  }

  /** Looks at a byte of memory until it is not 0, `times` at most; a slot gets how often it need not have looked any more. */
  awaitByte(address: number, times: number, slot: number): this {
    this.emit(0x41, 0xb9, ...u32(times));
    const start = this.bytes.length;
    // cmpb $0, address; jnz +11, over pause, dec and jnz
    this.emit(0x80, 0x3c, 0x25, ...u32(address), 0, 0x75, 11, 0xf3, 0x90);
    this.again(start);
    // mov %r9, %rax
    return this.emit(0x4c, 0x89, 0xc8).store(slot);
  }

  /** Calls the hypercall page with RCX and RDX; a slot gets RAX. */
  hypercall(input: bigint, parameter: bigint, slot: number): this {
    this.emit(0x48, 0xb9, ...u64(input), 0x48, 0xba, ...u64(parameter));
    // mov $page, %rax; call *%rax
    return this.emit(0x48, 0xb8, ...u64(BigInt(PLACE.hypercallPage)), 0xff, 0xd0).store(slot);
  }

  /** The end: says so, rings, halts for ever. */
  finish(): Uint8Array {
    this.emit(0xb8, ...u32(1))
      .store(DONE_SLOT)
      .out(TRAP_HV_PORT.TRAP_BELL_PORT);
    return Uint8Array.from(this.emit(0xf4, 0xeb, 0xfd).bytes);
  }
}

export interface ProgramRun {
  slot(index: number): bigint;
  readonly exits: VpExits | undefined;
  /** From stop() until the last VP had left. */
  readonly stopMs: number;
  readonly doorbells: number;
}

/** In ms, for a program that takes microseconds. */
const PATIENCE_MS = 20_000;

/**
 * Runs a program on a partition of one VP, and ends it. Rejects when the partition ends before the program. `onRing` is
 * called for each doorbell while the program runs.
 */
export async function runProgram(
  partition: Partition,
  code: Uint8Array,
  onRing: (partition: Partition) => void = () => undefined,
): Promise<ProgramRun> {
  const { memory } = partition;
  memory.setU64(PLACE.pml4, BigInt(PLACE.pdpt | 3));
  memory.setU64(PLACE.pdpt, BigInt(PLACE.pd | 3));
  memory.setU64(PLACE.pd, 0x83n);
  memory.copyIn(PLACE.code, code);
  memory.setU64(BOOT_PARAMETERS.cr3, BigInt(PLACE.pml4));
  memory.setU64(BOOT_PARAMETERS.entry, BigInt(PLACE.code));
  memory.setU64(BOOT_PARAMETERS.argument, BigInt(PLACE.results));
  const isDone = (): boolean => memory.getU64(PLACE.results + 8 * DONE_SLOT) === 1n;
  let doorbells = 0;
  let timer: NodeJS.Timeout | undefined;
  try {
    await new Promise<void>((resolve, reject) => {
      const early = (exit: PartitionExit): void =>
        isDone() ? resolve() : reject(new Error(`the partition ended: ${exit.message}`));
      timer = setTimeout(() => reject(new Error(`it did not end within ${PATIENCE_MS / 1000} s`)), PATIENCE_MS);
      const doorbell = (): void => {
        doorbells++;
        if (isDone()) resolve();
        else onRing(partition);
      };
      partition.start({ doorbell, exit: early }).catch(reject);
    });
    const exits = partition.exits()?.[0];
    const stopped = performance.now();
    await partition.stop();
    const stopMs = performance.now() - stopped;
    const slots = Array.from({ length: 16 }, (_, i) => memory.getU64(PLACE.results + 8 * i));
    return { slot: (index) => slots[index] ?? 0n, exits, stopMs, doorbells };
  } finally {
    clearTimeout(timer);
    await partition.stop();
    await memory.release();
  }
}
