/** Why a machine ended, in words that all engines share; an engine brings the meaning of its own numbers. */
import { MACHINE_END_KINDS, type MachineEnd } from './host';

/** An engine's words for numbers of its own. */
export interface EngineWords {
  /** What gives up: KVM, the hypervisor. */
  readonly hypervisor: string;
  /** The call that runs a VP. */
  readonly run: string;
  /** Of that call. */
  error(code: number): string;
  /** Of an internal error. */
  internal(code: number, detail: number): string;
  /** An exit reason as the counters show it. */
  exit(code: number): string;
}

/** An address, and what is there, for the end of a sentence. */
function at({ rip, instruction }: MachineEnd): string {
  if (rip === 0n) return '';
  const bytes = Array.from(instruction, (byte) => byte.toString(16).padStart(2, '0')).join(' ');
  return ` at 0x${rip.toString(16)}${bytes === '' ? '' : `: ${bytes}`}`;
}

export function describeMachineEnd(end: MachineEnd, words: EngineWords): string {
  const on = `virtual processor ${end.vp}`;
  switch (MACHINE_END_KINDS[end.kind]) {
    case 'stopped':
      return 'the partition was stopped';
    case 'shutdown':
      return `${on} shut down by a triple fault${at(end)}`;
    case 'reset':
      return `${on} asked for a reset of the partition`;
    case 'run-error':
      return `${words.run} failed on ${on}: ${words.error(end.code)}`;
    case 'internal-error':
      return `${words.hypervisor} gave up on ${on}: internal error ${end.code} (${words.internal(end.code, end.detail)})${at(end)}`;
    case 'fail-entry':
      return `the processor refused to enter ${on}: hardware reason 0x${end.detail.toString(16)}${at(end)}`;
    case 'no-memory':
      if (end.code !== 0)
        return `${words.hypervisor} cannot get the memory at guest-physical address 0x${end.detail.toString(16)} for ${on}: ${words.error(end.code)}${at(end)}`;
      return `${on} touched guest-physical address 0x${end.detail.toString(16)}, where there is no memory${at(end)}`;
    default:
      return `${on} left the guest for a reason that nobody asked for: ${words.hypervisor} exit ${end.code} (${words.exit(end.code)})${at(end)}`;
  }
}
