/*
 * The machines that are compared. The same kernel file, the same initramfs, the same guest memory and the same command
 * line in all of them; the same QEMU binary and CPU model below.
 *
 *   ring1, ring3  xenlighten, guest kernel in that ring
 *   bare          the kernel on QEMU's pc, page-table isolation off
 *   dom0          the kernel as dom0 of real Xen
 *   domu          the kernel as a domU of real Xen, created by xl in a minimal dom0
 *   unpacked      the same, boot only, with the kernel already unpacked for xl
 *
 * In the lab, on KVM:
 *
 *   ring1, ring3, bare      the same with one vCPU, xenlighten's on its kvm engine
 *   ring1x2, ring3x2, barex2  with two, and only some of the metrics
 */
import { existsSync } from 'node:fs';
import path from 'node:path';
import { root } from '../scripts/lib/progress.mjs';

export const CLI = path.join(root, 'dist', 'shim', 'cli', 'main.js');
const RUNNER = path.join(root, 'bench', 'domain.mjs');

export const CPU = 'qemu64';
export const GUEST_MEMORY = 256;
const DOM0_MEMORY = 512;
const HOST_MEMORY = 1024;
const BASE_CMDLINE = 'quiet panic=-1';

export const LABELS = {
  ring1: 'xenlighten, ring 1',
  ring3: 'xenlighten, ring 3',
  bare: 'bare',
  dom0: 'Xen dom0',
  domu: 'Xen domU',
  unpacked: 'Xen domU, kernel unpacked for xl',
};

/** Names of configurations in dom0's initramfs. */
const GUEST_CONFIGS = { domu: 'guest', unpacked: 'unpacked' };

/** The guest's command line; `words` are the benchmark's own. */
export function cmdline(console, words) {
  return [`console=${console}`, BASE_CMDLINE, words].filter(Boolean).join(' ');
}

export function qemu(memory, args, icount = false) {
  const instructions = icount ? ['-icount', 'shift=0,sleep=off'] : [];
  const plain = ['-display', 'none', '-monitor', 'none', '-serial', 'stdio', '-no-user-config', '-nodefaults'];
  const accel = icount ? 'tcg,thread=single' : 'tcg';
  return [
    'qemu-system-x86_64',
    '-accel',
    accel,
    '-cpu',
    CPU,
    '-smp',
    '1',
    '-m',
    `${memory}`,
    ...plain,
    '-no-reboot',
  ].concat(instructions, args);
}

/**
 * The command of a scenario. `inputs`: {kernel, initramfs, xen, dom0Image}; `words` for the benchmark in the guest;
 * `icount`: time is counted in instructions; `stats`: file for the trap module's counters (with icount only).
 */
export function command(name, inputs, words, { icount = false, stats } = {}) {
  const { kernel, initramfs, xen } = inputs;
  switch (name) {
    case 'ring1':
    case 'ring3': {
      const options = ['--kernel', kernel, '--ramdisk', initramfs, '--memory', `${GUEST_MEMORY}`];
      options.push('--guest-ring', name.slice(4), '--cmdline', cmdline('hvc0', words));
      if (icount || stats !== undefined || !existsSync(CLI)) {
        const extra = [...(icount ? ['--icount', 'shift=0,sleep=off'] : []), ...(stats ? ['--stats', stats] : [])];
        return [process.execPath, RUNNER, ...options, ...extra];
      }
      return [process.execPath, CLI, 'run', ...options];
    }
    case 'bare':
      return qemu(
        GUEST_MEMORY,
        ['-kernel', kernel, '-initrd', initramfs, '-append', `${cmdline('ttyS0', words)} pti=off`],
        icount,
      );
    case 'dom0':
      return qemu(
        HOST_MEMORY,
        [
          ...['-kernel', xen, '-append', xenCmdline(GUEST_MEMORY)],
          ...['-initrd', `${kernel} ${cmdline('hvc0', words)},${initramfs}`],
        ],
        icount,
      );
    case 'domu':
    case 'unpacked':
      return qemu(
        HOST_MEMORY,
        [
          ...['-kernel', xen, '-append', xenCmdline(DOM0_MEMORY)],
          '-initrd',
          `${kernel} ${cmdline('hvc0', `random.trust_bootloader=on rdinit=/bench-init bench.guest=${GUEST_CONFIGS[name]}`)},${inputs.dom0Image}`,
        ],
        icount,
      );
    default:
      throw new Error(`no scenario ${name}`);
  }
}

/** The lab's machines. `base`: what a machine is compared with. */
export const LAB_LABELS = {
  bare: { label: 'bare', vcpus: 1 },
  ring1: { label: 'xenlighten, ring 1', vcpus: 1, base: 'bare' },
  ring3: { label: 'xenlighten, ring 3', vcpus: 1, base: 'bare' },
  barex2: { label: 'bare, 2 vCPUs', vcpus: 2 },
  ring1x2: { label: 'xenlighten, ring 1, 2 vCPUs', vcpus: 2, base: 'barex2' },
  ring3x2: { label: 'xenlighten, ring 3, 2 vCPUs', vcpus: 2, base: 'barex2' },
};

/** What two vCPUs may do otherwise than one: wake each other up, flush each other's translations, wait for locks. */
export const SMP_METRICS = [
  ...['alu_loop', 'getppid', 'context_switch', 'pipe_64k', 'page_fault', 'munmap_page', 'mmap_touch_munmap_16'],
  ...['mprotect', 'fork_exit_wait', 'fork_exec_wait', 'signal_self'],
];

/** KVM's own processor, without what L1's emulation does wrong; the kvm engine hides the same in the lab. */
export const LAB_CPU = 'host,-xsave,-avx';

/**
 * The command of a machine in the lab, and its variables. `inputs`: {kernel, initramfs}; `qemu`: {command, env}. The
 * engine keeps HLT from leaving the guest there, because its wake-up might be lost; `cpu-pm` does the same for QEMU.
 */
export function labCommand(name, { kernel, initramfs }, words, qemu) {
  const { vcpus } = LAB_LABELS[name];
  if (name.startsWith('ring')) {
    const options = ['--engine', 'kvm', '--guest-ring', name[4], '--vcpus', `${vcpus}`, '--memory', `${GUEST_MEMORY}`];
    const guest = ['--kernel', kernel, '--ramdisk', initramfs, '--cmdline', cmdline('hvc0', words)];
    return { command: [process.execPath, CLI, 'run', ...options, ...guest], env: {} };
  }
  const machine = ['-accel', 'kvm', '-cpu', LAB_CPU, '-overcommit', 'cpu-pm=on', '-smp', `${vcpus}`];
  const plain = ['-m', `${GUEST_MEMORY}`, '-no-user-config', '-nodefaults', '-no-reboot'];
  const devices = ['-display', 'none', '-monitor', 'none', '-serial', 'stdio'];
  const guest = ['-kernel', kernel, '-initrd', initramfs, '-append', `${cmdline('ttyS0', words)} pti=off`];
  return { command: [...qemu.command, ...machine, ...plain, ...devices, ...guest], env: qemu.env };
}

export function xenCmdline(dom0Memory) {
  return `console=com1 com1=115200 dom0_mem=${dom0Memory}M,max:${dom0Memory}M dom0_max_vcpus=1`;
}
