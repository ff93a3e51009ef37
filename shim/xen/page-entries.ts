/**
 * Changes of single page-table entries: the readable twin of native/trap/mm_update.c. Implements xen-pv-abi sections
 * 6.1 and 9.
 *
 * References on the new target come first, then the table's lock, one compare-and-swap on the entry, then the old
 * target's reference. Entries of frames that are no tables at the time are stored as they are.
 */
import { TRAP_EFFECT, TRAP_FI } from '../../abi/trap';
import { XEN_ERRNO as E } from '../../abi/xen/errno';
import { PTE_A, PTE_D, PTE_P } from './guest-virtual';
import { ImpossibleState } from './impossible-state';
import { isModuleSlot, movesReferences, PageTypes, typeOf } from './page-types';
import type { XenDomain } from './xen-domain';

interface Store {
  readonly keepAd: boolean;
}

/** Returned inside when the frame or the entry changed meanwhile. */
const AGAIN = 1;
const TRIES = 1000;

function exchangeEntry(d: XenDomain, at: number, value: bigint, how: Store, sameTarget: boolean): bigint | undefined {
  for (;;) {
    const now = d.memory.load64(at);
    if (sameTarget && movesReferences(now, value)) return undefined;
    const next = how.keepAd ? value | (now & (PTE_A | PTE_D)) : value;
    if (d.memory.cas64(at, now, next) === now) return now;
  }
}

function storeInTable(
  d: XenDomain,
  c: { effects: number },
  types: PageTypes,
  mfn: number,
  level: number,
  slot: number,
  value: bigint,
  how: Store,
): number {
  if (level === 4 && isModuleSlot(slot)) return -E.XEN_EINVAL;
  const present = (value & PTE_P) !== 0n;
  if (present && (value & types.disallowedBits(level)) !== 0n) return -E.XEN_EINVAL;
  const at = types.entryAt(mfn, slot);
  const sameTarget = present && !movesReferences(d.memory.load64(at), value);
  if (present && !sameTarget) {
    const rc = types.getTarget(level, mfn, value);
    if (rc !== 0) return rc;
  }
  const info = types.lock(mfn);
  const live = types.isLiveTable(info) && typeOf(info) === level;
  const old = live ? exchangeEntry(d, at, types.fixEntry(level, value), how, sameTarget) : undefined;
  types.unlock(mfn);
  if (old === undefined) {
    if (present && !sameTarget) types.putTarget(level, mfn, value);
    return AGAIN;
  }
  if (present && level === 1) types.noteExecutable(old, value);
  if ((old & PTE_P) !== 0n) {
    if (!sameTarget) types.putTarget(level, mfn, old);
    if (level > 1) c.effects |= TRAP_EFFECT.TRAP_EFFECT_FLUSH_ALL;
  }
  return 0;
}

/** A frame that is no table: the lock keeps it from becoming one during the store. */
function storeInPage(d: XenDomain, types: PageTypes, mfn: number, slot: number, value: bigint): number {
  const type = typeOf(types.lock(mfn));
  const plain = type === TRAP_FI.TRAP_FI_NONE || type === TRAP_FI.TRAP_FI_WRITABLE;
  if (plain) d.memory.store64(types.entryAt(mfn, slot), value);
  types.unlock(mfn);
  return plain ? 0 : AGAIN;
}

/** `only`: the level that the frame must have as a table; 0 for any, and for ordinary frames too. 0 or -errno. */
export function storeEntry(
  d: XenDomain,
  c: { effects: number },
  mfn: number,
  only: number,
  slot: number,
  value: bigint,
  how: Store,
): number {
  const types = new PageTypes(d, c);
  for (let i = 0; i < TRIES; i++) {
    const info = d.frames.info(mfn);
    const type = typeOf(info);
    const owner = d.frames.owner(mfn);
    let rc: number;
    if (types.isLiveTable(info) && owner === TRAP_FI.TRAP_FI_OWNER_DOMAIN && (only === 0 || type === only)) {
      rc = storeInTable(d, c, types, mfn, type, slot, value, how);
    } else if (only !== 0 || owner === TRAP_FI.TRAP_FI_OWNER_NONE || owner === TRAP_FI.TRAP_FI_OWNER_XEN_RO) {
      return -E.XEN_EINVAL;
    } else if (type === TRAP_FI.TRAP_FI_NONE || type === TRAP_FI.TRAP_FI_WRITABLE) {
      rc = storeInPage(d, types, mfn, slot, value);
    } else if ((info & TRAP_FI.TRAP_FI_LOCKED) !== 0n) {
      rc = AGAIN;
    } else {
      return -E.XEN_EINVAL;
    }
    if (rc !== AGAIN) return rc;
  }
  throw new ImpossibleState(`the entry ${slot} of frame 0x${mfn.toString(16)} keeps changing`);
}
