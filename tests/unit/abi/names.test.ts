/**
 * Names of numbers: errno, grant status, ELF notes, xenstore messages, Hyper-V calls and statuses.
 */
import { hvCallName } from '../../../abi/hyperv/hypercall';
import { HV_STATUS, hvStatusName } from '../../../abi/hyperv/status';
import { elfNoteName } from '../../../abi/xen/elf-note';
import { errnoName, errnoValue, XEN_ERRNO, type XenErrnoName } from '../../../abi/xen/errno';
import { FEATURE_NAMES } from '../../../abi/xen/features';
import { gntStatusName } from '../../../abi/xen/grant-ops';
import { XSD_ERRORS, xsTypeName } from '../../../abi/xen/xenstore';

test('errno names, of either sign, with aliases resolved to the first', () => {
  expect(errnoName(-22)).toBe('EINVAL');
  expect(errnoName(38)).toBe('ENOSYS');
  expect(errnoName(-11)).toBe('EAGAIN');
  expect(errnoName(-35)).toBe('EDEADLK');
  expect(errnoName(-4095)).toBe('errno_4095');
  for (const [name, n] of Object.entries(XEN_ERRNO)) {
    expect(errnoValue(name.slice(4) as XenErrnoName)).toBe(n);
    expect(errnoValue(errnoName(n) as XenErrnoName)).toBe(n);
  }
});

test('the other names', () => {
  expect(gntStatusName(-3)).toBe('GNTST_bad_gntref');
  expect(gntStatusName(-99)).toBe('GNTST_-99');
  expect(elfNoteName(15)).toBe('INIT_P2M');
  expect(elfNoteName(77)).toBe('note_77');
  expect(xsTypeName(2)).toBe('XS_READ');
  expect(xsTypeName(20)).toBe('XS_20');
  expect(FEATURE_NAMES.get('pae_pgdir_above_4gb')).toBe(4);
  expect(FEATURE_NAMES.has('NR_SUBMAPS')).toBe(false);
  expect(hvCallName(0x5d)).toBe('HVCALL_SIGNAL_EVENT');
  expect(hvCallName(0x77)).toBe('HVCALL_0x0077');
  expect(hvStatusName(HV_STATUS.HV_STATUS_INVALID_SYNIC_STATE)).toBe('HV_STATUS_INVALID_SYNIC_STATE');
  expect(hvStatusName(0xfff)).toBe('HV_STATUS_0xfff');
  for (const e of XSD_ERRORS) expect(XEN_ERRNO).toHaveProperty(`XEN_${e}`);
});
