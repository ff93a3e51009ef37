/*
 * Names for what is not complete yet, in the cache. It is removed even when this process is told to end meanwhile; what
 * a killed process left is removed by the next that finds it.
 */
import { readdirSync, rmSync } from 'node:fs';
import path from 'node:path';
import { alive } from '../lock.mjs';

const own = new Set();

process.on('exit', () => {
  for (const name of own) rmSync(name, { recursive: true, force: true });
});

/** `prefix` with a dot in front of its last part, and the number of this process at its end. */
export function temporaryName(prefix) {
  const directory = path.dirname(prefix);
  for (const name of readdirSync(directory)) {
    const [, pid] = /^\..*\.(\d+)$/.exec(name) ?? [];
    if (pid !== undefined && !alive(Number(pid))) rmSync(path.join(directory, name), { recursive: true, force: true });
  }
  const name = path.join(directory, `.${path.basename(prefix)}.${process.pid}`);
  rmSync(name, { recursive: true, force: true });
  own.add(name);
  return name;
}

/** Removes what is under such a name, if it has not been renamed. */
export function discard(name) {
  rmSync(name, { recursive: true, force: true });
  own.delete(name);
}
