/*
 * One build at a time: a lock file that names its holder, taken over when the holder is gone. A relative name is one of
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

export async function withLock(name, body) {
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
    if (waited > 300_000) fail(`another build (process ${holder}) has held ${file} for 5 minutes`);
    await new Promise((resolve) => setTimeout(resolve, 100));
  }
  try {
    return await body();
  } finally {
    rmSync(file, { force: true });
  }
}
