/**
 * The system calls that set KVM up: those with structures through ffi-napi and ref-struct-di, those with a number through
 * the addon.
 *
 * Set-up only: some tens of calls of about 10 us each. What runs, waits or touches guest memory is the addon's
 * (native/host/linux/kvm.c). No callback, no returned pointer; descriptors are numbers. ffi-napi takes some 80 ms to load, so
 * that happens at the first structure: `--engine auto` looks at capabilities only, where KVM is not fit.
 */
import { constants as os } from 'node:os';
import type { Fields, Struct } from '../../../abi/layout';
import { ioctlNumber } from '../host';

const EFD_CLOEXEC = 0o2000000;
const EFD_NONBLOCK = 0o4000;

interface Libc {
  eventfd(initial: number, flags: number): number;
  ioctl(fd: number, request: number, argument: Buffer): number;
}

interface Loaded {
  readonly libc: Libc;
  readonly errno: () => number;
  readonly toRefStruct: typeof import('../ffi/ref-struct').toRefStruct;
}

let loaded: Loaded | undefined;

function foreign(): Loaded {
  if (loaded === undefined) {
    const ffi = require('ffi-napi') as typeof import('ffi-napi');
    const { toRefStruct } = require('../ffi/ref-struct') as typeof import('../ffi/ref-struct');
    // ioctl is variadic in C; on x86-64 a pointer is passed alike either way.
    const libc = ffi.Library('libc.so.6', {
      eventfd: ['int', ['uint', 'int']],
      ioctl: ['int', ['int', 'uint64', 'pointer']],
    }) as unknown as Libc;
    loaded = { libc, errno: () => ffi.errno(), toRefStruct };
  }
  return loaded;
}

function errnoName(errno: number): string {
  return Object.entries(os.errno).find(([, value]) => value === errno)?.[0] ?? `errno ${errno}`;
}

/** A system call that failed; `code` is the errno's name. */
export class SystemCallError extends Error {
  override readonly name = 'SystemCallError';
  constructor(
    readonly call: string,
    readonly code: string,
  ) {
    super(`${call}: ${code}`);
  }
}

function checked(call: string, result: number): number {
  if (result < 0) throw new SystemCallError(call, errnoName(foreign().errno()));
  return result;
}

/** An event counter that does not block and is closed on exec. */
export function eventfd(): number {
  return checked('eventfd', foreign().libc.eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
}

/** An ioctl with a number, or with a structure that may be written to. `name` is for the error. */
export function ioctl(fd: number, name: string, request: number, argument: number | Buffer = 0): number {
  if (typeof argument !== 'number') return checked(name, foreign().libc.ioctl(fd, request, argument));
  try {
    return ioctlNumber(fd, request, argument);
  } catch (error) {
    throw new SystemCallError(name, (error as NodeJS.ErrnoException).code ?? (error as Error).message);
  }
}

/** Fields of a structure for an ioctl: numbers, decimal strings where 2^53 is too little, arrays, nested structures. */
export type StructValues = { [name: string]: number | string | readonly number[] | StructValues };

/** A zeroed structure of this declaration with the given fields set. `ref()` is what an ioctl takes. */
export function instance(decl: Struct<Fields>, values: StructValues = {}): StructInstance {
  const made = new (foreign().toRefStruct(decl) as unknown as new () => StructInstance)();
  made.ref().fill(0);
  return assign(made, values);
}

export type StructInstance = { ref(): Buffer } & Record<string, unknown>;

/** Sets fields, those of nested structures too. */
export function assign(target: StructInstance, values: StructValues): StructInstance {
  for (const [name, value] of Object.entries(values)) {
    if (typeof value === 'object' && !Array.isArray(value))
      assign(target[name] as StructInstance, value as StructValues);
    else target[name] = value;
  }
  return target;
}
