/**
 * Random hypercalls that get past the first check: numbers, sub-operations, argument structs and their fields come from
 * abi/xen/hypercalls.ts, values are biased by what a field's name says it is (frame, domain, pointer, port, length).
 */
import type { Fields, Struct } from '../../abi/layout';
import { TRAP_MBOX } from '../../abi/trap';
import type { ArgDecl, HypercallDecl, SubopDecl } from '../../abi/xen/hypercall-decl';
import { HYPERCALLS } from '../../abi/xen/hypercalls';
import type { Random } from './random';
import { NR_PAGES, PAGE, PFN, VA_BASE, type World } from './world';

const DECLS: readonly HypercallDecl[] = Object.values(HYPERCALLS);
const EDGES: readonly bigint[] = [
  0n,
  1n,
  7n,
  0xfffn,
  0x1000n,
  0x7fff_ffffn,
  0x8000_0000n,
  0xffff_ffffn,
  0x1_0000_0000n,
  0x7fff_ffff_ffffn,
  0x8000_0000_0000n,
  0xffff_8000_0000_0000n,
  0xffff_87ff_ffff_f000n,
  0xffff_8880_0000_0000n - 1n,
  1n << 52n,
  (1n << 63n) - 1n,
  1n << 63n,
  (1n << 64n) - 8n,
  (1n << 64n) - 1n,
];
const DOMIDS = [0x7ff0, 0x7ff0, 0x7ff0, 1, 1, 0, 2, 0x7ff1, 0x7ff4, 0xffff];

/** Operations that end a run: drawn rarely, or every run would be short. */
const ENDINGS: readonly (readonly [number, number])[] = [
  [HYPERCALLS.sched_op.number, 2],
  [HYPERCALLS.sched_op_compat.number, 2],
  [HYPERCALLS.vcpu_op.number, 2],
];

export class Requests {
  constructor(
    private readonly random: Random,
    private readonly world: World,
  ) {}

  /** A frame number: the domain's, a table, a shared page, reserved, none at all. */
  mfn(): bigint {
    const { random, world } = this;
    const { layout } = world;
    switch (random.below(12)) {
      case 0:
        return BigInt(world.base + PFN.l4 + random.below(5));
      case 1:
        return BigInt(layout.sharedInfoGpa / PAGE);
      case 2:
        return BigInt(layout.grantFramesGpa / PAGE + random.below(72));
      case 3:
        return BigInt(random.below(world.base));
      case 4:
        return BigInt(random.pick([layout.imageGpa, layout.domainGpa, layout.vpsGpa, layout.frameInfoGpa]) / PAGE);
      case 5:
        return BigInt(layout.nrFrames) + BigInt(random.below(3)) - 1n;
      case 6:
        return random.pick(EDGES);
      case 7:
        return BigInt(world.base + random.pick([PFN.console, PFN.store]));
      default:
        return BigInt(world.base + PFN.free + random.below(NR_PAGES - PFN.free + 64));
    }
  }

  /** A guest pointer: mapped, crossing pages, read-only, unmapped, not canonical. */
  pointer(): bigint {
    const { random } = this;
    switch (random.below(10)) {
      case 0:
        return random.pick(EDGES);
      case 1:
        return VA_BASE + BigInt((PFN.l4 + random.below(5)) * PAGE + random.below(512) * 8);
      case 2:
        return VA_BASE + BigInt((512 + 500 + random.below(12)) * PAGE + random.below(PAGE));
      case 3:
        return VA_BASE + BigInt((PFN.scratch + random.below(16)) * PAGE + PAGE - 1 - random.below(16));
      case 4:
        return VA_BASE + BigInt(random.below(1200) * PAGE + random.below(PAGE));
      default:
        return VA_BASE + BigInt((PFN.scratch + random.below(16)) * PAGE + random.below(64) * 64);
    }
  }

  number(): bigint {
    const { random } = this;
    switch (random.below(8)) {
      case 0:
        return random.pick(EDGES);
      case 1:
        return random.u64();
      case 2:
        return BigInt(random.below(0x10000));
      case 3:
        return 1n << BigInt(random.below(64));
      default:
        return BigInt(random.below(20));
    }
  }

  /** A page-table entry. */
  entry(): bigint {
    const { random } = this;
    const frame = (this.mfn() << 12n) & ((1n << 64n) - 1n);
    return frame | random.pick([0n, 1n, 3n, 5n, 7n, 0x67n, 0x87n, 0xe7n, (1n << 63n) | 3n, 0xfffn]);
  }

  private field(name: string): bigint {
    const { random } = this;
    if (random.oneIn(24)) return this.number();
    if (/mfn|gfn|frame|pfn|idx|gmfn/.test(name)) return this.mfn();
    if (/dom/.test(name)) return BigInt(random.pick(DOMIDS));
    if (/bus_addr|^ptr$|ctrlreg/.test(name)) return this.entry();
    if (/start|list|addr|buffer|bitmap|ptr|_va|_p$|callback|ports|handler|eip|_sp|base/.test(name))
      return this.pointer();
    if (/port/.test(name)) return BigInt(random.below(random.oneIn(4) ? 0x1100 : 12));
    if (/ref|handle/.test(name)) return BigInt(random.below(random.oneIn(4) ? 0x9000 : 12));
    if (/vcpu/.test(name)) return BigInt(random.below(4));
    if (/^val$/.test(name)) return this.entry();
    if (/order/.test(name)) return BigInt(random.oneIn(8) ? random.below(64) : random.below(4));
    if (/virq/.test(name)) return BigInt(random.below(26));
    if (/offset|len/.test(name)) return BigInt(random.pick([0, 8, 64, 256, 2048, 4032, 4095, 4096, 65535]));
    if (/nr|count|size|entries|ents/.test(name)) return BigInt(random.oneIn(8) ? random.u32() : random.below(40));
    if (/cmd|^op$/.test(name)) return BigInt(random.below(24));
    if (/flags/.test(name)) return BigInt(random.oneIn(4) ? random.u32() : random.below(32));
    if (/version/.test(name)) return BigInt(1 + random.below(2));
    return this.number();
  }

  /** Writes a struct with biased fields at a guest-physical address that is the domain's. */
  fill(s: Struct<Fields>, gpa: number): void {
    const view = new DataView(new ArrayBuffer(s.size));
    this.fillFields(s, view, 0, '');
    this.world.memory.copyIn(gpa, new Uint8Array(view.buffer));
  }

  private fillFields(s: Struct<Fields>, view: DataView, at: number, prefix: string): void {
    for (const [name, f] of Object.entries(s.fields)) {
      // Long arrays (trap tables, descriptors) get a few values only.
      const count = Math.min(f.count ?? 1, 64);
      for (let i = 0; i < count; i++) {
        const type = f.type;
        if (typeof type !== 'string') {
          this.fillFields(type, view, at + s.offsetOf(name, i), `${prefix}${name}_`);
          continue;
        }
        const value = BigInt.asUintN(64, this.field(`${prefix}${name}`));
        const set = s.set as Record<string, (v: DataView, b: number, x: number | bigint, i: number) => void>;
        set[name]!(view, at, type === 'u64' || type === 's64' ? value : Number(value & 0xffff_ffffn), i);
      }
    }
  }

  /** Fills the scratch pages with what pointers in structs may point to: lists of frames, entries, small numbers. */
  scratch(): void {
    const { random, world } = this;
    const page = PFN.scratch + random.below(16);
    const view = new DataView(new ArrayBuffer(PAGE));
    const kind = random.below(4);
    for (let at = 0; at < PAGE; at += 8) {
      const value = [() => this.mfn(), () => this.entry(), () => this.pointer(), () => this.number()][kind]!();
      view.setBigUint64(at, BigInt.asUintN(64, value), true);
    }
    world.memory.copyIn(world.gpa(page), new Uint8Array(view.buffer));
  }

  private argument(decl: ArgDecl | undefined, struct: Struct<Fields> | undefined): bigint {
    const { random, world } = this;
    if (decl === undefined || random.oneIn(30)) return this.number();
    switch (decl.type) {
      case 'pointer': {
        const s = struct ?? decl.struct;
        if (s === undefined || random.oneIn(16)) return this.pointer();
        const page = PFN.scratch + random.below(16);
        const offset = random.oneIn(8) ? Math.max(0, PAGE - random.below(s.size + 1)) : random.below(32) * 64;
        const gpa = world.gpa(page, offset);
        // Up to three elements: operations that take arrays get more than one.
        for (let i = 0; i < 3; i++) {
          if (world.memory.isRam(gpa + i * s.size, s.size)) this.fill(s, gpa + i * s.size);
        }
        return world.va(page, offset);
      }
      case 'machine':
        return random.oneIn(2) ? this.entry() : this.mfn();
      case 'address':
        return this.pointer();
      case 'value':
        return this.field(decl.name);
    }
  }

  /** A hypercall: number and arguments. */
  hypercall(): { nr: number; args: bigint[] } {
    const { random } = this;
    if (random.oneIn(40)) return { nr: random.u32(), args: Array.from({ length: 6 }, () => this.number()) };
    const decl = random.pick(DECLS);
    const subops: readonly SubopDecl[] = decl.subops === undefined ? [] : Object.values(decl.subops);
    const subop = subops.length > 0 ? random.pick(subops) : undefined;
    const args = Array.from({ length: 6 }, (_, i) => this.argument(decl.args[i], subop?.argStruct));
    if (subop !== undefined && !random.oneIn(40)) {
      const { number } = subop;
      const source = decl.subopIn;
      if (source?.in === 'argument')
        args[source.index] = BigInt(number) | (random.oneIn(30) ? this.number() << 6n : 0n);
      const first = args[0]!;
      if (source?.in === 'element' && first >= VA_BASE && first < VA_BASE + BigInt(NR_PAGES * PAGE)) {
        const at = this.world.gpa(0) + Number(first - VA_BASE);
        const struct = decl.args[0]?.struct;
        const field = struct?.fields[source.field];
        if (struct !== undefined && field !== undefined && at % 8 === 0 && this.world.memory.isRam(at, 8)) {
          if (field.type === 'u32') this.world.memory.setU32(at + field.offset, number);
          else this.world.memory.setU8(at + field.offset, (this.world.memory.getU8(at + field.offset) & ~7) | number);
        }
      }
    }
    // Counts of arrays: mostly small, sometimes absurd.
    if (decl.args[2]?.name.includes('count') && !random.oneIn(20)) args[2] = BigInt(random.below(4));
    const ends = ENDINGS.some(([nr, sub]) => nr === decl.number && args[0] === BigInt(sub));
    if (ends && !random.oneIn(12)) return this.hypercall();
    return { nr: decl.number, args };
  }

  /** Posts a request of any kind on a VP's mailbox. */
  post(vcpu: number): void {
    const { random, world } = this;
    const { nr, args } = this.hypercall();
    let kind: number = TRAP_MBOX.TRAP_CALL_HYPERCALL;
    if (random.oneIn(30)) kind = random.oneIn(3) ? random.u32() : random.below(8);
    // These two end the domain.
    const ends = kind === TRAP_MBOX.TRAP_CALL_CRASH || kind === TRAP_MBOX.TRAP_CALL_WATCHDOG;
    if (ends && !random.oneIn(6)) kind = TRAP_MBOX.TRAP_CALL_LOG;
    const l4 = random.oneIn(50) ? this.mfn() : undefined;
    world.post(vcpu, kind, nr, args, l4);
  }
}
