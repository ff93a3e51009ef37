/*
 * Cross-compiles the host addon for Windows with mingw-w64 into prebuilds/win32-x64, so that nobody needs a compiler
 * there. Built from binding.gyp's targets for Windows.
 *
 * Its imports of node.exe are delay-loaded and come from the running program, whatever that is called
 * (native/host/win32/delay-load.c); the import library is made from the .def files of the node-api-headers package.
 */
import { mkdirSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import path from 'node:path';
import { targetsFor } from './native.mjs';
import { upToDate } from './newer.mjs';
import { fail, root, runAsync, which } from './progress.mjs';

const require = createRequire(import.meta.url);
const PREFIX = 'x86_64-w64-mingw32-';
const work = 'build/win32';
export const prebuilt = 'prebuilds/win32-x64';

/** Functions of libuv that we use; node.exe exports them too. */
const UV = ['uv_get_osfhandle'];

async function importLibrary(headers) {
  const text = (name) => readFileSync(path.join(headers, '..', 'def', name), 'utf8').split(/EXPORTS\s*/)[1] ?? '';
  const names = [...text('js_native_api.def').split(/\s+/), ...text('node_api.def').split(/\s+/), ...UV];
  const def = `${work}/node.def`;
  writeFileSync(path.join(root, def), `NAME NODE.EXE\nEXPORTS\n${names.filter((name) => name !== '').join('\n')}\n`);
  const library = `${work}/libnode.a`;
  await runAsync(`${PREFIX}dlltool`, ['-d', def, '-D', 'node.exe', '-y', library]);
  return library;
}

/** Builds prebuilds/win32-x64/xenlighten_host.node, if it is older than its sources. */
export async function buildWin32() {
  const [target] = targetsFor('win');
  const output = `${prebuilt}/${target.target_name}.node`;
  const folders = [...new Set(target.sources.map((source) => path.dirname(source)))];
  if (upToDate([output], ['binding.gyp', 'scripts/lib/win32.mjs', ...folders], /\.[ch]$|\.gyp$|\.mjs$/)) return;
  if (which(`${PREFIX}gcc`) === undefined) fail(`${PREFIX}gcc is missing: apt-get install gcc-mingw-w64-x86-64-posix`);
  mkdirSync(path.join(root, work), { recursive: true });
  mkdirSync(path.join(root, prebuilt), { recursive: true });
  const headers = require('node-api-headers').include_dir;
  const temporary = `${output}.${process.pid}.tmp`;
  try {
    await runAsync(`${PREFIX}gcc`, [
      ...['-O2', '-g', ...target.cflags],
      ...target.defines.map((define) => `-D${define}`),
      // Others' headers, with pragmas that gcc does not know.
      ...target.include_dirs.flatMap((directory) => ['-isystem', directory]),
      ...[`-I${headers}`, '-shared', '-static-libgcc'],
      ...[
        ...target.sources,
        'native/host/win32/delay-load.c',
        await importLibrary(headers),
        ...target.libraries,
        '-ldelayimp',
      ],
      ...['-o', temporary],
    ]);
    renameSync(path.join(root, temporary), path.join(root, output));
  } finally {
    rmSync(path.join(root, temporary), { force: true });
  }
}
