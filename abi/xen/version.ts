/**
 * What the hypervisor says about itself. Implements Xen public/version.h.
 *
 * Quirks: several commands take a plain character array rather than a struct; their sizes are XEN_*_LEN. The commands
 * above build_id exist in newer Xen only and take a xen_varbuf.
 */
import { constants, struct } from '../layout';

export const XenCompileInfo = struct('xen_compile_info', 'Xen public/version.h: struct xen_compile_info', 144, {
  compiler: { type: 'u8', offset: 0, count: 64 },
  compile_by: { type: 'u8', offset: 64, count: 16 },
  compile_domain: { type: 'u8', offset: 80, count: 32 },
  compile_date: { type: 'u8', offset: 112, count: 32 },
});

export const XenPlatformParameters = struct(
  'xen_platform_parameters',
  'Xen public/version.h: struct xen_platform_parameters',
  8,
  { virt_start: { type: 'u64', offset: 0 } },
);

export const XenFeatureInfo = struct('xen_feature_info', 'Xen public/version.h: struct xen_feature_info', 8, {
  submap_idx: { type: 'u32', offset: 0 },
  submap: { type: 'u32', offset: 4, doc: 'out: bits XENFEAT_*' },
});

export const XenBuildId = struct('xen_build_id', 'Xen public/version.h: struct xen_build_id', 4, {
  len: { type: 'u32', offset: 0, doc: 'bytes that follow' },
});

export const XENVER = constants('Xen public/version.h: xen_version commands', {
  XENVER_version: 0,
  XENVER_extraversion: 1,
  XENVER_compile_info: 2,
  XENVER_capabilities: 3,
  XENVER_changeset: 4,
  XENVER_platform_parameters: 5,
  XENVER_get_features: 6,
  XENVER_pagesize: 7,
  XENVER_guest_handle: 8,
  XENVER_commandline: 9,
  XENVER_build_id: 10,
  XENVER_extraversion2: 11,
  XENVER_capabilities2: 12,
  XENVER_changeset2: 13,
  XENVER_commandline2: 14,
});

export const XENVER_LENGTHS = constants('Xen public/version.h: lengths of strings', {
  XEN_EXTRAVERSION_LEN: 16,
  XEN_CAPABILITIES_INFO_LEN: 1024,
  XEN_CHANGESET_INFO_LEN: 64,
});
