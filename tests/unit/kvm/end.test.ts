import { MACHINE_END_KINDS } from '../../../shim/partition/host';
import { describeEnd, exitName } from '../../../shim/partition/kvm/end';

const end = (kind: (typeof MACHINE_END_KINDS)[number], code = 0, detail = 0, vp = 3) =>
  describeEnd({
    kind: MACHINE_END_KINDS.indexOf(kind),
    vp,
    code,
    detail,
    rip: 0n,
    instruction: new Uint8Array(),
  });

test.each([
  [end('stopped'), 'the partition was stopped'],
  [end('shutdown'), 'virtual processor 3 shut down by a triple fault'],
  [end('reset'), 'virtual processor 3 asked for a reset of the partition'],
  [end('run-error', 14), 'KVM_RUN failed on virtual processor 3: EFAULT'],
  [end('run-error', 9999), 'KVM_RUN failed on virtual processor 3: errno 9999'],
  [
    end('internal-error', 1),
    'KVM gave up on virtual processor 3: internal error 1 (an instruction could not be emulated)',
  ],
  [
    end('internal-error', 3),
    'KVM gave up on virtual processor 3: internal error 3 (an exit while an event was delivered)',
  ],
  [end('internal-error', 77), 'KVM gave up on virtual processor 3: internal error 77 (unknown)'],
  [end('fail-entry', 0, 0x8000_0021), 'the processor refused to enter virtual processor 3: hardware reason 0x80000021'],
  [end('unknown-exit', 4), 'virtual processor 3 left the guest for a reason that nobody asked for: KVM exit 4 (DEBUG)'],
])('%s', (said, wanted) => {
  expect(said).toBe(wanted);
});

test('every kind of end but "none" has words of its own', () => {
  const said = MACHINE_END_KINDS.slice(1).map((kind) => end(kind));
  expect(new Set(said).size).toBe(said.length);
});

test('where it was, and the instruction, where they are known', () => {
  const internal = { kind: MACHINE_END_KINDS.indexOf('internal-error'), vp: 0, code: 1, detail: 0 };
  const rip = 0xffff_8280_0000_1234n;
  expect(describeEnd({ ...internal, rip, instruction: new Uint8Array() })).toMatch(
    /\(an instruction could not be emulated\) at 0xffff828000001234$/,
  );
  expect(describeEnd({ ...internal, rip, instruction: Uint8Array.of(0x0f, 0x01, 0xd0) })).toMatch(
    / at 0xffff828000001234: 0f 01 d0$/,
  );
  const triple = { ...internal, kind: MACHINE_END_KINDS.indexOf('shutdown'), instruction: new Uint8Array() };
  expect(describeEnd({ ...triple, rip })).toBe('virtual processor 0 shut down by a triple fault at 0xffff828000001234');
});

test('exits have the names of KVM', () => {
  expect([2, 6, 8, 17, 27, 29, 200].map(exitName)).toEqual([
    'IO',
    'MMIO',
    'SHUTDOWN',
    'INTERNAL_ERROR',
    'HYPERV',
    'X86_RDMSR',
    'exit 200',
  ]);
});
