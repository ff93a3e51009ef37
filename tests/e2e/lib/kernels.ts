/** Kernels for the end-to-end tests: Debian's own, fetched once into the cache, and the PV test kernel. */
import { execFileSync } from 'node:child_process';
import path from 'node:path';
import { packageRoot } from '../../../shim/partition/native-files';

export interface DebianKernels {
  /** What linux-image-amd64 stands for. */
  readonly stock: string;
  /** The newest that apt offers beside it, if there is one. */
  readonly other: string | undefined;
}

/** Fetches the kernels if they are not there. Takes up to a minute the first time. */
export function debianKernels(): DebianKernels {
  const printed = execFileSync(process.execPath, ['scripts/fetch-kernels.mjs'], {
    cwd: packageRoot(),
    encoding: 'utf8',
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  const { stock, other } = JSON.parse(printed) as { stock: string; other?: string };
  return { stock, other };
}

/** Files of modules of the stock kernel, by name. */
export function stockModules(names: readonly string[]): string[] {
  const printed = execFileSync(
    process.execPath,
    ['scripts/fetch-kernels.mjs', '--stock-only', '--modules', names.join(',')],
    { cwd: packageRoot(), encoding: 'utf8', stdio: ['ignore', 'pipe', 'inherit'] },
  );
  return (JSON.parse(printed) as { modules: string[] }).modules;
}

/** Builds the PV test kernel; needs Xen's public headers. */
export function testKernel(): string {
  execFileSync('make', ['-s', '-C', path.join(packageRoot(), 'tests', 'guest')], {
    stdio: ['ignore', 'ignore', 'pipe'],
  });
  return path.join(packageRoot(), 'build', 'tests', 'guest', 'pvtest.elf');
}
