/**
 * Checks of the engines: is there a hypervisor, can it be used, what would `--engine auto` and `--guest-ring auto` take,
 * and why.
 */
import { chooseRing } from '../domain/guest-ring';
import { QemuUnusableError } from '../partition/qemu/binary';
import { type Check, inWords, note, type Outcome, ok, problem, warning } from './check';
import { QEMU_DEFECTS } from './qemu-defects';

/** What to do about a /dev/kvm that cannot be used, by what the probe says. */
function kvmAdvice(why: string): string[] {
  if (/permission/i.test(why)) return ["add yourself to the group of /dev/kvm (usually 'kvm'), then log in again"];
  if (/there is no|no such file|ENOENT/i.test(why))
    return [
      "'modprobe kvm_intel' or 'modprobe kvm_amd'; virtualization must be on in the firmware, and in a virtual machine its " +
        'host must allow nested virtualization',
    ];
  return [];
}

const kvm: Check = {
  id: 'kvm',
  title: 'KVM',
  platforms: ['linux'],
  run: async (host) => {
    const { impossible, unfit, maxVps, ticksPerTurn } = await host.probeKvm();
    if (impossible !== undefined) return note(`cannot be used: ${impossible}`, ...kvmAdvice(impossible));
    if (unfit !== undefined) return note(`is not fit for guests: ${unfit}`);
    const speed = ticksPerTurn === undefined ? '' : `, ${ticksPerTurn.toFixed(1)} ticks for two instructions in ring 0`;
    return ok(`emulates the Hyper-V interface, and runs ring 0 on the processor; ${maxVps} VPs at most${speed}`);
  },
};

const whp: Check = {
  id: 'whp',
  title: 'Hypervisor platform',
  platforms: ['win32'],
  run: async (host) => {
    const { impossible, unfit, capabilities } = await host.probeWhp();
    if (impossible !== undefined) return warning(`cannot be used: ${impossible}`);
    if (unfit !== undefined) return warning(`is not fit for guests: ${unfit}`);
    const synthetic = capabilities === undefined ? '' : `: synthetic features 0x${capabilities.synthetic.toString(16)}`;
    return ok(`a partition could be made, with the Hyper-V interface${synthetic}`);
  },
};

const qemu: Check = {
  id: 'qemu',
  title: 'QEMU',
  platforms: ['linux'],
  run: async (host) => {
    try {
      const { version } = await host.findQemu();
      return note(
        `${version}; its emulator (TCG) is no security boundary. Known defects:`,
        ...QEMU_DEFECTS.flatMap(({ defect, consequence }) => [`- ${defect}:`, ...consequence.map((c) => `  ${c}`)]),
      );
    } catch (error) {
      if (!(error instanceof QemuUnusableError)) throw error;
      return note(`cannot be used: ${error.message}`);
    }
  },
};

const engine: Check = {
  id: 'engine',
  title: '--engine auto',
  run: async (host) => {
    try {
      const { name, why } = await host.chooseEngine();
      // The engine qemu is chosen before anybody has looked whether there is one.
      if (name === 'qemu') await host.findQemu();
      return ok(`takes ${name}: ${why}`);
    } catch (error) {
      return problem(`no engine can be used: ${inWords(error)}`);
    }
  },
};

const ring: Check = {
  id: 'guest-ring',
  title: '--guest-ring auto',
  run: async (host): Promise<Outcome> => {
    let onHostCpu: boolean;
    try {
      ({ onHostCpu } = await host.chooseEngine());
    } catch {
      return note('nothing to choose without an engine');
    }
    const meltdown = onHostCpu ? host.meltdown() : 'not affected';
    const choice = chooseRing('auto', { isLinux: true, isGrub: false }, meltdown);
    const takes = `takes ring ${choice.ring} for a Linux kernel: ${choice.why}`;
    if (choice.ring === 1) return ok(onHostCpu ? takes : `${takes}, since it is emulated`);
    return warning(
      takes,
      'ring 3 is slower; --guest-ring 1 is for guests whose own programs you trust with the memory of their own kernel',
    );
  },
};

export const ENGINE_CHECKS: readonly Check[] = [kvm, whp, qemu, engine, ring];
