/**
 * The shim's view of the trap module's shared blocks (abi/trap): trap_domain and one trap_vp per vCPU, by field name.
 *
 * The blocks lie in guest memory, so whatever is read from them is hostile: callers check ranges before use. Every
 * scalar is read and written as one access; the few fields that both sides change go through the locked helpers.
 */
import type { Fields, Scalar, Struct } from '../../abi/layout';
import { TrapCallback, TrapDomain, TrapHandler, TrapRegs, TrapVp } from '../../abi/trap';
import { and64, type DomainMemory, or64 } from './domain-memory';

type ScalarKeys<S> = S extends Struct<infer F> ? keyof Struct<F>['get'] & string : never;
type Value<S, K extends string> =
  S extends Struct<infer F>
    ? K extends keyof F
      ? F[K]['type'] extends 'u64' | 's64'
        ? bigint
        : number
      : never
    : never;

export type DomainField = ScalarKeys<typeof TrapDomain>;
export type VpField = ScalarKeys<typeof TrapVp>;
export type RegName = ScalarKeys<typeof TrapRegs>;

/** What shim/xen needs of the trap module's state. */
export interface TrapState {
  readonly nrVps: number;
  readonly domainGpa: number;
  vpGpa(vcpu: number): number;
  getDomain<K extends DomainField>(field: K, index?: number): Value<typeof TrapDomain, K>;
  setDomain<K extends DomainField>(field: K, value: Value<typeof TrapDomain, K>, index?: number): void;
  getVp<K extends VpField>(vcpu: number, field: K, index?: number): Value<typeof TrapVp, K>;
  setVp<K extends VpField>(vcpu: number, field: K, value: Value<typeof TrapVp, K>, index?: number): void;
  getReg(vcpu: number, reg: RegName): bigint;
  setReg(vcpu: number, reg: RegName, value: bigint): void;
  /** Replaces one registered exception handler; address 0 removes it. */
  setHandler(vcpu: number, vector: number, address: bigint, flags: number, cs: number): void;
  getHandler(vcpu: number, vector: number): { address: bigint; flags: number; cs: number };
  setCallback(vcpu: number, type: number, address: bigint, flags: number): void;
  getCallback(vcpu: number, type: number): { address: bigint; flags: number };
  /** Locked OR/AND on a u64 word that both sides write. Returns the word before. */
  orDomain(field: DomainField, index: number, bits: bigint): bigint;
  andDomain(field: DomainField, index: number, bits: bigint): bigint;
  orVp(vcpu: number, field: VpField, index: number, bits: bigint): bigint;
  andVp(vcpu: number, field: VpField, index: number, bits: bigint): bigint;
}

function load(memory: DomainMemory, type: Scalar, gpa: number): number | bigint {
  switch (type) {
    case 'u8':
      return memory.getU8(gpa);
    case 's8':
      return (memory.getU8(gpa) << 24) >> 24;
    case 'u16':
      return memory.getU16(gpa);
    case 's16':
      return (memory.getU16(gpa) << 16) >> 16;
    case 'u32':
      return memory.load32(gpa);
    case 's32':
      return memory.load32(gpa) | 0;
    case 'u64':
      return memory.load64(gpa);
    case 's64':
      return BigInt.asIntN(64, memory.load64(gpa));
  }
}

function store(memory: DomainMemory, type: Scalar, gpa: number, value: number | bigint): void {
  switch (type) {
    case 'u8':
    case 's8':
      memory.setU8(gpa, Number(value) & 0xff);
      return;
    case 'u16':
    case 's16':
      memory.setU16(gpa, Number(value) & 0xffff);
      return;
    case 'u32':
    case 's32':
      memory.store32(gpa, Number(value) >>> 0);
      return;
    case 'u64':
    case 's64':
      memory.store64(gpa, BigInt.asUintN(64, value as bigint));
      return;
  }
}

function scalarOf(s: Struct<Fields>, field: string): Scalar {
  const type = s.fields[field]?.type;
  if (typeof type !== 'string') throw new RangeError(`struct ${s.name}: ${field} is not a scalar`);
  return type;
}

/** TrapState over the blocks in guest memory. */
export class MemoryTrapState implements TrapState {
  private readonly domainType = TrapDomain as unknown as Struct<Fields>;
  private readonly vpType = TrapVp as unknown as Struct<Fields>;

  /** `vpsGpa`: trap_vp[nrVps], each TrapVp.size bytes. */
  constructor(
    private readonly memory: DomainMemory,
    readonly domainGpa: number,
    private readonly vpsGpa: number,
    readonly nrVps: number,
  ) {}

  vpGpa(vcpu: number): number {
    if (!Number.isInteger(vcpu) || vcpu < 0 || vcpu >= this.nrVps) throw new RangeError(`no vCPU ${vcpu}`);
    return this.vpsGpa + vcpu * TrapVp.size;
  }
  private domainAt(field: string, index: number): number {
    const f = this.domainType.fields[field];
    if (index < 0 || index >= (f?.count ?? 1)) throw new RangeError(`trap_domain.${field}[${index}]`);
    return this.domainGpa + this.domainType.offsetOf(field, index);
  }
  private vpAt(vcpu: number, field: string, index: number): number {
    const f = this.vpType.fields[field];
    if (index < 0 || index >= (f?.count ?? 1)) throw new RangeError(`trap_vp.${field}[${index}]`);
    return this.vpGpa(vcpu) + this.vpType.offsetOf(field, index);
  }

  getDomain<K extends DomainField>(field: K, index = 0): Value<typeof TrapDomain, K> {
    return load(this.memory, scalarOf(this.domainType, field), this.domainAt(field, index)) as Value<
      typeof TrapDomain,
      K
    >;
  }
  setDomain<K extends DomainField>(field: K, value: Value<typeof TrapDomain, K>, index = 0): void {
    store(this.memory, scalarOf(this.domainType, field), this.domainAt(field, index), value as number | bigint);
  }
  getVp<K extends VpField>(vcpu: number, field: K, index = 0): Value<typeof TrapVp, K> {
    return load(this.memory, scalarOf(this.vpType, field), this.vpAt(vcpu, field, index)) as Value<typeof TrapVp, K>;
  }
  setVp<K extends VpField>(vcpu: number, field: K, value: Value<typeof TrapVp, K>, index = 0): void {
    store(this.memory, scalarOf(this.vpType, field), this.vpAt(vcpu, field, index), value as number | bigint);
  }

  private regAt(vcpu: number, reg: RegName): { at: number; type: Scalar } {
    const f = (TrapRegs as unknown as Struct<Fields>).fields[reg];
    return { at: this.vpGpa(vcpu) + TrapVp.offsetOf('regs') + (f?.offset ?? 0), type: f?.type as Scalar };
  }
  getReg(vcpu: number, reg: RegName): bigint {
    const { at, type } = this.regAt(vcpu, reg);
    return BigInt(load(this.memory, type, at));
  }
  setReg(vcpu: number, reg: RegName, value: bigint): void {
    const { at, type } = this.regAt(vcpu, reg);
    store(this.memory, type, at, type === 'u64' ? value : Number(value));
  }

  setHandler(vcpu: number, vector: number, address: bigint, flags: number, cs: number): void {
    const at = this.vpGpa(vcpu) + TrapVp.offsetOf('handlers', vector & 0xff);
    this.memory.store64(at + TrapHandler.offsetOf('address'), address);
    this.memory.store32(at + TrapHandler.offsetOf('flags'), flags);
    this.memory.store32(at + TrapHandler.offsetOf('cs'), cs);
  }
  getHandler(vcpu: number, vector: number): { address: bigint; flags: number; cs: number } {
    const at = this.vpGpa(vcpu) + TrapVp.offsetOf('handlers', vector & 0xff);
    return {
      address: this.memory.load64(at + TrapHandler.offsetOf('address')),
      flags: this.memory.load32(at + TrapHandler.offsetOf('flags')),
      cs: this.memory.load32(at + TrapHandler.offsetOf('cs')),
    };
  }
  setCallback(vcpu: number, type: number, address: bigint, flags: number): void {
    const at = this.vpGpa(vcpu) + TrapVp.offsetOf('callbacks', type & 7);
    this.memory.store32(at + TrapCallback.offsetOf('flags'), flags);
    this.memory.store64(at + TrapCallback.offsetOf('address'), address);
  }
  getCallback(vcpu: number, type: number): { address: bigint; flags: number } {
    const at = this.vpGpa(vcpu) + TrapVp.offsetOf('callbacks', type & 7);
    return {
      address: this.memory.load64(at + TrapCallback.offsetOf('address')),
      flags: this.memory.load32(at + TrapCallback.offsetOf('flags')),
    };
  }

  orDomain(field: DomainField, index: number, bits: bigint): bigint {
    return or64(this.memory, this.domainAt(field, index), bits);
  }
  andDomain(field: DomainField, index: number, bits: bigint): bigint {
    return and64(this.memory, this.domainAt(field, index), bits);
  }
  orVp(vcpu: number, field: VpField, index: number, bits: bigint): bigint {
    return or64(this.memory, this.vpAt(vcpu, field, index), bits);
  }
  andVp(vcpu: number, field: VpField, index: number, bits: bigint): bigint {
    return and64(this.memory, this.vpAt(vcpu, field, index), bits);
  }
}
