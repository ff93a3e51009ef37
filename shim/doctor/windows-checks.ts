/**
 * Checks of Windows hosts: version, features, hypervisor, boot option, elevation, commit limit, control directory and pipes. What
 * must be typed is given as it must be typed.
 */
import { letsOthersIn } from '../domain/pipe-access';
import { type Check, inWords, note, type Outcome, ok, unknown, warning } from './check';
import { judgeMemory, mib } from './host-checks';
import { hypervisorLaunchType, isElevated, strangersOf, windowsFacts } from './windows-facts';

export const ENABLE = 'Enable-WindowsOptionalFeature -Online -FeatureName HypervisorPlatform';
export const RESTART = 'Restart-Computer';
export const LAUNCH_AUTO = 'bcdedit /set hypervisorlaunchtype auto';
const AS_ADMINISTRATOR = 'in PowerShell as administrator:';

/** Builds: the first with local APICs in partitions, and the first whose partitions get the Hyper-V interface. */
const BUILDS = { localApic: 17763, hypervInterface: 20348 } as const;

const windows = ['win32'] as const;

const version: Check = {
  id: 'windows',
  title: 'Windows',
  platforms: windows,
  run: ({ systemName, release }) => {
    const build = Number(release.split('.')[2]);
    const found = `${systemName}, ${release}`;
    if (!(build >= BUILDS.localApic))
      return warning(found, 'too old: Windows Server 2022 or newer is needed (or Windows 11)');
    if (build < BUILDS.hypervInterface)
      return warning(
        found,
        'its partitions lack parts of the Hyper-V interface: Windows Server 2022 or newer is needed',
      );
    return ok(found);
  },
};

const feature: Check = {
  id: 'windows-feature',
  title: 'Windows feature',
  platforms: windows,
  run: async (host): Promise<Outcome> => {
    const ask = 'Get-WindowsOptionalFeature -Online -FeatureName HypervisorPlatform';
    let state: string;
    try {
      state = (await windowsFacts(host)).feature;
    } catch (error) {
      return unknown(`PowerShell does not answer: ${inWords(error)}`, `an administrator can ask: ${ask}`);
    }
    switch (state) {
      case 'enabled':
        return ok('HypervisorPlatform is enabled');
      case 'disabled':
        return warning('HypervisorPlatform is not enabled', AS_ADMINISTRATOR, `  ${ENABLE}`, `  ${RESTART}`);
      case 'absent':
        return warning('this Windows has no feature HypervisorPlatform', 'Windows Server 2022 or newer has it');
      default:
        return unknown(
          'Windows does not say whether HypervisorPlatform is enabled',
          `an administrator can ask: ${ask}`,
        );
    }
  },
};

const hypervisor: Check = {
  id: 'windows-hypervisor',
  title: 'Hypervisor',
  platforms: windows,
  run: async (host): Promise<Outcome> => {
    const facts = await windowsFacts(host).catch(() => undefined);
    if (facts?.hypervisorPresent === undefined) return unknown('Windows does not say whether one runs');
    if (facts.hypervisorPresent)
      return ok(facts.hyperv === 'enabled' ? 'runs (the Hyper-V role is there as well)' : 'runs');
    if (facts.slat === false)
      return warning(
        'does not run: the processor has no second-level address translation',
        'another machine is needed',
      );
    if (facts.firmwareEnabled === false)
      return warning(
        'does not run: virtualization is switched off in the firmware',
        'switch on Intel VT-x or AMD SVM in the firmware set-up; if this is a virtual machine, on its host:',
        "  Set-VMProcessor -VMName 'NAME OF THE MACHINE' -ExposeVirtualizationExtensions $true",
      );
    if (facts.feature === 'disabled') return warning('does not run: nothing that needs it is enabled (see above)');
    return warning('does not run, although the processor could', AS_ADMINISTRATOR, `  ${LAUNCH_AUTO}`, `  ${RESTART}`);
  },
};

const elevation: Check = {
  id: 'windows-elevation',
  title: 'Elevation',
  platforms: windows,
  run: async (host) => {
    const elevated = await isElevated(host);
    if (elevated === undefined) return unknown('cannot be found out (whoami does not say)');
    if (elevated)
      return note(
        'this window is elevated',
        'guests need no elevation; one that is started so obeys elevated windows only',
      );
    return note(
      'this window is not elevated: guests need no elevation, but what enables features does',
      'a window that is: Start-Process powershell -Verb RunAs',
    );
  },
};

const launchType: Check = {
  id: 'windows-launch-type',
  title: 'Boot option',
  platforms: windows,
  run: async (host) => {
    let type: string | undefined;
    try {
      type = await hypervisorLaunchType(host);
    } catch {
      return note(
        'hypervisorlaunchtype can be read only by administrators',
        "to see it, in PowerShell as administrator: bcdedit /enum '{current}'",
      );
    }
    if (type === undefined) return ok('hypervisorlaunchtype is not set: enabled features decide');
    if (type.toLowerCase() === 'auto') return ok('hypervisorlaunchtype is Auto');
    return warning(
      `hypervisorlaunchtype is ${type}: Windows starts without its hypervisor`,
      AS_ADMINISTRATOR,
      `  ${LAUNCH_AUTO}`,
      `  ${RESTART}`,
    );
  },
};

const memory: Check = {
  id: 'memory',
  title: 'Memory',
  platforms: windows,
  run: async (host) => {
    const facts = await windowsFacts(host).catch(() => undefined);
    const physical = facts?.physicalLeft ?? host.freeMemory;
    if (facts?.commitLeft === undefined || facts.commitLimit === undefined)
      return judgeMemory(physical, host.totalMemory, '; the commit limit is not known');
    const more = `; ${mib(facts.commitLeft)} left of the commit limit of ${mib(facts.commitLimit)}`;
    const judged = judgeMemory(Math.min(physical, facts.commitLeft), host.totalMemory, more, physical);
    if (judged.status !== 'warning' || facts.commitLeft >= physical) return judged;
    return {
      ...judged,
      advice: [
        ...(judged.advice ?? []),
        "a guest's memory counts against the commit limit in whole when it starts; a larger page file raises the limit,",
        `${AS_ADMINISTRATOR.slice(0, -1)}, until the next start of Windows grown by Windows itself:`,
        '  Get-CimInstance Win32_ComputerSystem | Set-CimInstance -Property @{ AutomaticManagedPagefile = $true }',
      ],
    };
  },
};

const privacy: Check = {
  id: 'control-privacy',
  title: 'Control access',
  platforms: windows,
  run: async (host) => {
    let strangers: string[];
    try {
      strangers = await strangersOf(host, host.controlDirectory);
    } catch (error) {
      return unknown(`who may enter the control directory is not known: ${inWords(error)}`);
    }
    if (strangers.length === 0) return ok('no group of strangers may enter the control directory');
    return warning(
      `${strangers.join(', ')} may enter the control directory`,
      'whoever writes there can lead your commands to pipes of their own. Take that away from them:',
      `  icacls '${host.controlDirectory.replaceAll("'", "''")}' /inheritance:r /grant:r ((whoami) + ':(OI)(CI)F') '*S-1-5-18:(OI)(CI)F'`,
    );
  },
};

const pipes: Check = {
  id: 'control-pipe',
  title: 'Control pipes',
  platforms: windows,
  run: async (host) => {
    let sddl: string;
    try {
      sddl = await host.pipeAccess();
    } catch (error) {
      return note(
        `others may connect to control pipes, for reading: ${inWords(error)}`,
        'they can give no orders, but take up all connections of a guest, so that you can give none either',
      );
    }
    // Whose account it is, is nobody's business.
    const list = sddl.replaceAll(/S-1-5-21-[-0-9]+/g, 'USER');
    if (letsOthersIn(sddl)) return note(`others may connect to control pipes, for reading: ${list}`);
    return ok(`only their owner, administrators and LocalSystem may connect: ${list}`);
  },
};

const languageMode: Check = {
  id: 'windows-policy',
  title: 'Policy',
  platforms: windows,
  run: async (host) => {
    const facts = await windowsFacts(host).catch(() => undefined);
    if (facts === undefined) return unknown('PowerShell does not answer: it may be forbidden here');
    if (facts.languageMode !== 'ConstrainedLanguage') return ok('PowerShell is not constrained');
    return note(
      'PowerShell is constrained: a policy (AppLocker, App Control) says which programs and DLLs may run',
      'it must allow node.exe and the *.node files in the folder of xenlighten and its dependencies',
    );
  },
};

export const WINDOWS_CHECKS: readonly Check[] = [
  version,
  feature,
  hypervisor,
  launchType,
  elevation,
  languageMode,
  memory,
  privacy,
  pipes,
];
