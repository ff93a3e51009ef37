/**
 * Puts the trap module into a partition's RAM before the first instruction: image, page tables of Xen's reserved
 * range, VP areas, shared blocks, M2P, frame_info, boot parameters.
 *
 * Slots 256 to 271 of the module's own root are what every L4 of the guest gets. The module changes none of these
 * tables but the descriptor windows' L1s.
 */
import {
  TRAP,
  TRAP_BOOT,
  TRAP_DOM,
  TRAP_ENGINE,
  TRAP_FI,
  TRAP_HV_PORT,
  TRAP_VA,
  TRAP_VPA,
  TrapDomain,
  TrapVp,
} from '../../abi/trap';
import { SHARED_INFO } from '../../abi/xen/shared-info';
import { VcpuInfo } from '../../abi/xen/vcpu-info';
import type { GuestMemory } from './guest-memory';
import type { TrapImage } from './trap-image';
import { CPUID_TABLE_BYTES, PERDOMAIN_L1_PAGES, TRACE_ENTRIES, type TrapLayout } from './trap-layout';

const PAGE = 4096;
const P = 0x1n;
const RW = 0x2n;
const US = 0x4n;
const PCD = 0x10n;
const A = 0x20n;
const D = 0x40n;
const PSE = 0x80n;
const NX = 1n << 63n;
const TABLE = P | RW | A | D;

const SERIAL_PORT = 0x3f8;
const LAPIC_GPA = 0xfee0_0000;
const IOAPIC_GPA = 0xfec0_0000;
const M2P_INVALID = 0xffff_ffff_ffff_ffffn;
/** What Xen leaves in entries of frames that were never RAM. */
const M2P_HOLE = 0x5555_5555_5555_5555n;

export interface TrapStart {
  /** TRAP_ENGINE_*. */
  readonly engine: number;
  readonly guestRing: 1 | 3;
  readonly isolateUserRoots: boolean;
  /** TRAP_DOM_INTERRUPTS_TWICE. */
  readonly interruptsTwice?: boolean | undefined;
  readonly trace: boolean;
  readonly domid: number;
  readonly tscHz: number;
  /** Encoded trap_cpuid entries. */
  readonly cpuid: Buffer;
  readonly cpuidCount: number;
  /** Ports of the domain, 2 to TRAP_MAX_PORTS. */
  readonly portsNr: number;
  readonly rip: bigint;
  readonly rsp: bigint;
  readonly rsi: bigint;
  readonly l4Mfn: number;
  /** Sub-operations to be answered by the shim: [hypercall, mask]. */
  readonly coldOps: readonly (readonly [number, bigint])[];
}

class TableBuilder {
  private next: number;
  constructor(
    private readonly memory: GuestMemory,
    private readonly layout: TrapLayout,
  ) {
    this.next = layout.tablesGpa;
  }

  page(): number {
    const gpa = this.next;
    this.next += PAGE;
    if (this.next > this.layout.tablesGpa + this.layout.tablesPages * PAGE) {
      throw new Error('trap layout: too few pages for the module');
    }
    return gpa;
  }

  /** The table below `table` for `va` at `level` (4: L4 entry), made on first use. */
  private below(table: number, va: bigint, level: number, user: boolean): number {
    const at = table + Number((va >> BigInt(12 + 9 * (level - 1))) & 511n) * 8;
    const entry = this.memory.getU64(at);
    if ((entry & P) !== 0n) {
      if (user) this.memory.setU64(at, entry | US);
      return Number(entry & 0xf_ffff_ffff_f000n);
    }
    const gpa = this.page();
    this.memory.setU64(at, BigInt(gpa) | TABLE | (user ? US : 0n));
    return gpa;
  }

  /** Maps one page of 4 KiB. */
  map(root: number, va: bigint, entry: bigint): void {
    const l3 = this.below(root, va, 4, false);
    const l2 = this.below(l3, va, 3, false);
    const l1 = this.below(l2, va, 2, false);
    this.memory.setU64(l1 + Number((va >> 12n) & 511n) * 8, entry);
  }

  /** Maps one page of 2 MiB. */
  mapLarge(root: number, va: bigint, entry: bigint, user = false): void {
    const l3 = this.below(root, va, 4, user);
    const l2 = this.below(l3, va, 3, user);
    this.memory.setU64(l2 + Number((va >> 21n) & 511n) * 8, entry | PSE);
  }

  /** Points the L2 entry for `va` to an L1 table made elsewhere. */
  setL1(root: number, va: bigint, l1: number): void {
    const l3 = this.below(root, va, 4, false);
    const l2 = this.below(l3, va, 3, false);
    this.memory.setU64(l2 + Number((va >> 21n) & 511n) * 8, BigInt(l1) | TABLE);
  }

  /** The L3 table behind an L4 slot. */
  l3Of(root: number, slot: number): number {
    return Number(this.memory.getU64(root + slot * 8) & 0xf_ffff_ffff_f000n);
  }
}

function writeTables(
  memory: GuestMemory,
  layout: TrapLayout,
  image: TrapImage,
  start: TrapStart,
): { root: number; userL3: number } {
  const tables = new TableBuilder(memory, layout);
  const root = tables.page();
  const userRoot = tables.page();

  // The module's image.
  for (const segment of image.segments) {
    memory.copyIn(layout.imageGpa + segment.offset, segment.bytes);
    for (let offset = segment.offset; offset < segment.offset + segment.size; offset += PAGE) {
      const flags = P | A | D | (segment.writable ? RW : 0n) | (segment.executable ? 0n : NX);
      tables.map(root, TRAP_VA.TRAP_VA_IMAGE + BigInt(offset), BigInt(layout.imageGpa + offset) | flags);
    }
  }

  // Each VP's area; its first pages also in the L3 of isolated user roots.
  for (let vp = 0; vp < layout.nrVps; vp++) {
    const area = TRAP_VA.TRAP_VA_VPA + BigInt(vp * TRAP_VA.TRAP_VPA_STRIDE);
    for (let page = 0; page < TRAP_VPA.TRAP_VPA_STACK + TRAP_VPA.TRAP_VPA_STACK_PAGES; page++) {
      if (page >= TRAP_VPA.TRAP_VPA_ISOLATED_PAGES && page < TRAP_VPA.TRAP_VPA_STACK) continue;
      const va = area + BigInt(page * PAGE);
      const entry =
        page === TRAP_VPA.TRAP_VPA_CODE ? BigInt(layout.imageGpa) | P | A : BigInt(tables.page()) | P | RW | A | D | NX;
      tables.map(root, va, entry);
      if (page < TRAP_VPA.TRAP_VPA_ISOLATED_PAGES) tables.map(userRoot, va, entry);
    }
  }

  // Descriptor windows: the L1s are contiguous so that the module can index them.
  for (let i = 0; i < PERDOMAIN_L1_PAGES; i++) {
    tables.setL1(root, TRAP_VA.TRAP_VA_PERDOMAIN + BigInt(i * 512 * PAGE), layout.perdomainL1Gpa + i * PAGE);
  }

  // Local APIC and I/O APIC (the soft Hyper-V's).
  tables.map(root, TRAP_VA.TRAP_VA_MMIO, BigInt(LAPIC_GPA) | P | RW | PCD | A | D | NX);
  tables.map(root, TRAP_VA.TRAP_VA_MMIO + 4096n, BigInt(IOAPIC_GPA) | P | RW | PCD | A | D | NX);

  for (const region of layout.regions) {
    for (let gpa = Math.floor(region.gpa / 0x20_0000) * 0x20_0000; gpa < region.gpa + region.size; gpa += 0x20_0000) {
      tables.mapLarge(root, TRAP_VA.TRAP_VA_DIRECTMAP + BigInt(gpa), BigInt(gpa) | P | RW | A | D | NX);
    }
  }

  // The machine-to-physical table: read-only; guests in ring 3 need U, in ring 1 the lack of it hides it from user mode.
  const user = start.guestRing === 3;
  for (let at = 0; at < layout.m2pSize; at += 0x20_0000) {
    const entry = BigInt(layout.m2pGpa + at) | P | A | D | NX | (user ? US : 0n);
    tables.mapLarge(root, TRAP_VA.TRAP_VA_M2P + BigInt(at), entry, user);
  }

  // The reset ROM runs here until it jumps to the module.
  tables.mapLarge(root, 0n, P | RW | A | D);
  tables.mapLarge(root, 0xffe0_0000n, 0xffe0_0000n | P | RW | A | D);
  // As Xen's own slots look to a guest that reads its root.
  const slot = (index: number, flags: bigint): void => {
    const at = root + index * 8;
    memory.setU64(at, (memory.getU64(at) & 0xf_ffff_ffff_f000n) | flags | NX);
  };
  slot(TRAP_VA.TRAP_L4_M2P, P | A | (user ? US : 0n));
  slot(TRAP_VA.TRAP_L4_PERDOMAIN, P | RW | A);
  slot(TRAP_VA.TRAP_L4_DIRECTMAP, P | RW | A);
  return { root, userL3: tables.l3Of(userRoot, TRAP_VA.TRAP_L4_MODULE) };
}

function writeFrames(memory: GuestMemory, layout: TrapLayout): void {
  const owner = (o: number): bigint => BigInt(o) << BigInt(TRAP_FI.TRAP_FI_OWNER_SHIFT);
  const { frameInfoGpa, m2pGpa } = layout;
  memory.fill64(m2pGpa, layout.m2pSize / 8, M2P_INVALID, 0n);
  if (layout.hole.end > layout.hole.start) {
    memory.fill64(m2pGpa + layout.hole.start * 8, layout.hole.end - layout.hole.start, M2P_HOLE, 0n);
  }
  for (const run of layout.domainRuns) {
    memory.fill64(frameInfoGpa + run.mfn * 8, run.count, owner(TRAP_FI.TRAP_FI_OWNER_DOMAIN), 0n);
  }
  const shared = (gpa: number, pages: number, o: number): void => {
    memory.fill64(frameInfoGpa + (gpa / PAGE) * 8, pages, owner(o), 0n);
  };
  shared(layout.sharedInfoGpa, 1, TRAP_FI.TRAP_FI_OWNER_XEN);
  shared(layout.grantFramesGpa, TRAP.TRAP_MAX_GRANT_FRAMES, TRAP_FI.TRAP_FI_OWNER_XEN);
  shared(layout.grantStatusGpa, TRAP.TRAP_MAX_GRANT_FRAMES / 8, TRAP_FI.TRAP_FI_OWNER_XEN);
  shared(layout.m2pGpa, layout.m2pSize / PAGE, TRAP_FI.TRAP_FI_OWNER_XEN_RO);
}

/** Writes everything. The domain's own memory is the builder's; call this first: it fills M2P and frame_info whole. */
export function loadTrapModule(memory: GuestMemory, layout: TrapLayout, image: TrapImage, start: TrapStart): void {
  const { root, userL3 } = writeTables(memory, layout, image, start);
  writeFrames(memory, layout);
  if (start.cpuid.length > CPUID_TABLE_BYTES) {
    throw new Error(`CPUID policy of ${start.cpuid.length} bytes: more than ${CPUID_TABLE_BYTES}`);
  }
  memory.copyIn(layout.cpuidGpa, start.cpuid);

  const d = memory.view(layout.domainGpa, TrapDomain.size);
  const set = TrapDomain.set;
  set.magic(d, 0, TRAP.TRAP_ABI_MAGIC);
  set.version(d, 0, TRAP.TRAP_ABI_VERSION);
  set.nr_vps(d, 0, layout.nrVps);
  set.guest_ring(d, 0, start.guestRing);
  set.flags(
    d,
    0,
    (start.isolateUserRoots ? TRAP_DOM.TRAP_DOM_ISOLATE_USER : 0) |
      (start.trace ? TRAP_DOM.TRAP_DOM_TRACE : 0) |
      (start.interruptsTwice ? TRAP_DOM.TRAP_DOM_INTERRUPTS_TWICE : 0),
  );
  set.engine(d, 0, start.engine);
  set.domid(d, 0, start.domid);
  set.nr_frames(d, 0, BigInt(layout.nrFrames));
  set.hole_start(d, 0, BigInt(layout.hole.start));
  set.hole_end(d, 0, BigInt(layout.hole.end));
  set.m2p_gpa(d, 0, BigInt(layout.m2pGpa));
  set.frame_info_gpa(d, 0, BigInt(layout.frameInfoGpa));
  set.shared_info_gpa(d, 0, BigInt(layout.sharedInfoGpa));
  set.vps_gpa(d, 0, BigInt(layout.vpsGpa));
  set.module_l4(d, 0, BigInt(root / PAGE));
  set.user_l3_module(d, 0, BigInt(userL3 / PAGE));
  set.perdomain_l1_gpa(d, 0, BigInt(layout.perdomainL1Gpa));
  set.reserved_gdt_gpa(d, 0, BigInt(layout.reservedGdtGpa));
  set.cpuid_gpa(d, 0, BigInt(layout.cpuidGpa));
  set.cpuid_count(d, 0, start.cpuidCount);
  set.tsc_hz(d, 0, BigInt(Math.round(start.tscHz)));
  set.trace_gpa(d, 0, BigInt(layout.traceGpa));
  set.trace_entries(d, 0, TRACE_ENTRIES);
  set.ports_nr(d, 0, start.portsNr);
  set.start_rip(d, 0, start.rip);
  set.start_rsp(d, 0, start.rsp);
  set.start_rsi(d, 0, start.rsi);
  set.start_l4(d, 0, BigInt(start.l4Mfn));
  set.image_gpa(d, 0, BigInt(layout.imageGpa));
  set.hv_pages_gpa(d, 0, BigInt(layout.hvPagesGpa));
  if (start.engine === TRAP_ENGINE.TRAP_ENGINE_SOFT) {
    set.doorbell_port(d, 0, SERIAL_PORT);
  } else {
    set.doorbell_port(d, 0, TRAP_HV_PORT.TRAP_BELL_PORT);
    set.call_port(d, 0, TRAP_HV_PORT.TRAP_CALL_PORT);
  }
  for (const [nr, mask] of start.coldOps) set.cold_ops(d, 0, mask, nr & 63);

  for (let vp = 0; vp < layout.nrVps; vp++) {
    const v = memory.view(layout.vpsGpa + vp * TrapVp.size, TrapVp.size);
    TrapVp.set.vcpu_id(v, 0, vp);
    // vCPUs beyond those of shared_info have none until they register one.
    TrapVp.set.vcpu_info_gpa(
      v,
      0,
      vp < SHARED_INFO.XEN_LEGACY_MAX_VCPUS ? BigInt(layout.sharedInfoGpa + vp * VcpuInfo.size) : 0n,
    );
  }
  memory.setU64Number(TRAP_BOOT.TRAP_BOOT_CR3, root);
  memory.setU64(TRAP_BOOT.TRAP_BOOT_ENTRY, image.entry);
  memory.setU64Number(TRAP_BOOT.TRAP_BOOT_ARG, layout.domainGpa);
}
