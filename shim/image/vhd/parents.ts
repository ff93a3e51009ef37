/**
 * The path to a differencing disk's parent (specification, "Parent Locator Entry"), both ways.
 *
 * A child names its parent several times, in the words of several platforms: W2ru (relative, Windows, UTF-16), W2ku
 * (absolute, Windows, UTF-16), MacX (file URL, UTF-8: what XenServer writes), and by the bare name in its header. They
 * are tried in this order, the relative ones from the child's folder, and the id in the parent's footer decides. The
 * names are whoever's who made the file; what they lead to is opened for reading, if it is a regular file, and used if it
 * is a VHD with the right id.
 */
import path from 'node:path';
import type { ImageFile } from '../file';
import { type DynamicHeader, type ParentLocator, SECTOR } from './format';
import { MAX_LOCATOR } from './layout';

const isWindows = process.platform === 'win32';

/** A Windows path as a path of this host; undefined where there is none. */
function fromWindows(text: string): string | undefined {
  if (isWindows) return text;
  return /^[A-Za-z]:|^\\\\/.test(text) ? undefined : text.replaceAll('\\', '/');
}

function fromUrl(text: string): string | undefined {
  if (!text.startsWith('file://')) return undefined;
  try {
    return decodeURIComponent(text.slice('file://'.length));
  } catch {
    return undefined;
  }
}

async function locatorText(file: ImageFile, locator: ParentLocator, encoding: BufferEncoding): Promise<string> {
  const { dataOffset, dataLength } = locator;
  const fits =
    dataLength > 0 && dataLength <= MAX_LOCATOR && dataOffset >= SECTOR && dataOffset + dataLength <= file.size;
  if (!fits) return '';
  const bytes = Buffer.alloc(dataLength);
  await file.read(dataOffset, [bytes]);
  const text = bytes.toString(encoding);
  const end = text.indexOf('\0');
  return end < 0 ? text : text.slice(0, end);
}

/** Where the parent may be, best first; absolute paths of this host. */
export async function parentCandidates(file: ImageFile, header: DynamicHeader): Promise<string[]> {
  const found: (string | undefined)[] = [];
  const readers: readonly [string, BufferEncoding, (text: string) => string | undefined][] = [
    ['W2ru', 'utf16le', fromWindows],
    ['MacX', 'utf8', fromUrl],
    ['W2ku', 'utf16le', fromWindows],
  ];
  for (const [code, encoding, read] of readers) {
    for (const locator of header.locators) {
      if (locator.platformCode === code) found.push(read(await locatorText(file, locator, encoding)));
    }
  }
  found.push(fromWindows(header.parentName)?.split('/').pop());
  const folder = path.dirname(path.resolve(file.path));
  const usable = found.filter((p): p is string => p !== undefined && p !== '' && !p.includes('\0'));
  return [...new Set(usable.map((p) => path.resolve(folder, p)))];
}

const toWindows = (hostPath: string): string => (isWindows ? hostPath : hostPath.replaceAll('/', '\\'));

/** The two locators that Windows reads, and their data; each data takes one sector or more, from `offset` on. */
export function encodeLocators(
  child: string,
  parent: string,
  offset: number,
): { locators: ParentLocator[]; data: Uint8Array } {
  const from = path.dirname(path.resolve(child));
  const relative = path.relative(from, path.resolve(parent));
  const texts: readonly [string, string][] = [
    ['W2ru', toWindows(relative.startsWith('..') || path.isAbsolute(relative) ? relative : `.${path.sep}${relative}`)],
    ['W2ku', toWindows(path.resolve(parent))],
  ];
  const locators: ParentLocator[] = [];
  const parts: Uint8Array[] = [];
  let at = offset;
  for (const [platformCode, text] of texts) {
    const bytes = Buffer.from(text, 'utf16le');
    const space = Math.ceil(bytes.length / SECTOR) * SECTOR;
    const padded = new Uint8Array(space);
    padded.set(bytes);
    locators.push({ platformCode, dataSpace: space, dataLength: bytes.length, dataOffset: at });
    parts.push(padded);
    at += space;
  }
  return { locators, data: Buffer.concat(parts) };
}
