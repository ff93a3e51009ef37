/**
 * What a hostile guest does to memory while the shim looks at it.
 *
 * `scribble` changes everything that a guest may write (its pages, tables at ring 1, shared pages) and, for a guest
 * that has taken over the trap module, the module's blocks and frame_info. `flipWhileReading` makes bytes change
 * between two accesses of the shim to the same place, which is what a second VP of the guest can do (XSA-155).
 */
import { TrapDomain, TrapVp } from '../../abi/trap';
import type { GuestMemory } from '../../shim/partition/guest-memory';
import type { Random } from './random';
import type { Requests } from './requests';
import { NR_PAGES, PAGE, PFN, type World } from './world';

const READERS = ['getU8', 'getU16', 'getU32', 'getU64', 'load32', 'load64', 'copyOut'] as const;

/**
 * Changes memory just after it has been read, once in `every` accesses, where `mayFlip` allows it. Returns how to stop.
 * The same few bytes are changed back sometimes, so that both values are seen.
 */
export function flipWhileReading(
  memory: GuestMemory,
  random: Random,
  every: number,
  mayFlip: (gpa: number) => boolean,
): () => void {
  const prototype = Object.getPrototypeOf(memory) as GuestMemory;
  const target = memory as unknown as Record<string, unknown>;
  const setU8 = prototype.setU8.bind(memory);
  const getU8 = prototype.getU8.bind(memory);
  for (const name of READERS) {
    const original = (prototype[name] as (...a: number[]) => unknown).bind(memory);
    target[name] = (gpa: number, length?: number): unknown => {
      const value = length === undefined ? original(gpa) : original(gpa, length);
      if (random.oneIn(every) && mayFlip(gpa)) {
        const at = gpa + random.below(Math.min(length ?? 8, 64) || 1);
        if (prototype.isRam.call(memory, at, 1)) setU8(at, random.oneIn(3) ? random.u32() & 0xff : getU8(at) ^ 1);
      }
      return value;
    };
  }
  return () => {
    for (const name of READERS) delete target[name];
  };
}

/** A field of a struct set to garbage. */
function garbage(world: World, random: Random, requests: Requests, gpa: number, size: number): void {
  const at = gpa + random.below(size / 8) * 8;
  const value = random.pick([
    () => requests.mfn(),
    () => requests.entry(),
    () => requests.number(),
    () => random.u64(),
  ]);
  world.memory.setU64(at, BigInt.asUintN(64, value()));
}

/** The S0 fields and the like at the front of trap_domain, and the virtual CPU state of trap_vp: where it hurts. */
export function scribbleModule(world: World, random: Random, requests: Requests): void {
  const { layout, memory } = world;
  switch (random.below(6)) {
    case 0:
      garbage(world, random, requests, layout.domainGpa, TrapDomain.offsetOf('ports') + 4096 * 8);
      return;
    case 1:
      garbage(world, random, requests, layout.domainGpa, TrapDomain.offsetOf('to_shim'));
      return;
    case 2:
      garbage(world, random, requests, world.vp(random.below(world.nrVps)), 0x680);
      return;
    case 3:
      garbage(world, random, requests, world.vp(random.below(world.nrVps)), TrapVp.size);
      return;
    case 4: {
      // frame_info: types, counts, locks and owners of the domain's frames, tables first.
      const mfn = random.oneIn(2) ? world.base + PFN.l4 + random.below(5) : world.base + random.below(NR_PAGES);
      const fi = BigInt(random.below(3)) | (BigInt(random.below(9)) << 28n) | (BigInt(random.below(128)) << 32n);
      memory.setU64(layout.frameInfoGpa + mfn * 8, random.oneIn(4) ? random.u64() : fi | (1n << 36n));
      return;
    }
    default: {
      const mfn = random.below(layout.nrFrames);
      memory.setU64(layout.frameInfoGpa + mfn * 8, random.u64());
    }
  }
}

/** What any guest can do without a hypercall. */
export function scribble(world: World, random: Random, requests: Requests): void {
  const { layout, memory } = world;
  const words = (gpa: number, size: number, count: number): void => {
    for (let i = 0; i < count; i++) {
      memory.setU32(gpa + random.below(size / 4) * 4, random.oneIn(2) ? random.u32() : random.below(8));
    }
  };
  switch (random.below(10)) {
    case 0:
      words(world.gpa(PFN.console), PAGE, 1 + random.below(20));
      // The indices: at the end of the page, after both rings.
      words(world.gpa(PFN.console, 3072), 32, 1);
      return;
    case 1:
      words(world.gpa(PFN.store), PAGE, 1 + random.below(20));
      words(world.gpa(PFN.store, 2048), 32, 1);
      return;
    case 2:
      words(layout.sharedInfoGpa, PAGE, 4);
      return;
    case 3:
    case 4: {
      // Grant entries of both versions, mostly valid: version 1 is flags, domid, frame; version 2 has 16 bytes.
      const at = layout.grantFramesGpa + random.below(32) * 8;
      const flags = random.oneIn(3) ? random.u32() & 0xffff : random.pick([1, 1, 1, 5, 0x201, 2, 3]);
      memory.setU32(at, flags | (random.pick([1, 1, 0, 0x7ff0]) << 16));
      memory.setU32(at + 4, Number(requests.mfn() & 0xffff_ffffn));
      if (random.oneIn(2)) memory.setU64(at + 8, requests.mfn());
      return;
    }
    case 5:
      words(layout.grantFramesGpa, PAGE * 2, 8);
      words(layout.grantStatusGpa, PAGE, 4);
      return;
    default:
      requests.scratch();
  }
}

/** A guest at ring 1 writes its page tables as it likes: loops, self-maps, reserved frames, holes, the blocks. */
export function scribbleTables(world: World, random: Random, requests: Requests): void {
  const table = random.pick([PFN.l4, PFN.l3, PFN.l2, PFN.l1, PFN.l1 + 1]);
  const slot = random.oneIn(4) ? random.pick([0, 273, 511]) : random.below(512);
  world.memory.setU64(world.gpa(table, slot * 8), BigInt.asUintN(64, requests.entry()));
}

/** Notifications out of the blue: the port bitmap that the module keeps for the shim. */
export function floodPorts(world: World, random: Random): void {
  const { layout, memory } = world;
  const base = layout.domainGpa;
  const everything = random.oneIn(8);
  for (let i = 0; i < (everything ? 64 : 2); i++) {
    const word = everything ? i : random.below(random.oneIn(2) ? 64 : 1);
    memory.setU64(base + TrapDomain.offsetOf('to_shim', word), everything ? (1n << 64n) - 1n : random.u64());
  }
  memory.setU64(base + TrapDomain.offsetOf('to_shim_sel'), everything ? (1n << 64n) - 1n : random.u64());
}
