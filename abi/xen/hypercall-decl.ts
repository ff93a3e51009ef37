/**
 * The shape in which hypercalls.ts describes the hypercall interface. Types only, and two helpers that keep the tables
 * short.
 *
 * Quirks: `errors` lists what an unprivileged PV domain can get from Xen 4.17, as positive names; the hypercall returns
 * them negated. Grant operations report in a status field instead, which is listed under `statuses`.
 */
import type { Fields, Struct } from '../layout';
import type { XenErrnoName } from './errno';

/** Who may use an operation at all. */
export type Privilege =
  /** Any domain, on itself. */
  | 'any'
  /** A domain that controls hardware. */
  | 'hardware'
  /** The control domain, or one that Xen's policy lets act for it. */
  | 'control'
  /** A guest that is not paravirtualized. */
  | 'hvm'
  /** Nobody: the number is assigned, the operation gone or not built. */
  | 'nobody';

export interface ErrorDecl {
  readonly errno: XenErrnoName;
  readonly cause: string;
}

export type ArgType =
  /** A number in a register. */
  | 'value'
  /** A guest virtual address of a struct, array or bitmap. */
  | 'pointer'
  /** A machine frame number, machine address, or page-table entry. */
  | 'machine'
  /** A guest virtual address that is not dereferenced as data. */
  | 'address';

export interface ArgDecl {
  readonly name: string;
  readonly type: ArgType;
  /** What a pointer points to, when it is always the same struct. */
  readonly struct?: Struct<Fields>;
}

export interface SubopDecl {
  readonly number: number;
  readonly privilege: Privilege;
  /** The struct that the operation's pointer argument points to. */
  readonly argStruct?: Struct<Fields>;
  /** What is returned when it succeeds; 0 if absent. */
  readonly returns?: string;
  readonly errors: readonly ErrorDecl[];
  /** GNTST_* values that the struct's status field may get. */
  readonly statuses?: readonly string[];
}

/** Where an operation's sub-op number is found. */
export type SubopSource =
  /** In an argument register, under a mask. */
  | { readonly in: 'argument'; readonly index: number; readonly mask?: number }
  /** In each element of the array that the first argument points to. */
  | { readonly in: 'element'; readonly field: string; readonly mask?: number }
  /** In the struct that the first argument points to. */
  | { readonly in: 'struct'; readonly field: string };

export interface HypercallDecl {
  readonly number: number;
  readonly privilege: Privilege;
  readonly args: readonly ArgDecl[];
  readonly returns?: string;
  /** Errors of the hypercall itself, whatever the sub-op. */
  readonly errors: readonly ErrorDecl[];
  readonly subopIn?: SubopSource;
  readonly subops?: Readonly<Record<string, SubopDecl>>;
}

/** One error with its cause. */
export function err(errno: XenErrnoName, cause: string): ErrorDecl {
  return { errno, cause };
}

/** An argument that is a number. */
export function value(name: string): ArgDecl {
  return { name, type: 'value' };
}

/** An argument that points to guest memory. */
export function pointer(name: string, struct?: Struct<Fields>): ArgDecl {
  return struct === undefined ? { name, type: 'pointer' } : { name, type: 'pointer', struct };
}

/** A machine frame, machine address or page-table entry. */
export function machine(name: string): ArgDecl {
  return { name, type: 'machine' };
}

/** A guest virtual address that is stored or looked up, not read. */
export function address(name: string): ArgDecl {
  return { name, type: 'address' };
}

export const BAD_POINTER = err('EFAULT', 'the argument cannot be read or written');
export const NOT_CONTROL = err('EPERM', 'the caller is not the control domain');
