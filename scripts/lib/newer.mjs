/* Is a build step's output newer than everything it is made from? */
import { readdirSync, statSync } from 'node:fs';
import path from 'node:path';
import { root } from './progress.mjs';

function* walk(entry, pattern) {
  let stat;
  try {
    stat = statSync(entry);
  } catch {
    return;
  }
  if (!stat.isDirectory()) {
    if (pattern.test(entry)) yield stat.mtimeMs;
    return;
  }
  // A directory's own time tells of files that were removed or renamed.
  yield stat.mtimeMs;
  for (const name of readdirSync(entry)) {
    if (name === 'node_modules') continue;
    const child = path.join(entry, name);
    yield* walk(child, pattern);
  }
}

function mtime(file) {
  try {
    return statSync(path.resolve(root, file)).mtimeMs;
  } catch {
    return undefined;
  }
}

/** True when every output exists and none is older than any input (a file, or a folder's files matching `pattern`). */
export function upToDate(outputs, inputs, pattern = /./) {
  let oldest = Number.POSITIVE_INFINITY;
  for (const output of outputs) {
    const time = mtime(output);
    if (time === undefined) return false;
    oldest = Math.min(oldest, time);
  }
  for (const input of inputs) {
    for (const time of walk(path.join(root, input), pattern)) if (time > oldest) return false;
  }
  return true;
}

export function exists(file) {
  return mtime(file) !== undefined;
}
