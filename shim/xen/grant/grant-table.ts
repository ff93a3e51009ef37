/**
 * A domain's grant table: its frames, its version, and taking a grant into use. Implements xen-pv-abi section 6.4 and
 * Xen public/grant_table.h.
 *
 * The table lies in frames of a pool that the hypervisor owns; the guest maps and writes it, so every entry is read
 * once and then used. Version 1 keeps GTF_reading and GTF_writing in the entry: they are set by a 32-bit
 * compare-and-swap of flags and domid together, because guests revoke with a 16-bit one. Version 2 keeps them in a
 * status word of its own: set it, fence (every locked operation here is one), read the header again, undo if the grant
 * was revoked meanwhile.
 *
 * `acquire` is for back ends in the shim (dom0) as well as for the domain's own maps and copies. A grant may be held
 * several times; its bits are cleared with the last release.
 *
 * Quirks: entries 0 and 1 are seeded for console and xenstore. Changing the version clears all entries but the first
 * eight; going back to version 1 is refused while a status page is mapped anywhere, which only a look at all page tables
 * tells. Transitive grants are refused: there is no other domain that they could lead to.
 */

import { TRAP_FI } from '../../../abi/trap';
import { XEN_ERRNO as E } from '../../../abi/xen/errno';
import { GNTST } from '../../../abi/xen/grant-ops';
import { GNTTAB, GrantEntryV1, GrantEntryV2, GTF } from '../../../abi/xen/grant-table';
import { PAGE_SIZE } from '../domain-memory';
import { SHARED_M2P_ENTRY } from '../frames';
import { PTE_P, pteMfn } from '../guest-virtual';
import { inSlices } from '../hypercalls/call';
import type { XenDomain } from '../xen-domain';

const V1_PER_FRAME = PAGE_SIZE / GrantEntryV1.size;
const V2_PER_FRAME = PAGE_SIZE / GrantEntryV2.size;
const STATUS_PER_FRAME = PAGE_SIZE / 2;
/** How often a status change is retried against a guest that keeps changing the entry, as in Xen. */
const RETRIES = 5;
/** Dom0, where all back ends live. */
const BACKEND_DOMID = 0;

/** A grant in use. */
export interface AcquiredGrant {
  readonly mfn: number;
  /** The granted part of the frame: all of it, but for a version 2 sub-page grant. */
  readonly offset: number;
  readonly length: number;
  /** Gives it back; only the first call counts. */
  release(): void;
}

interface Active {
  readonly mfn: number;
  readonly domid: number;
  readonly offset: number;
  readonly length: number;
  readers: number;
  writers: number;
}

/** One use of an active grant. */
class Use implements AcquiredGrant {
  readonly mfn: number;
  readonly offset: number;
  readonly length: number;
  private held = true;
  constructor(
    private readonly table: GrantTable,
    private readonly ref: number,
    private readonly grant: Active,
    private readonly write: boolean,
  ) {
    this.mfn = grant.mfn;
    this.offset = grant.offset;
    this.length = grant.length;
  }

  release(): void {
    if (!this.held) return;
    this.held = false;
    this.table.released(this.ref, this.grant, this.write);
  }
}

interface Entry {
  readonly flags: number;
  readonly domid: number;
  /** Exact below 2^53, which is far beyond any frame. */
  readonly frame: number;
  readonly offset: number;
  readonly length: number;
}

export class GrantTable {
  /** 1 or 2. */
  version = 1;
  nrFrames = 0;
  readonly maxFrames: number;
  private nrStatusFrames = 0;
  private readonly active = new Map<number, Active>();

  constructor(private readonly d: XenDomain) {
    this.maxFrames = d.config.maxGrantFrames ?? 64;
    this.grow(1);
  }

  get nrEntries(): number {
    return this.nrFrames * (this.version === 2 ? V2_PER_FRAME : V1_PER_FRAME);
  }
  get statusFrames(): number {
    return this.version === 2 ? this.nrStatusFrames : 0;
  }
  frameMfn(i: number): number {
    return this.d.config.grantFrameMfn(i);
  }
  statusFrameMfn(i: number): number {
    return this.d.config.grantStatusFrameMfn(i);
  }

  /** Makes the table at least `nrFrames` long. False beyond the maximum. */
  grow(nrFrames: number): boolean {
    if (nrFrames > this.maxFrames) return false;
    for (; this.nrFrames < nrFrames; this.nrFrames++) this.prepare(this.frameMfn(this.nrFrames));
    if (this.version === 2) this.growStatus();
    return true;
  }
  private growStatus(): void {
    const want = Math.ceil((this.nrFrames * V2_PER_FRAME) / STATUS_PER_FRAME);
    for (; this.nrStatusFrames < want; this.nrStatusFrames++) this.prepare(this.statusFrameMfn(this.nrStatusFrames));
  }
  /** A frame of the pool becomes a page shared with the domain. */
  private prepare(mfn: number): void {
    this.d.memory.fill(mfn * PAGE_SIZE, PAGE_SIZE, 0);
    this.d.frames.setOwner(mfn, TRAP_FI.TRAP_FI_OWNER_XEN);
    this.d.frames.setM2p(mfn, SHARED_M2P_ENTRY);
  }

  /** Toolstack: grants a frame to dom0 under a reserved reference (GNTTAB_RESERVED_*). */
  seed(ref: number, mfn: number): void {
    const flags = GTF.GTF_permit_access;
    if (this.version === 1) {
      this.d.memory.store32(this.v1At(ref) + 4, mfn);
      this.d.memory.store32(this.v1At(ref), flags | (BACKEND_DOMID << 16));
    } else {
      this.d.memory.store64(this.v2At(ref) + 8, BigInt(mfn));
      this.d.memory.store32(this.v2At(ref), flags | (BACKEND_DOMID << 16));
    }
  }

  private v1At(ref: number): number {
    return this.frameMfn(Math.floor(ref / V1_PER_FRAME)) * PAGE_SIZE + (ref % V1_PER_FRAME) * GrantEntryV1.size;
  }
  private v2At(ref: number): number {
    return this.frameMfn(Math.floor(ref / V2_PER_FRAME)) * PAGE_SIZE + (ref % V2_PER_FRAME) * GrantEntryV2.size;
  }
  private headerAt(ref: number): number {
    return this.version === 1 ? this.v1At(ref) : this.v2At(ref);
  }
  private statusAt(ref: number): number {
    return this.statusFrameMfn(Math.floor(ref / STATUS_PER_FRAME)) * PAGE_SIZE + (ref % STATUS_PER_FRAME) * 2;
  }

  /** GTF_reading/GTF_writing as the guest sees them. */
  statusBits(ref: number): number {
    const bits = this.version === 1 ? this.d.memory.getU16(this.v1At(ref)) : this.d.memory.getU16(this.statusAt(ref));
    return bits & (GTF.GTF_reading | GTF.GTF_writing);
  }

  private read(ref: number, header: number): Entry {
    const flags = header & 0xffff;
    const domid = header >>> 16;
    if (this.version === 1) {
      const frame = this.d.memory.load32(this.v1At(ref) + 4) >>> 0;
      return { flags, domid, frame, offset: 0, length: PAGE_SIZE };
    }
    const at = this.v2At(ref);
    const frame = Number(this.d.memory.load64(at + 8));
    if ((flags & GTF.GTF_sub_page) === 0) return { flags, domid, frame, offset: 0, length: PAGE_SIZE };
    const part = this.d.memory.load32(at + 4);
    return { flags, domid, frame, offset: part & 0xffff, length: part >>> 16 };
  }

  /** What makes an entry unusable for `domid`, or okay. */
  private check(header: number, domid: number, write: boolean, mapping: boolean): number {
    const flags = header & 0xffff;
    if ((flags & GTF.GTF_type_mask) !== GTF.GTF_permit_access) return GNTST.GNTST_general_error;
    if (header >>> 16 !== domid) return GNTST.GNTST_general_error;
    if (this.version === 2 && mapping && (flags & GTF.GTF_sub_page) !== 0) return GNTST.GNTST_general_error;
    if (write && (flags & GTF.GTF_readonly) !== 0) return GNTST.GNTST_general_error;
    return GNTST.GNTST_okay;
  }

  /** Sets bits in a version 1 entry while it still grants; GNTST_*. */
  private pinV1(ref: number, domid: number, write: boolean, mapping: boolean): number {
    const at = this.v1At(ref);
    const bits = GTF.GTF_reading | (write ? GTF.GTF_writing : 0);
    for (let i = 0; i < RETRIES; i++) {
      const header = this.d.memory.load32(at) >>> 0;
      const status = this.check(header, domid, write, mapping);
      if (status !== GNTST.GNTST_okay) return status;
      if (this.d.memory.cas32(at, header, (header | bits) >>> 0) >>> 0 === header) return GNTST.GNTST_okay;
    }
    return GNTST.GNTST_general_error;
  }

  private pinV2(ref: number, domid: number, write: boolean, mapping: boolean): number {
    const at = this.v2At(ref);
    const status = this.check(this.d.memory.load32(at) >>> 0, domid, write, mapping);
    if (status !== GNTST.GNTST_okay) return status;
    const bits = GTF.GTF_reading | (write ? GTF.GTF_writing : 0);
    this.changeStatus(ref, bits, 0);
    // The locked operation above is the fence. Did the guest revoke before it could see the bits?
    const again = this.check(this.d.memory.load32(at) >>> 0, domid, write, mapping);
    if (again !== GNTST.GNTST_okay) {
      const held = this.active.get(ref);
      if (held === undefined) this.changeStatus(ref, 0, bits);
      else if (held.writers === 0) this.changeStatus(ref, 0, GTF.GTF_writing);
    }
    return again;
  }

  private changeStatus(ref: number, set: number, clear: number): void {
    if (this.version === 1) {
      if (set !== 0) this.d.memory.or32(this.v1At(ref), set);
      if (clear !== 0) this.d.memory.and32(this.v1At(ref), ~clear);
      return;
    }
    const at = this.statusAt(ref);
    const shift = (at & 2) * 8;
    if (set !== 0) this.d.memory.or32(at & ~2, set << shift);
    if (clear !== 0) this.d.memory.and32(at & ~2, ~(clear << shift));
  }

  /**
   * Takes a grant into use for `domid` (default dom0, for back ends). `mapping`: for a map, which a sub-page grant does
   * not allow. Returns GNTST_* on refusal.
   */
  acquire(ref: number, write: boolean, domid = BACKEND_DOMID, mapping = false): AcquiredGrant | number {
    if (!Number.isInteger(ref) || ref < 0 || ref >= this.nrEntries) return GNTST.GNTST_bad_gntref;
    const held = this.active.get(ref);
    if (held !== undefined && held.domid !== domid) return GNTST.GNTST_general_error;
    if (held === undefined || (write && held.writers === 0)) {
      const status =
        this.version === 1 ? this.pinV1(ref, domid, write, mapping) : this.pinV2(ref, domid, write, mapping);
      if (status !== GNTST.GNTST_okay) return status;
    }
    let grant = held;
    if (grant === undefined) {
      const entry = this.read(ref, this.d.memory.load32(this.headerAt(ref)) >>> 0);
      const mfn = entry.frame;
      const inside = entry.offset + entry.length <= PAGE_SIZE;
      if (mfn >= this.d.frames.nrFrames || !this.d.frames.isOwned(mfn) || !inside) {
        this.changeStatus(ref, 0, GTF.GTF_reading | GTF.GTF_writing);
        return inside ? GNTST.GNTST_bad_page : GNTST.GNTST_general_error;
      }
      grant = { mfn, domid, offset: entry.offset, length: entry.length, readers: 0, writers: 0 };
      this.active.set(ref, grant);
    }
    if (write && !this.d.frames.isWritablePage(grant.mfn)) {
      if (grant.writers === 0) this.changeStatus(ref, 0, GTF.GTF_writing);
      this.dropIfUnused(ref, grant);
      return GNTST.GNTST_general_error;
    }
    if (write) grant.writers++;
    else grant.readers++;
    return new Use(this, ref, grant, write);
  }

  /** For Use: one use less. */
  released(ref: number, grant: Active, write: boolean): void {
    if (write) grant.writers--;
    else grant.readers--;
    if (grant.readers + grant.writers === 0) {
      this.changeStatus(ref, 0, GTF.GTF_reading | GTF.GTF_writing);
      this.active.delete(ref);
    } else if (write && grant.writers === 0) this.changeStatus(ref, 0, GTF.GTF_writing);
  }

  private dropIfUnused(ref: number, grant: Active): void {
    if (grant.readers + grant.writers > 0) return;
    this.changeStatus(ref, 0, GTF.GTF_reading);
    this.active.delete(ref);
  }

  isActive(ref: number): boolean {
    return this.active.has(ref);
  }

  /** GNTTABOP_set_version: 0 or -errno. */
  setVersion(version: number): number | Promise<number> {
    if (version !== 1 && version !== 2) return -E.XEN_EINVAL;
    if (version === this.version) return 0;
    if (version === 2 || this.nrStatusFrames === 0) return this.changeVersion(version);
    const mapped = this.isStatusMapped();
    if (typeof mapped === 'boolean') return mapped ? -E.XEN_EBUSY : this.changeVersion(version);
    return mapped.then((is) => (is ? -E.XEN_EBUSY : this.changeVersion(version)));
  }

  /** Does an entry of any L1 table of the domain map a status page? */
  private isStatusMapped(): boolean | Promise<boolean> {
    const status = new Set<number>();
    for (let i = 0; i < this.nrStatusFrames; i++) status.add(this.statusFrameMfn(i));
    const { frames, memory } = this.d;
    const look = (mfn: number): boolean | undefined => {
      if (!frames.isOwned(mfn) || frames.type(mfn) !== TRAP_FI.TRAP_FI_L1) return undefined;
      const table = memory.copyOut(mfn * PAGE_SIZE, PAGE_SIZE);
      const entries = new DataView(table.buffer, table.byteOffset, table.byteLength);
      for (let at = 0; at < PAGE_SIZE; at += 8) {
        if ((entries.getUint8(at) & Number(PTE_P)) === 0) continue;
        if (status.has(pteMfn(entries.getBigUint64(at, true)))) return true;
      }
      return undefined;
    };
    return inSlices(this.d, 0, frames.nrFrames, look, false);
  }

  private changeVersion(version: number): number {
    const reserved = GNTTAB.GNTTAB_NR_RESERVED_ENTRIES;
    for (const ref of this.active.keys()) if (ref >= reserved) return -E.XEN_EBUSY;
    const kept: Entry[] = [];
    for (let ref = 0; ref < reserved; ref++) {
      const entry = this.read(ref, this.d.memory.load32(this.headerAt(ref)) >>> 0);
      const type = entry.flags & GTF.GTF_type_mask;
      if (version === 1) {
        // What version 1 cannot express is refused: sub-pages, wide frames, transitive grants.
        const fullPage = type === GTF.GTF_permit_access && (entry.flags & GTF.GTF_sub_page) === 0;
        if (type !== GTF.GTF_invalid && !fullPage) return -E.XEN_EINVAL;
        if (type !== GTF.GTF_invalid && entry.frame > 0xffff_ffff) return -E.XEN_ERANGE;
      } else if (type !== GTF.GTF_invalid && type !== GTF.GTF_permit_access) {
        return -E.XEN_EINVAL;
      }
      kept.push({ ...entry, flags: entry.flags & ~(GTF.GTF_reading | GTF.GTF_writing) });
    }
    for (let i = 0; i < this.nrFrames; i++) this.d.memory.fill(this.frameMfn(i) * PAGE_SIZE, PAGE_SIZE, 0);
    for (let i = 0; i < this.nrStatusFrames; i++) this.d.memory.fill(this.statusFrameMfn(i) * PAGE_SIZE, PAGE_SIZE, 0);
    this.version = version;
    if (version === 2) this.growStatus();
    kept.forEach((entry, ref) => {
      if ((entry.flags & GTF.GTF_type_mask) === GTF.GTF_invalid) return;
      if (version === 1) this.d.memory.store32(this.v1At(ref) + 4, entry.frame);
      else this.d.memory.store64(this.v2At(ref) + 8, BigInt(entry.frame));
      this.d.memory.store32(this.headerAt(ref), (entry.flags | (entry.domid << 16)) >>> 0);
      const held = this.active.get(ref);
      if (held !== undefined) this.changeStatus(ref, GTF.GTF_reading | (held.writers > 0 ? GTF.GTF_writing : 0), 0);
    });
    return 0;
  }

  /** GNTTABOP_swap_grant_ref: GNTST_*. */
  swap(a: number, b: number): number {
    if (a >= this.nrEntries || b >= this.nrEntries) return GNTST.GNTST_bad_gntref;
    if (a === b) return GNTST.GNTST_okay;
    if (this.isActive(a) || this.isActive(b)) return GNTST.GNTST_eagain;
    const size = this.version === 2 ? GrantEntryV2.size : GrantEntryV1.size;
    const entryA = this.d.memory.copyOut(this.headerAt(a), size);
    const entryB = this.d.memory.copyOut(this.headerAt(b), size);
    this.d.memory.copyIn(this.headerAt(a), entryB);
    this.d.memory.copyIn(this.headerAt(b), entryA);
    return GNTST.GNTST_okay;
  }
}
