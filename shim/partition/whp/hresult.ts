/**
 * HRESULTs of the Windows Hypervisor Platform in words: the call, what it was about, what the number means, the likely
 * cause and what to do.
 *
 * Quirks: winerror.h's own texts are about the parameter, not about the machine. Hypervisor statuses come as
 * 0xc0350000 | status; TLFS statuses have other numbers for some of them, so that only those seen with this API are named.
 */
import { WHV_E, WIN32_E } from '../../../abi/hyperv/whp';

interface Meaning {
  readonly name: string;
  readonly words: string;
}

const FEATURE =
  'Enable-WindowsOptionalFeature -Online -FeatureName HypervisorPlatform (in PowerShell as administrator), then restart';

const MEANINGS: ReadonlyMap<number, Meaning> = new Map(
  Object.entries({
    WHV_E_UNKNOWN_CAPABILITY: 'this Windows does not know the capability: it is older than the one that has it',
    WHV_E_INSUFFICIENT_BUFFER: 'the buffer is too small: xenlighten and this Windows differ about a structure',
    WHV_E_UNKNOWN_PROPERTY: 'this Windows does not know the property: it is older than the one that has it',
    WHV_E_UNSUPPORTED_HYPERVISOR_CONFIG:
      'the running hypervisor cannot do it: restart Windows after updates, and see that hypervisorlaunchtype is auto',
    WHV_E_INVALID_PARTITION_CONFIG: 'the properties of the partition contradict each other, or it was not set up',
    WHV_E_GPA_RANGE_NOT_FOUND: 'nothing is mapped at that guest-physical range',
    WHV_E_VP_ALREADY_EXISTS: 'the virtual processor exists already',
    WHV_E_VP_DOES_NOT_EXIST: 'there is no such virtual processor',
    WHV_E_INVALID_VP_STATE: 'the virtual processor is in no state for that: perhaps it runs',
    WHV_E_INVALID_VP_REGISTER_NAME: 'this hypervisor does not have the register',
  } satisfies Record<keyof typeof WHV_E & string, string>).map(([name, words]) => [
    WHV_E[name as keyof typeof WHV_E & string],
    { name, words },
  ]),
);

const WINDOWS: ReadonlyMap<number, Meaning> = new Map(
  Object.entries({
    E_NOTIMPL: 'this Windows does not implement the call',
    E_FAIL: 'it failed without a reason',
    E_UNEXPECTED: 'Windows did not expect the call now',
    E_ACCESSDENIED: `access is denied: this user may not use the hypervisor, or the feature is off: ${FEATURE}`,
    E_HANDLE: 'the partition is gone',
    E_OUTOFMEMORY:
      'the host has not enough memory, or its commit limit is reached: give the guest less, or end other programs',
    E_INVALIDARG: 'an argument is invalid, or this Windows does not know it',
  } satisfies Record<keyof typeof WIN32_E & string, string>).map(([name, words]) => [
    WIN32_E[name as keyof typeof WIN32_E & string],
    { name, words },
  ]),
);

/** Low 16 bits of 0xc0350000 | status. */
const HYPERVISOR: Readonly<Record<number, Meaning>> = {
  2: { name: 'STATUS_HV_INVALID_HYPERCALL_CODE', words: 'the hypervisor does not have the operation' },
  3: { name: 'STATUS_HV_INVALID_HYPERCALL_INPUT', words: 'the hypervisor did not understand the request' },
  5: { name: 'STATUS_HV_INVALID_PARAMETER', words: 'a parameter is invalid' },
  6: { name: 'STATUS_HV_ACCESS_DENIED', words: 'the hypervisor denies it' },
  7: { name: 'STATUS_HV_INVALID_PARTITION_STATE', words: 'the partition is in no state for that' },
  8: { name: 'STATUS_HV_OPERATION_DENIED', words: 'the hypervisor denies the operation in this configuration' },
  11: { name: 'STATUS_HV_INSUFFICIENT_MEMORY', words: 'the hypervisor has not enough memory: give the guest less' },
  18: { name: 'STATUS_HV_INVALID_CONNECTION_ID', words: 'the connection is not known' },
  25: { name: 'STATUS_HV_OBJECT_IN_USE', words: 'it is in use' },
};

const HYPERVISOR_FACILITY = 0xc035;

function meaningOf(hresult: number): Meaning | undefined {
  const known = MEANINGS.get(hresult) ?? WINDOWS.get(hresult);
  if (known !== undefined) return known;
  return hresult >>> 16 === HYPERVISOR_FACILITY ? HYPERVISOR[hresult & 0xffff] : undefined;
}

/** "0x80370304 (WHV_E_INVALID_PARTITION_CONFIG): the properties ..." */
export function describeHresult(hresult: number): string {
  const unsigned = hresult >>> 0;
  const number = `0x${unsigned.toString(16).padStart(8, '0')}`;
  const meaning = meaningOf(unsigned);
  return meaning === undefined
    ? `${number} (not a number that is known here)`
    : `${number} (${meaning.name}): ${meaning.words}`;
}

/** A call of WinHvPlatform.dll that failed. */
export class WhpCallError extends Error {
  override readonly name = 'WhpCallError';
  /** `about`: the property, capability or processor in question, such as "property ProcessorCount". */
  constructor(
    readonly call: string,
    readonly hresult: number,
    readonly about?: string,
  ) {
    super(`${call}${about === undefined ? '' : ` (${about})`} answers ${describeHresult(hresult)}`);
  }
}
