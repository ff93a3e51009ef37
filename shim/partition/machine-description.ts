/** What the addon wants to know of a machine, whichever engine runs it: memory, ports, the kick's SynIC event flag. */
import { TRAP_HV_PORT } from '../../abi/trap';
import type { GuestMemory } from './guest-memory';
import type { MachineDescription } from './host';

/** `hyperv`: has the partition the Hyper-V interface, so that kicks are event flags? */
export function machineDescription(memory: GuestMemory, vpCount: number, hyperv: boolean): MachineDescription {
  return {
    vpCount,
    callPort: TRAP_HV_PORT.TRAP_CALL_PORT,
    bellPort: TRAP_HV_PORT.TRAP_BELL_PORT,
    useFlags: hyperv,
    sint: TRAP_HV_PORT.TRAP_HV_SINT,
    flag: TRAP_HV_PORT.TRAP_HV_FLAG,
    regions: memory.regions.flatMap((region) =>
      memory.ranges(region.gpa, region.size).map(({ gpa, buffer }) => ({
        gpa,
        buffer: buffer.buffer as ArrayBuffer,
        offset: buffer.byteOffset,
        size: buffer.length,
      })),
    ),
  };
}
