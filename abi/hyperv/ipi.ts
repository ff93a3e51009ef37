/**
 * Inputs of the IPI hypercalls. Implements TLFS: HvCallSendSyntheticClusterIpi and Ex.
 *
 * Quirks: delivery is not awaited. The reserved word holds the target VTL in its first byte; it must be zero otherwise.
 */
import { constants, struct } from '../layout';
import { HvVpset } from './vpset';

export const HvSendIpi = struct('hv_send_ipi', 'TLFS: HvCallSendSyntheticClusterIpi', 16, {
  vector: { type: 'u32', offset: 0 },
  reserved: { type: 'u32', offset: 4 },
  cpu_mask: { type: 'u64', offset: 8 },
});

export const HvSendIpiEx = struct('hv_send_ipi_ex', 'TLFS: HvCallSendSyntheticClusterIpiEx', 24, {
  vector: { type: 'u32', offset: 0 },
  reserved: { type: 'u32', offset: 4 },
  vp_set: { type: HvVpset, offset: 8 },
});

export const HV_IPI = constants('TLFS: vectors that an IPI hypercall may send', {
  HV_IPI_LOW_VECTOR: 0x10,
  HV_IPI_HIGH_VECTOR: 0xff,
});
