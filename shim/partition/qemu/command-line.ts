/**
 * QEMU's command line for a partition: the microvm machine with nothing in it but local APICs, an I/O APIC and one
 * serial port, which is doorbell and kick.
 *
 * Quirks worth knowing:
 * - maxcpus is never 1, although one VP is the usual number: with a single possible processor TCG translates locked
 *   instructions into plain ones, since no other processor could watch, and then they are not atomic towards this
 *   process, which shares the memory.
 * - tb-size: translated code of a booted guest needs about 50 MB; QEMU's own default would be a GiB.
 * - icount (for benchmarks in instructions) excludes thread=multi, and with it those atomic instructions: a doorbell or
 *   a kick may then be lost, rarely. Never use it for anything else.
 * - XSAVE without any of its extensions (Opteron_G4; qemu64,xsave=on) makes QEMU 7.2 repeat the write that sets
 *   CR4.OSXSAVE for ever: a model that was asked for gets XSAVEOPT, which TCG has, and which shows nothing where XSAVE is
 *   not there. Other deviations: WRGSBASE takes addresses that are not canonical; AVX-512, XSAVEC and XSAVES do not exist.
 * - Files are named /proc/self/fd/N: inherited descriptors have no other name, so nothing can be left behind.
 */

/** Descriptor numbers in QEMU's process. */
export const RAM_FD = 3;
export const BELL_FD = 4;
export const ROM_FD = 5;
/** QMP, until the VPs run. */
export const CONTROL_FD = 6;

export interface QemuMachine {
  readonly memoryBytes: number;
  readonly vpCount: number;
  /** Shown by ps; letters, digits, '.', '_' and '-' are kept. */
  readonly name?: string;
  /** QEMU's -cpu; DEFAULT_CPU when absent. SMAP, SMEP and other things that the trap module cannot run under are always off. */
  readonly cpu?: string;
  /** QEMU's -icount, such as "shift=0". */
  readonly icount?: string;
  /** A file that receives what VPs write to port 0xe9, for debugging the trap module. */
  readonly debugLog?: string;
  /** Put last, for debugging: such as ['-d', 'int,cpu_reset', '-D', 'qemu.log']. */
  readonly extraArguments?: readonly string[];
}

export const DEFAULT_CPU = 'qemu64';

/**
 * Never on. SMAP, SMEP: iret and far returns pop with supervisor rights in QEMU before 9.1, which SMAP turns into faults.
 * BMI2: QEMU 7.2 computes some of it wrong (a zstd decoder that uses it finds its data corrupt).
 */
const FORBIDDEN_FEATURES = ['smap=off', 'smep=off', 'bmi2=off'];

function escapeOption(value: string): string {
  return value.replaceAll(',', ',,');
}

export function commandLine(machine: QemuMachine): string[] {
  const accel = machine.icount === undefined ? 'tcg,thread=multi,tb-size=64' : 'tcg,thread=single,tb-size=64';
  const name = (machine.name ?? 'domain').replaceAll(/[^A-Za-z0-9._-]/g, '_');
  const model = machine.cpu === undefined ? [DEFAULT_CPU] : [machine.cpu, 'xsaveopt=on'];
  const cpu = [...model, ...FORBIDDEN_FEATURES].join(',');
  const machineOptions = [
    'microvm',
    'memory-backend=ram',
    'acpi=off',
    'auto-kernel-cmdline=off',
    'graphics=off',
    'ioapic2=off',
    'isa-serial=off',
    'pcie=off',
    'pic=off',
    'pit=off',
    'rtc=off',
    'usb=off',
    'x-option-roms=off',
    'dump-guest-core=off',
  ];
  return [
    '-name',
    `xenlighten-${name}`,
    '-no-user-config',
    '-nodefaults',
    '-display',
    'none',
    '-no-reboot',
    // The VPs run when the host says so on the control socket.
    '-S',
    '-chardev',
    `socket,id=control,fd=${CONTROL_FD}`,
    '-mon',
    'chardev=control,mode=control',
    '-sandbox',
    'on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny',
    '-object',
    `memory-backend-file,id=ram,mem-path=/proc/self/fd/${RAM_FD},share=on,size=${machine.memoryBytes}`,
    '-machine',
    machineOptions.join(','),
    '-accel',
    accel,
    '-cpu',
    cpu,
    '-smp',
    `cpus=${machine.vpCount},maxcpus=${Math.max(machine.vpCount, 2)}`,
    '-m',
    `size=${machine.memoryBytes / 2 ** 20}M`,
    '-bios',
    `/proc/self/fd/${ROM_FD}`,
    '-chardev',
    `socket,id=bell,fd=${BELL_FD}`,
    '-device',
    'isa-serial,chardev=bell,iobase=0x3f8,irq=4',
    ...(machine.icount === undefined ? [] : ['-icount', machine.icount]),
    ...(machine.debugLog === undefined
      ? []
      : [
          '-chardev',
          `file,id=log,path=${escapeOption(machine.debugLog)}`,
          '-device',
          'isa-debugcon,chardev=log,iobase=0xe9',
        ]),
    ...(machine.extraArguments ?? []),
  ];
}
