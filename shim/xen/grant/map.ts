/**
 * Maps of granted frames into the domain's own page tables: map_grant_ref, unmap_grant_ref, unmap_and_replace.
 * Implements xen-pv-abi section 6.4 and Xen public/grant_table.h for a PV guest.
 *
 * The only table that a domain here can map from is its own: there is no second guest in a partition, and dom0 grants
 * nothing. Back ends in the shim use GrantTable.acquire and no map.
 *
 * The entry is stored as any level-1 entry is (page-entries.ts), with its references: the table must be a live L1 table,
 * named by an address that it maps or by GNTMAP_contains_pte.
 *
 * Quirks: a map leaves the caller's TLB to be flushed, an unmap everyone's. The guest can clear the entry by other means,
 * as it can under Xen; the handle then only gives the grant back.
 */
import { TRAP_EFFECT, TRAP_FI } from '../../../abi/trap';
import { GNTST, GNTTAB_FLAGS } from '../../../abi/xen/grant-ops';
import { PAGE_SIZE } from '../domain-memory';
import {
  type GuestVirtual,
  isGuestAddress,
  PTE_A,
  PTE_D,
  PTE_NX,
  PTE_P,
  PTE_RW,
  PTE_US,
  pteMfn,
} from '../guest-virtual';
import { storeEntry } from '../page-entries';
import type { XenDomain } from '../xen-domain';
import type { AcquiredGrant } from './grant-table';

/**
 * Handles at most. Xen's default allows eight times as many, at 8 bytes each of its own; here each is a few hundred bytes
 * of the shim's heap, and a domain that maps its own grants needs few.
 */
export const MAX_HANDLES = 0x10000;

interface Mapping {
  readonly grants: AcquiredGrant[];
  readonly mfn: number;
  readonly readOnly: boolean;
  flags: number;
}

export interface MapResult {
  readonly status: number;
  readonly handle?: number;
  readonly busAddress?: bigint;
}

export class GrantMaps {
  private readonly handles = new Map<number, Mapping>();
  private readonly freeHandles: number[] = [];
  private nextHandle = 0;

  constructor(private readonly d: XenDomain) {}

  get count(): number {
    return this.handles.size;
  }

  map(
    guest: GuestVirtual,
    hostAddr: bigint,
    flags: number,
    ref: number,
    dom: number,
    call: { effects: number },
  ): MapResult {
    const { GNTMAP_device_map, GNTMAP_host_map, GNTMAP_readonly } = GNTTAB_FLAGS;
    if ((flags & (GNTMAP_device_map | GNTMAP_host_map)) === 0) return { status: GNTST.GNTST_bad_gntref };
    const remote = this.d.domainById(dom);
    if (remote === undefined) return { status: GNTST.GNTST_bad_domain };
    if (this.freeHandles.length === 0 && this.nextHandle >= MAX_HANDLES) return { status: GNTST.GNTST_no_device_space };
    // Dom0 has a table of one frame in which nothing is granted.
    if (remote !== 'self') return { status: ref < 512 ? GNTST.GNTST_general_error : GNTST.GNTST_bad_gntref };
    const readOnly = (flags & GNTMAP_readonly) !== 0;
    const grants: AcquiredGrant[] = [];
    for (const kind of [GNTMAP_device_map, GNTMAP_host_map]) {
      if ((flags & kind) === 0) continue;
      const grant = this.d.grants.acquire(ref, !readOnly, this.d.domid, true);
      if (typeof grant === 'number') {
        for (const g of grants) g.release();
        return { status: grant };
      }
      grants.push(grant);
    }
    const { mfn } = grants[0]!;
    if ((flags & GNTMAP_host_map) !== 0 && !this.storeMapping(guest, hostAddr, mfn, flags, call)) {
      for (const g of grants) g.release();
      return { status: GNTST.GNTST_general_error };
    }
    const handle = this.freeHandles.pop() ?? this.nextHandle++;
    this.handles.set(handle, { grants, mfn, readOnly, flags });
    call.effects |= TRAP_EFFECT.TRAP_EFFECT_FLUSH;
    return { status: GNTST.GNTST_okay, handle, busAddress: BigInt(mfn) << 12n };
  }

  /** Address of the entry that a map or unmap names, or undefined where there is none that may be written. */
  private entryAddress(guest: GuestVirtual, hostAddr: bigint, flags: number): number | undefined {
    let at: number | undefined;
    if ((flags & GNTTAB_FLAGS.GNTMAP_contains_pte) !== 0) {
      if ((hostAddr & 7n) !== 0n || hostAddr >> 12n >= BigInt(this.d.frames.nrFrames)) return undefined;
      at = Number(hostAddr);
    } else {
      if (!isGuestAddress(hostAddr)) return undefined;
      at = guest.l1EntryAddress(hostAddr);
    }
    if (at === undefined) return undefined;
    return this.d.frames.isFrame(Math.floor(at / PAGE_SIZE)) ? at : undefined;
  }

  /** Changes the entry at `at`: false if it is refused. */
  private store(at: number, value: bigint, call: { effects: number }): boolean {
    const table = Math.floor(at / PAGE_SIZE);
    return storeEntry(this.d, call, table, TRAP_FI.TRAP_FI_L1, (at % PAGE_SIZE) / 8, value, { keepAd: false }) === 0;
  }

  private storeMapping(
    guest: GuestVirtual,
    hostAddr: bigint,
    mfn: number,
    flags: number,
    call: { effects: number },
  ): boolean {
    const at = this.entryAddress(guest, hostAddr, flags);
    if (at === undefined) return false;
    let pte = (BigInt(mfn) << 12n) | PTE_P | PTE_A | PTE_D | PTE_NX;
    pte |= BigInt((flags >>> 16) & 7) << 9n;
    if ((flags & GNTTAB_FLAGS.GNTMAP_readonly) === 0) pte |= PTE_RW;
    if ((flags & GNTTAB_FLAGS.GNTMAP_application_map) !== 0) pte |= PTE_US;
    return this.store(at, pte, call);
  }

  /** Is the entry one that this mapping can have made? Another one of the same frame with other rights is not (XSA-234). */
  private isOf(mapping: Mapping, pte: bigint): boolean {
    const rights = mapping.readOnly ? PTE_P : PTE_P | PTE_RW;
    return (pte & (PTE_P | PTE_RW)) === rights && pteMfn(pte) === mapping.mfn;
  }

  unmap(guest: GuestVirtual, hostAddr: bigint, busAddr: bigint, handle: number, call: { effects: number }): number {
    const mapping = this.handles.get(handle);
    if (mapping === undefined) return GNTST.GNTST_bad_handle;
    if (busAddr !== 0n && (mapping.flags & GNTTAB_FLAGS.GNTMAP_device_map) !== 0) {
      if (busAddr !== BigInt(mapping.mfn) << 12n) return GNTST.GNTST_general_error;
    }
    if (hostAddr !== 0n && (mapping.flags & GNTTAB_FLAGS.GNTMAP_host_map) !== 0) {
      const at = this.entryAddress(guest, hostAddr, mapping.flags);
      const mapped = at !== undefined && this.isOf(mapping, this.d.memory.load64(at));
      if (!mapped || !this.store(at, 0n, call)) return GNTST.GNTST_general_error;
      this.drop(handle, mapping, GNTTAB_FLAGS.GNTMAP_host_map);
      call.effects |= TRAP_EFFECT.TRAP_EFFECT_FLUSH_ALL;
    }
    if (busAddr !== 0n && (mapping.flags & GNTTAB_FLAGS.GNTMAP_device_map) !== 0) {
      this.drop(handle, mapping, GNTTAB_FLAGS.GNTMAP_device_map);
    }
    return GNTST.GNTST_okay;
  }

  /** unmap_and_replace: `newAddr`'s entry moves to hostAddr; its own becomes empty. Addresses only, no PTE addresses. */
  unmapAndReplace(
    guest: GuestVirtual,
    hostAddr: bigint,
    newAddr: bigint,
    handle: number,
    call: { effects: number },
  ): number {
    const mapping = this.handles.get(handle);
    if (mapping === undefined) return GNTST.GNTST_bad_handle;
    if ((mapping.flags & GNTTAB_FLAGS.GNTMAP_host_map) === 0 || hostAddr === 0n) return GNTST.GNTST_okay;
    if ((mapping.flags & GNTTAB_FLAGS.GNTMAP_contains_pte) !== 0) {
      // Xen moves entries by address only: with a PTE address it can but clear.
      return newAddr !== 0n ? GNTST.GNTST_general_error : this.unmap(guest, hostAddr, 0n, handle, call);
    }
    if (newAddr === 0n) return this.unmap(guest, hostAddr, 0n, handle, call);
    const to = this.entryAddress(guest, hostAddr, mapping.flags);
    const from = this.entryAddress(guest, newAddr, 0);
    if (to === undefined || from === undefined) return GNTST.GNTST_general_error;
    if (!this.isOf(mapping, this.d.memory.load64(to))) return GNTST.GNTST_general_error;
    const moved = this.d.memory.load64(from);
    if (!this.store(to, moved, call) || !this.store(from, 0n, call)) return GNTST.GNTST_general_error;
    this.drop(handle, mapping, GNTTAB_FLAGS.GNTMAP_host_map);
    call.effects |= TRAP_EFFECT.TRAP_EFFECT_FLUSH_ALL;
    return GNTST.GNTST_okay;
  }

  private drop(handle: number, mapping: Mapping, kind: number): void {
    mapping.flags &= ~kind;
    mapping.grants.pop()?.release();
    if ((mapping.flags & (GNTTAB_FLAGS.GNTMAP_host_map | GNTTAB_FLAGS.GNTMAP_device_map)) !== 0) return;
    this.handles.delete(handle);
    this.freeHandles.push(handle);
  }
}
