/**
 * The report of a guest's crash: cause in words, registers, the guest's stack, return addresses with symbols, the last
 * hypercalls.
 *
 * In two steps, because the partition's memory goes when the domain ends and symbols take a while to read: captureCrash()
 * copies what is needed while memory is there (Domain.onBeforeEnd), formatCrash() makes the text.
 *
 * Everything here was written by the guest, or could have been: it is copied once, every pointer is followed by the same
 * walker as hypercall pointers, and nothing of it is trusted to be text.
 *
 * Quirks: a return address is a candidate if it points into executable parts of the kernel image behind a call
 * instruction. Old stack contents that were never cleared look the same: candidates are not a proven call chain. The
 * kernel's root is walked also for user addresses; it maps them too where Linux is the guest.
 */
import { TRAP_CRASH, TRAP_MBOX, TrapLast, TrapMailbox, TrapRegs, TrapVp } from '../../abi/trap';
import { errnoName } from '../../abi/xen/errno';
import { hypercall, opName, subopFromArgs } from '../../abi/xen/hypercalls';
import { RUNSTATE } from '../../abi/xen/runstate';
import type { AddressRange } from '../xen/builder/elf';
import { type DomainMemory, PAGE_SIZE } from '../xen/domain-memory';
import { GuestVirtual } from '../xen/guest-virtual';

/** Looks a kernel address up: 'panic+0x1f'. */
export interface SymbolFormatter {
  format(address: bigint): string | undefined;
  readonly source?: string;
}

/** The facts of a crash, as the domain hands them out; see Domain's CrashFacts. */
export interface CrashInput {
  readonly vcpu: number;
  readonly reason: number;
  readonly text: string;
  readonly vector: number;
  readonly errorCode: number;
  readonly cr2: bigint;
  readonly userMode: boolean;
  readonly kernelL4: number;
  readonly vp: Buffer;
  /** The blocks of the other vCPUs that are, or have been, up. */
  readonly others?: readonly { readonly vcpu: number; readonly vp: Buffer }[] | undefined;
  /** The engine's or our own code's failure, in words, when it was not the guest that crashed. */
  readonly failure?: string | undefined;
}

export interface StackWord {
  readonly address: bigint;
  readonly value: bigint;
}

export interface CrashCapture {
  readonly crash: CrashInput;
  /** The first words from the stack pointer up. */
  readonly stack: readonly StackWord[];
  /** Why the stack could not be read, or not further. */
  readonly stackEnd: string | undefined;
  /** Stack words that look like return addresses, from the top of the stack. */
  readonly returns: readonly StackWord[];
  /** The kernel's own last words, if the console has them. */
  readonly lastWords: string | undefined;
}

/** Words shown, and bytes searched for return addresses (a Linux stack is 16 KiB). */
const STACK_WORDS = 32;
const SEARCH_BYTES = 16384;
const MAX_RETURNS = 48;
const LAST_CALLS = 32;

const REGISTERS = [
  ['rax', 'rbx', 'rcx', 'rdx'],
  ['rsi', 'rdi', 'rbp', 'r8'],
  ['r9', 'r10', 'r11', 'r12'],
  ['r13', 'r14', 'r15'],
] as const;

const EXCEPTIONS: Readonly<Record<number, string>> = {
  0: '#DE divide error',
  1: '#DB debug',
  2: 'NMI',
  3: '#BP breakpoint',
  4: '#OF overflow',
  5: '#BR bound range',
  6: '#UD invalid opcode',
  7: '#NM no FPU',
  8: '#DF double fault',
  10: '#TS invalid TSS',
  11: '#NP segment not present',
  12: '#SS stack fault',
  13: '#GP general protection',
  14: '#PF page fault',
  16: '#MF FPU error',
  17: '#AC alignment check',
  18: '#MC machine check',
  19: '#XM SIMD error',
};

const hex = (value: bigint | number): string => value.toString(16);
const hex64 = (value: bigint): string => BigInt.asUintN(64, value).toString(16).padStart(16, '0');

function viewOf(vp: Buffer): DataView {
  return new DataView(vp.buffer, vp.byteOffset, vp.byteLength);
}

type RegisterName = Exclude<keyof (typeof TrapRegs)['get'], 'pad'>;

function register(vp: Buffer, name: RegisterName): bigint {
  return BigInt(TrapRegs.get[name](viewOf(vp), TrapVp.offsetOf('regs')));
}

/** Do the bytes before a return address end in a call instruction? `before` are the 7 bytes in front of it. */
function afterCall(before: Uint8Array): boolean {
  const at = (back: number): number => before[before.length - back] ?? 0;
  if (at(5) === 0xe8) return true;
  // ff /2 with its ModRM byte and, by addressing form, a SIB byte and a displacement.
  return [2, 3, 4, 6, 7].some((back) => at(back) === 0xff && ((at(back - 1) >> 3) & 7) === 2);
}

/** The last panic, BUG or oops line of a console's history. */
export function lastWords(console: string): string | undefined {
  const line =
    /(?:^|[\n\r])[^\n\r]*?((?:Kernel panic|BUG:|kernel BUG|Oops:|general protection fault|Unable to handle)[^\r\n]{0,200})/g;
  let panic: string | undefined;
  let other: string | undefined;
  for (const [, text] of console.matchAll(line)) {
    if (text?.startsWith('Kernel panic')) panic = text.replace(/ \]---$/, '');
    else other ??= text;
  }
  return (panic ?? other)?.replaceAll(/[^\x20-\x7e]/g, '?').trim();
}

/**
 * Copies what a report needs from a domain that is about to end. Never throws: what cannot be read is left out.
 * `text` are the executable ranges of the kernel, `console` the end of what it printed.
 */
export function captureCrash(
  crash: CrashInput,
  memory: DomainMemory,
  text: readonly AddressRange[],
  console: string,
): CrashCapture {
  const guest = new GuestVirtual(memory, crash.kernelL4);
  const read = (va: bigint, length: number): Uint8Array | string => {
    try {
      return guest.copyFrom(va, length);
    } catch (error) {
      return (error as Error).message;
    }
  };
  const isText = (va: bigint): boolean => text.some((r) => va >= r.start && va < r.end);
  const stack: StackWord[] = [];
  const returns: StackWord[] = [];
  let stackEnd: string | undefined;
  const sp = register(crash.vp, 'rsp') & ~7n;
  for (let page = sp; stackEnd === undefined && page < sp + BigInt(SEARCH_BYTES); ) {
    const next = (page & ~0xfffn) + BigInt(PAGE_SIZE);
    const bytes = read(page, Number(next - page));
    if (typeof bytes === 'string') {
      stackEnd = bytes;
      break;
    }
    const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
    for (let i = 0; i + 8 <= bytes.length; i += 8) {
      const word = { address: page + BigInt(i), value: view.getBigUint64(i, true) };
      if (stack.length < STACK_WORDS) stack.push(word);
      if (returns.length >= MAX_RETURNS || !isText(word.value) || !isText(word.value - 7n)) continue;
      const before = read(word.value - 7n, 7);
      if (typeof before !== 'string' && afterCall(before)) returns.push(word);
    }
    page = next;
  }
  return {
    crash,
    stack,
    stackEnd: stack.length < STACK_WORDS ? stackEnd : undefined,
    returns,
    lastWords: lastWords(console),
  };
}

/** Reasons that no guest can cause. */
const OURS: ReadonlySet<number> = new Set([
  TRAP_CRASH.TRAP_CRASH_MODULE_FAULT,
  TRAP_CRASH.TRAP_CRASH_ASSERT,
  TRAP_CRASH.TRAP_CRASH_BOOT,
]);

function isOurs(crash: CrashInput): boolean {
  return crash.failure !== undefined || OURS.has(crash.reason);
}

function sentence(text: string): string {
  const words = text === '' ? 'the trap module failed' : text;
  return `${words.charAt(0).toUpperCase()}${words.slice(1)}.`;
}

/** What happened, in one or two sentences. */
export function crashCause(crash: CrashInput, words?: string): string {
  if (isOurs(crash))
    return `${sentence(crash.failure ?? crash.text)} This is a bug in xenlighten, not in the guest: please report it.`;
  const mode = crash.userMode ? 'user' : 'kernel';
  const said = crash.text === '' ? '' : ` (${crash.text})`;
  switch (crash.reason) {
    case TRAP_CRASH.TRAP_CRASH_NONE:
      return words === undefined
        ? 'The guest kernel reported that it crashed (SCHEDOP_shutdown with reason crash).'
        : `The guest kernel panicked and reported it (SCHEDOP_shutdown with reason crash): ${words}`;
    case TRAP_CRASH.TRAP_CRASH_UNHANDLED_TRAP: {
      const name = EXCEPTIONS[crash.vector] ?? 'exception';
      const address = crash.vector === 14 ? ` at address 0x${hex(crash.cr2)}${pageFault(crash.errorCode)}` : '';
      return `${name} (vector ${crash.vector}, error code 0x${hex(crash.errorCode)}) in guest ${mode} mode${address}, and the guest has registered no handler for it.`;
    }
    case TRAP_CRASH.TRAP_CRASH_BAD_STACK:
      return `The guest's kernel stack could not take an exception frame: it overflowed, or the stack pointer is wrong${said}.`;
    case TRAP_CRASH.TRAP_CRASH_NULL_HANDLER:
      return `The guest was to be called back, but has set no entry point for it${said}.`;
    case TRAP_CRASH.TRAP_CRASH_IRET_FRAME:
      return `The guest returned from a trap with a frame that cannot be read${said}.`;
    case TRAP_CRASH.TRAP_CRASH_NO_USER_ROOT:
      return `The guest returned to user mode without having set a user page table${said}.`;
    case TRAP_CRASH.TRAP_CRASH_RPL:
      return `The guest depends on the privilege level in its selectors, which differs in ring 1: start it with --guest-ring 3${said}.`;
    case TRAP_CRASH.TRAP_CRASH_NO_FAILSAFE:
      return `A segment register could not be loaded, and the guest has set no failsafe callback${said}.`;
    case TRAP_CRASH.TRAP_CRASH_DOUBLE_FAULT:
      return `Double fault in the guest: an exception could not be delivered${said}.`;
    default:
      return `The trap module stopped the guest for the unknown reason ${crash.reason}${said}.`;
  }
}

function pageFault(code: number): string {
  const access = (code & 0x10) !== 0 ? 'instruction fetch' : (code & 2) !== 0 ? 'write' : 'read';
  const why = (code & 8) !== 0 ? 'reserved bits set' : (code & 1) !== 0 ? 'protected' : 'not mapped';
  return ` (${access}, ${why})`;
}

/** A result as a reader of Xen's headers would write it. */
function resultText(result: bigint): string {
  return result < 0n && result > -200n
    ? `-${errnoName(Number(-result))}`
    : result < 10n
      ? `${result}`
      : `0x${hex(result)}`;
}

function callText(nr: number, args: readonly bigint[]): string {
  const decl = hypercall(nr);
  const shown = decl === undefined ? args : args.slice(0, decl.args.length);
  const named = shown.map((value, i) => {
    const name = decl?.args[i]?.name;
    return name === undefined ? `0x${hex(value)}` : `${name}=0x${hex(value)}`;
  });
  return `${opName(nr, subopFromArgs(nr, args))}(${named.join(', ')})`;
}

interface LastCall {
  readonly text: string;
  readonly result: string;
  readonly rip: bigint;
  readonly inMulticall: boolean;
}

/** The finished hypercalls that the block remembers, oldest first. */
export function lastCalls(vp: Buffer): LastCall[] {
  const view = viewOf(vp);
  const next = TrapVp.get.last_next(view, 0);
  const out: LastCall[] = [];
  for (let back = Math.min(next, LAST_CALLS); back > 0; back--) {
    const at = TrapVp.offsetOf('last', (next - back) % LAST_CALLS);
    const args = [0, 1, 2, 3, 4].map((i) => TrapLast.get.args(view, at, i));
    const nr = TrapLast.get.nr(view, at);
    out.push({
      text: callText(nr, args),
      result: resultText(TrapLast.get.result(view, at)),
      rip: TrapLast.get.rip(view, at),
      inMulticall: (TrapLast.get.flags(view, at) & 1) !== 0,
    });
  }
  return out;
}

/** The hypercall that the vCPU was in, if it was in one. */
function callUnderWay(vp: Buffer): string | undefined {
  const view = viewOf(vp);
  const at = TrapVp.offsetOf('mbox');
  if (TrapMailbox.get.kind(view, at) !== TRAP_MBOX.TRAP_CALL_HYPERCALL) return undefined;
  if (TrapMailbox.get.state(view, at) === TRAP_MBOX.TRAP_MBOX_IDLE) return undefined;
  const args = [0, 1, 2, 3, 4].map((i) => TrapMailbox.get.args(view, at, i));
  return callText(TrapMailbox.get.nr(view, at), args);
}

/** The report as text, without a final newline. */
export function formatCrash(capture: CrashCapture, symbols: SymbolFormatter | undefined): string {
  const { crash, stack, stackEnd, returns } = capture;
  const { vp } = crash;
  const view = viewOf(vp);
  const name = (address: bigint): string => {
    const symbol = symbols?.format(address);
    return symbol === undefined ? '' : `  ${symbol}`;
  };
  const lines: string[] = [];
  lines.push(
    `${isOurs(crash) ? 'Failure of xenlighten' : 'Guest crash'} on vCPU ${crash.vcpu}`,
    `  ${crashCause(crash, capture.lastWords)}`,
    '',
  );

  lines.push(`Registers (guest ${crash.userMode ? 'user' : 'kernel'} mode)`);
  lines.push(...registerLines(vp, name));
  const bases = [
    `fs ${hex64(TrapVp.get.fs_base(view, 0))}`,
    `gs ${hex64(TrapVp.get.gs_base_kernel(view, 0))} (kernel) ${hex64(TrapVp.get.gs_base_user(view, 0))} (user)`,
  ];
  lines.push(`  ${bases.join('  ')}`);
  lines.push(`  cr2 ${hex64(TrapVp.get.guest_cr2(view, 0))}  page table at frame 0x${hex(crash.kernelL4)}`, '');

  lines.push('Stack');
  for (let i = 0; i < stack.length; i += 4) {
    const row = stack.slice(i, i + 4);
    lines.push(`  ${hex64(row[0]?.address ?? 0n)}: ${row.map((w) => hex64(w.value)).join(' ')}`);
  }
  if (stackEnd !== undefined) lines.push(`  (${stackEnd})`);
  lines.push('');

  lines.push(`Return addresses on the stack (candidates${symbols?.source ? `; symbols from ${symbols.source}` : ''})`);
  for (const word of returns) lines.push(`  ${hex64(word.value)}${name(word.value)}`);
  if (returns.length === 0) lines.push('  none');
  lines.push('');

  const calls = lastCalls(vp);
  lines.push(`Last ${calls.length} hypercalls, newest last`);
  const texts = calls.map((c) => {
    const where = symbols?.format(c.rip) ?? hex64(c.rip);
    return `  ${c.inMulticall ? '+ ' : ''}${c.text} = ${c.result}  from ${where}`;
  });
  for (let i = 0; i < texts.length; ) {
    let same = i + 1;
    while (same < texts.length && texts[same] === texts[i]) same++;
    lines.push(same - i > 1 ? `${texts[i]}  (${same - i} times)` : (texts[i] as string));
    i = same;
  }
  if (calls.length === 0) lines.push('  none');
  const now = callUnderWay(vp);
  if (now !== undefined) lines.push(`  ${now}, under way`);
  for (const other of crash.others ?? []) lines.push('', ...otherVcpu(other.vcpu, other.vp, name));
  return lines.join('\n');
}

function registerLines(vp: Buffer, name: (address: bigint) => string): string[] {
  const reg = (n: RegisterName): bigint => register(vp, n);
  return [
    `  rip ${hex(reg('cs')).padStart(4, '0')}:${hex64(reg('rip'))}${name(reg('rip'))}`,
    `  rsp ${hex(reg('ss')).padStart(4, '0')}:${hex64(reg('rsp'))}  rflags ${hex(reg('rflags'))}`,
    ...REGISTERS.map((row) => `  ${row.map((n) => `${n.padEnd(3)} ${hex64(reg(n))}`).join('  ')}`),
  ];
}

/** What a vCPU was doing that had no part in the crash: as it was when all were stopped. */
function otherVcpu(vcpu: number, vp: Buffer, name: (address: bigint) => string): string[] {
  const view = viewOf(vp);
  const mode = TrapVp.get.user_mode(view, 0) !== 0 ? 'user' : 'kernel';
  const down = TrapVp.get.online(view, 0) === 0 ? ', down' : '';
  const blocked = TrapVp.get.runstate(view, 0) === RUNSTATE.RUNSTATE_blocked ? ', blocked' : '';
  const last = lastCalls(vp).at(-1);
  const now = callUnderWay(vp);
  return [
    `vCPU ${vcpu} (guest ${mode} mode${down}${blocked})`,
    ...registerLines(vp, name),
    ...(last === undefined ? [] : [`  last hypercall ${last.text} = ${last.result}`]),
    ...(now === undefined ? [] : [`  ${now}, under way`]),
  ];
}
