/*
 * Wine for the lab: L1 has the checkout and the cache, and so the Windows of ./wine.mjs with its Node.js and its copy of
 * the project, but not Wine itself. What of Wine has to be a file of Linux is copied into the cache (some 45 MB), in the
 * layout that its loader looks for; all other DLLs are taken from the Windows' own system32, where wineboot has put
 * copies of them.
 */
import {
  cpSync,
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  realpathSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs';
import path from 'node:path';
import { cacheDirectory } from './debian-kernel.mjs';
import { run } from './progress.mjs';
import { SERVER, WINE } from './wine.mjs';

/** Part of the mark: to be changed when a change of this file makes other contents. */
const RECIPE = 1;
const DLLS = '/usr/lib/x86_64-linux-gnu/wine';
const DATA = '/usr/share/wine';
/** Without these nothing starts, or no name of an API set is found. */
const FIRST = ['ntdll.dll', 'apisetschema.dll'];
/** Large, and for sound and cameras only. */
const LEFT_OUT = /^(libwine|winegstreamer|gphoto2|winealsa|winepulse)/;

function libraries(file) {
  const said = run('ldd', [file], { capture: true, allowFailure: true }).stdout;
  return [...said.matchAll(/=> (\/\S+) \(0x/g)].map((match) => match[1]).filter((name) => !/\/libc\.so/.test(name));
}

function makeTree(tree) {
  const lib = path.join(tree, 'lib/x86_64-linux-gnu');
  const copy = (from, to) => {
    mkdirSync(path.dirname(to), { recursive: true });
    // Wine makes its Windows anew when wine.inf has another time.
    cpSync(realpathSync(from), to, { recursive: true, preserveTimestamps: true });
  };
  copy(WINE, path.join(tree, 'lib/wine/wine64'));
  copy(SERVER, path.join(tree, 'lib/wine/wineserver'));
  copy(path.join(DATA, 'nls'), path.join(tree, 'share/wine/nls'));
  copy(path.join(DATA, 'wine.inf'), path.join(tree, 'share/wine/wine.inf'));
  const unix = readdirSync(path.join(DLLS, 'x86_64-unix')).filter((name) => !LEFT_OUT.test(name));
  for (const name of unix) copy(path.join(DLLS, 'x86_64-unix', name), path.join(lib, 'wine/x86_64-unix', name));
  // The halves of these that are Windows' have to lie beside them.
  const windows = unix.flatMap((name) => ['dll', 'drv', 'sys'].map((end) => name.replace(/so$/, end)));
  for (const name of new Set([...FIRST, ...windows])) {
    const from = path.join(DLLS, 'x86_64-windows', name);
    if (existsSync(from)) copy(from, path.join(lib, 'wine/x86_64-windows', name));
  }
  for (const file of libraries(path.join(DLLS, 'x86_64-unix/ntdll.so')))
    copy(file, path.join(lib, path.basename(file)));
}

/** Makes sure of the tree, once ensureWine() has made the rest. `node` is the file of Node.js for Windows. */
export function ensureWineInLab(node) {
  const wine = cacheDirectory('wine');
  const tree = path.join(wine, 'lab');
  const { size, mtimeMs } = statSync(WINE);
  const mark = path.join(tree, 'mark');
  const wanted = `${RECIPE} ${size} ${mtimeMs}\n`;
  if (!existsSync(mark) || readFileSync(mark, 'utf8') !== wanted) {
    rmSync(tree, { recursive: true, force: true });
    makeTree(tree);
    writeFileSync(mark, wanted);
  }
  writeFileSync(path.join(tree, 'node'), path.posix.join('/root/.cache/xenlighten/wine', path.relative(wine, node)));
}
