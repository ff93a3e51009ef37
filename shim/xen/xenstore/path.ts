/**
 * Xenstore paths (Xen's docs/misc/xenstore.txt and xs_wire.h): validation, relative paths, parents.
 *
 * A path is '/'-separated, made of letters, digits and "-/_@", without empty components and without a trailing '/'
 * (except "/" itself). A path that does not start with '/' is relative to the client's home, /local/domain/<domid>.
 * Names that start with '@' are not nodes of the tree but special events: @introduceDomain, @releaseDomain.
 *
 * Quirk: as in xenstored 4.17 the limit is XENSTORE_REL_PATH_MAX bytes beyond "/local/domain/<domid>/" (beyond nothing
 * for other paths), for privileged clients too. Every path that passes is shorter than XENSTORE_ABS_PATH_MAX.
 */
import { XENSTORE } from '../../../abi/xen/xenstore';
import { XenstoreError } from './errors';

const VALID_PATH = /^\/(?:[A-Za-z0-9\-_@]+(?:\/[A-Za-z0-9\-_@]+)*)?$/;
const DOMAIN_PREFIX = /^\/local\/domain\/[0-9]{1,5}\//;

/** The special names that carry permissions and that the store fires. */
export const INTRODUCE_DOMAIN = '@introduceDomain';
export const RELEASE_DOMAIN = '@releaseDomain';

export function isSpecial(path: string): boolean {
  return path.startsWith('@');
}

/** The home of a domain; relative paths start there. */
export function domainPath(domid: number): string {
  return `/local/domain/${domid}`;
}

/** True for a well-formed absolute path within the length limit. */
export function isValidPath(path: string): boolean {
  if (path.length >= XENSTORE.XENSTORE_ABS_PATH_MAX) return false;
  const prefix = DOMAIN_PREFIX.exec(path);
  const local = prefix === null ? 0 : prefix[0].length;
  if (path.length - local > XENSTORE.XENSTORE_REL_PATH_MAX) return false;
  return VALID_PATH.test(path);
}

/** Makes a client's path absolute. EINVAL if it is malformed, too long or a special name. */
export function canonicalize(path: string, home: string): string {
  const full = path.startsWith('/') ? path : `${home}/${path}`;
  if (isSpecial(path) || !isValidPath(full)) throw new XenstoreError('EINVAL', 'malformed path');
  return full;
}

/** The path of a watch: as canonicalize(), but any special name will do, even one that nothing ever fires. */
export function canonicalizeWatch(path: string, home: string): string {
  if (!isSpecial(path)) return canonicalize(path, home);
  if (path.length > XENSTORE.XENSTORE_REL_PATH_MAX) throw new XenstoreError('EINVAL', 'special name too long');
  return path;
}

/** The path one level up; undefined for "/" and for special names. */
export function parentPath(path: string): string | undefined {
  const slash = path.lastIndexOf('/');
  if (slash < 0 || path === '/') return undefined;
  return slash === 0 ? '/' : path.slice(0, slash);
}

/** The last component; empty for "/". */
export function baseName(path: string): string {
  return path.slice(path.lastIndexOf('/') + 1);
}

export function joinPath(parent: string, child: string): string {
  return parent === '/' ? `/${child}` : `${parent}/${child}`;
}
