/**
 * WinHvPlatform.dll as the set-up needs it: an interface, and its implementation through ffi-napi.
 *
 * Set-up only: some tens of calls of about 10 us each. What runs VPs, maps memory or signals is the addon's
 * (native/host/win32/whp.c). Rules that ffi-napi's defects force: no callback, no returned pointer; the partition's handle
 * is a number. The DLL is loaded by its full path in the system's own folder, so that none beside the program is taken.
 */
import path from 'node:path';
import type { Fields, Struct } from '../../../abi/layout';
import { WhpCallError } from './hresult';

/** The calls; each throws WhpCallError for an HRESULT that is a failure. */
export interface WhpApi {
  /** Does this Windows have the function? */
  has(name: OptionalFunction): boolean;
  /** The capability's bytes, at most `size` of them. */
  getCapability(code: number, size: number, about: string): Buffer;
  /** A WHV_PARTITION_HANDLE. */
  createPartition(): number;
  setPartitionProperty(partition: number, code: number, value: Buffer, about: string): void;
  setupPartition(partition: number): void;
  deletePartition(partition: number): void;
  createVirtualProcessor(partition: number, vp: number): void;
  /** WHV_REGISTER_NAMEs and as many WHV_REGISTER_VALUEs of 16 bytes. */
  setRegisters(partition: number, vp: number, names: Buffer, values: Buffer): void;
  /** WHV_CPUID_OUTPUT; only if has('WHvGetVirtualProcessorCpuidOutput'). */
  getCpuidOutput(partition: number, vp: number, leaf: number, subleaf: number): Buffer;
  /** The bytes of a counter set; only if has('WHvGetVirtualProcessorCounters'). */
  getCounters(partition: number, vp: number, set: number, size: number): Buffer;
}

/** WHvAdviseGpaRange is the addon's; whether it is there decides a property. */
const OPTIONAL = ['WHvAdviseGpaRange', 'WHvGetVirtualProcessorCpuidOutput', 'WHvGetVirtualProcessorCounters'] as const;
export type OptionalFunction = (typeof OPTIONAL)[number];

type Foreign = Record<string, (...args: (number | Buffer)[]) => number>;

/** Arguments of every function; all return an HRESULT. */
const SIGNATURES: Readonly<Record<string, readonly string[]>> = {
  WHvGetCapability: ['uint32', 'pointer', 'uint32', 'pointer'],
  WHvCreatePartition: ['pointer'],
  WHvSetPartitionProperty: ['uint64', 'uint32', 'pointer', 'uint32'],
  WHvSetupPartition: ['uint64'],
  WHvDeletePartition: ['uint64'],
  WHvCreateVirtualProcessor: ['uint64', 'uint32', 'uint32'],
  WHvSetVirtualProcessorRegisters: ['uint64', 'uint32', 'pointer', 'uint32', 'pointer'],
  WHvAdviseGpaRange: ['uint64', 'pointer', 'uint32', 'uint32', 'pointer', 'uint32'],
  WHvGetVirtualProcessorCpuidOutput: ['uint64', 'uint32', 'uint32', 'uint32', 'pointer'],
  WHvGetVirtualProcessorCounters: ['uint64', 'uint32', 'uint32', 'pointer', 'uint32', 'pointer'],
};

/** WinHvPlatform.dll is not there, or lacks something; the message says what to do. */
export class WhpMissingError extends Error {
  override readonly name = 'WhpMissingError';
}

export const FEATURE_COMMAND = 'Enable-WindowsOptionalFeature -Online -FeatureName HypervisorPlatform';

function load(file: string): { library: Foreign; present: ReadonlySet<string> } {
  const ffi = require('ffi-napi') as typeof import('ffi-napi');
  const library: Foreign = {};
  const present = new Set<string>();
  for (const [name, args] of Object.entries(SIGNATURES)) {
    try {
      Object.assign(library, ffi.Library(file, { [name]: ['int32', args as string[]] } as never));
      present.add(name);
    } catch (error) {
      if ((OPTIONAL as readonly string[]).includes(name)) continue;
      if (present.size > 0)
        throw new WhpMissingError(`${file} has no ${name}: Windows 10 1809, Windows Server 2019 or later is needed`);
      throw new WhpMissingError(
        `${file} cannot be used (${(error as Error).message.trim()}): the Windows feature "Windows Hypervisor Platform" is not enabled: ` +
          `${FEATURE_COMMAND} (in PowerShell as administrator), then restart`,
      );
    }
  }
  return { library, present };
}

/** A u64 that is a user-mode address or a small number. */
function handle(bytes: Buffer): number {
  return Number(bytes.readBigUInt64LE());
}

class ForeignApi implements WhpApi {
  constructor(
    private readonly library: Foreign,
    private readonly present: ReadonlySet<string>,
  ) {}

  private call(name: string, about: string | undefined, ...args: (number | Buffer)[]): void {
    const result = this.library[name]?.(...args) ?? 0;
    if (result < 0) throw new WhpCallError(name, result >>> 0, about);
  }

  has(name: OptionalFunction): boolean {
    return this.present.has(name);
  }

  getCapability(code: number, size: number, about: string): Buffer {
    const [value, written] = [Buffer.alloc(size), Buffer.alloc(4)];
    this.call('WHvGetCapability', about, code, value, size, written);
    return value.subarray(0, Math.min(size, written.readUInt32LE()));
  }

  createPartition(): number {
    const out = Buffer.alloc(8);
    this.call('WHvCreatePartition', undefined, out);
    return handle(out);
  }

  setPartitionProperty(partition: number, code: number, value: Buffer, about: string): void {
    this.call('WHvSetPartitionProperty', about, partition, code, value, value.length);
  }

  setupPartition(partition: number): void {
    this.call('WHvSetupPartition', undefined, partition);
  }

  deletePartition(partition: number): void {
    this.call('WHvDeletePartition', undefined, partition);
  }

  createVirtualProcessor(partition: number, vp: number): void {
    this.call('WHvCreateVirtualProcessor', `virtual processor ${vp}`, partition, vp, 0);
  }

  setRegisters(partition: number, vp: number, names: Buffer, values: Buffer): void {
    const about = `virtual processor ${vp}`;
    this.call('WHvSetVirtualProcessorRegisters', about, partition, vp, names, names.length / 4, values);
  }

  getCpuidOutput(partition: number, vp: number, leaf: number, subleaf: number): Buffer {
    const out = Buffer.alloc(16);
    const about = `leaf 0x${leaf.toString(16)}`;
    this.call('WHvGetVirtualProcessorCpuidOutput', about, partition, vp, leaf, subleaf, out);
    return out;
  }

  getCounters(partition: number, vp: number, set: number, size: number): Buffer {
    const [value, written] = [Buffer.alloc(size), Buffer.alloc(4)];
    const about = `virtual processor ${vp}`;
    this.call('WHvGetVirtualProcessorCounters', about, partition, vp, set, value, size, written);
    return value.subarray(0, Math.min(size, written.readUInt32LE()));
  }
}

let loaded: WhpApi | undefined;

/** The system's WinHvPlatform.dll; WhpMissingError where there is none, or one that is too old. */
export function whpApi(): WhpApi {
  if (loaded === undefined) {
    const file = path.win32.join(process.env['SystemRoot'] ?? 'C:\\Windows', 'System32', 'WinHvPlatform.dll');
    const { library, present } = load(file);
    loaded = new ForeignApi(library, present);
  }
  return loaded;
}

/** A struct as bytes. */
export function encodeStruct<F extends Fields>(decl: Struct<F>, fill: (view: DataView, base: number) => void): Buffer {
  const bytes = Buffer.alloc(decl.size);
  fill(new DataView(bytes.buffer, bytes.byteOffset, bytes.length), 0);
  return bytes;
}

export function u32(value: number): Buffer {
  const bytes = Buffer.alloc(4);
  bytes.writeUInt32LE(value >>> 0);
  return bytes;
}

export function u64(value: bigint): Buffer {
  const bytes = Buffer.alloc(8);
  bytes.writeBigUInt64LE(value);
  return bytes;
}
