/**
 * The whp engine: a partition of the Microsoft hypervisor, made through the Windows Hypervisor Platform, whose VPs are
 * threads of this process.
 *
 * Set-up goes through ffi-napi (./api, ./set-up), the run loops are the addon's (native/host/win32/whp.c). VPs start in
 * 64-bit mode at the trap module's entry, all at once; there is no firmware. A cold call is one port-I/O exit in which
 * the VP's thread waits; events to the shim are HvCallSignalEvent on one connection, through a notification port; a kick is
 * a SynIC event flag, through a trigger.
 *
 * With `force`, a Windows without the synthetic features will do: the trap module then uses its soft Hyper-V on the local
 * APICs that the platform emulates. That is for tests.
 *
 * Quirks: not verified on Windows: everything here has run on the stand-in of tests/windows only.
 */
import { TRAP_HV_PORT, TRAP_VECTOR } from '../../../abi/trap';
import { Machine, type MachineEnd } from '../host';
import { type InProcessOptions, InProcessPartition, type OpenPartition } from '../in-process-partition';
import type { InitialRegisters } from '../long-mode';
import { machineDescription } from '../machine-description';
import type { ProcessorCpuid } from '../partition';
import { type WhpApi, whpApi } from './api';
import { interceptCounters } from './counters';
import { describeEnd, slotName } from './end';
import { WhpCallError } from './hresult';
import { makePartition, readCapabilities, resultsFor } from './set-up';

/** `hyperv`: see probeWhp. */
export type WhpPartitionOptions = InProcessOptions;

/** The platform cannot run the partition; the message says why and what would help. */
export class WhpUnusableError extends Error {
  override readonly name = 'WhpUnusableError';
}

/** An error of the addon's, whose properties name the call and its HRESULT. */
function inWords(error: unknown): Error {
  const { call, hresult } = error as { call?: unknown; hresult?: unknown };
  if (typeof call === 'string' && typeof hresult === 'number') return new WhpCallError(call, hresult);
  return error as Error;
}

export class WhpPartition extends InProcessPartition {
  readonly engine = 'whp';

  constructor(
    options: WhpPartitionOptions,
    private readonly api: () => WhpApi = whpApi,
  ) {
    super('whp', options);
  }

  protected open(registers: (vp: number) => InitialRegisters, cpuid?: ProcessorCpuid): OpenPartition {
    const { vpCount, hyperv } = this.options;
    const api = this.api();
    const capabilities = readCapabilities(api);
    const cpuidResults = resultsFor(api, { hyperv, capabilities }, cpuid);
    const partition = makePartition(api, { vpCount, hyperv, capabilities, cpuidResults }, registers);
    return {
      createMachine: (onDoorbell, onExit) =>
        Machine.whp(
          {
            partition,
            connection: TRAP_HV_PORT.TRAP_HV_CONNECTION,
            vector: TRAP_VECTOR.TRAP_VECTOR_KICK,
            ...machineDescription(this.memory, vpCount, hyperv),
          },
          onDoorbell,
          onExit,
        ),
      counts: (vp) => interceptCounters(api, partition, vp),
      close: () => {
        try {
          api.deletePartition(partition);
        } catch {
          // It goes with the process at the latest; what ended it is reported.
        }
      },
    };
  }

  protected refusal(error: unknown): Error {
    return new WhpUnusableError(`the Windows Hypervisor Platform refuses the partition: ${inWords(error).message}`);
  }

  protected describeEnd(end: MachineEnd): string {
    return describeEnd(end);
  }

  protected exitName(slot: number): string {
    return slotName(slot);
  }

  protected summary(): string {
    return this.options.hyperv
      ? 'the Windows Hypervisor Platform'
      : 'the Windows Hypervisor Platform without the Hyper-V interface (forced): the trap module emulates it';
  }
}
