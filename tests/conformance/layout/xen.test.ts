/**
 * abi/xen against the Xen public headers of Debian's libxen-dev.
 */
import { existsSync, readdirSync } from 'node:fs';
import * as xen from '../../../abi/xen';
import { type Comparison, compare, hasProgram, judge, type Vendor } from './vendor';

const INCLUDE = '/usr/include/xen';

const VENDOR: Vendor = {
  // __XEN_TOOLS__ selects the latest interface version and the parts that toolstacks see.
  preamble: [
    '#define __XEN_TOOLS__ 1',
    '#include <stdint.h>',
    '#include <stddef.h>',
    '#include <errno.h>',
    ...[
      'xen.h',
      'callback.h',
      'elfnote.h',
      'errno.h',
      'event_channel.h',
      'features.h',
      'grant_table.h',
      'memory.h',
      'nmi.h',
      'physdev.h',
      'pmu.h',
      'sched.h',
      'vcpu.h',
      'version.h',
      'arch-x86/cpuid.h',
      'io/blkif.h',
      'io/console.h',
      'io/xenbus.h',
      'io/xs_wire.h',
    ].map((h) => `#include <xen/${h}>`),
  ].join('\n'),
  expressions: {
    // Xen has accessor macros instead of masks.
    TI_DPL_MASK: '({ struct trap_info t = { .flags = 0xff }; TI_GET_DPL(&t); })',
    TI_IF: '({ struct trap_info t = { .flags = 0xff }; TI_GET_IF(&t); })',
  },
};

const NEWER = 'newer than the Xen 4.17 of Debian 12';
const E820_REASON = 'not in a public header: memory.h says only that the BIOS format is used';

/** What we declare and libxen-dev lacks or has otherwise, with the reason. */
const ALLOWED: Readonly<Record<string, string>> = {
  EVTCHNOP_reset_cont: 'in the header, but for Xen itself only',
  VCPUOP_register_runstate_phys_area: NEWER,
  VCPUOP_register_vcpu_time_phys_area: NEWER,
  XENFEAT_runstate_phys_area: NEWER,
  XENFEAT_vcpu_time_phys_area: NEWER,
  XENVER_extraversion2: NEWER,
  XENVER_capabilities2: NEWER,
  XENVER_changeset2: NEWER,
  XENVER_commandline2: NEWER,
  XEN_ELFNOTE_PHYS32_RELOC: NEWER,
  XENCONSOLE_CONNECTED: NEWER,
  XENCONSOLE_DISCONNECTED: NEWER,
  'xencons_interface.connection': NEWER,
  'struct xencons_interface': `has the connection field, ${NEWER}`,
  'xenstore_domain_interface.evtchn_port': NEWER,
  'struct xenstore_domain_interface': `has the evtchn_port field, ${NEWER}`,
  'struct blkif_sring': 'ours ends where the entries begin; in the header one entry belongs to it',
  'struct e820entry': E820_REASON,
  E820_RAM: E820_REASON,
  E820_RESERVED: E820_REASON,
  E820_ACPI: E820_REASON,
  E820_NVS: E820_REASON,
  E820_UNUSABLE: E820_REASON,
};

const absent = !existsSync(`${INCLUDE}/xen.h`) ? 'libxen-dev' : !hasProgram('gcc') ? 'gcc' : undefined;

if (absent !== undefined) {
  test.skip(`abi/xen against Xen's headers: package ${absent} is not installed`, () => {});
} else {
  describe('abi/xen against Xen’s public headers', () => {
    let result: Comparison;
    beforeAll(() => {
      expect(readdirSync(INCLUDE)).toContain('xen.h');
      result = compare(xen, VENDOR);
    });

    test('every struct, field and constant has the vendor’s layout and value', () => {
      expect(judge(result, ALLOWED).unexpected).toEqual([]);
    });

    test('the allow-list has no stale entry', () => {
      expect(judge(result, ALLOWED).stale).toEqual([]);
    });

    test('the comparison covered the structs that the trap module relies on', () => {
      expect(result.equal).toEqual(
        expect.arrayContaining([
          'struct vcpu_info',
          'vcpu_info.time',
          'vcpu_guest_context.gs_base_user',
          'start_info.console_domU_mfn',
          'evtchn_status.u_interdomain_port',
          'sizeof multicall_entry.args',
          'grant_entry_v2.transitive_gref',
          '__HYPERVISOR_mmu_update',
          'XEN_EOPNOTSUPP',
          'HYPERVISOR_VIRT_START',
        ]),
      );
    });
  });
}
