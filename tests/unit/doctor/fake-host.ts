/** A host that has everything, of which tests take things away. */
import type { DoctorHost } from '../../../shim/doctor/host';

const GIB = 2 ** 30;

export function linuxHost(change: Partial<DoctorHost> = {}): DoctorHost {
  return {
    platform: 'linux',
    arch: 'x64',
    nodeVersion: '20.20.2',
    env: {},
    release: '6.1.0',
    systemName: '#1 SMP',
    processor: 'A Processor',
    processorCount: 2,
    totalMemory: 8 * GIB,
    freeMemory: 4 * GIB,
    cacheDirectory: '/home/u/.cache/xenlighten',
    controlDirectory: '/run/user/1000/xenlighten',
    read: async (file) => {
      throw new Error(`ENOENT: ${file}`);
    },
    execute: async (file) => {
      throw new Error(`ENOENT: ${file}`);
    },
    probeKvm: async () => ({ impossible: undefined, unfit: undefined, hyperv: true, maxVps: 64, ticksPerTurn: 1.5 }),
    probeWhp: async () => ({ impossible: 'not Windows', unfit: undefined, hyperv: false, capabilities: undefined }),
    findQemu: async () => ({ file: '/usr/bin/qemu-system-x86_64', version: '7.2.22' }),
    chooseEngine: async () => ({ name: 'kvm', why: '/dev/kvm is fit for it', onHostCpu: true }),
    meltdown: () => 'not affected',
    useAddon: () => undefined,
    trapImage: () => ({ size: 126_976, abiVersion: 3 }),
    tryFolder: async () => undefined,
    tryControlDirectory: async () => undefined,
    pipeAccess: async () => 'D:(A;;FA;;;SY)(A;;FA;;;BA)(A;;FA;;;S-1-5-21-1-2-3-1001)',
    whpFacts: () => ({ capabilities: {} }),
    bench: async () => {
      throw new Error('no engine of this process can be used');
    },
    ...change,
  };
}

export const FACTS = {
  features: [
    { Name: 'HypervisorPlatform', InstallState: 1 },
    { Name: 'Microsoft-Hyper-V', InstallState: 2 },
  ] as unknown[],
  system: { HypervisorPresent: true, Model: 'Virtual Machine' } as unknown,
  processor: { VirtualizationFirmwareEnabled: false, SecondLevelAddressTranslationExtensions: false } as unknown,
  memory: { FreePhysicalMemory: 4194304, FreeVirtualMemory: 6291456, TotalVirtualMemorySize: 9437184 } as unknown,
  update: { UBR: 2700 } as unknown,
  language: 'FullLanguage',
};

const GROUPS = '"Mandatory Label\\Medium Mandatory Level","Label","S-1-16-8192",""\r\n';
const SDDL = 'O:BAG:SYD:AI(A;OICIID;FA;;;SY)(A;OICIID;FA;;;BA)(A;OICIID;FA;;;S-1-5-21-1-2-3-1001)\r\n';

export interface WindowsChange {
  readonly facts?: Partial<typeof FACTS>;
  /** What powershell prints, or the error. */
  readonly powershell?: string | Error;
  readonly groups?: string;
  readonly sddl?: string;
  /** What bcdedit prints; it fails without. */
  readonly bcdedit?: string;
}

export function windowsHost(
  change: Partial<DoctorHost> = {},
  windows: WindowsChange = {},
): DoctorHost & { ran: string[]; environments: (NodeJS.ProcessEnv | undefined)[] } {
  const ran: string[] = [];
  const environments: (NodeJS.ProcessEnv | undefined)[] = [];
  const execute = async (file: string, args: readonly string[], env?: NodeJS.ProcessEnv): Promise<string> => {
    ran.push(file);
    environments.push(env);
    const program = file.split('\\').pop();
    if (program === 'whoami.exe') return windows.groups ?? GROUPS;
    if (program === 'bcdedit.exe') {
      if (windows.bcdedit === undefined) throw new Error('Access is denied.');
      return windows.bcdedit;
    }
    if (windows.powershell instanceof Error) throw windows.powershell;
    if (windows.powershell === undefined && args.some((a) => a.includes('Get-Acl'))) return windows.sddl ?? SDDL;
    return windows.powershell ?? JSON.stringify({ ...FACTS, ...windows.facts });
  };
  return {
    ...linuxHost({
      platform: 'win32',
      release: '10.0.20348',
      systemName: 'Windows Server 2022 Datacenter',
      env: { SystemRoot: 'C:\\Windows', PROCESSOR_IDENTIFIER: 'AMD64 Family 25 Model 1 Stepping 1, AuthenticAMD' },
      cacheDirectory: 'C:\\Users\\Jane\\AppData\\Local\\xenlighten\\cache',
      controlDirectory: 'C:\\Users\\Jane\\AppData\\Local\\xenlighten\\control',
      chooseEngine: async () => ({ name: 'whp', why: 'this is Windows', onHostCpu: true }),
      probeWhp: async () => ({
        impossible: undefined,
        unfit: undefined,
        hyperv: true,
        capabilities: { hypervisorPresent: true, localApicEmulation: true, extendedExits: 0n, synthetic: 0xffn },
      }),
      execute,
      ...change,
    }),
    ran,
    environments,
  };
}
