/**
 * A whole domain without an engine: the Domain class over plain memory in the real layout, with the trap module's
 * blocks and a made-up module image in place, whose virtual processor the fuzzer plays.
 *
 * The partition is a stand-in that starts nothing; a kick only counts. Domain frames are mapped 1:1 from VA_BASE by
 * page tables in the domain's own memory; a part of them is left for populate_physmap.
 */
import pino from 'pino';
import { TRAP_ENGINE, TRAP_FI, TrapMailbox, TrapVp } from '../../abi/trap';
import { Domain, type DomainEnd } from '../../shim/domain/domain';
import { TscClock } from '../../shim/domain/tsc-clock';
import { GuestMemory } from '../../shim/partition/guest-memory';
import type { Partition, PartitionEvents } from '../../shim/partition/partition';
import type { TrapImage } from '../../shim/partition/trap-image';
import { type TrapLayout, trapLayout } from '../../shim/partition/trap-layout';
import { loadTrapModule } from '../../shim/partition/trap-loader';
import { PageTypes } from '../../shim/xen/page-types';

export const PAGE = 4096;
export const VA_BASE = 0xffff_8880_0000_0000n;
export const NR_PAGES = 768;
export const MAX_PAGES = 1024;
/** Pages of the domain, by pfn, with a role. */
export const PFN = { console: 1, store: 2, l4: 8, l3: 9, l2: 10, l1: 11, scratch: 32, free: 64 } as const;

/** The module's place: bytes that nobody may change. */
const IMAGE: TrapImage = {
  entry: 0xffff_8280_0000_0000n,
  segments: [{ offset: 0, bytes: Buffer.alloc(16 * PAGE, 0x5a), size: 16 * PAGE, executable: true, writable: false }],
  size: 16 * PAGE,
  symbolAt: () => undefined,
};

class FakePartition implements Partition {
  readonly engine = 'qemu';
  readonly trapEngine = TRAP_ENGINE.TRAP_ENGINE_SOFT;
  kicks = 0;
  constructor(readonly memory: GuestMemory) {}
  prepare(): void {}
  start(_events: PartitionEvents): Promise<void> {
    return Promise.resolve();
  }
  kick(): void {
    this.kicks++;
  }
  stop(): Promise<void> {
    return Promise.resolve();
  }
  exits(): undefined {
    return undefined;
  }
  describe() {
    return {
      engine: 'qemu' as const,
      summary: 'nothing',
      vpCount: 1,
      memoryBytes: this.memory.size,
      pid: undefined,
    };
  }
}

/** A guest-physical range that only the hypervisor's side may write. */
export interface Sealed {
  readonly name: string;
  readonly gpa: number;
  readonly bytes: Buffer;
}

export interface World {
  readonly domain: Domain;
  readonly memory: GuestMemory;
  readonly layout: TrapLayout;
  readonly nrVps: number;
  readonly ring: 1 | 3;
  /** MFN of the domain's first frame. */
  readonly base: number;
  readonly l4: number;
  readonly sealed: readonly Sealed[];
  /** What the shim logged as errors. */
  readonly errors: string[];
  readonly end: { value?: DomainEnd };
  /** Rings the doorbell. */
  doorbell(): void;
  answered(): number;
  va(pfn: number, offset?: number): bigint;
  gpa(pfn: number, offset?: number): number;
  vp(vcpu: number): number;
  /** Posts a request; the doorbell is the caller's. */
  post(vcpu: number, kind: number, nr: number, args: readonly bigint[], l4?: bigint): void;
}

/** What of the Domain's inside the fuzzer has to reach: it has no engine that would. */
interface Inside {
  readonly mailboxes: { scan(): void; answered: number };
}

export function makeWorld(options: { ring: 1 | 3; vcpus: number }): World {
  const layout = trapLayout({
    nrVps: options.vcpus,
    imageSize: IMAGE.size,
    domainFrames: MAX_PAGES,
    ramRegions: (size) => [{ gpa: 0, size }],
  });
  const memory = GuestMemory.plain(layout.regions);
  const run = layout.domainRuns[0]!;
  const base = run.mfn;
  const mfn = (pfn: number): number => base + pfn;
  loadTrapModule(memory, layout, IMAGE, {
    engine: TRAP_ENGINE.TRAP_ENGINE_SOFT,
    guestRing: options.ring,
    isolateUserRoots: false,
    trace: false,
    domid: 1,
    tscHz: 1e9,
    cpuid: Buffer.alloc(480, 0x11),
    cpuidCount: 10,
    portsNr: 1024,
    rip: VA_BASE,
    rsp: VA_BASE,
    rsi: VA_BASE,
    l4Mfn: mfn(PFN.l4),
    coldOps: [],
  });
  for (let pfn = 0; pfn < NR_PAGES; pfn++) memory.setU64(layout.m2pGpa + mfn(pfn) * 8, BigInt(pfn));
  const entry = (table: number, slot: number, target: number, flags: bigint): void =>
    memory.setU64(mfn(table) * PAGE + slot * 8, BigInt(target * PAGE) | flags);
  entry(PFN.l4, 273, mfn(PFN.l3), 7n);
  entry(PFN.l3, 0, mfn(PFN.l2), 7n);
  for (let i = 0; i < 2; i++) entry(PFN.l2, i, mfn(PFN.l1 + i), 7n);
  for (let pfn = 0; pfn < NR_PAGES; pfn++) {
    const table = pfn >= PFN.l4 && pfn < PFN.l1 + 2;
    entry(PFN.l1 + (pfn >> 9), pfn & 511, mfn(pfn), table ? 5n : 7n);
  }
  // The shared pages too, where no pfn of the domain is: shared_info and the first grant frames.
  entry(PFN.l1 + 1, 500, layout.sharedInfoGpa / PAGE, 7n);
  for (let i = 0; i < 4; i++) entry(PFN.l1 + 1, 501 + i, layout.grantFramesGpa / PAGE + i, 7n);

  const errors: string[] = [];
  const log = pino(
    { level: 'error' },
    {
      write: (line: string) => {
        if (errors.length < 20) errors.push(line);
      },
    },
  );
  const partition = new FakePartition(memory);
  const built = {
    plan: { nrPages: NR_PAGES },
    vcpu: { rip: VA_BASE, rsp: VA_BASE, rsi: VA_BASE, cr3Mfn: mfn(PFN.l4) },
    startInfoMfn: mfn(3),
    storeMfn: mfn(PFN.store),
    consoleMfn: mfn(PFN.console),
    nrPtFrames: 5,
    pageTables: [],
  };
  const config = {
    name: 'fuzz',
    kernel: 'none',
    cmdline: '',
    memory: 3,
    vcpus: options.vcpus,
    guestRing: options.ring,
  };
  const domain = Reflect.construct(Domain, [
    config,
    { facts: {} },
    partition,
    layout,
    built,
    options.ring,
    [],
    new TscClock(),
    log,
  ]) as Domain;
  const inside = domain as unknown as Inside;
  const types = new PageTypes(domain.xen);
  if (types.pin(mfn(PFN.l4), TRAP_FI.TRAP_FI_L4) !== 0 || types.get(mfn(PFN.l4), TRAP_FI.TRAP_FI_L4) !== 0) {
    throw new Error('the tables of the fuzzed domain are not valid');
  }
  const vp = (vcpu: number): number => layout.vpsGpa + vcpu * TrapVp.size;
  const { trap } = domain.xen;
  trap.setVp(0, 'initialised', 1);
  trap.setVp(0, 'online', 1);
  for (let v = 0; v < options.vcpus; v++) trap.setVp(v, 'kernel_l4', BigInt(mfn(PFN.l4)));
  const seal = (name: string, gpa: number, size: number): Sealed => ({ name, gpa, bytes: memory.copyOut(gpa, size) });
  const end: { value?: DomainEnd } = {};
  void domain.ended.then((value) => {
    end.value = value;
  });
  const world: World = {
    domain,
    memory,
    layout,
    nrVps: options.vcpus,
    ring: options.ring,
    base,
    l4: mfn(PFN.l4),
    sealed: [
      seal('boot parameters', 0, PAGE),
      seal('module image', layout.imageGpa, IMAGE.size),
      seal('module tables', layout.tablesGpa, layout.tablesPages * PAGE),
      seal('descriptor windows', layout.perdomainL1Gpa, layout.reservedGdtGpa - layout.perdomainL1Gpa),
      seal('reserved GDT', layout.reservedGdtGpa, layout.nrVps * PAGE),
      seal('CPUID', layout.cpuidGpa, PAGE),
      seal('trace ring', layout.traceGpa, layout.frameInfoGpa - layout.traceGpa),
    ],
    errors,
    end,
    doorbell: () => inside.mailboxes.scan(),
    answered: () => inside.mailboxes.answered,
    va: (pfn, offset = 0) => VA_BASE + BigInt(pfn * PAGE + offset),
    gpa: (pfn, offset = 0) => mfn(pfn) * PAGE + offset,
    vp,
    post(vcpu, kind, nr, args, l4) {
      const at = vp(vcpu) + TrapVp.offsetOf('mbox');
      memory.setU32(at + TrapMailbox.offsetOf('seq'), (memory.getU32(at + TrapMailbox.offsetOf('seq')) + 1) >>> 0);
      memory.setU32(at + TrapMailbox.offsetOf('kind'), kind);
      memory.setU32(at + TrapMailbox.offsetOf('nr'), nr);
      for (let i = 0; i < 6; i++) {
        memory.setU64(at + TrapMailbox.offsetOf('args', i), BigInt.asUintN(64, args[i] ?? 0n));
      }
      memory.setU64(at + TrapMailbox.offsetOf('kernel_l4'), l4 ?? BigInt(mfn(PFN.l4)));
      memory.setU32(at + TrapMailbox.offsetOf('state'), 1);
    },
  };
  return world;
}

/** Names of the sealed ranges that were changed. */
export function broken(world: World): string[] {
  return world.sealed
    .filter(({ gpa, bytes }) => Buffer.compare(world.memory.copyOut(gpa, bytes.length), bytes) !== 0)
    .map(({ name }) => name);
}
