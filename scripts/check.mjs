#!/usr/bin/env node
/*
 * `npm run check`: format and lint (Biome), C format (clang-format, where installed), types, unit tests.
 * `--write` formats instead of complaining; `--no-tests` leaves the unit tests out.
 */
import { readdirSync } from 'node:fs';
import path from 'node:path';
import { runSuite, totalLine } from './lib/jest.mjs';
import { root, run, runMain, say, timed, which } from './lib/progress.mjs';

const write = process.argv.includes('--write');

function* cSources(folder) {
  for (const entry of readdirSync(path.join(root, folder), { withFileTypes: true })) {
    const relative = path.join(folder, entry.name);
    if (entry.isDirectory()) {
      // native/include holds what the build generates, native/third-party what others have written.
      if (!['build', 'node_modules', 'include', 'third-party'].includes(entry.name)) yield* cSources(relative);
    } else if (/\.[ch]$/.test(entry.name)) {
      yield relative;
    }
  }
}

function tool(program, args) {
  return run(program, args, { allowFailure: true }).status === 0;
}

function node(script, ...args) {
  return tool(process.execPath, [path.join('node_modules', script), ...args]);
}

function clangFormat() {
  if (which('clang-format') === undefined) {
    say("clang-format is not installed: C formatting is not checked ('apt-get install clang-format')");
    return true;
  }
  const files = [...cSources('native'), ...cSources('tests'), ...cSources('bench')];
  if (files.length === 0) return true;
  return tool('clang-format', [...(write ? ['-i'] : ['--dry-run', '--Werror', '--ferror-limit=1']), ...files]);
}

runMain(async () => {
  const failed = [];
  const step = async (label, body) => {
    if (!(await timed(label, body))) failed.push(label);
  };
  const biomeArgs = ['check', '--error-on-warnings', ...(write ? ['--write'] : []), '.'];
  await step('package-lock.json', () => tool(process.execPath, ['scripts/complete-lock.mjs', '--check']));
  await step('biome', () => node('@biomejs/biome/bin/biome', ...biomeArgs));
  await step('clang-format', clangFormat);
  if (!write) await step('types', () => node('typescript/bin/tsc', '-p', 'tsconfig.check.json'));
  if (!write && !process.argv.includes('--no-tests')) {
    await step('unit tests', () => {
      const total = runSuite('unit');
      say(`unit tests: ${totalLine(total)}`);
      return total.failed === 0;
    });
  }
  if (failed.length > 0) say(`failed: ${failed.join(', ')}`);
  return failed.length > 0 ? 1 : 0;
});
