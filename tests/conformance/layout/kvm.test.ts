/** shim/partition/kvm/abi.ts, which the kvm engine speaks to Linux with, against <linux/kvm.h> (linux-libc-dev). */
import { existsSync } from 'node:fs';
import * as kvm from '../../../shim/partition/kvm/abi';
import { type Comparison, compare, hasProgram, judge, namesIn, type Vendor } from './vendor';

const VENDOR: Vendor = { preamble: '#include <linux/kvm.h>' };

const absent = !existsSync('/usr/include/linux/kvm.h') ? 'linux-libc-dev' : !hasProgram('gcc') ? 'gcc' : undefined;

if (absent !== undefined) {
  test.skip(`the kvm engine's declarations against <linux/kvm.h>: package ${absent} is not installed`, () => {});
} else {
  describe("the kvm engine's declarations against <linux/kvm.h>", () => {
    let result: Comparison;
    beforeAll(() => {
      result = compare(kvm, VENDOR);
    });

    test('every struct, field and constant has the layout and value of the header', () => {
      expect(judge(result, {}).unexpected).toEqual([]);
    });

    test('the comparison covered requests, capabilities, exits and structs', () => {
      for (const group of [kvm.KVM_REQUEST, kvm.KVM_CAP, kvm.KVM, kvm.KVM_EXIT])
        expect(result.equal).toEqual(expect.arrayContaining(namesIn(group)));
      expect(result.equal).toEqual(
        expect.arrayContaining([
          'struct kvm_sregs',
          'kvm_sregs.efer',
          'struct kvm_irq_routing_entry',
          'kvm_stats_desc.offset',
        ]),
      );
    });
  });
}
