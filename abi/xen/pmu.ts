/**
 * Performance counter virtualisation. Implements Xen public/pmu.h as far as refusing it takes.
 *
 * Quirks: Linux issues XENPMU_init and XENPMU_finish on every boot and accepts EOPNOTSUPP.
 */
import { constants, struct } from '../layout';

export const XenPmuParams = struct('xen_pmu_params', 'Xen public/pmu.h: struct xen_pmu_params', 24, {
  version_maj: { type: 'u32', offset: 0 },
  version_min: { type: 'u32', offset: 4 },
  val: { type: 'u64', offset: 8 },
  vcpu: { type: 'u32', offset: 16 },
  pad: { type: 'u32', offset: 20 },
});

export const XENPMU = constants('Xen public/pmu.h: xenpmu_op commands', {
  XENPMU_mode_get: 0,
  XENPMU_mode_set: 1,
  XENPMU_feature_get: 2,
  XENPMU_feature_set: 3,
  XENPMU_init: 4,
  XENPMU_finish: 5,
  XENPMU_lvtpc_set: 6,
  XENPMU_flush: 7,
});
