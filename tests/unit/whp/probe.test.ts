import { WHV_SYNTHETIC_PROCESSOR_FEATURES, WIN32_E } from '../../../abi/hyperv/whp';
import { MACHINE_END_KINDS } from '../../../shim/partition/host';
import { WhpMissingError } from '../../../shim/partition/whp/api';
import { describeEnd, slotName } from '../../../shim/partition/whp/end';
import { probeWhp } from '../../../shim/partition/whp/probe';
import { ALL_SYNTHETIC, FakeApi } from './fake-api';

const windows = { platform: 'win32', arch: 'x64' } as const;

function probe(change: (api: FakeApi) => void = () => undefined) {
  const api = new FakeApi();
  change(api);
  return { api, result: probeWhp({ ...windows, api: () => api }) };
}

describe('the probe', () => {
  test('a Windows with everything', () => {
    const { api, result } = probe();
    expect(result).toMatchObject({ impossible: undefined, unfit: undefined, hyperv: true });
    expect(api.partitions.size).toBe(0);
  });

  test('another system', () => {
    expect(probeWhp({ platform: 'linux', arch: 'x64' }).impossible).toBe(
      'the whp engine needs Windows on x86-64, this is linux on x64',
    );
  });

  test('the feature is not enabled: the command that enables it', () => {
    const result = probeWhp({
      ...windows,
      api: () => {
        throw new WhpMissingError('no DLL: Enable-WindowsOptionalFeature');
      },
    });
    expect(result.impossible).toMatch(/Enable-WindowsOptionalFeature/);
  });

  test('Hyper-V is off', () => {
    const { result } = probe((api) => {
      api.hypervisorPresent = false;
    });
    expect(result.impossible).toMatch(/^no hypervisor runs: .*bcdedit \/set hypervisorlaunchtype auto/);
  });

  test('a Windows that is too old for local APICs', () => {
    const { result } = probe((api) => {
      api.features = 1n;
    });
    expect(result.impossible).toMatch(/local APIC.*Server 2019/);
  });

  test('a Windows without the synthetic features can be forced', () => {
    const { result } = probe((api) => {
      api.synthetic = ALL_SYNTHETIC & ~WHV_SYNTHETIC_PROCESSOR_FEATURES.WHV_SYNTHETIC_AccessSynicRegs;
    });
    expect(result).toMatchObject({ impossible: undefined, hyperv: false });
    expect(result.unfit).toMatch(/it lacks AccessSynicRegs\): Windows 11 or Windows Server 2022 is needed/);
  });

  test('a user who may not: the call and the reason', () => {
    const { api, result } = probe((fake) => {
      // After four capabilities.
      fake.failAt = { index: 4, hresult: WIN32_E.E_ACCESSDENIED };
    });
    expect(result.impossible).toMatch(/^WHvCreatePartition answers 0x80070005 \(E_ACCESSDENIED\)/);
    expect(api.partitions.size).toBe(0);
  });
});

test('every kind of end has words of its own, and numbers have names', () => {
  const said = MACHINE_END_KINDS.slice(1).map((_, i) =>
    describeEnd({ kind: i + 1, vp: 1, code: 0xc0350008, detail: 0x1000, rip: 0n, instruction: new Uint8Array() }),
  );
  expect(new Set(said).size).toBe(said.length);
  expect(said.join('\n')).toMatch(/WHvRunVirtualProcessor failed on virtual processor 1: 0xc0350008 \(STATUS_HV_OP/);
  const memory = { kind: MACHINE_END_KINDS.indexOf('no-memory'), vp: 0, detail: 0x5000, rip: 0n };
  expect(describeEnd({ ...memory, code: 0x8007000e, instruction: new Uint8Array() })).toMatch(
    /^the hypervisor cannot get the memory at guest-physical address 0x5000 for virtual processor 0: .*E_OUTOFMEMORY/,
  );
  expect([0, 1, 2, 16, 21, 32, 33].map(slotName)).toEqual([
    'None',
    'MemoryAccess',
    'X64IoPortAccess',
    'X64MsrAccess',
    'Hypercall',
    'Canceled',
    'others',
  ]);
});
