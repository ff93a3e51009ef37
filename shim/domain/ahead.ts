/**
 * What the start of a domain can begin before the domain's own code is there: reading kernel and ramdisk, choosing the
 * engine. This takes few modules; while the others are loaded, for some 40 ms, Node's thread pool reads the 66 MB of an
 * unpacked kernel.
 */
import { type ChosenEngine, chooseEngine, type EngineChoice } from '../partition/engines';
import { defaultCacheDirectory, KernelCache } from '../xen/builder/cache';
import { type Kernel, loadKernel, readInput } from '../xen/builder/image';
import { TscClock } from './tsc-clock';

/** Promises that nobody has to wait for: what is wrong shows where they are waited for. */
export interface Ahead {
  readonly kernel: Promise<Kernel>;
  /** This thread has nothing to do for the kernel now: it is being read or unpacked by others. Rejects as `kernel` does. */
  readonly kernelOnItsWay: Promise<void>;
  /** The kernel will be there in a moment, if it is not damaged. Rejects as `kernel` does. */
  readonly kernelSoon: Promise<void>;
  readonly ramdisk: Promise<Buffer> | undefined;
  readonly engine: Promise<ChosenEngine>;
  readonly tsc: TscClock;
}

/** Bytes of a ramdisk file at most. */
const MAX_RAMDISK = 2 ** 31;

export interface AheadConfig {
  readonly kernel: string;
  readonly ramdisk?: string | undefined;
  readonly engine?: EngineChoice | undefined;
  readonly forceEngine?: boolean | undefined;
}

export function beginAhead(config: AheadConfig): Ahead {
  const tsc = new TscClock();
  const announcement = (): { announce: () => void; announced: Promise<void> } => {
    let announce!: () => void;
    const announced = new Promise<void>((resolve) => {
      announce = resolve;
    });
    return { announce, announced };
  };
  const soon = announcement();
  const background = announcement();
  const kernel = loadKernel(config.kernel, {
    cache: new KernelCache(defaultCacheDirectory()),
    onSoon: soon.announce,
    onBackground: background.announce,
  });
  const kernelSoon = Promise.race([soon.announced, kernel]).then(() => undefined);
  const kernelOnItsWay = Promise.race([background.announced, kernel]).then(() => undefined);
  const ramdisk = config.ramdisk === undefined ? undefined : readInput(config.ramdisk, 'ramdisk', MAX_RAMDISK);
  const engine = chooseEngine(config.engine ?? 'auto', config.forceEngine);
  for (const promise of [kernel, kernelSoon, kernelOnItsWay, ramdisk, engine]) promise?.catch(() => undefined);
  return { kernel, kernelOnItsWay, kernelSoon, ramdisk, engine, tsc };
}
