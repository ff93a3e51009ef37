'use strict';
/*
 * Runs in the lab: `node probe.js GUEST`. Makes a virtual machine with raw calls to /dev/kvm, runs the little guest of
 * probe.S (already assembled) in it, and prints what KVM and the guest said as JSON. Numbers are those of
 * <linux/kvm.h>, for x86-64.
 */
const { readFileSync, readSync } = require('node:fs');
const ffi = require('ffi-napi');
const ref = require('ref-napi');

const pointer = ref.refType(ref.types.void);
const libc = ffi.Library('libc.so.6', {
  open: ['int', ['string', 'int']],
  ioctl: ['int', ['int', 'ulong', 'ulong']],
  mmap: [pointer, [pointer, 'size_t', 'int', 'int', 'int', 'long']],
});
// The same function, with a pointer in the place of the number.
const { ioctl: ioctlAt } = ffi.Library('libc.so.6', { ioctl: ['int', ['int', 'ulong', pointer]] });

const O_RDWR_CLOEXEC = 0o2000002;
const PROT_READ_WRITE = 3;
const MAP_SHARED = 1;
const MAP_PRIVATE_ANONYMOUS = 0x22;

const KVM_GET_API_VERSION = 0xae00;
const KVM_CREATE_VM = 0xae01;
const KVM_CHECK_EXTENSION = 0xae03;
const KVM_GET_VCPU_MMAP_SIZE = 0xae04;
const KVM_CREATE_VCPU = 0xae41;
const KVM_SET_USER_MEMORY_REGION = 0x4020ae46;
const KVM_CREATE_IRQCHIP = 0xae60;
const KVM_RUN = 0xae80;
const KVM_GET_REGS = 0x8090ae81;
const KVM_SET_REGS = 0x4090ae82;
const KVM_GET_SREGS = 0x8138ae83;
const KVM_SET_SREGS = 0x4138ae84;
const KVM_SET_CPUID2 = 0x4008ae90;
const KVM_ENABLE_CAP = 0x4068aea3;
const KVM_GET_SUPPORTED_HV_CPUID = 0xc008aec1;
const KVM_GET_STATS_FD = 0xaece;
const KVM_CAP_HYPERV_SYNIC2 = 148;
const KVM_EXIT_IO = 2;

const MEMORY_BYTES = 0x20_0000;
const CODE = 0x1000;
const RESULTS = 0x3000;

function check(result, what) {
  if (result < 0) throw new Error(`${what} failed (errno ${ffi.errno()})`);
  return result;
}

function map(size, flags, fd) {
  const at = libc.mmap(ref.NULL, size, PROT_READ_WRITE, flags, fd, 0);
  if (ref.address(at) === -1) throw new Error(`mmap failed (errno ${ffi.errno()})`);
  return ref.reinterpret(at, size, 0);
}

const kvm = check(libc.open('/dev/kvm', O_RDWR_CLOEXEC), 'opening /dev/kvm');
const apiVersion = libc.ioctl(kvm, KVM_GET_API_VERSION, 0);
const synic2 = libc.ioctl(kvm, KVM_CHECK_EXTENSION, KVM_CAP_HYPERV_SYNIC2);
const vm = check(libc.ioctl(kvm, KVM_CREATE_VM, 0), 'KVM_CREATE_VM');
check(libc.ioctl(vm, KVM_CREATE_IRQCHIP, 0), 'KVM_CREATE_IRQCHIP');

const memory = map(MEMORY_BYTES, MAP_PRIVATE_ANONYMOUS, -1);
readFileSync(process.argv[2]).copy(memory, CODE);
const region = Buffer.alloc(32);
region.writeBigUInt64LE(BigInt(MEMORY_BYTES), 16);
region.writeBigUInt64LE(BigInt(ref.address(memory)), 24);
check(ioctlAt(vm, KVM_SET_USER_MEMORY_REGION, region), 'KVM_SET_USER_MEMORY_REGION');

const vcpu = check(libc.ioctl(vm, KVM_CREATE_VCPU, 0), 'KVM_CREATE_VCPU');
const runBytes = check(libc.ioctl(kvm, KVM_GET_VCPU_MMAP_SIZE, 0), 'KVM_GET_VCPU_MMAP_SIZE');
const run = map(runBytes, MAP_SHARED, vcpu);
const cap = Buffer.alloc(104);
cap.writeUInt32LE(KVM_CAP_HYPERV_SYNIC2, 0);
check(ioctlAt(vcpu, KVM_ENABLE_CAP, cap), 'KVM_CAP_HYPERV_SYNIC2');

// struct kvm_cpuid2: a count, then entries of 40 bytes (function, index, flags, eax, ebx, ecx, edx, padding).
const cpuid = Buffer.alloc(8 + 40 * 32);
cpuid.writeUInt32LE(32, 0);
check(ioctlAt(vcpu, KVM_GET_SUPPORTED_HV_CPUID, cpuid), 'KVM_GET_SUPPORTED_HV_CPUID');
const leaves = {};
for (let i = 0; i < cpuid.readUInt32LE(0); i++) {
  const at = 8 + 40 * i;
  const leaf = cpuid.readUInt32LE(at);
  // KVM names itself there; a guest looks for Microsoft's name.
  if (leaf === 0x40000000) cpuid.write('Microsoft Hv', at + 16, 'latin1');
  leaves[leaf.toString(16)] = [12, 16, 20, 24].map((register) => cpuid.readUInt32LE(at + register));
}
check(ioctlAt(vcpu, KVM_SET_CPUID2, cpuid), 'KVM_SET_CPUID2');

const sregs = Buffer.alloc(312);
check(ioctlAt(vcpu, KVM_GET_SREGS, sregs), 'KVM_GET_SREGS');
// cs, ds, es, fs, gs, ss: 24 bytes each; flat, 32-bit, ring 0.
for (let i = 0; i < 6; i++) {
  const segment = sregs.subarray(24 * i, 24 * (i + 1));
  segment.fill(0);
  segment.writeUInt32LE(0xffffffff, 8);
  segment.writeUInt16LE(i === 0 ? 8 : 16, 12);
  // type, present, dpl, db, s, l, g
  Buffer.from([i === 0 ? 11 : 3, 1, 0, 1, 1, 0, 1]).copy(segment, 14);
}
sregs.writeBigUInt64LE(0x11n, 224); // cr0: PE, ET
check(ioctlAt(vcpu, KVM_SET_SREGS, sregs), 'KVM_SET_SREGS');
const regs = Buffer.alloc(144);
regs.writeBigUInt64LE(0x8000n, 48); // rsp
regs.writeBigUInt64LE(BigInt(CODE), 128); // rip
regs.writeBigUInt64LE(2n, 136); // rflags
check(ioctlAt(vcpu, KVM_SET_REGS, regs), 'KVM_SET_REGS');

check(libc.ioctl(vcpu, KVM_RUN, 0), 'KVM_RUN');
const exitReason = run.readUInt32LE(8);
check(ioctlAt(vcpu, KVM_GET_REGS, regs), 'KVM_GET_REGS');

/** A vCPU's counters: struct kvm_stats_header, descriptors of 16 bytes and a name, data. */
function statistics() {
  const fd = check(libc.ioctl(vcpu, KVM_GET_STATS_FD, 0), 'KVM_GET_STATS_FD');
  const file = Buffer.alloc(65536);
  readSync(fd, file, 0, file.length, 0);
  const [, nameBytes, count, , descriptors, data] = [0, 4, 8, 12, 16, 20].map((at) => file.readUInt32LE(at));
  const counters = {};
  for (let i = 0; i < count; i++) {
    const at = descriptors + i * (16 + nameBytes);
    const name = file.toString('latin1', at + 16, at + 16 + nameBytes).replace(/\0.*/, '');
    counters[name] = Number(file.readBigUInt64LE(data + file.readUInt32LE(at + 8)));
  }
  return counters;
}

const { exits, hypercalls } = statistics();
const result = (at) => memory.readUInt32LE(RESULTS + at);
process.stdout.write(
  `${JSON.stringify({
    apiVersion,
    synic2,
    leaves,
    exitReason: exitReason === KVM_EXIT_IO ? 'io' : exitReason,
    rip: Number(regs.readBigUInt64LE(128)),
    guest: {
      vendor: memory.toString('latin1', RESULTS, RESULTS + 12),
      interface: memory.toString('latin1', RESULTS + 12, RESULTS + 16),
      vpIndex: result(16),
      spinWaitStatus: result(20),
      unknownCallStatus: result(24),
      firstReference: Number(memory.readBigUInt64LE(RESULTS + 28)),
      secondReference: Number(memory.readBigUInt64LE(RESULTS + 36)),
    },
    counters: { exits, hypercalls },
  })}\n`,
);
