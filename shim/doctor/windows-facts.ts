/**
 * What Windows says of itself, by its own programs: optional features, the hypervisor, memory, elevation, boot options, and
 * who may enter a folder. Only programs of the system's own folder are run, by their full path.
 *
 * Quirks: Get-WindowsOptionalFeature wants an elevated window; the same state is in WMI's Win32_OptionalFeature for
 * everybody. The query keeps to what the constrained language mode of locked-down hosts allows: cmdlets and properties, no
 * method calls, no types. It has no double quotes, which programs on the way may lose. PSModulePath is not passed on: from
 * a window of PowerShell 7 it names that one's modules, which Windows PowerShell finds first and cannot load. Nothing of it
 * was run on a real Windows yet.
 */
import path from 'node:path';
import type { DoctorHost } from './host';

/** Win32_OptionalFeature.InstallState. */
export const INSTALL_STATES = { 1: 'enabled', 2: 'disabled', 3: 'absent' } as const;
export type FeatureState = (typeof INSTALL_STATES)[keyof typeof INSTALL_STATES] | 'unknown';

export interface WindowsFacts {
  /** HypervisorPlatform. */
  readonly feature: FeatureState;
  /** Microsoft-Hyper-V, the role; xenlighten does not need it. */
  readonly hyperv: FeatureState;
  readonly hypervisorPresent: boolean | undefined;
  /** Undefined, or false and meaningless, where a hypervisor runs. */
  readonly firmwareEnabled: boolean | undefined;
  readonly slat: boolean | undefined;
  /** Bytes. */
  readonly commitLimit: number | undefined;
  readonly commitLeft: number | undefined;
  readonly physicalLeft: number | undefined;
  /** "FullLanguage", "ConstrainedLanguage". */
  readonly languageMode: string;
  /** What updates count: of 10.0.20348.2700 the 2700. */
  readonly revision: number | undefined;
  /** Of the machine: "Virtual Machine" in one of Hyper-V. */
  readonly model: string | undefined;
}

/** A program of Windows' own. */
export function systemProgram(host: Pick<DoctorHost, 'env'>, ...names: string[]): string {
  return path.win32.join(host.env['SystemRoot'] ?? 'C:\\Windows', 'System32', ...names);
}

function powershell(host: DoctorHost, script: string): Promise<string> {
  const file = systemProgram(host, 'WindowsPowerShell', 'v1.0', 'powershell.exe');
  const env = Object.fromEntries(Object.entries(host.env).filter(([name]) => !/^PSModulePath$/i.test(name)));
  return host.execute(file, ['-NoLogo', '-NoProfile', '-NonInteractive', '-Command', script], env);
}

export const FACTS_SCRIPT = [
  "$ErrorActionPreference = 'SilentlyContinue'",
  "$f = Get-CimInstance Win32_OptionalFeature | Where-Object Name -In 'HypervisorPlatform', 'Microsoft-Hyper-V' | Select-Object Name, InstallState",
  '$s = Get-CimInstance Win32_ComputerSystem | Select-Object HypervisorPresent, Model',
  '$p = Get-CimInstance Win32_Processor | Select-Object -First 1 VirtualizationFirmwareEnabled, SecondLevelAddressTranslationExtensions',
  '$m = Get-CimInstance Win32_OperatingSystem | Select-Object FreePhysicalMemory, FreeVirtualMemory, TotalVirtualMemorySize',
  "$u = Get-ItemProperty 'HKLM:\\SOFTWARE\\Microsoft\\Windows NT\\CurrentVersion' | Select-Object UBR",
  '$l = [string]$ExecutionContext.SessionState.LanguageMode',
  'ConvertTo-Json -Compress -Depth 3 @{ features = @($f); system = $s; processor = $p; memory = $m; update = $u; language = $l }',
].join('; ');

type Loose = Record<string, unknown> | null | undefined;

const boolean = (value: unknown): boolean | undefined => (typeof value === 'boolean' ? value : undefined);
const kilobytes = (value: unknown): number | undefined => (typeof value === 'number' ? value * 1024 : undefined);

/** Reads what the script printed. Error when it is not what it should be. */
export function parseFacts(printed: string): WindowsFacts {
  let value: Record<string, unknown>;
  try {
    // A profile, or a policy, may have printed something before.
    value = JSON.parse(printed.slice(Math.max(0, printed.indexOf('{')))) as Record<string, unknown>;
  } catch {
    throw new Error(`PowerShell printed no answer but ${JSON.stringify(printed.trim().slice(0, 80))}`);
  }
  const features = Array.isArray(value['features']) ? (value['features'] as Loose[]) : [];
  const state = (name: string): FeatureState => {
    // No feature at all was told: the query did not work, and says nothing of this one.
    if (features.every((f) => f === null || f === undefined)) return 'unknown';
    const found = features.find((f) => f?.['Name'] === name);
    if (found === undefined) return 'absent';
    return INSTALL_STATES[found?.['InstallState'] as keyof typeof INSTALL_STATES] ?? 'unknown';
  };
  const [system, processor, memory, update] = ['system', 'processor', 'memory', 'update'].map((k) => value[k] as Loose);
  return {
    feature: state('HypervisorPlatform'),
    hyperv: state('Microsoft-Hyper-V'),
    hypervisorPresent: boolean(system?.['HypervisorPresent']),
    firmwareEnabled: boolean(processor?.['VirtualizationFirmwareEnabled']),
    slat: boolean(processor?.['SecondLevelAddressTranslationExtensions']),
    commitLimit: kilobytes(memory?.['TotalVirtualMemorySize']),
    commitLeft: kilobytes(memory?.['FreeVirtualMemory']),
    physicalLeft: kilobytes(memory?.['FreePhysicalMemory']),
    languageMode: typeof value['language'] === 'string' ? value['language'] : 'unknown',
    revision: typeof update?.['UBR'] === 'number' ? update['UBR'] : undefined,
    model: typeof system?.['Model'] === 'string' ? system['Model'] : undefined,
  };
}

const asked = new WeakMap<DoctorHost, Promise<WindowsFacts>>();

/** Asks once for each host. Rejects when PowerShell does not answer. */
export function windowsFacts(host: DoctorHost): Promise<WindowsFacts> {
  let facts = asked.get(host);
  if (facts === undefined) {
    facts = powershell(host, FACTS_SCRIPT).then(parseFacts);
    facts.catch(() => undefined);
    asked.set(host, facts);
  }
  return facts;
}

/** High or system integrity, by its SID; undefined where that cannot be found out. */
export async function isElevated(host: DoctorHost): Promise<boolean | undefined> {
  const printed = await host
    .execute(systemProgram(host, 'whoami.exe'), ['/groups', '/fo', 'csv', '/nh'])
    .catch(() => '');
  const level = /S-1-16-(\d+)/.exec(printed)?.[1];
  return level === undefined ? undefined : Number(level) >= 12288;
}

/** hypervisorlaunchtype of the running system: "Auto", "Off"; undefined where it is not set. Rejects unless elevated. */
export async function hypervisorLaunchType(host: DoctorHost): Promise<string | undefined> {
  const printed = await host.execute(systemProgram(host, 'bcdedit.exe'), ['/enum', '{current}']);
  return /^hypervisorlaunchtype\s+(\S+)/im.exec(printed)?.[1];
}

/** SIDs, by SDDL's letters and in full, of which everybody, or everybody who can log in, is one. */
const EVERYBODY: Readonly<Record<string, string>> = {
  WD: 'Everyone',
  'S-1-1-0': 'Everyone',
  AU: 'Authenticated Users',
  'S-1-5-11': 'Authenticated Users',
  BU: 'Users',
  'S-1-5-32-545': 'Users',
  BG: 'Guests',
  'S-1-5-32-546': 'Guests',
  AN: 'Anonymous',
  'S-1-5-7': 'Anonymous',
  IU: 'Interactive',
  'S-1-5-4': 'Interactive',
};

/** Groups of strangers that a security descriptor allows something. */
export function strangersIn(sddl: string): string[] {
  const found = new Set<string>();
  for (const [, type, , , , , trustee] of sddl.matchAll(
    /\(([^;()]*);([^;]*);([^;]*);([^;]*);([^;]*);([^;)]*)[^)]*\)/g,
  )) {
    const name = EVERYBODY[trustee ?? ''];
    if ((type === 'A' || type === 'XA') && name !== undefined) found.add(name);
  }
  return [...found];
}

/** Who else may enter a folder: names of groups. Rejects where PowerShell does not say. */
export async function strangersOf(host: DoctorHost, directory: string): Promise<string[]> {
  const sddl = await powershell(host, `(Get-Acl -LiteralPath '${directory.replaceAll("'", "''")}').Sddl`);
  if (!/D:/.test(sddl)) throw new Error('PowerShell does not say who may enter it');
  return strangersIn(sddl);
}
