/** The crash report: what it says of made-up crashes, and that nothing in guest memory upsets it. */
import { randomBytes } from 'node:crypto';
import fc from 'fast-check';
import { TRAP_CRASH, TRAP_MBOX, TrapLast, TrapMailbox, TrapRegs, TrapVp } from '../../../abi/trap';
import { HYPERVISOR } from '../../../abi/xen/hypercall-numbers';
import { type CrashInput, captureCrash, crashCause, formatCrash, lastWords } from '../../../shim/domain/crash-report';
import type { DomainMemory } from '../../../shim/xen/domain-memory';

const PAGE = 4096;
const TEXT = 0xffffffff81000000n;
const STACK = 0xffffc90000010000n;
const RANGES = [{ start: TEXT, end: TEXT + 0x1000n }];

/** Guest memory in one ArrayBuffer, as far as the report reads it. */
class PlainMemory implements Pick<DomainMemory, 'isRam' | 'load64' | 'cas64' | 'copyOut'> {
  readonly bytes = Buffer.alloc(64 * PAGE);
  isRam(gpa: number, length = 1): boolean {
    return Number.isSafeInteger(gpa) && gpa >= 0 && gpa + length <= this.bytes.length;
  }
  load64(gpa: number): bigint {
    return this.bytes.readBigUInt64LE(gpa);
  }
  cas64(gpa: number, expected: bigint, desired: bigint): bigint {
    const old = this.load64(gpa);
    if (old === expected) this.bytes.writeBigUInt64LE(desired, gpa);
    return old;
  }
  copyOut(gpa: number, length: number): Uint8Array {
    return Uint8Array.prototype.slice.call(this.bytes, gpa, gpa + length);
  }
  get domain(): DomainMemory {
    return this as unknown as DomainMemory;
  }
}

/** Maps a page, making tables from frame 8 on. */
function mapper(memory: PlainMemory, root: number): (va: bigint, mfn: number) => void {
  let next = 8;
  return (va, mfn) => {
    let table = root;
    for (const shift of [39n, 30n, 21n]) {
      const at = table * PAGE + Number((va >> shift) & 511n) * 8;
      if (memory.load64(at) === 0n) memory.bytes.writeBigUInt64LE(BigInt(next++ * PAGE) | 7n, at);
      table = Number(memory.load64(at) >> 12n);
    }
    memory.bytes.writeBigUInt64LE(BigInt(mfn * PAGE) | 7n, table * PAGE + Number((va >> 12n) & 511n) * 8);
  };
}

function crash(over: Partial<CrashInput> = {}, fill?: (view: DataView) => void): CrashInput {
  const vp = Buffer.alloc(TrapVp.size);
  fill?.(new DataView(vp.buffer, vp.byteOffset, vp.length));
  return {
    vcpu: 0,
    reason: TRAP_CRASH.TRAP_CRASH_NONE,
    text: '',
    vector: 0,
    errorCode: 0,
    cr2: 0n,
    userMode: false,
    kernelL4: 1,
    vp,
    ...over,
  };
}

function setRegister(view: DataView, name: 'rip' | 'rsp' | 'cs' | 'rax', value: bigint): void {
  TrapRegs.set[name](view, TrapVp.offsetOf('regs'), value);
}

test('registers, stack, return addresses behind calls, hypercalls with names and errors', () => {
  const memory = new PlainMemory();
  const map = mapper(memory, 1);
  map(STACK, 40);
  map(TEXT, 41);
  // call +0 at TEXT+0x100; ff d0 (call *%rax) at TEXT+0x200; a nop before TEXT+0x300.
  memory.bytes[41 * PAGE + 0x100] = 0xe8;
  memory.bytes[41 * PAGE + 0x200] = 0xff;
  memory.bytes[41 * PAGE + 0x201] = 0xd0;
  const words = [TEXT + 0x105n, 0x1234n, TEXT + 0x300n, TEXT + 0x202n, 0xffffffff90000000n];
  for (const [i, word] of words.entries()) memory.bytes.writeBigUInt64LE(word, 40 * PAGE + 0xf00 + 8 * i);
  const input = crash({}, (view) => {
    setRegister(view, 'rsp', STACK + 0xf00n);
    setRegister(view, 'rip', TEXT + 0x10n);
    setRegister(view, 'cs', 0xe030n);
    setRegister(view, 'rax', 0xdeadn);
    TrapVp.set.last_next(view, 0, 2);
    const one = TrapVp.offsetOf('last', 0);
    TrapLast.set.nr(view, one, HYPERVISOR.__HYPERVISOR_event_channel_op);
    TrapLast.set.args(view, one, 4n, 0);
    TrapLast.set.args(view, one, 0xffff888000001000n, 1);
    const two = TrapVp.offsetOf('last', 1);
    TrapLast.set.nr(view, two, HYPERVISOR.__HYPERVISOR_mmu_update);
    TrapLast.set.result(view, two, -22n);
    TrapLast.set.flags(view, two, 1);
    const mbox = TrapVp.offsetOf('mbox');
    TrapMailbox.set.kind(view, mbox, TRAP_MBOX.TRAP_CALL_HYPERCALL);
    TrapMailbox.set.state(view, mbox, TRAP_MBOX.TRAP_MBOX_REQUEST);
    TrapMailbox.set.nr(view, mbox, HYPERVISOR.__HYPERVISOR_sched_op);
    TrapMailbox.set.args(view, mbox, 2n, 0);
  });
  const capture = captureCrash(input, memory.domain, RANGES, '[1.0] Kernel panic - not syncing: Oh no\r\n');
  expect(capture.returns.map((r) => r.value)).toEqual([TEXT + 0x105n, TEXT + 0x202n]);
  expect(capture.stack[0]).toEqual({ address: STACK + 0xf00n, value: TEXT + 0x105n });
  const symbols = {
    format: (a: bigint) => (a >= TEXT && a < TEXT + 0x1000n ? `sym+0x${(a - TEXT).toString(16)}` : undefined),
  };
  const text = formatCrash(capture, symbols);
  expect(text).toContain('Kernel panic - not syncing: Oh no');
  expect(text).toContain('rip e030:ffffffff81000010  sym+0x10');
  expect(text).toContain('rax 000000000000dead');
  expect(text).toContain(`${(STACK + 0xf00n).toString(16)}: ffffffff81000105 0000000000001234`);
  expect(text).toContain('ffffffff81000202  sym+0x202');
  expect(text).toContain('event_channel_op.send(cmd=0x4, arg=0xffff888000001000) = 0');
  expect(text).toMatch(/\+ mmu_update\(.*\) = -EINVAL/);
  expect(text).toContain('sched_op.shutdown(cmd=0x2, arg=0x0), under way');
});

test('the ring of hypercalls wraps, and equal calls are counted', () => {
  const input = crash({}, (view) => {
    TrapVp.set.last_next(view, 0, 100);
    for (let i = 0; i < 32; i++) {
      const at = TrapVp.offsetOf('last', i);
      TrapLast.set.nr(view, at, HYPERVISOR.__HYPERVISOR_xen_version);
      // Call number 96 was the 29th from the end of the last round.
      TrapLast.set.args(view, at, i === 0 ? 6n : 0n, 0);
    }
  });
  const text = formatCrash(captureCrash(input, new PlainMemory().domain, [], ''), undefined);
  expect(text).toMatch(
    /xen_version\.version\(.*\(28 times\)\n.*xen_version\.get_features\(.*\n.*xen_version\.version\(.*\(3 times\)/,
  );
});

test.each([
  [
    { reason: TRAP_CRASH.TRAP_CRASH_UNHANDLED_TRAP, vector: 14, errorCode: 2, cr2: 0x10n },
    /#PF page fault .* in guest kernel mode at address 0x10 \(write, not mapped\), and the guest has registered no handler/,
  ],
  [
    { reason: TRAP_CRASH.TRAP_CRASH_UNHANDLED_TRAP, vector: 6, userMode: true },
    /#UD invalid opcode .* in guest user mode/,
  ],
  [
    { reason: TRAP_CRASH.TRAP_CRASH_BAD_STACK, text: 'at 0' },
    /kernel stack could not take an exception frame.*\(at 0\)/,
  ],
  [{ reason: TRAP_CRASH.TRAP_CRASH_RPL }, /start it with --guest-ring 3/],
  [{ reason: TRAP_CRASH.TRAP_CRASH_MODULE_FAULT, text: '#PF' }, /^#PF\. This is a bug in xenlighten, not in the guest/],
  [{ reason: 77 }, /unknown reason 77/],
  [{ reason: TRAP_CRASH.TRAP_CRASH_NONE }, /reported that it crashed/],
])('the cause in words: %o', (over, wanted) => expect(crashCause(crash(over))).toMatch(wanted));

test('a failure of the engine is ours, whatever the block says', () => {
  const input = crash({ failure: 'a virtual processor shut down by a triple fault' });
  const text = formatCrash(captureCrash(input, new PlainMemory().domain, [], ''), undefined);
  expect(text).toMatch(
    /^Failure of xenlighten on vCPU 0\n {2}A virtual processor shut down by a triple fault\. This is a bug/,
  );
});

test('every reason that the trap module has is named', () => {
  for (const reason of Object.values(TRAP_CRASH)) expect(crashCause(crash({ reason }))).not.toMatch(/unknown reason/);
});

test("the console's last words: a panic before an oops", () => {
  expect(
    lastWords('[ 1.1] BUG: unable to handle page fault\r\n[ 1.2] Kernel panic - not syncing: Fatal\r\n[1.3] x'),
  ).toBe('Kernel panic - not syncing: Fatal');
  expect(lastWords('[ 1.1] BUG: one\n[ 1.2] Oops: two\n')).toBe('BUG: one');
  expect(lastWords('all is well')).toBeUndefined();
});

test('whatever guest memory and the block hold, there is a report', () => {
  fc.assert(
    fc.property(
      fc.integer({ min: 0, max: 80 }),
      fc.bigInt({ min: 0n, max: (1n << 64n) - 1n }),
      fc.boolean(),
      (l4, sp, noise) => {
        const memory = new PlainMemory();
        if (noise) randomBytes(memory.bytes.length).copy(memory.bytes);
        const input = crash({ kernelL4: l4, vp: randomBytes(TrapVp.size) });
        setRegister(new DataView(input.vp.buffer, input.vp.byteOffset), 'rsp', sp);
        const text = formatCrash(captureCrash(input, memory.domain, [{ start: 0n, end: 1n << 64n }], ''), undefined);
        expect(text).toMatch(/^(Guest crash|Failure of xenlighten) on vCPU 0\n[\x20-\x7e\n]*$/);
      },
    ),
    { numRuns: 30 },
  );
});

test('what the other vCPUs were doing: registers, mode, the last hypercall', () => {
  const others = [0, 2].map((vcpu) => {
    const vp = Buffer.alloc(TrapVp.size);
    const view = new DataView(vp.buffer, vp.byteOffset, vp.length);
    setRegister(view, 'rip', 0x1000n + BigInt(vcpu));
    setRegister(view, 'cs', 0x33n);
    TrapVp.set.user_mode(view, 0, vcpu === 0 ? 1 : 0);
    TrapVp.set.online(view, 0, vcpu === 0 ? 1 : 0);
    TrapVp.set.last_next(view, 0, 1);
    TrapLast.set.nr(view, TrapVp.offsetOf('last', 0), HYPERVISOR.__HYPERVISOR_iret);
    return { vcpu, vp };
  });
  const text = formatCrash(captureCrash(crash({ vcpu: 1, others }), new PlainMemory().domain, [], ''), undefined);
  expect(text).toMatch(/^Guest crash on vCPU 1$/m);
  expect(text).toMatch(/^vCPU 0 \(guest user mode\)\n {2}rip 0033:0{12}1000\n/m);
  expect(text).toMatch(/^vCPU 2 \(guest kernel mode, down\)\n {2}rip 0033:0{12}1002\n/m);
  expect(text.match(/^ {2}last hypercall iret\(\) = 0$/gm)).toHaveLength(2);
});
