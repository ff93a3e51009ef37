/** A WhpApi that keeps the platform's rules of order, counts what is left, and fails when told to. */
import {
  WHV_CAPABILITY_CODE as C,
  WHV_PARTITION_PROPERTY_CODE as P,
  WHV_E,
  WhvCpuidOutput,
} from '../../../abi/hyperv/whp';
import type { CpuidEntry } from '../../../shim/partition/partition';
import type { OptionalFunction, WhpApi } from '../../../shim/partition/whp/api';
import { WhpCallError } from '../../../shim/partition/whp/hresult';

export const ALL_SYNTHETIC = 0x3fff_ffffn;

interface FakePartition {
  setUp: boolean;
  readonly properties: Map<number, Buffer>;
  readonly vps: Map<number, { names: number[]; values: Buffer }>;
}

export class FakeApi implements WhpApi {
  readonly calls: string[] = [];
  readonly partitions = new Map<number, FakePartition>();
  /** Fails the call of this index (from 0), with this HRESULT. */
  failAt: { readonly index: number; readonly hresult: number } | undefined;
  hypervisorPresent = true;
  features = 0b111n;
  synthetic = ALL_SYNTHETIC;
  absent: readonly OptionalFunction[] = [];
  unknownProperties: readonly number[] = [];
  cpuid: readonly CpuidEntry[] = [];
  private next = 0x1000;

  private enter(call: string, about?: string): void {
    this.calls.push(call);
    if (this.failAt?.index === this.calls.length - 1) throw new WhpCallError(call, this.failAt.hresult, about);
  }

  private find(call: string, partition: number): FakePartition {
    const found = this.partitions.get(partition);
    if (found === undefined) throw new WhpCallError(call, 0x80070006);
    return found;
  }

  has(name: OptionalFunction): boolean {
    return !this.absent.includes(name);
  }

  getCapability(code: number, size: number, about: string): Buffer {
    this.enter('WHvGetCapability', about);
    const bytes = Buffer.alloc(size);
    switch (code) {
      case C.WHvCapabilityCodeHypervisorPresent:
        bytes.writeUInt32LE(this.hypervisorPresent ? 1 : 0);
        return bytes;
      case C.WHvCapabilityCodeFeatures:
        bytes.writeBigUInt64LE(this.features);
        return bytes;
      case C.WHvCapabilityCodeExtendedVmExits:
        bytes.writeBigUInt64LE(0xffffn);
        return bytes;
      case C.WHvCapabilityCodeSyntheticProcessorFeaturesBanks:
        bytes.writeUInt32LE(1);
        bytes.writeBigUInt64LE(this.synthetic, 8);
        return bytes;
      default:
        throw new WhpCallError('WHvGetCapability', WHV_E.WHV_E_UNKNOWN_CAPABILITY, about);
    }
  }

  createPartition(): number {
    this.enter('WHvCreatePartition');
    const partition = this.next++;
    this.partitions.set(partition, { setUp: false, properties: new Map(), vps: new Map() });
    return partition;
  }

  setPartitionProperty(partition: number, code: number, value: Buffer, about: string): void {
    this.enter('WHvSetPartitionProperty', about);
    const found = this.find('WHvSetPartitionProperty', partition);
    if (found.setUp) throw new WhpCallError('WHvSetPartitionProperty', WHV_E.WHV_E_INVALID_PARTITION_CONFIG, about);
    if (this.unknownProperties.includes(code))
      throw new WhpCallError('WHvSetPartitionProperty', WHV_E.WHV_E_UNKNOWN_PROPERTY, about);
    found.properties.set(code, Buffer.from(value));
  }

  setupPartition(partition: number): void {
    this.enter('WHvSetupPartition');
    const found = this.find('WHvSetupPartition', partition);
    if (!found.properties.has(P.WHvPartitionPropertyCodeProcessorCount))
      throw new WhpCallError('WHvSetupPartition', WHV_E.WHV_E_INVALID_PARTITION_CONFIG);
    found.setUp = true;
  }

  deletePartition(partition: number): void {
    this.enter('WHvDeletePartition');
    this.find('WHvDeletePartition', partition);
    this.partitions.delete(partition);
  }

  createVirtualProcessor(partition: number, vp: number): void {
    this.enter('WHvCreateVirtualProcessor');
    const found = this.find('WHvCreateVirtualProcessor', partition);
    if (!found.setUp) throw new WhpCallError('WHvCreateVirtualProcessor', WHV_E.WHV_E_INVALID_PARTITION_CONFIG);
    found.vps.set(vp, { names: [], values: Buffer.alloc(0) });
  }

  setRegisters(partition: number, vp: number, names: Buffer, values: Buffer): void {
    this.enter('WHvSetVirtualProcessorRegisters');
    const found = this.find('WHvSetVirtualProcessorRegisters', partition);
    if (!found.vps.has(vp)) throw new WhpCallError('WHvSetVirtualProcessorRegisters', WHV_E.WHV_E_VP_DOES_NOT_EXIST);
    const list = Array.from({ length: names.length / 4 }, (_, i) => names.readUInt32LE(4 * i));
    if (values.length !== 16 * list.length) throw new RangeError('names and values do not match');
    // Memory of its own begins at a multiple of 16, which the platform wants; a part of Node's pool may not.
    if (values.byteOffset !== 0) throw new RangeError('the values are a part of something');
    found.vps.set(vp, { names: list, values: Buffer.from(values) });
  }

  getCpuidOutput(partition: number, _vp: number, leaf: number, subleaf: number): Buffer {
    this.enter('WHvGetVirtualProcessorCpuidOutput');
    this.find('WHvGetVirtualProcessorCpuidOutput', partition);
    const bytes = Buffer.alloc(WhvCpuidOutput.size);
    const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
    const entry = this.cpuid.find((e) => e.leaf === leaf && e.subleaf === subleaf);
    if (entry === undefined) return bytes;
    WhvCpuidOutput.set.Eax(view, 0, entry.eax);
    WhvCpuidOutput.set.Ebx(view, 0, entry.ebx);
    WhvCpuidOutput.set.Ecx(view, 0, entry.ecx);
    WhvCpuidOutput.set.Edx(view, 0, entry.edx);
    return bytes;
  }

  getCounters(_partition: number, _vp: number, _set: number, size: number): Buffer {
    this.enter('WHvGetVirtualProcessorCounters');
    // An older Windows: the first three counters.
    const bytes = Buffer.alloc(Math.min(size, 48));
    bytes.writeBigUInt64LE(7n, 32);
    return bytes;
  }
}

export function entry(leaf: number, registers: Partial<CpuidEntry> = {}): CpuidEntry {
  return { leaf, subleaf: 0, hasSubleaves: false, eax: 0, ebx: 0, ecx: 0, edx: 0, ...registers };
}
