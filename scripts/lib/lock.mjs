/*
 * One build (or one user of Wine's prefix) at a time: a lock file that names its holder, taken over when the holder is gone. A relative name is one of
 * this checkout's own, below build/.
 */
import { closeSync, mkdirSync, openSync, readFileSync, rmSync, writeSync } from 'node:fs';
import path from 'node:path';
import { fail, root } from './progress.mjs';

export function alive(pid) {
  try {
    process.kill(pid, 0);
    return true;
  } catch (error) {
    return error.code === 'EPERM';
  }
}

/** Waits `seconds` at most for who holds it. */
export async function withLock(name, body, seconds = 300) {
  const file = path.resolve(root, 'build', name);
  mkdirSync(path.dirname(file), { recursive: true });
  for (let waited = 0; ; waited += 100) {
    try {
      const fd = openSync(file, 'wx');
      writeSync(fd, `${process.pid}`);
      closeSync(fd);
      break;
    } catch (error) {
      if (error.code !== 'EEXIST') throw error;
    }
    let holder = Number.NaN;
    try {
      holder = Number.parseInt(readFileSync(file, 'utf8'), 10);
    } catch {
      continue;
    }
    if (!Number.isNaN(holder) && !alive(holder)) {
      rmSync(file, { force: true });
      continue;
    }
    if (waited > seconds * 1000) fail(`process ${holder} has held ${file} for ${seconds} s`);
    await new Promise((resolve) => setTimeout(resolve, 100));
  }
  try {
    return await body();
  } finally {
    rmSync(file, { force: true });
  }
}
