/**
 * Checks of what xenlighten needs besides an engine: Node.js, memory, its own native parts, its folders.
 */
import { TRAP } from '../../abi/trap';
import { type Check, inWords, note, type Outcome, ok, problem, warning } from './check';

const OLDEST_NODE = 20;
const TESTED_NODES = [20, 22, 24];
/** Bytes: a guest of the default size, 256 MB, with room for the processes around it. */
const SMALLEST_FREE = 384 * 2 ** 20;

export const mib = (bytes: number): string => `${Math.round(bytes / 2 ** 20)} MiB`;

const node: Check = {
  id: 'node',
  title: 'Node.js',
  run: ({ nodeVersion, arch }) => {
    const major = Number(nodeVersion.split('.')[0]);
    const tested = `tested are ${TESTED_NODES.join(', ')}`;
    if (arch !== 'x64') return problem(`${nodeVersion} for ${arch}`, 'install the one for x64: guests are x86-64');
    if (!(major >= OLDEST_NODE)) return problem(`${nodeVersion} is too old`, `install Node.js 20 or newer; ${tested}`);
    return TESTED_NODES.includes(major) ? ok(nodeVersion) : warning(`${nodeVersion} was never tried`, tested);
  },
};

/** Numbers of /proc/meminfo, in bytes. */
export function parseMeminfo(text: string): ReadonlyMap<string, number> {
  const found = new Map<string, number>();
  for (const [, name, kib] of text.matchAll(/^(\w+):\s+(\d+) kB$/gm)) found.set(name as string, Number(kib) * 1024);
  return found;
}

/** `available` decides; `shown`, where it is not the same, is what is said to be available. */
export function judgeMemory(available: number, total: number, more: string, shown = available): Outcome {
  const found = `${mib(shown)} of ${mib(total)} available${more}`;
  if (available >= SMALLEST_FREE) return ok(found);
  return warning(
    found,
    `a guest of 256 MB wants ${mib(SMALLEST_FREE)}, processes included: end other programs, or give it less`,
  );
}

const memory: Check = {
  id: 'memory',
  title: 'Memory',
  platforms: ['linux'],
  run: async (host) => {
    const info = parseMeminfo(await host.read('/proc/meminfo').catch(() => ''));
    const available = info.get('MemAvailable') ?? host.freeMemory;
    const strict = (await host.read('/proc/sys/vm/overcommit_memory').catch(() => '0')).trim() === '2';
    const limit = info.get('CommitLimit');
    if (!strict || limit === undefined) return judgeMemory(available, host.totalMemory, '');
    const left = limit - (info.get('Committed_AS') ?? 0);
    const more = `; ${mib(left)} left of the commit limit (vm.overcommit_memory is 2)`;
    return judgeMemory(Math.min(available, left), host.totalMemory, more, available);
  },
};

const addon: Check = {
  id: 'addon',
  title: 'Native addon',
  run: (host) => {
    try {
      host.useAddon();
      return ok('loads and answers');
    } catch (error) {
      return problem(
        inWords(error),
        host.platform === 'win32'
          ? "install the package again; a security policy that forbids unknown DLLs must allow the package's *.node files"
          : "'npm run build' in a checkout, or install the package again",
      );
    }
  },
};

const trap: Check = {
  id: 'trap-module',
  title: 'Trap module',
  run: (host) => {
    let image: ReturnType<typeof host.trapImage>;
    try {
      image = host.trapImage();
    } catch (error) {
      return problem(inWords(error));
    }
    const { size, abiVersion } = image;
    const ours = TRAP.TRAP_ABI_VERSION;
    if (abiVersion === ours) return ok(`interface version ${abiVersion}, ${Math.ceil(size / 1024)} KiB`);
    const found = abiVersion === undefined ? 'says no interface version' : `has interface version ${abiVersion}`;
    return problem(`${found}, this program has ${ours}`, "'npm run build' in a checkout, or install the package again");
  },
};

const cache: Check = {
  id: 'cache',
  title: 'Kernel cache',
  run: async (host) => {
    const { cacheDirectory: directory } = host;
    try {
      await host.tryFolder(directory);
      return ok(`${directory} can be written`);
    } catch (error) {
      return note(
        `${directory} cannot be written: ${inWords(error)}`,
        'each start of a compressed kernel unpacks it again, which takes about a second',
      );
    }
  },
};

const control: Check = {
  id: 'control-directory',
  title: 'Control directory',
  run: async (host) => {
    const { controlDirectory: directory } = host;
    try {
      await host.tryControlDirectory(directory);
      await host.tryFolder(directory);
      // Of Windows nobody has looked at who may enter: that is a check of its own.
      return ok(`${directory} ${host.platform === 'win32' ? '' : 'is yours alone and '}can be written`);
    } catch (error) {
      return problem(
        `${directory} cannot be used: ${inWords(error)}`,
        host.platform === 'win32'
          ? 'set LOCALAPPDATA to a folder of your own that can be written'
          : 'set XDG_RUNTIME_DIR to a folder of your own, with mode 0700; or mend this one',
      );
    }
  },
};

export const HOST_CHECKS: readonly Check[] = [node, memory, addon, trap, cache, control];
