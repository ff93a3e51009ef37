/**
 * abi/hyperv against Linux's Hyper-V headers, as Debian's linux-headers-*-common has them; each installed package is
 * compared.
 *
 * Quirks: they are kernel headers, so a few shims stand in for what they include. Before Linux 6.9 the MSR numbers of
 * x86 were called HV_REGISTER_*, names that the TLFS and later kernels use for VP registers.
 */
import { existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import * as hyperv from '../../../abi/hyperv';
import { type Comparison, compare, hasProgram, judge, namesIn, type Vendor } from './vendor';

const ARCH = 'arch/x86/include/asm/hyperv-tlfs.h';
const GENERIC = 'include/asm-generic/hyperv-tlfs.h';

/** Installed header packages that have the TLFS headers, newest first. */
function installed(): { dir: string; version: readonly number[] }[] {
  const base = '/usr/src';
  if (!existsSync(base)) return [];
  return readdirSync(base)
    .filter((d) => /^linux-headers-.*-common$/.test(d))
    .map((d) => ({ dir: join(base, d), version: (d.match(/\d+/g) ?? []).map(Number) }))
    .filter(({ dir }) => existsSync(join(dir, ARCH)) && existsSync(join(dir, GENERIC)))
    .sort((a, b) => {
      for (let i = 0; i < Math.max(a.version.length, b.version.length); i++) {
        const d = (b.version[i] ?? 0) - (a.version[i] ?? 0);
        if (d !== 0) return d;
      }
      return 0;
    });
}

const SHIMS: Readonly<Record<string, string>> = {
  'linux/types.h': `#pragma once
#include <stdint.h>
#include <stddef.h>
typedef uint8_t u8; typedef uint16_t u16; typedef uint32_t u32; typedef unsigned long long u64;
typedef int8_t s8; typedef int16_t s16; typedef int32_t s32; typedef long long s64;
typedef u8 __u8; typedef u16 __u16; typedef u32 __u32; typedef u64 __u64;
#define __packed __attribute__((packed))
#define __aligned(n) __attribute__((aligned(n)))
`,
  'linux/bits.h': `#pragma once
#define BIT(n) (1UL << (n))
#define BIT_ULL(n) (1ULL << (n))
#define GENMASK(h, l) ((~0UL << (l)) & (~0UL >> (63 - (h))))
#define GENMASK_ULL(h, l) ((~0ULL << (l)) & (~0ULL >> (63 - (h))))
`,
  'linux/time64.h': '#pragma once\n#define NSEC_PER_SEC 1000000000L\n',
  'asm/page.h': '#pragma once\n#include <linux/bits.h>\n#define PAGE_SIZE 4096UL\n',
};

/** All ones in one bit-field, the rest zero. */
function bitField(type: string, field: string): string {
  return `({ union { ${type} s; unsigned long long v; } u = { .v = 0 }; u.s.${field} = -1; u.v; })`;
}

const BIT_FIELDS: Readonly<Record<string, string>> = {
  HV_STIMER_ENABLE: bitField('union hv_stimer_config', 'enable'),
  HV_STIMER_PERIODIC: bitField('union hv_stimer_config', 'periodic'),
  HV_STIMER_LAZY: bitField('union hv_stimer_config', 'lazy'),
  HV_STIMER_AUTO_ENABLE: bitField('union hv_stimer_config', 'auto_enable'),
  HV_STIMER_APIC_VECTOR_MASK: bitField('union hv_stimer_config', 'apic_vector'),
  HV_STIMER_APIC_VECTOR_SHIFT: `__builtin_ctzll(${bitField('union hv_stimer_config', 'apic_vector')})`,
  HV_STIMER_DIRECT_MODE: bitField('union hv_stimer_config', 'direct_mode'),
  HV_STIMER_SINTX_MASK: bitField('union hv_stimer_config', 'sintx'),
  HV_STIMER_SINTX_SHIFT: `__builtin_ctzll(${bitField('union hv_stimer_config', 'sintx')})`,
  HV_SYNIC_SINT_POLLING: bitField('union hv_synic_sint', 'polling'),
  HV_SYNIC_PAGE_MASK: bitField('union hv_synic_simp', 'base_simp_gpa'),
  HV_MESSAGE_FLAG_PENDING: bitField('union hv_message_flags', 'msg_pending'),
  HV_PORT_ID_MASK: bitField('union hv_port_id', 'u.id'),
  HV_REENLIGHTENMENT_VECTOR_MASK: bitField('struct hv_reenlightenment_control', 'vector'),
  HV_REENLIGHTENMENT_ENABLED: bitField('struct hv_reenlightenment_control', 'enabled'),
  HV_TSC_EMULATION_ENABLED: bitField('struct hv_tsc_emulation_control', 'enabled'),
  HV_TSC_EMULATION_IN_PROGRESS: bitField('struct hv_tsc_emulation_status', 'inprogress'),
};

const DRIVER = 'in drivers/hv/hyperv_vmbus.h, which the headers package leaves out';
const STORVSC = 'in drivers/scsi/storvsc_drv.c, which the headers package leaves out';
const UNUSED = 'in the TLFS; Linux does not use it';
const INLINE = 'in the TLFS; Linux writes the number where it is used';

const STATUS_IN_LINUX = new Set([
  'HV_STATUS_SUCCESS',
  'HV_STATUS_INVALID_HYPERCALL_CODE',
  'HV_STATUS_INVALID_HYPERCALL_INPUT',
  'HV_STATUS_INVALID_ALIGNMENT',
  'HV_STATUS_INVALID_PARAMETER',
  'HV_STATUS_ACCESS_DENIED',
  'HV_STATUS_OPERATION_DENIED',
  'HV_STATUS_INSUFFICIENT_MEMORY',
  'HV_STATUS_INVALID_PORT_ID',
  'HV_STATUS_INVALID_CONNECTION_ID',
  'HV_STATUS_INSUFFICIENT_BUFFERS',
  'HV_STATUS_TIME_OUT',
  'HV_STATUS_VTL_ALREADY_ENABLED',
]);

function all(names: readonly string[], reason: string): Record<string, string> {
  return Object.fromEntries(names.map((n) => [n, reason]));
}

/** What we declare and Linux's headers lack, with the reason. */
const ALLOWED: Readonly<Record<string, string>> = {
  'struct hv_input_post_message': DRIVER,
  'struct hv_input_signal_event': DRIVER,
  'struct vmscsi_request': STORVSC,
  'struct vmstorage_channel_properties': STORVSC,
  'struct vmstorage_protocol_version': STORVSC,
  'struct vstor_packet': STORVSC,
  ...all(
    [
      hyperv.VSTOR,
      hyperv.VSTOR_OPERATION,
      hyperv.VMSTOR_PROTO_VERSION,
      hyperv.STORVSC_DATA,
      hyperv.SRB_STATUS,
      hyperv.SRB_FLAGS,
      hyperv.VSTOR_STATUS,
    ].flatMap(namesIn),
    STORVSC,
  ),
  HV_CONNECTION_ID_MASK: 'union hv_connection_id is in linux/hyperv.h, which needs most of the kernel',
  'struct hv_synic_event_flags_page': 'Linux uses an array of union hv_synic_event_flags',
  HV_APIC_ASSIST_NO_EOI: INLINE,
  HVCALL_SWITCH_VIRTUAL_ADDRESS_SPACE: UNUSED,
  HV_X64_MSR_NPIEP_CONFIG: UNUSED,
  HYPERV_CPUID_HARDWARE_FEATURES: UNUSED,
  HV_START_VIRTUAL_PROCESSOR: UNUSED,
  HV_FEATURE_SINT_POLLING_MODE_AVAILABLE: UNUSED,
  ...all(['HYPERV_SIGNATURE_EBX', 'HYPERV_SIGNATURE_ECX', 'HYPERV_SIGNATURE_EDX', 'HYPERV_INTERFACE_EAX'], INLINE),
  ...all(namesIn(hyperv.HV_GUEST_OS_ID), INLINE),
  ...all(
    namesIn(hyperv.HV_STATUS).filter((n) => !STATUS_IN_LINUX.has(n)),
    UNUSED,
  ),
};

/** What headers older than 6.12 may lack besides. */
const OLDER_MAY_LACK: readonly string[] = [
  'HVCALL_ENABLE_VP_VTL',
  'HVCALL_START_VP',
  'HVCALL_GET_VP_ID_FROM_APIC_ID',
  'HVCALL_MMIO_READ',
  'HVCALL_MMIO_WRITE',
  'HV_HYPERCALL_NESTED',
  'HV_HYPERCALL_RSVD0_MASK',
  'HV_HYPERCALL_RSVD1_MASK',
  'HV_HYPERCALL_RSVD2_MASK',
  'HV_HYPERCALL_VARHEAD_MASK',
  'HV_STATUS_TIME_OUT',
  'HV_STATUS_VTL_ALREADY_ENABLED',
  'HV_SYNIC_CONTROL_ENABLE',
  'HV_X64_USE_MMIO_HYPERCALLS',
  'HV_FEATURE_EXT_GVA_RANGES_FLUSH',
  'HV_FLUSH_NON_GLOBAL_MAPPINGS_ONLY',
  'HV_MAX_SPARSE_VCPU_BANKS',
  'HV_VCPUS_PER_SPARSE_BANK',
  'HV_EXPOSE_INVARIANT_TSC',
  'HV_X64_MSR_TSC_INVARIANT_CONTROL',
  'HV_X64_HYPERV_NESTED',
  'HV_VP_INDEX_SELF',
  'struct hv_enable_vp_vtl',
  'struct hv_vp_assist_page',
  'struct hv_init_vp_context',
  'struct hv_x64_segment_register',
  'struct hv_x64_table_register',
  'struct hv_get_vp_from_apic_id_in',
];

const packages = installed();
const absent = packages.length === 0 ? 'linux-headers-*-common' : !hasProgram('gcc') ? 'gcc' : undefined;

if (absent !== undefined) {
  test.skip(`abi/hyperv against Linux's headers: package ${absent} is not installed`, () => {});
} else {
  describe.each(packages)('abi/hyperv against $dir', ({ dir, version }) => {
    const header = readFileSync(join(dir, ARCH), 'utf8');
    const renamed = /#define\s+HV_REGISTER_VP_INDEX\b/.test(header);
    const [major = 0, minor = 0] = version;
    const older = major < 6 || (major === 6 && minor < 12);
    let result: Comparison;
    let allowed = ALLOWED;

    beforeAll(() => {
      const shims = mkdtempSync(join(tmpdir(), 'xenlighten-shims-'));
      try {
        const files = { ...SHIMS, 'asm-generic/hyperv-tlfs.h': `#include "${join(dir, GENERIC)}"\n` };
        for (const [name, text] of Object.entries(files)) {
          const path = join(shims, name);
          mkdirSync(dirname(path), { recursive: true });
          writeFileSync(path, text);
        }
        const expressions: Record<string, string> = { ...BIT_FIELDS };
        if (renamed) {
          for (const name of namesIn(hyperv.HV_MSR)) {
            const old = name.replace('HV_X64_MSR_', 'HV_REGISTER_');
            if (!new RegExp(`\\b${name}\\b`).test(header)) expressions[name] = old;
          }
          // These names mean MSR numbers here, so the VP registers cannot be compared.
          for (const name of namesIn(hyperv.HV_REGISTER)) expressions[name] = 'no_such_name';
        }
        const vendor: Vendor = {
          preamble: `#include <linux/types.h>\n#include <linux/bits.h>\n#include "${join(dir, ARCH)}"`,
          includeDirs: [shims],
          expressions,
        };
        result = compare(hyperv, vendor);
        if (older) {
          const problems = new Set([...result.missing, ...result.different.map((d) => d.item)]);
          const names = [...OLDER_MAY_LACK, ...(renamed ? namesIn(hyperv.HV_REGISTER) : [])];
          allowed = {
            ...ALLOWED,
            ...all(
              names.filter((n) => problems.has(n)),
              'newer than these headers',
            ),
          };
        }
      } finally {
        rmSync(shims, { recursive: true, force: true });
      }
    });

    test('every struct, field and constant has the vendor’s layout and value', () => {
      expect(judge(result, allowed).unexpected).toEqual([]);
    });

    test('the allow-list has no stale entry', () => {
      expect(judge(result, allowed).stale).toEqual([]);
    });

    test('the comparison covered what the trap module relies on', () => {
      expect(result.equal).toEqual(
        expect.arrayContaining([
          'struct hv_message',
          'sizeof hv_message.payload',
          'struct hv_tlb_flush_ex',
          'hv_vp_assist_page.apic_assist',
          'ms_hyperv_tsc_page.tsc_offset',
          'HV_STIMER_DIRECT_MODE',
          'HV_X64_MSR_STIMER0_CONFIG',
          'HVCALL_SEND_IPI',
        ]),
      );
    });
  });
}
