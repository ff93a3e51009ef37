/**
 * Declaring binary layouts as data.
 *
 * A struct that crosses a boundary (guest memory, the trap module, a hypervisor API) is declared once, here in
 * TypeScript, as data: field, type, offset, size. From that one declaration come the DataView accessors that the shim
 * uses, the C header that native/ includes (scripts/gen-headers) and the comparison with the vendors' own headers
 * (tests/conformance/layout).
 *
 * Quirks: everything is little-endian, as both ABIs are. u64/s64 fields read and write as bigint; use `num()` where a
 * value is known to stay below 2^53. Offsets are always written out: padding is never implied, so that a declaration
 * can be checked by eye against the specification. Fields may overlap; that is how unions are declared.
 */

export type Scalar = 'u8' | 'u16' | 'u32' | 'u64' | 's8' | 's16' | 's32' | 's64';

const SCALAR_SIZE: Readonly<Record<Scalar, number>> = {
  u8: 1,
  u16: 2,
  u32: 4,
  u64: 8,
  s8: 1,
  s16: 2,
  s32: 4,
  s64: 8,
};

export interface FieldDecl {
  readonly type: Scalar | Struct<Fields>;
  /** Byte offset from the start of the struct. */
  readonly offset: number;
  /** Number of elements when the field is an array. */
  readonly count?: number;
  /** One line for the generated header and docs. */
  readonly doc?: string;
}

export type Fields = Readonly<Record<string, FieldDecl>>;

type ScalarValue<S> = S extends 'u64' | 's64' ? bigint : number;
type ScalarNames<F extends Fields> = {
  [K in keyof F]: F[K]['type'] extends Scalar ? K : never;
}[keyof F] &
  string;

/** A DataView accessor; `index` selects the element of an array field (default 0, unchecked beyond `count`). */
export type Getters<F extends Fields> = {
  readonly [K in ScalarNames<F>]: (view: DataView, base: number, index?: number) => ScalarValue<F[K]['type']>;
};
export type Setters<F extends Fields> = {
  readonly [K in ScalarNames<F>]: (
    view: DataView,
    base: number,
    value: ScalarValue<F[K]['type']>,
    index?: number,
  ) => void;
};

export interface Struct<F extends Fields> {
  readonly kind: 'struct';
  /** The name in the vendor's header; `struct NAME` in generated C. */
  readonly name: string;
  /** Total size in bytes. */
  readonly size: number;
  readonly fields: F;
  /** Where the layout is specified. */
  readonly spec: string;
  readonly get: Getters<F>;
  readonly set: Setters<F>;
  /** Byte offset of a field, or of element `index` of an array field. */
  offsetOf(field: keyof F & string, index?: number): number;
}

/** Size in bytes of one element of a field. */
export function elementSize(type: FieldDecl['type']): number {
  return typeof type === 'string' ? SCALAR_SIZE[type] : type.size;
}

function getter(type: Scalar, at: number): (v: DataView, b: number, i?: number) => number | bigint {
  switch (type) {
    case 'u8':
      return (v, b, i = 0) => v.getUint8(b + at + i);
    case 'u16':
      return (v, b, i = 0) => v.getUint16(b + at + 2 * i, true);
    case 'u32':
      return (v, b, i = 0) => v.getUint32(b + at + 4 * i, true);
    case 'u64':
      return (v, b, i = 0) => v.getBigUint64(b + at + 8 * i, true);
    case 's8':
      return (v, b, i = 0) => v.getInt8(b + at + i);
    case 's16':
      return (v, b, i = 0) => v.getInt16(b + at + 2 * i, true);
    case 's32':
      return (v, b, i = 0) => v.getInt32(b + at + 4 * i, true);
    case 's64':
      return (v, b, i = 0) => v.getBigInt64(b + at + 8 * i, true);
  }
}

function setter(type: Scalar, at: number): (v: DataView, b: number, x: number | bigint, i?: number) => void {
  switch (type) {
    case 'u8':
    case 's8':
      return (v, b, x, i = 0) => v.setUint8(b + at + i, Number(x));
    case 'u16':
    case 's16':
      return (v, b, x, i = 0) => v.setUint16(b + at + 2 * i, Number(x), true);
    case 'u32':
    case 's32':
      return (v, b, x, i = 0) => v.setUint32(b + at + 4 * i, Number(x), true);
    case 'u64':
    case 's64':
      return (v, b, x, i = 0) => v.setBigUint64(b + at + 8 * i, BigInt.asUintN(64, x as bigint), true);
  }
}

/**
 * Declares a struct. Throws RangeError if a field reaches beyond `size`: a wrong declaration must not survive loading.
 */
export function struct<const F extends Fields>(name: string, spec: string, size: number, fields: F): Struct<F> {
  const get: Record<string, unknown> = {};
  const set: Record<string, unknown> = {};
  for (const [key, f] of Object.entries(fields)) {
    const end = f.offset + elementSize(f.type) * (f.count ?? 1);
    if (end > size) throw new RangeError(`struct ${name}: field ${key} ends at ${end}, beyond the size ${size}`);
    if (typeof f.type === 'string') {
      get[key] = getter(f.type, f.offset);
      set[key] = setter(f.type, f.offset);
    }
  }
  return {
    kind: 'struct',
    name,
    spec,
    size,
    fields,
    get: get as unknown as Getters<F>,
    set: set as unknown as Setters<F>,
    offsetOf(field, index = 0) {
      const f = fields[field];
      if (f === undefined) throw new RangeError(`struct ${name} has no field ${field}`);
      return f.offset + index * elementSize(f.type);
    },
  };
}

/** A u64 that must fit a Number (< 2^53), as frame numbers and sizes do; RangeError otherwise. */
export function num(value: bigint): number {
  if (value > 0x1f_ffff_ffff_ffffn || value < 0n) throw new RangeError(`0x${value.toString(16)} does not fit a Number`);
  return Number(value);
}

/** A named set of constants, exported to C as #define under the same names. Values above 2^31 are emitted as ULL. */
export interface Constants {
  readonly kind: 'constants';
  readonly spec: string;
  readonly values: Readonly<Record<string, number | bigint>>;
}

/** The values with their literal types, and their declaration under DECL. Named so that a .d.ts file can refer to it. */
export type ConstantsOf<V> = V & { readonly [DECL]: Constants };

/** Groups constants for the generator and the conformance tests; returns the values with their literal types. */
export function constants<const V extends Readonly<Record<string, number | bigint>>>(
  spec: string,
  values: V,
): ConstantsOf<V> {
  const decl: Constants = { kind: 'constants', spec, values };
  return Object.freeze(Object.defineProperty({ ...values }, DECL, { value: decl })) as ConstantsOf<V>;
}

/** Key under which a constants group carries its own declaration. */
export const DECL: unique symbol = Symbol('abi.constants');
