/**
 * The processor models that a QEMU knows, from `-cpu help`: asked only when the user names one, so that a wrong name is
 * told before a guest is built.
 */
import { execFile } from 'node:child_process';
import { type QemuBinary, QemuUnusableError } from './binary';

/** The models' names in what `-cpu help` printed: lines "x86 NAME [description]", without "x86" in later versions. */
export function parseCpuHelp(printed: string): string[] {
  const [, models = ''] = printed.split(/^Available CPUs:$|^Recognized CPUID flags:$/m);
  return [...models.matchAll(/^\s*(?:x86 )?\s*([A-Za-z0-9][A-Za-z0-9_.-]*)/gm)].map(([, name]) => name as string);
}

/** Names of the models. QemuUnusableError when QEMU does not list any. */
export function cpuModels(binary: QemuBinary): Promise<string[]> {
  return new Promise((resolve, reject) => {
    execFile(binary.file, ['-cpu', 'help'], { timeout: 20_000, encoding: 'utf8' }, (error, stdout, stderr) => {
      const models = error === null ? parseCpuHelp(stdout) : [];
      if (models.length > 0) resolve(models);
      else
        reject(new QemuUnusableError(`${binary.file} -cpu help lists no models: ${(stderr || stdout).slice(0, 500)}`));
    });
  });
}
