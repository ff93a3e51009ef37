/**
 * Permissions of xenstore nodes (Xen's docs/misc/xenstore.txt, SET_PERMS).
 *
 * A list of entries; the first names the owner and, by its letter, what everybody not listed may do; the others give
 * single domains r, w, b (both) or n (none). The owner and privileged clients may do everything.
 */
import { XenstoreError } from './errors';

export const PERM_READ = 1;
export const PERM_WRITE = 2;
/** Not an access of its own: asks that the client be the owner (or privileged). */
export const PERM_OWNER = 4;

export interface Perm {
  readonly domid: number;
  readonly access: number;
}

/** Never empty: element 0 is the owner and the default. */
export type Perms = readonly Perm[];

const LETTERS = ['n', 'r', 'w', 'b'] as const;

export function formatPerm(perm: Perm): string {
  return `${LETTERS[perm.access & (PERM_READ | PERM_WRITE)] ?? 'n'}${perm.domid}`;
}

/** Parses "r5" and the like. EINVAL if malformed. Any domid will do here: only an owner must exist. */
export function parsePerm(text: string): Perm {
  const match = /^([nrwb])([0-9]{1,5})$/.exec(text);
  if (match === null) throw new XenstoreError('EINVAL', 'malformed permission');
  return { domid: Number(match[2]), access: LETTERS.indexOf(match[1] as (typeof LETTERS)[number]) };
}

/** The identity under which permissions are judged. */
export interface Subject {
  readonly domid: number;
  /** Domain 0 and the shim itself: no permission or quota applies. */
  readonly privileged: boolean;
  /** The domain that this one may act for (SET_TARGET), as a device model's stub domain does. */
  readonly target?: number | undefined;
}

/** The accesses that `perms` give to `who`: a mask of PERM_*. */
export function accessOf(perms: Perms, who: Subject): number {
  const owner = perms[0];
  if (who.privileged) return PERM_READ | PERM_WRITE | PERM_OWNER;
  if (owner === undefined) return 0;
  if (owner.domid === who.domid || owner.domid === who.target) return PERM_READ | PERM_WRITE | PERM_OWNER;
  for (let i = 1; i < perms.length; i++) {
    const perm = perms[i]!;
    if (perm.domid === who.domid || perm.domid === who.target) return perm.access;
  }
  return owner.access;
}
