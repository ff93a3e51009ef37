/**
 * The engines: which one runs a partition here, and why.
 *
 * `auto` takes whp on Windows; elsewhere kvm where it is fit (Hyper-V emulation, ring 0 on hardware), else qemu. An engine that is asked for by
 * name is refused where it is not fit, with the reason, unless forced. Each engine is loaded only when it is looked at.
 */
import { access } from 'node:fs/promises';
import type { Partition } from './partition';
import type { QemuPartitionOptions } from './qemu/qemu-partition';

export const ENGINE_CHOICES = ['auto', 'whp', 'kvm', 'qemu'] as const;
export type EngineChoice = (typeof ENGINE_CHOICES)[number];

/** What any engine needs to know; the rest is the qemu engine's alone. */
export type PartitionOptions = Omit<QemuPartitionOptions, 'qemu' | 'binary' | 'hugePages'>;

export interface ChosenEngine {
  readonly name: 'whp' | 'kvm' | 'qemu';
  /** For the log. */
  readonly why: string;
  /** Does guest code run on the host's processor itself? */
  readonly onHostCpu: boolean;
  /** Processor features, by the CPUID policy's names, that do not work under this engine here: hidden from guests. */
  readonly brokenFeatures: readonly string[];
  /** Does the processor here deliver interrupts twice (TRAP_DOM_INTERRUPTS_TWICE)? */
  readonly interruptsTwice: boolean;
  /** Names of the processor models that can be asked for; absent where there is only the host's processor. */
  readonly cpuModels?: () => Promise<string[]>;
  /** Makes a partition's memory; nothing runs before start(). */
  create(options: PartitionOptions): Promise<Partition>;
}

/** An engine that was asked for cannot be used here. */
export class EngineUnfitError extends Error {
  override readonly name = 'EngineUnfitError';
}

const KVM_DEVICE = '/dev/kvm';
/** KVM on QEMU's emulation of SVM: see CONTRIBUTING.md, "The lab". */
const IN_LAB = process.env.XENLIGHTEN_LAB === 'hyperv';

async function qemu(why: string): Promise<ChosenEngine> {
  // It shares memory with QEMU by descriptors that QEMU inherits.
  if (process.platform !== 'linux')
    throw new EngineUnfitError(`the qemu engine cannot be used: it needs Linux, this is ${process.platform}`);
  const [{ findQemu }, { cpuModels }, { QemuPartition }] = await Promise.all([
    import('./qemu/binary.js'),
    import('./qemu/cpu-models.js'),
    import('./qemu/qemu-partition.js'),
  ]);
  // Looking for it takes as long as loading a kernel: start() says what is wrong.
  const found = findQemu();
  found.catch(() => undefined);
  return {
    name: 'qemu',
    why,
    onHostCpu: false,
    brokenFeatures: [],
    interruptsTwice: false,
    cpuModels: async () => cpuModels(await found),
    create: async (options) => new QemuPartition({ ...options, binary: found }),
  };
}

async function kvm(hyperv: boolean, why: string): Promise<ChosenEngine> {
  return {
    name: 'kvm',
    why,
    onHostCpu: true,
    // QEMU's TCG executes a nested guest's XSETBV unseen by KVM, whose idea of XCR0 is then loaded at the next entry.
    brokenFeatures: IN_LAB ? ['XSAVE'] : [],
    // Its injected interrupts may come a second time.
    interruptsTwice: IN_LAB,
    create: async ({ memoryBytes, vpCount }) => {
      const { KvmPartition } = await import('./kvm/kvm-partition.js');
      return new KvmPartition({ memoryBytes, vpCount, hyperv });
    },
  };
}

/** Why an engine that was probed cannot be used, or should not be. */
interface Fitness {
  readonly impossible: string | undefined;
  readonly unfit: string | undefined;
}

/** For an engine that was asked for by name. Returns why it was chosen. */
function insist(name: 'whp' | 'kvm', { impossible, unfit }: Fitness, force: boolean): string {
  const otherwise = process.platform === 'win32' ? '' : " '--engine qemu' works;";
  if (impossible !== undefined) throw new EngineUnfitError(`the ${name} engine cannot be used: ${impossible}`);
  if (unfit !== undefined && !force)
    throw new EngineUnfitError(
      `the ${name} engine is not fit for use here: ${unfit}.${otherwise} --force runs it nevertheless, for tests`,
    );
  return unfit === undefined ? 'asked for' : `forced, although ${unfit}`;
}

async function whp(asked: EngineChoice, force: boolean): Promise<ChosenEngine> {
  const { probeWhp } = await import('./whp/probe.js');
  const probe = probeWhp();
  const why = insist('whp', probe, force);
  return {
    name: 'whp',
    why: asked === 'auto' ? 'this is Windows' : why,
    onHostCpu: true,
    // As of kvm: under the stand-in that is what runs the VPs.
    brokenFeatures: IN_LAB ? ['XSAVE'] : [],
    interruptsTwice: IN_LAB,
    create: async ({ memoryBytes, vpCount }) => {
      const { WhpPartition } = await import('./whp/whp-partition.js');
      return new WhpPartition({ memoryBytes, vpCount, hyperv: probe.hyperv });
    },
  };
}

/** Chooses. EngineUnfitError: the engine that was asked for cannot be used, or only by force. */
export async function chooseEngine(asked: EngineChoice, force = false): Promise<ChosenEngine> {
  if (asked === 'qemu') return qemu('asked for');
  if (asked === 'whp' || (asked === 'auto' && process.platform === 'win32')) return whp(asked, force);
  if (asked === 'auto') {
    const missing = await access(KVM_DEVICE).then(
      () => false,
      () => true,
    );
    if (missing) return qemu(`there is no ${KVM_DEVICE}`);
  }
  const { probeKvm } = await import('./kvm/probe.js');
  const probe = await probeKvm({ measure: asked === 'auto' ? 'if-fit' : 'always' });
  const problem = probe.impossible ?? probe.unfit;
  if (asked === 'auto') {
    return problem === undefined
      ? kvm(true, `${KVM_DEVICE} is fit for it`)
      : qemu(`the kvm engine will not do: ${problem}`);
  }
  return kvm(probe.hyperv, insist('kvm', probe, force));
}
