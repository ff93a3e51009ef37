import {
  WHV_PARTITION_PROPERTY_CODE as P,
  WHV_E,
  WHV_EXTENDED_VM_EXITS,
  WHV_REGISTER_NAME,
  WHV_SYNTHETIC_PROCESSOR_FEATURES,
  WhvX64CpuidResult2,
  WIN32_E,
} from '../../../abi/hyperv/whp';
import type { CpuidEntry, ProcessorCpuid } from '../../../shim/partition/partition';
import { interceptCounters } from '../../../shim/partition/whp/counters';
import { cpuidResults } from '../../../shim/partition/whp/cpuid';
import { describeHresult, WhpCallError } from '../../../shim/partition/whp/hresult';
import { makePartition, missingSynthetic, readCapabilities, resultsFor } from '../../../shim/partition/whp/set-up';
import { ALL_SYNTHETIC, entry, FakeApi } from './fake-api';

const registers = (vp: number) => ({ cr3: 0x5000, rip: 0xffff_8280_0000_0000n, rdi: 0x7000, rsi: vp });

function make(api: FakeApi, vpCount = 2, hyperv = true): number {
  const capabilities = readCapabilities(api);
  const cpuidResults = resultsFor(api, { hyperv, capabilities }, (host, hypervisor) => [
    ...host.map((e) => (e.leaf === 7 ? { ...e, ebx: 0 } : e)),
    ...hypervisor,
  ]);
  return makePartition(api, { vpCount, hyperv, capabilities, cpuidResults }, registers);
}

const CPUID = [
  entry(0, { eax: 7 }),
  entry(1, { ebx: 0x0200_0800, ecx: 0x8020_0001 }),
  entry(7, { ebx: 0x0000_0281, hasSubleaves: true }),
  entry(0x4000_0000, { eax: 0x4000_0001 }),
  entry(0x4000_0001, { eax: 0x3123_7648 }),
];

describe('making a partition', () => {
  test('all VPs start at the same place, with their own number, and none waits for a start-up IPI', () => {
    const api = new FakeApi();
    const partition = api.partitions.get(make(api));
    expect([...(partition?.vps.keys() ?? [])]).toEqual([0, 1]);
    for (const [vp, { names, values }] of partition?.vps ?? []) {
      const value = (name: number): bigint => values.readBigUInt64LE(16 * names.indexOf(name));
      expect(value(WHV_REGISTER_NAME.WHvX64RegisterRip)).toBe(0xffff_8280_0000_0000n);
      expect(value(WHV_REGISTER_NAME.WHvX64RegisterCr3)).toBe(0x5000n);
      expect(value(WHV_REGISTER_NAME.WHvX64RegisterRsi)).toBe(BigInt(vp));
      expect(value(WHV_REGISTER_NAME.WHvX64RegisterEfer) & 0x500n).toBe(0x500n);
      expect(value(WHV_REGISTER_NAME.WHvRegisterInternalActivityState)).toBe(0n);
      const cs = values.subarray(16 * names.indexOf(WHV_REGISTER_NAME.WHvX64RegisterCs));
      // Long mode: L set, D clear.
      expect(cs.readUInt16LE(14) & 0x6000).toBe(0x2000);
    }
  });

  test('the synthetic features are those that are used and offered', () => {
    const api = new FakeApi();
    api.synthetic = ALL_SYNTHETIC & ~WHV_SYNTHETIC_PROCESSOR_FEATURES.WHV_SYNTHETIC_NotifyLongSpinWait;
    const banks = api.partitions
      .get(make(api))
      ?.properties.get(P.WHvPartitionPropertyCodeSyntheticProcessorFeaturesBanks);
    const set = banks?.readBigUInt64LE(8) ?? 0n;
    expect(banks?.readUInt32LE(0)).toBe(1);
    expect(set & WHV_SYNTHETIC_PROCESSOR_FEATURES.WHV_SYNTHETIC_SignalEvents).not.toBe(0n);
    expect(set & WHV_SYNTHETIC_PROCESSOR_FEATURES.WHV_SYNTHETIC_NotifyLongSpinWait).toBe(0n);
    // AccessGuestIdleReg: the module does not use it.
    expect(set & (1n << 10n)).toBe(0n);
  });

  test('without the Hyper-V interface there are no synthetic features and no hypercall exits', () => {
    const api = new FakeApi();
    const properties = api.partitions.get(make(api, 1, false))?.properties;
    expect(properties?.has(P.WHvPartitionPropertyCodeSyntheticProcessorFeaturesBanks)).toBe(false);
    const exits = properties?.get(P.WHvPartitionPropertyCodeExtendedVmExits)?.readBigUInt64LE() ?? 0n;
    expect(exits & WHV_EXTENDED_VM_EXITS.WHV_EXIT_HypercallExit).toBe(0n);
    expect(exits & WHV_EXTENDED_VM_EXITS.WHV_EXIT_X64MsrExit).not.toBe(0n);
  });

  test('a property that older Windows does not know, and that can be done without, is no failure', () => {
    const api = new FakeApi();
    api.unknownProperties = [P.WHvPartitionPropertyCodeUnimplementedMsrAction];
    expect(api.partitions.has(make(api))).toBe(true);
  });

  test('CPUID: only the bits that the policy wants otherwise are replaced, never a VP’s own', () => {
    const api = new FakeApi();
    api.cpuid = CPUID;
    const results = api.partitions.get(make(api))?.properties.get(P.WHvPartitionPropertyCodeCpuidResultList2);
    expect(results?.length).toBe(WhvX64CpuidResult2.size);
    const view = new DataView(results?.buffer ?? new ArrayBuffer(0), results?.byteOffset ?? 0, results?.length ?? 0);
    expect(WhvX64CpuidResult2.get.Function(view, 0)).toBe(7);
    // Subleaf-specific; EBX to 0, in the bits that were set.
    expect(WhvX64CpuidResult2.get.Flags(view, 0)).toBe(1);
    expect(view.getUint32(16 + 4, true)).toBe(0);
    expect(view.getUint32(32 + 4, true)).toBe(0x281);
    // The partition that was asked is gone.
    expect(api.partitions.size).toBe(1);
  });

  /** What is replaced, by leaf and subleaf: output and mask of the four registers. */
  const replaced = (native: readonly CpuidEntry[], policy: ProcessorCpuid) => {
    const results = cpuidResults(native, policy);
    const words = new Uint32Array(results.buffer, results.byteOffset, results.length / 4);
    return Array.from({ length: words.length / 12 }, (_, i) => [...words.subarray(12 * i, 12 * i + 12)]).map(
      ([leaf, subleaf, , flags, ...rest]) => ({ leaf, subleaf, flags, output: rest.slice(0, 4), mask: rest.slice(4) }),
    );
  };

  test('CPUID: a leaf or subleaf that the policy leaves out answers zeros; hypervisor leaves stay', () => {
    const native = [
      entry(7, { ebx: 0x281, hasSubleaves: true }),
      entry(7, { subleaf: 1, eax: 0x30, hasSubleaves: true }),
      entry(10, { eax: 0x0730_0402 }),
      entry(11, { eax: 1, edx: 5, hasSubleaves: true }),
      entry(0x4000_0000, { eax: 0x4000_0005 }),
    ];
    expect(replaced(native, (host) => host.filter((e) => e.leaf === 7 && e.subleaf === 0))).toEqual([
      { leaf: 7, subleaf: 1, flags: 1, output: [0, 0, 0, 0], mask: [0x30, 0, 0, 0] },
      { leaf: 10, subleaf: 0, flags: 0, output: [0, 0, 0, 0], mask: [0x0730_0402, 0, 0, 0] },
      // The APIC id stays.
      { leaf: 11, subleaf: 0, flags: 1, output: [0, 0, 0, 0], mask: [1, 0, 0, 0] },
    ]);
    // One answer for all subleaves leaves none out.
    expect(replaced(native, (host) => host.map((e) => (e.leaf === 7 ? { ...e, hasSubleaves: false } : e)))).toEqual([]);
  });

  /** Replaced leaves of the interface, by leaf: what a VP answers then. */
  const interfaceOf = (api: FakeApi): Record<string, number[]> => {
    const results = api.partitions.get(make(api))?.properties.get(P.WHvPartitionPropertyCodeCpuidResultList2);
    const found: Record<string, number[]> = {};
    for (let at = 0; at < (results?.length ?? 0); at += WhvX64CpuidResult2.size) {
      const words = Array.from({ length: 12 }, (_, i) => results?.readUInt32LE(at + 4 * i) ?? 0);
      if ((words[0] as number) >>> 28 === 4) found[(words[0] as number).toString(16)] = words.slice(4, 8);
    }
    return found;
  };

  test('CPUID: a Windows that gives the interface and does not say so in CPUID has it said', () => {
    const api = new FakeApi();
    api.cpuid = CPUID.filter(({ leaf }) => leaf < 0x4000_0000);
    api.synthetic =
      ALL_SYNTHETIC & ~WHV_SYNTHETIC_PROCESSOR_FEATURES.WHV_SYNTHETIC_AccessPartitionReferenceTsc & ~(1n << 27n);
    const leaves = interfaceOf(api);
    expect(leaves['40000000']).toEqual([0x4000_0006, 0x7263_694d, 0x666f_736f, 0x7648_2074]);
    expect(leaves['40000001']).toEqual([0x3123_7648, 0, 0, 0]);
    // All privileges for MSRs but the reference TSC's; signals; frequency and crash MSRs, direct timers.
    expect(leaves['40000003']).toEqual([0x87f, 0x20, 0, 0x8_0500]);
    // Remote flushes, no auto-EOI, cluster IPIs, masks; no long spin waits.
    expect(leaves['40000004']).toEqual([0xe04, 0xffff_ffff, 0, 0]);
    expect(Object.keys(leaves)).toHaveLength(5);
  });

  test('CPUID: a Windows that says it keeps its own leaves', () => {
    const api = new FakeApi();
    api.cpuid = CPUID;
    expect(interfaceOf(api)).toEqual({});
  });

  test('CPUID: what follows XCR0 and CR4 is never replaced by a number', () => {
    const native = [
      entry(1, { ecx: 0x8820_0000 }),
      entry(7, { ecx: 0x18, hasSubleaves: true }),
      entry(13, { eax: 7, ebx: 0x340, ecx: 0x340, hasSubleaves: true }),
      entry(13, { subleaf: 2, eax: 0x100, ebx: 0x240, hasSubleaves: true }),
    ];
    const none = (host: readonly CpuidEntry[]) =>
      host.map((e) => (e.leaf === 1 ? { ...e, ecx: 0x8020_0000 } : { ...e, ebx: 1, ecx: 0 }));
    expect(replaced(native, none)).toEqual([
      { leaf: 7, subleaf: 0, flags: 1, output: [0, 1, 0, 0], mask: [0, 1, 8, 0] },
      { leaf: 13, subleaf: 0, flags: 1, output: [0, 0, 0, 0], mask: [0, 0, 0x340, 0] },
      { leaf: 13, subleaf: 2, flags: 1, output: [0, 1, 0, 0], mask: [0, 0x241, 0, 0] },
    ]);
  });

  test('CPUID: a hypervisor and x2APIC are announced, whatever the policy says', () => {
    const hide = (host: readonly CpuidEntry[]) => host.map((e) => ({ ...e, ecx: 1 }));
    expect(replaced([entry(1, { ecx: 3 })], hide)).toEqual([
      { leaf: 1, subleaf: 0, flags: 0, output: [0, 0, 0x8020_0000, 0], mask: [0, 0, 0x8020_0002, 0] },
    ]);
  });

  test('first touches of memory are exits only where the hypervisor can be asked to find it', () => {
    const exits = (absent: FakeApi['absent']): bigint => {
      const api = new FakeApi();
      api.absent = absent;
      const properties = api.partitions.get(make(api))?.properties;
      return properties?.get(P.WHvPartitionPropertyCodeExtendedVmExits)?.readBigUInt64LE() ?? 0n;
    };
    expect(exits([]) & WHV_EXTENDED_VM_EXITS.WHV_EXIT_GpaAccessFaultExit).not.toBe(0n);
    expect(exits(['WHvAdviseGpaRange']) & WHV_EXTENDED_VM_EXITS.WHV_EXIT_GpaAccessFaultExit).toBe(0n);
  });

  test('a Windows that does not know CpuidResultList2 keeps its own answers; any other refusal is one', () => {
    const api = new FakeApi();
    api.cpuid = CPUID;
    api.unknownProperties = [P.WHvPartitionPropertyCodeCpuidResultList2];
    const partition = api.partitions.get(make(api));
    expect(partition?.setUp).toBe(true);
    expect(partition?.properties.has(P.WHvPartitionPropertyCodeCpuidResultList2)).toBe(false);
    const failing = new FakeApi();
    failing.cpuid = CPUID;
    failing.failAt = { index: api.calls.lastIndexOf('WHvSetPartitionProperty'), hresult: WIN32_E.E_INVALIDARG };
    expect(() => make(failing)).toThrow(/property CpuidResultList2\) answers .*E_INVALIDARG/);
    expect(failing.partitions.size).toBe(0);
  });

  test('a Windows that cannot say what CPUID answers keeps its own answers', () => {
    const api = new FakeApi();
    api.cpuid = CPUID;
    api.absent = ['WHvGetVirtualProcessorCpuidOutput'];
    const properties = api.partitions.get(make(api))?.properties;
    expect(properties?.has(P.WHvPartitionPropertyCodeCpuidResultList2)).toBe(false);
  });
});

describe('each call fails in turn', () => {
  const api = new FakeApi();
  api.cpuid = CPUID;
  make(api);
  const calls = [...api.calls];

  test.each(calls.map((call, index) => [index, call] as const))('call %i, %s: nothing is left', (index) => {
    const failing = new FakeApi();
    failing.cpuid = CPUID;
    failing.failAt = { index, hresult: WIN32_E.E_OUTOFMEMORY };
    let error: unknown;
    try {
      make(failing);
    } catch (caught) {
      error = caught;
    }
    const mayFail = calls[index] === 'WHvGetCapability' || calls[index] === 'WHvDeletePartition';
    const optional = calls.slice(0, index + 1).filter((c) => c === 'WHvSetPartitionProperty').length;
    if (error === undefined) {
      // Optional: capabilities but the first, and the action for MSRs.
      expect(mayFail || optional > 0).toBe(true);
      expect(failing.partitions.size).toBe(calls[index] === 'WHvDeletePartition' ? 2 : 1);
      return;
    }
    expect(error).toBeInstanceOf(WhpCallError);
    expect((error as Error).message).toMatch(/E_OUTOFMEMORY\): the host has not enough memory/);
    expect((error as WhpCallError).call).toBe(calls[index]);
    expect(failing.partitions.size).toBe(calls[index] === 'WHvDeletePartition' ? 1 : 0);
  });
});

describe('what the host offers', () => {
  test('no hypervisor: nothing else is asked', () => {
    const api = new FakeApi();
    api.hypervisorPresent = false;
    expect(readCapabilities(api)).toMatchObject({ hypervisorPresent: false, synthetic: 0n });
    expect(api.calls).toEqual(['WHvGetCapability']);
  });

  test('a capability that Windows does not know is absent; one that cannot be told is an error', () => {
    const failing = (hresult: number): FakeApi => {
      const api = new FakeApi();
      const known = api.getCapability.bind(api);
      api.getCapability = (code, size, about) => {
        if (about === 'HypervisorPresent') return known(code, size, about);
        throw new WhpCallError('WHvGetCapability', hresult, about);
      };
      return api;
    };
    expect(readCapabilities(failing(0x80370300))).toEqual({
      hypervisorPresent: true,
      localApicEmulation: false,
      extendedExits: 0n,
      synthetic: 0n,
    });
    expect(() => readCapabilities(failing(0x8007000e))).toThrow(/^WHvGetCapability.*E_OUTOFMEMORY/);
  });

  test('what is missing of the Hyper-V interface has the header’s names', () => {
    const api = new FakeApi();
    expect(missingSynthetic(readCapabilities(api))).toEqual([]);
    api.synthetic = ALL_SYNTHETIC & ~WHV_SYNTHETIC_PROCESSOR_FEATURES.WHV_SYNTHETIC_DirectSyntheticTimers;
    expect(missingSynthetic(readCapabilities(api))).toEqual(['DirectSyntheticTimers']);
    // The module's hypercalls: without the feature they would be refused, and it would end at the first of them.
    const { WHV_SYNTHETIC_SignalEvents, WHV_SYNTHETIC_TbFlushHypercalls, WHV_SYNTHETIC_SyntheticClusterIpi } =
      WHV_SYNTHETIC_PROCESSOR_FEATURES;
    api.synthetic =
      ALL_SYNTHETIC &
      ~(WHV_SYNTHETIC_SignalEvents | WHV_SYNTHETIC_TbFlushHypercalls | WHV_SYNTHETIC_SyntheticClusterIpi);
    expect(missingSynthetic(readCapabilities(api))).toEqual([
      'TbFlushHypercalls',
      'SyntheticClusterIpi',
      'SignalEvents',
    ]);
  });

  test('counters: those that this Windows has written', () => {
    expect(interceptCounters(new FakeApi(), 1, 0)).toEqual({
      PageInvalidations: 0,
      ControlRegisterAccesses: 0,
      IoInstructions: 7,
    });
    const api = new FakeApi();
    api.absent = ['WHvGetVirtualProcessorCounters'];
    expect(interceptCounters(api, 1, 0)).toEqual({});
  });
});

describe('HRESULTs in words', () => {
  test.each([
    [WHV_E.WHV_E_UNKNOWN_PROPERTY, /^0x80370302 \(WHV_E_UNKNOWN_PROPERTY\): this Windows does not know the property/],
    [-2147024891, /^0x80070005 \(E_ACCESSDENIED\): .*Enable-WindowsOptionalFeature/],
    [0xc0350008, /^0xc0350008 \(STATUS_HV_OPERATION_DENIED\): /],
    [0xc0351234, /^0xc0351234 \(not a number that is known here\)$/],
  ])('%i', (hresult, words) => {
    expect(describeHresult(hresult)).toMatch(words);
  });

  test('an error names the call and what it was about', () => {
    expect(new WhpCallError('WHvSetPartitionProperty', WHV_E.WHV_E_UNKNOWN_PROPERTY, 'property X').message).toMatch(
      /^WHvSetPartitionProperty \(property X\) answers 0x80370302 /,
    );
  });
});
