/**
 * Finds the files that the build makes from native/: the addon, the launcher, the reset ROM, the trap module.
 *
 * A checkout has them under build/, an installed package under prebuilds/<platform>-<arch>/. This module runs from
 * shim/ (tests) and from dist/shim/ (the built program) alike, so the package's root is looked for, not counted.
 */
import { existsSync, readFileSync } from 'node:fs';
import path from 'node:path';

/** What a package has built files for (scripts/prebuild.mjs). */
const PACKAGED = ['linux-x64', 'win32-x64'];

/** A file that the build should have made is not there. */
export class NativeFileMissingError extends Error {
  override readonly name = 'NativeFileMissingError';
  constructor(
    readonly file: string,
    readonly lookedIn: readonly string[],
  ) {
    const cure =
      process.platform === 'linux'
        ? "run 'npm run build'"
        : `it is built on Linux: install the package that 'npm pack' makes there; it has prebuilds for ${PACKAGED.join(' and ')}`;
    super(`${file} is not built (looked for ${lookedIn.join(', ')}): ${cure}`);
  }
}

let cachedRoot: string | undefined;

/** The folder with xenlighten's own package.json. */
export function packageRoot(): string {
  if (cachedRoot !== undefined) return cachedRoot;
  for (let directory = __dirname; ; directory = path.dirname(directory)) {
    const manifest = path.join(directory, 'package.json');
    if (existsSync(manifest)) {
      const { name } = JSON.parse(readFileSync(manifest, 'utf8')) as { name?: string };
      if (name === 'xenlighten') {
        cachedRoot = directory;
        return directory;
      }
    }
    if (path.dirname(directory) === directory) throw new Error(`no xenlighten package around ${__dirname}`);
  }
}

/** Absolute path of a built file, given its name and its folder under build/; NativeFileMissingError when absent. */
export function nativeFile(folder: string, name: string): string {
  const root = packageRoot();
  const built = path.join(root, 'build', folder, name);
  const shipped = path.join(root, 'prebuilds', `${process.platform}-${process.arch}`, name);
  // What build/ has is made by Linux, for Linux.
  const candidates = process.platform === 'linux' ? [built, shipped] : [shipped, built];
  for (const candidate of candidates) if (existsSync(candidate)) return candidate;
  throw new NativeFileMissingError(name, candidates);
}
