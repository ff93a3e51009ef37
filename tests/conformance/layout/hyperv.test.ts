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
const VMBUS = 'include/linux/hyperv.h';

/** Installed header packages that have the TLFS headers, newest first. */
function installed(): { dir: string; version: readonly number[] }[] {
  const base = '/usr/src';
  if (!existsSync(base)) return [];
  return readdirSync(base)
    .filter((d) => /^linux-headers-.*-common$/.test(d))
    .map((d) => ({ dir: join(base, d), version: (d.match(/\d+/g) ?? []).map(Number) }))
    .filter(({ dir }) => [ARCH, GENERIC, VMBUS].every((file) => existsSync(join(dir, file))))
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

/**
 * For linux/hyperv.h, which wants most of the kernel: types that its structs and functions mention, none of which is in what we
 * compare. Functions are only declared, since nothing here is linked with them.
 */
const KERNEL_TYPES = `#pragma once
#include <linux/types.h>
#include <linux/bits.h>
#include <stdbool.h>
#define PAGE_SIZE 4096UL
#define HV_HYP_PAGE_SIZE 4096UL
#define U32_MAX 0xffffffffU
#define U64_MAX 0xffffffffffffffffULL
#define __must_check
#define __iomem
#define READ_ONCE(x) (x)
#define WRITE_ONCE(x, v) ((x) = (v))
#define PAGE_ALIGN(x) (x)
#define virt_mb() do { } while (0)
#define virt_rmb() do { } while (0)
#define virt_wmb() do { } while (0)
#define container_of(p, t, m) ((t *)0)
#define DIV_ROUND_UP(a, b) (((a) + (b) - 1) / (b))
#define EXPORT_SYMBOL_GPL(x)
typedef struct { u8 b[16]; } guid_t;
typedef struct { int v; } spinlock_t;
typedef struct { int v; } atomic_t;
typedef u64 dma_addr_t, resource_size_t, phys_addr_t;
typedef int gfp_t;
typedef u64 __be64;
struct list_head { void *next, *prev; };
struct hlist_node { void *next, **pprev; };
struct completion { int v; };
struct mutex { int v; };
struct reciprocal_value { u32 m; u8 sh1, sh2; };
struct tasklet_struct { int v; };
struct work_struct { int v; };
struct delayed_work { int v; };
struct rcu_head { int v; };
struct kobject { int v; };
struct kset;
struct page;
struct resource;
struct module;
struct dentry;
struct device { int v; };
struct device_driver { int v; };
struct device_dma_parameters { int v; };
struct hv_vmbus_device_id { guid_t guid; };
struct bin_attribute;
struct vm_area_struct;
typedef u64 cpumask_var_t;
u32 reciprocal_divide(u32 a, struct reciprocal_value r);
void *dev_get_drvdata(struct device *d);
void dev_set_drvdata(struct device *d, void *v);
`;

const KERNEL_HEADERS = [
  ...['mm', 'scatterlist', 'list', 'timer', 'completion', 'device', 'mod_devicetable', 'interrupt', 'reciprocal_div'],
  ...['uuid', 'workqueue', 'mutex', 'spinlock', 'atomic', 'kernel', 'prefetch'],
].map((name) => `linux/${name}.h`);

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
  HV_CONNECTION_ID_MASK: bitField('union hv_connection_id', 'u.id'),
  VMBUS_RING_FEAT_PENDING_SEND_SZ:
    '({ union { struct hv_ring_buffer *r; } u; typeof(u.r->feature_bits) b = { 0 }; b.feat_pending_send_sz = 1; b.value; })',
  HV_PORT_ID_MASK: bitField('union hv_port_id', 'u.id'),
  HV_REENLIGHTENMENT_VECTOR_MASK: bitField('struct hv_reenlightenment_control', 'vector'),
  HV_REENLIGHTENMENT_ENABLED: bitField('struct hv_reenlightenment_control', 'enabled'),
  HV_TSC_EMULATION_ENABLED: bitField('struct hv_tsc_emulation_control', 'enabled'),
  HV_TSC_EMULATION_IN_PROGRESS: bitField('struct hv_tsc_emulation_status', 'inprogress'),
};

const DRIVER = 'in drivers/hv/hyperv_vmbus.h, which the headers package leaves out';
const STORVSC = 'in drivers/scsi/storvsc_drv.c, which the headers package leaves out';
const UNUSED = 'in the TLFS; Linux does not use it';
const NEWER = 'of VMBus 6.0, which Linux does not speak';
const BITS = 'bit-fields in Linux';
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
    ['data1', 'data2', 'data3', 'data4'].map((field) => `vmbus_guid.${field}`),
    'guid_t is 16 bytes in Linux',
  ),
  ...all(
    ['user_def', 'pipe_mode'].map((field) => `vmbus_channel_offer.${field}`),
    'in structs of a union in Linux, which both call user_def what is not the same',
  ),
  ...all(
    ['monitor_flags', 'interrupt_flags'].map((field) => `vmbus_channel_offer_channel.${field}`),
    BITS,
  ),
  ...all(
    ['msg_vtl', 'feature_flags'].map((field) => `vmbus_channel_initiate_contact.${field}`),
    'padding in Linux',
  ),
  'struct vmbus_channel_initiate_contact_v6': NEWER,
  'struct vmbus_channel_open_channel_v6': NEWER,
  'struct vmbus_channel_version_response_v6': NEWER,
  'struct vmbus_channel_tl_connect_result': 'Linux takes the offer that follows for the result',
  VERSION_COPPER: NEWER,
  ...all([...namesIn(hyperv.CHANNELMSG_NEWER), ...namesIn(hyperv.VMBUS_FEATURE)], NEWER),
  ...all([...namesIn(hyperv.VMBUS_CONNECTION), ...namesIn(hyperv.IC_STATUS)], DRIVER),
  ...all([...namesIn(hyperv.VMBUS_CHANNEL_LIMIT), ...namesIn(hyperv.IC_SHUTDOWN)], INLINE),
  ...all([...namesIn(hyperv.VMBUS_STATUS), ...namesIn(hyperv.VMBUS_PIPE), 'VMBUS_PACKET_TRAILER_SIZE'], INLINE),
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
        const files: Record<string, string> = {
          ...SHIMS,
          'xenlighten/kernel-types.h': KERNEL_TYPES,
          'asm-generic/hyperv-tlfs.h': `#include "${join(dir, GENERIC)}"\n`,
          'asm/hyperv-tlfs.h': `#include "${join(dir, ARCH)}"\n`,
          'uapi/linux/hyperv.h': '#pragma once\n',
        };
        for (const name of KERNEL_HEADERS) files[name] = '#pragma once\n#include <xenlighten/kernel-types.h>\n';
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
          preamble: [
            '#include <linux/types.h>',
            '#include <linux/bits.h>',
            `#include "${join(dir, ARCH)}"`,
            '#include <xenlighten/kernel-types.h>',
            `#include "${join(dir, VMBUS)}"`,
          ].join('\n'),
          tags: { vmbus_guid: 'guid_t' },
          includeDirs: [shims],
          expressions,
        };
        result = compare(hyperv, vendor);
        // Later kernels have a name for it.
        const vtl = 'vmbus_channel_initiate_contact.msg_vtl';
        if (result.equal.includes(vtl))
          allowed = Object.fromEntries(Object.entries(allowed).filter(([k]) => k !== vtl));
        if (older) {
          const problems = new Set([...result.missing, ...result.different.map((d) => d.item)]);
          const names = [...OLDER_MAY_LACK, ...(renamed ? namesIn(hyperv.HV_REGISTER) : [])];
          allowed = {
            ...allowed,
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

    test('the comparison covered what the VMBus host relies on', () => {
      expect(result.equal).toEqual(
        expect.arrayContaining([
          'struct vmbus_channel_offer_channel',
          'vmbus_channel_offer_channel.connection_id',
          'vmbus_channel_open_channel.downstream_ringbuffer_pageoffset',
          'hv_ring_buffer.pending_send_sz',
          'hv_ring_buffer.feature_bits',
          'vmdata_gpa_direct.range',
          'icmsg_hdr.icflags',
          'VM_PKT_DATA_USING_GPA_DIRECT',
          'CHANNELMSG_MODIFYCHANNEL_RESPONSE',
          'VERSION_WIN10_V5_3',
        ]),
      );
    });

    test('device classes have the GUIDs that drivers look for', () => {
      const text = readFileSync(join(dir, VMBUS), 'utf8');
      const guids = [...text.matchAll(/#define HV_(\w+)_GUID[^}]*?GUID_INIT\(([^)]*)\)/g)].map(([, name, numbers]) => {
        const hex = (numbers ?? '').split(',').map((n) => Number(n.replaceAll(/[\\\s]/g, '')));
        const groups = hex.map((n, i) => n.toString(16).padStart([8, 4, 4][i] ?? 2, '0'));
        const [a, b, c, ...d] = groups;
        return [name, `${a}-${b}-${c}-${d.slice(0, 2).join('')}-${d.slice(2).join('')}`];
      });
      expect(guids.length).toBeGreaterThanOrEqual(20);
      const ours = new Set<string>(Object.values(hyperv.VMBUS_CLASS));
      expect(guids.filter(([, guid]) => !ours.has(guid ?? ''))).toEqual([]);
    });
  });
}
