/**
 * ref-struct-di types from the declarations in abi/, for the calls that go through ffi-napi.
 *
 * A declaration is data and stays the only source; this builds the foreign-function type of it, with the same field
 * names, where ref-struct-di can express it: natural alignment, no overlapping fields, no open-ended array. What it
 * cannot is named by `whyNotRefStruct`.
 *
 * Quirks: ref-struct-di knows no arrays, so an array field gets a small type of its own that reads and writes plain
 * JavaScript arrays. Gaps are filled with fields called _padN. A field access costs some hundred nanoseconds: hot code
 * uses the declaration's DataView accessors.
 */
import ref from 'ref-napi';
import structDi from 'ref-struct-di';
import { elementSize, type FieldDecl, type Fields, type Scalar, type Struct } from '../../../abi/layout';

const StructType = structDi(ref);

const SCALARS: Readonly<Record<Scalar, ref.Type>> = {
  u8: ref.types.uint8,
  u16: ref.types.uint16,
  u32: ref.types.uint32,
  u64: ref.types.uint64,
  s8: ref.types.int8,
  s16: ref.types.int16,
  s32: ref.types.int32,
  s64: ref.types.int64,
};

/** A built type: what ref-struct-di returns, as far as it is used here. */
export type RefStruct = ReturnType<typeof StructType>;

/** Alignment in bytes that C gives a field of this type. */
function alignment(type: FieldDecl['type']): number {
  if (typeof type === 'string') return elementSize(type);
  return Object.values(type.fields).reduce((max, f) => Math.max(max, alignment(f.type)), 1);
}

/** Names that ref-struct-di's instances have already. */
const RESERVED: ReadonlySet<string> = new Set(['ref', 'inspect', 'toJSON', 'toObject']);

/** Why a struct has no ref-struct-di type, or undefined if it has one. */
export function whyNotRefStruct(decl: Struct<Fields>): string | undefined {
  let end = 0;
  const fields = Object.entries(decl.fields).sort(([, a], [, b]) => a.offset - b.offset);
  for (const [name, f] of fields) {
    if (RESERVED.has(name)) return `${name} is a name of ref-struct-di's own`;
    if (f.count === 0) return `${name} is an open-ended array`;
    if (f.offset < end) return `${name} overlaps another field`;
    if (f.offset % alignment(f.type) !== 0) return `${name} is not naturally aligned`;
    if (typeof f.type !== 'string') {
      const inner = whyNotRefStruct(f.type);
      if (inner !== undefined) return `${name}: ${inner}`;
    }
    end = f.offset + elementSize(f.type) * (f.count ?? 1);
  }
  if (decl.size % alignment(decl) !== 0) return 'its size is no multiple of its alignment';
  return undefined;
}

/** A fixed-length array: reads as an array, is written from one of the same length. */
function arrayType(element: ref.Type, count: number): ref.Type {
  return {
    name: `${element.name}[${count}]`,
    size: element.size * count,
    alignment: element.alignment ?? 1,
    indirection: 1,
    get(buffer: Buffer, offset: number): unknown[] {
      return Array.from({ length: count }, (_, i) => ref.get(buffer, offset + i * element.size, element));
    },
    set(buffer: Buffer, offset: number, value: ArrayLike<unknown>): void {
      if (value.length !== count) throw new RangeError(`expected ${count} elements, got ${value.length}`);
      for (let i = 0; i < count; i++) ref.set(buffer, offset + i * element.size, value[i], element);
    },
  } as ref.Type;
}

const CACHE = new WeakMap<Struct<Fields>, RefStruct>();

/** The ref-struct-di type of a declaration, always the same for the same one. RangeError if it cannot be expressed. */
export function toRefStruct(decl: Struct<Fields>): RefStruct {
  const known = CACHE.get(decl);
  if (known !== undefined) return known;
  const reason = whyNotRefStruct(decl);
  if (reason !== undefined) throw new RangeError(`struct ${decl.name} has no ref-struct-di type: ${reason}`);

  const members: [ref.TypeLike, string][] = [];
  let at = 0;
  let pads = 0;
  const pad = (to: number): void => {
    if (to === at) return;
    while (`_pad${pads}` in decl.fields) pads++;
    members.push([arrayType(ref.types.uint8, to - at), `_pad${pads++}`]);
  };
  for (const [name, f] of Object.entries(decl.fields).sort(([, a], [, b]) => a.offset - b.offset)) {
    pad(f.offset);
    const element: ref.Type = typeof f.type === 'string' ? SCALARS[f.type] : (toRefStruct(f.type) as ref.Type);
    members.push([f.count === undefined ? element : arrayType(element, f.count), name]);
    at = f.offset + elementSize(f.type) * (f.count ?? 1);
  }
  pad(decl.size);
  const type = StructType(members) as RefStruct;
  CACHE.set(decl, type);
  return type;
}
