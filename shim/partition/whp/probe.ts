/**
 * Can the Windows Hypervisor Platform of this host run a domain? For `--engine auto`, and for `xenlighten doctor`.
 *
 * Each answer names what is missing and, where there is one, the command that brings it.
 */
import { FEATURE_COMMAND, type WhpApi, WhpMissingError, whpApi } from './api';
import { WhpCallError } from './hresult';
import { makePartition, missingSynthetic, readCapabilities, type WhpCapabilities } from './set-up';

export interface WhpProbe {
  /** Why it cannot be used at all. */
  readonly impossible: string | undefined;
  /** Why it should not be, though it could (--force). */
  readonly unfit: string | undefined;
  /** Has a partition the Hyper-V interface that the trap module wants? */
  readonly hyperv: boolean;
  readonly capabilities: WhpCapabilities | undefined;
}

const AS_ADMINISTRATOR = '(in PowerShell as administrator), then restart';

export const NO_HYPERVISOR =
  `no hypervisor runs: ${FEATURE_COMMAND} ${AS_ADMINISTRATOR}; if it is enabled, ` +
  `'bcdedit /set hypervisorlaunchtype auto' ${AS_ADMINISTRATOR}, and see that virtualization is switched on in the firmware ` +
  '(in a virtual machine: that its host allows nested virtualization)';

export interface WhpProbeOptions {
  /** In place of the system's DLL; tests. */
  readonly api?: () => WhpApi;
  readonly platform?: string;
  readonly arch?: string;
}

/** Looks at WinHvPlatform.dll. Does not throw for what a host may lack. */
export function probeWhp(options: WhpProbeOptions = {}): WhpProbe {
  const { api = whpApi, platform = process.platform, arch = process.arch } = options;
  const impossible = (why: string): WhpProbe => ({
    impossible: why,
    unfit: undefined,
    hyperv: false,
    capabilities: undefined,
  });
  if (platform !== 'win32' || arch !== 'x64')
    return impossible(`the whp engine needs Windows on x86-64, this is ${platform} on ${arch}`);
  try {
    const loaded = api();
    const capabilities = readCapabilities(loaded);
    if (!capabilities.hypervisorPresent) return impossible(NO_HYPERVISOR);
    if (!capabilities.localApicEmulation)
      return impossible(
        'this Windows emulates no local APIC for partitions: Windows 10 1809, Windows Server 2019 or later is needed',
      );
    const missing = missingSynthetic(capabilities);
    const hyperv = missing.length === 0;
    // Whether partitions can be had is known when one has been.
    loaded.deletePartition(makePartition(loaded, { vpCount: 1, hyperv, capabilities, cpuidResults: Buffer.alloc(0) }));
    const unfit = hyperv
      ? undefined
      : `this Windows does not give partitions the Hyper-V interface (it lacks ${missing.join(', ')}): ` +
        'Windows 11 or Windows Server 2022 is needed';
    return { impossible: undefined, unfit, hyperv, capabilities };
  } catch (error) {
    if (error instanceof WhpMissingError || error instanceof WhpCallError) return impossible(error.message);
    throw error;
  }
}
