/**
 * A domain without a partition: plain memory, page tables, the trap module's blocks, and a host that records.
 *
 * Frames 0 to 1023 are the domain's, mapped 1:1 from VA_BASE; the page tables are frames 1000 to 1005, mapped
 * read-only, pinned. Frames 1024 to 1535 are free. Everything from 2048 on is the hypervisor's.
 */
import type { Fields, Struct } from '../../../abi/layout';
import { TRAP_FI, TrapDomain, TrapVp } from '../../../abi/trap';
import { HYPERCALLS, type HypercallName } from '../../../abi/xen/hypercalls';
import { GuestMemory } from '../../../shim/partition/guest-memory';
import type { Discard } from '../../../shim/xen/frame-return';
import { GuestVirtual } from '../../../shim/xen/guest-virtual';
import { dispatch, type HypercallReply } from '../../../shim/xen/hypercalls/dispatch';
import { PageTypes } from '../../../shim/xen/page-types';
import { MemoryTrapState } from '../../../shim/xen/trap-state';
import { XenDomain, type XenDomainConfig } from '../../../shim/xen/xen-domain';

export const PAGE = 4096;
export const NR_FRAMES = 4096;
export const NR_PAGES = 1024;
export const VA_BASE = 0xffff888000000000n;
export const L4 = 1000;
export const L3 = 1001;
export const L2 = 1002;
export const L1 = 1003; // and 1004: 1024 pages
/** Not mapped by the tables. */
export const UNMAPPED = VA_BASE + 0x40000000n;
/** A page mapped read-only: the L4 itself. */
export const READ_ONLY = VA_BASE + BigInt(L4 * PAGE);
export const XEN_VA = 0xffff800000000000n;

const DOMAIN_GPA = 2048 * PAGE;
const SHARED_INFO = 2064;
const M2P = 2070;
const FRAME_INFO = 2080;
const MODULE_L4 = 2090;
const VPS = 2112;
const GRANTS = 3800;
const STATUS = 3900;

export interface Fixture {
  d: XenDomain;
  memory: GuestMemory;
  trap: MemoryTrapState;
  guest: GuestVirtual;
  /** What the host was told. */
  raised: [number, number][];
  kicked: number[];
  console: string[];
  shutdowns: [number, number][];
  logged: string[];
  /** Effects of the last call. */
  effects: number;
  /** Runs a hypercall of vCPU `vcpu` (default 0). */
  call(name: HypercallName | number, ...args: (number | bigint)[]): bigint | Promise<bigint>;
  callOn(vcpu: number, name: HypercallName | number, ...args: (number | bigint)[]): bigint | Promise<bigint>;
  /** As `call`, for handlers that answer at once. */
  now(name: HypercallName | number, ...args: (number | bigint)[]): number;
  /** Stores a struct (fields by name) in a scratch page and returns its address. */
  put(s: Struct<Fields>, values: Record<string, number | bigint>, at?: bigint): bigint;
  /** Reads a field of a struct back. */
  field(s: Struct<Fields>, name: string, at?: bigint): number;
  /** Address of the n-th page of the domain. */
  page(n: number): bigint;
}

export function setUp(
  options: { vcpus?: number; ring?: 1 | 3; config?: Partial<XenDomainConfig>; discard?: Discard } = {},
): Fixture {
  const vcpus = options.vcpus ?? 2;
  const memory = GuestMemory.plain([{ gpa: 0, size: NR_FRAMES * PAGE }]);
  const trap = new MemoryTrapState(memory, DOMAIN_GPA, VPS * PAGE, vcpus);
  trap.setDomain('nr_frames', BigInt(NR_FRAMES));
  trap.setDomain('nr_vps', vcpus);
  trap.setDomain('guest_ring', options.ring ?? 3);
  trap.setDomain('m2p_gpa', BigInt(M2P * PAGE));
  trap.setDomain('frame_info_gpa', BigInt(FRAME_INFO * PAGE));
  trap.setDomain('shared_info_gpa', BigInt(SHARED_INFO * PAGE));
  trap.setDomain('module_l4', BigInt(MODULE_L4));
  trap.setDomain('ports_nr', 1024);
  trap.setDomain('system_time', 1_000_000_000n);
  const own = BigInt(TRAP_FI.TRAP_FI_OWNER_DOMAIN) << BigInt(TRAP_FI.TRAP_FI_OWNER_SHIFT);
  for (let i = 0; i < NR_PAGES; i++) {
    memory.setU64(FRAME_INFO * PAGE + i * 8, own);
    memory.setU64(M2P * PAGE + i * 8, BigInt(i));
  }
  memory.setU64(L4 * PAGE + 273 * 8, BigInt(L3 * PAGE) | 7n);
  memory.setU64(L3 * PAGE, BigInt(L2 * PAGE) | 7n);
  for (let i = 0; i < 2; i++) memory.setU64(L2 * PAGE + i * 8, BigInt((L1 + i) * PAGE) | 7n);
  for (let i = 0; i < NR_PAGES; i++) {
    const table = i >= L4 && i < L4 + 6;
    memory.setU64(L1 * PAGE + i * 8, BigInt(i * PAGE) | (table ? 5n : 7n));
  }
  for (let v = 0; v < vcpus; v++) {
    trap.setVp(v, 'vcpu_id', v);
    trap.setVp(v, 'vcpu_info_gpa', BigInt(SHARED_INFO * PAGE + v * 64));
    memory.setU8(SHARED_INFO * PAGE + v * 64 + 1, 1);
  }
  trap.setVp(0, 'initialised', 1);
  trap.setVp(0, 'online', 1);
  const f = {
    memory,
    trap,
    guest: new GuestVirtual(memory, L4),
    raised: [] as [number, number][],
    kicked: [] as number[],
    console: [] as string[],
    shutdowns: [] as [number, number][],
    logged: [] as string[],
    effects: 0,
  };
  const d = new XenDomain({
    domid: 7,
    memory,
    trap,
    nrPages: NR_PAGES,
    maxPages: NR_PAGES + 256,
    freeFrames: [[1024, 512]],
    grantFrameMfn: (i) => GRANTS + i,
    grantStatusFrameMfn: (i) => STATUS + i,
    host: {
      onConsoleWrite: (bytes) => f.console.push(Buffer.from(bytes).toString('latin1')),
      onShutdown: (reason, vcpu) => f.shutdowns.push([reason, vcpu]),
      raisePort: (vcpu, port) => f.raised.push([vcpu, port]),
      kick: (vcpu) => f.kicked.push(vcpu),
      ...(options.discard === undefined ? {} : { discard: options.discard }),
      log: {
        warn: (_fields, message) => f.logged.push(message),
        error: (fields, message) => f.logged.push(`${message}: ${String((fields as { err?: Error }).err?.stack)}`),
      },
    },
    ...options.config,
  });
  const types = new PageTypes(d);
  if (types.pin(L4, TRAP_FI.TRAP_FI_L4) !== 0 || types.get(L4, TRAP_FI.TRAP_FI_L4) !== 0) throw new Error('pin');
  trap.setVp(0, 'kernel_l4', BigInt(L4));

  const scratch = VA_BASE;
  const fixture: Fixture = Object.assign(f, {
    d,
    callOn(vcpu: number, name: HypercallName | number, ...args: (number | bigint)[]) {
      const nr = typeof name === 'number' ? name : HYPERCALLS[name].number;
      const padded = [0, 1, 2, 3, 4, 5].map((i) => BigInt.asUintN(64, BigInt(args[i] ?? 0)));
      const take = (r: HypercallReply) => {
        fixture.effects = r.effects;
        return r.result;
      };
      const reply = dispatch(d, { vcpu, nr, args: padded, kernelL4: L4 });
      return reply instanceof Promise ? reply.then(take) : take(reply);
    },
    call(name: HypercallName | number, ...args: (number | bigint)[]) {
      return fixture.callOn(0, name, ...args);
    },
    now(name: HypercallName | number, ...args: (number | bigint)[]) {
      // However slow this machine is: a long call gives way to others by the CPU time that it has used.
      const cpu = jest.spyOn(process, 'cpuUsage').mockReturnValue({ user: 0, system: 0 });
      try {
        const result = fixture.callOn(0, name, ...args);
        if (result instanceof Promise) throw new Error('not answered at once');
        return Number(result);
      } finally {
        cpu.mockRestore();
      }
    },
    put(s: Struct<Fields>, values: Record<string, number | bigint>, at = scratch) {
      const view = new DataView(new ArrayBuffer(s.size));
      for (const [key, value] of Object.entries(values)) {
        const big = s.fields[key]?.type === 'u64' || s.fields[key]?.type === 's64';
        const set = (s.set as Record<string, (v: DataView, b: number, x: number | bigint) => void>)[key];
        if (set === undefined) throw new Error(`${s.name} has no ${key}`);
        set(view, 0, big ? BigInt(value) : Number(value));
      }
      fixture.guest.store(at, view);
      return at;
    },
    field(s: Struct<Fields>, name: string, at = scratch) {
      const get = (s.get as Record<string, (v: DataView, b: number) => number | bigint>)[name];
      if (get === undefined) throw new Error(`${s.name} has no ${name}`);
      return Number(get(fixture.guest.view(at, s.size), 0));
    },
    page: (n: number) => VA_BASE + BigInt(n * PAGE),
  });
  return fixture;
}

export { FRAME_INFO, GRANTS, M2P, SHARED_INFO, STATUS, TrapDomain, TrapVp };
