import fc from 'fast-check';
import { XenconsInterface } from '../../../abi/xen/console-ring';
import { XEN_ELFNOTE as N } from '../../../abi/xen/elf-note';
import { StartInfo } from '../../../abi/xen/start-info';
import { UsageError } from '../../../shim/errors';
import { type BuildOptions, type BuiltDomain, buildDomain } from '../../../shim/xen/builder/builder';
import { hypercallPage } from '../../../shim/xen/builder/hypercall-page';
import { decodeKernel, type Kernel, unpackImage } from '../../../shim/xen/builder/image';
import { DomainMemory, type PfnRun } from '../../../shim/xen/builder/memory';
import { codeLike, type ElfSpec, makeElf, notes, text, tinyLinux, u64, viewOf } from './images';
import { FakeMemory, runsWithHole } from './memory';

const MB = 256;
const kernelOf = async (bytes: Buffer): Promise<Kernel> => decodeKernel(await unpackImage('kernel', bytes));

/** A kernel at 1 MiB with a hypercall page, a bss and no address notes: a small test kernel. */
const lowSpec: ElfSpec = {
  segments: [
    { paddr: 0x100000n, bytes: codeLike(0x1800), memSize: 0x2000n },
    { paddr: 0x102010n, bytes: Buffer.from('data'), memSize: 0x3000n },
  ],
  entry: 0x100010n,
  notes: [
    { type: N.XEN_ELFNOTE_XEN_VERSION, desc: text('xen-3.0') },
    { type: N.XEN_ELFNOTE_GUEST_OS, desc: text('Test') },
    { type: N.XEN_ELFNOTE_LOADER, desc: text('generic') },
    { type: N.XEN_ELFNOTE_HYPERCALL_PAGE, desc: u64(0x103000n) },
  ],
};

interface Built {
  readonly ram: FakeMemory;
  readonly memory: DomainMemory;
  readonly domain: BuiltDomain;
  readonly kernel: Kernel;
}

async function build(
  bytes: Buffer,
  runs: readonly PfnRun[],
  options: Partial<BuildOptions> = {},
  garbage = 0xee,
): Promise<Built> {
  const kernel = await kernelOf(bytes);
  const ram = new FakeMemory(runs, garbage);
  const memory = new DomainMemory(ram, runs);
  const domain = await buildDomain({
    kernel,
    memory,
    cmdline: 'console=hvc0',
    guestRing: 3,
    sharedInfoMfn: 0x77,
    storeEvtchn: 1,
    consoleEvtchn: 2,
    ...options,
  });
  return { ram, memory, domain, kernel };
}

/** Reads pseudo-physical memory back, through the runs. */
function readPfn({ ram, memory }: Built, address: number, length: number): Buffer {
  const parts: Buffer[] = [];
  for (let at = address; at < address + length; ) {
    const offset = at % 4096;
    const size = Math.min(4096 - offset, address + length - at);
    parts.push(ram.read(memory.mfnOf(Math.floor(at / 4096)) * 4096 + offset, size));
    at += size;
  }
  return Buffer.concat(parts);
}

const LINUX_RUNS = runsWithHole(64 * MB, 0x1000, 0x1000 + 0x1005, 0x40000);

describe('Linux', () => {
  let built: Built;
  const ramdisk = codeLike(10_000);
  beforeAll(async () => {
    // The hole lies inside the kernel, so that every copy is split.
    built = await build(tinyLinux(), LINUX_RUNS, { ramdisk: { file: 'rd', bytes: ramdisk } });
  });

  test('start_info', () => {
    const { domain, memory } = built;
    const page = readPfn(built, domain.plan.startInfoPfn * 4096, 4096);
    const view = viewOf(page);
    const { get } = StartInfo;
    expect(page.toString('latin1', 0, 32)).toBe('xen-3.0-x86_64'.padEnd(32, '\0'));
    expect(get.nr_pages(view, 0)).toBe(BigInt(64 * MB));
    expect(get.shared_info(view, 0)).toBe(0x77000n);
    expect(get.flags(view, 0)).toBe(0x18);
    expect(get.store_mfn(view, 0)).toBe(BigInt(domain.storeMfn));
    expect(domain.storeMfn).toBe(memory.mfnOf(domain.plan.xenstorePfn));
    expect(get.store_evtchn(view, 0)).toBe(1);
    expect(get.console_domU_mfn(view, 0)).toBe(BigInt(domain.consoleMfn));
    expect(get.console_domU_evtchn(view, 0)).toBe(2);
    expect(get.pt_base(view, 0)).toBe(0xffffffff80000000n + BigInt(domain.plan.pageTables.pfn * 4096));
    expect(get.nr_pt_frames(view, 0)).toBe(BigInt(domain.nrPtFrames));
    expect(get.mfn_list(view, 0)).toBe(0x8000000000n);
    expect(get.mod_start(view, 0)).toBe(BigInt(domain.plan.ramdisk?.pfn ?? 0));
    expect(get.mod_len(view, 0)).toBe(3n * 4096n);
    expect(page.toString('latin1', 128, 128 + 13)).toBe('console=hvc0\0');
    expect(page.subarray(128 + 12, 1152).every((b) => b === 0)).toBe(true);
    expect(get.first_p2m_pfn(view, 0)).toBe(BigInt(domain.plan.p2m.pfn));
    expect(get.nr_p2m_frames(view, 0)).toBe(BigInt(domain.plan.p2m.count + 3));
    expect(page.subarray(StartInfo.size).every((b) => b === 0)).toBe(true);
  });

  test('the first vCPU', () => {
    const { domain, memory } = built;
    const stackTop = 0xffffffff80000000n + BigInt((domain.plan.bootStackPfn + 1) * 4096);
    expect(domain.vcpu).toEqual({
      rip: 0xffffffff81000040n,
      rsp: stackTop,
      rsi: 0xffffffff80000000n + BigInt(domain.plan.startInfoPfn * 4096),
      rflags: 0x202n,
      cs: 0xe033,
      ss: 0xe02b,
      kernelSs: 0xe02b,
      kernelSp: stackTop,
      cr3Mfn: memory.mfnOf(domain.plan.pageTables.pfn),
      dr6: 0xffff0ff0n,
      dr7: 0x400n,
    });
    expect(domain.startInfoMfn).toBe(memory.mfnOf(domain.plan.startInfoPfn));
  });

  test('segments are copied, and the rest of them is zero', () => {
    expect(readPfn(built, 0x1000000, 24000).equals(codeLike(24000))).toBe(true);
    const second = readPfn(built, 0x1008000, 0x3000);
    expect(second.toString('latin1', 0, 12)).toBe('per-cpu data');
    expect(second.subarray(12).every((b) => b === 0)).toBe(true);
  });

  test('the ramdisk, padded with zeroes', () => {
    const { plan } = built.domain;
    const bytes = readPfn(built, (plan.ramdisk?.pfn ?? 0) * 4096, 3 * 4096);
    expect(bytes.subarray(0, 10_000).equals(ramdisk)).toBe(true);
    expect(bytes.subarray(10_000).every((b) => b === 0)).toBe(true);
  });

  test('the p2m list names every frame, and ends in zeroes', () => {
    const { plan } = built.domain;
    const list = readPfn(built, plan.p2m.pfn * 4096, plan.p2m.count * 4096);
    for (let pfn = 0; pfn < plan.nrPages; pfn++) {
      if (list.readBigUInt64LE(pfn * 8) !== BigInt(built.memory.mfnOf(pfn))) throw new Error(`pfn ${pfn}`);
    }
    expect(list.subarray(plan.nrPages * 8).every((b) => b === 0)).toBe(true);
  });

  test('rings are empty, the console is disconnected, the stack is clean', () => {
    const { plan } = built.domain;
    expect(readPfn(built, plan.xenstorePfn * 4096, 4096).every((b) => b === 0)).toBe(true);
    expect(readPfn(built, plan.bootStackPfn * 4096, 4096).every((b) => b === 0)).toBe(true);
    const ring = readPfn(built, plan.consolePfn * 4096, 4096);
    expect(XenconsInterface.get.connection(viewOf(ring), 0)).toBe(1);
    expect(ring.reduce((sum, b) => sum + b, 0)).toBe(1);
  });

  test('nothing else is touched', () => {
    const { plan } = built.domain;
    const touched = [...built.ram.frames]
      .filter(([, frame]) => frame.some((b) => b !== 0xee))
      .map(([mfn]) => built.memory.pfnOf(mfn) ?? -1);
    for (const pfn of touched) {
      expect(pfn >= plan.kernel.pfn && pfn < plan.endPfn).toBe(true);
      expect(pfn > plan.bootStackPfn && pfn < plan.initial.count).toBe(false);
    }
  });
});

describe('a small kernel', () => {
  const runs = runsWithHole(16 * MB, 0x500, 0x800, 0x100);

  test('has its hypercall page filled and everything in the initial mapping', async () => {
    const built = await build(makeElf(lowSpec), runs, { ramdisk: { file: 'rd', bytes: Buffer.from('ramdisk') } });
    const { plan } = built.domain;
    expect(readPfn(built, 0x103000, 4096).equals(hypercallPage())).toBe(true);
    const view = viewOf(readPfn(built, plan.startInfoPfn * 4096, 4096));
    // As Xen's tools do for a kernel without INIT_P2M (measured): no SIF_VIRT_P2M_4TOOLS.
    expect(StartInfo.get.flags(view, 0)).toBe(0);
    expect(StartInfo.get.mod_start(view, 0)).toBe(BigInt((plan.ramdisk?.pfn ?? 0) * 4096));
    expect(StartInfo.get.mod_len(view, 0)).toBe(4096n);
    expect(StartInfo.get.mfn_list(view, 0)).toBe(BigInt(plan.p2m.pfn * 4096));
    expect(StartInfo.get.first_p2m_pfn(view, 0)).toBe(0n);
    expect(built.domain.vcpu.rip).toBe(0x100010n);
    const page0 = built.ram.walk(built.domain.vcpu.cr3Mfn, 0n);
    expect(page0?.entry).toBe((BigInt(built.memory.mfnOf(0)) << 12n) | 0x23n);
  });

  test.each([
    ['ring 3', 3, 'Test', 0x23n, 0x21n],
    ['ring 1: nothing sets U later', 1, 'Test', 0x27n, 0x25n],
    ['Linux in ring 1: kernel pages keep U clear', 1, 'linux', 0x23n, 0x21n],
  ] as const)('L1 entries in %s', async (_what, guestRing, os, writable, readOnly) => {
    const spec: ElfSpec = {
      ...lowSpec,
      notes: [...(lowSpec.notes ?? []), { type: N.XEN_ELFNOTE_GUEST_OS, desc: text(os) }],
    };
    const { ram, domain } = await build(makeElf(spec), runs, { guestRing });
    const flags = (pfn: number): bigint => (ram.walk(domain.vcpu.cr3Mfn, BigInt(pfn * 4096))?.entry ?? 0n) & 0xfffn;
    expect(flags(0x100)).toBe(writable);
    expect(flags(domain.plan.pageTables.pfn)).toBe(readOnly);
    expect(flags(domain.plan.bootStackPfn)).toBe(writable);
  });
});

test('the hypercall page by hand', () => {
  const page = hypercallPage();
  expect(page).toHaveLength(4096);
  // push rcx; push r11; mov $1,eax; syscall; pop r11; pop rcx; ret
  expect(page.toString('hex', 32, 48)).toBe('514153b8010000000f05415b59c3cccc');
  // iret: push rcx; push r11; push rax; mov $23,eax; syscall
  expect(page.toString('hex', 23 * 32, 23 * 32 + 12)).toBe('51415350b8170000000f05cc');
  expect(page.toString('hex', 127 * 32, 127 * 32 + 14)).toBe('514153b87f0000000f05415b59c3');
});

describe('any domain', () => {
  const KERNELS: readonly Buffer[] = [
    tinyLinux(),
    makeElf(lowSpec),
    makeElf({
      segments: [{ paddr: 0x1000000n, bytes: codeLike(0x3000) }],
      notes: notes([N.XEN_ELFNOTE_INIT_P2M, N.XEN_ELFNOTE_MOD_START_PFN]),
    }),
    // PADDR_OFFSET = VIRT_BASE, physical addresses are virtual ones; the p2m list shares the upper tables.
    makeElf({
      segments: [{ paddr: 0xffffffff81000000n, bytes: codeLike(0x3000) }],
      notes: notes(
        [],
        { type: N.XEN_ELFNOTE_PADDR_OFFSET, desc: u64(0xffffffff80000000n) },
        { type: N.XEN_ELFNOTE_INIT_P2M, desc: u64(0xffffffff40000000n) },
      ),
    }),
  ];

  test('its page tables map exactly the planned regions, tables read-only, each address to its frame', async () => {
    const kernels = await Promise.all(KERNELS.map(kernelOf));
    await fc.assert(
      fc.asyncProperty(
        fc.constantFrom(...kernels),
        fc.integer({ min: 40, max: 96 }),
        fc.integer({ min: 0, max: 0x300000 }),
        fc.integer({ min: 0, max: 0x6000 }),
        fc.constantFrom(1, 3) as fc.Arbitrary<1 | 3>,
        fc.integer({ min: 0, max: 3 << 20 }),
        async (kernel, megabytes, offset, holeAt, guestRing, ramdiskBytes) => {
          const runs = runsWithHole(megabytes * MB, offset, offset + holeAt, 0x80000);
          const ram = new FakeMemory(runs);
          const memory = new DomainMemory(ram, runs, true);
          const domain = await buildDomain({
            kernel,
            memory,
            ramdisk: { file: 'rd', bytes: Buffer.alloc(ramdiskBytes, 1) },
            cmdline: '',
            guestRing,
            sharedInfoMfn: 1,
            storeEvtchn: 1,
            consoleEvtchn: 2,
          });
          const { plan } = domain;
          const tableMfns = new Set(domain.pageTables.map((t) => t.mfn));
          expect(tableMfns.size).toBe(plan.tables.length);
          const user = guestRing === 1 && !kernel.facts.isLinux ? 4n : 0n;
          const expected = new Map<bigint, number>();
          for (const m of plan.mappings) {
            for (let i = 0; i < m.count; i++) expected.set(m.va + BigInt(i) * 4096n, m.pfn + i);
          }
          let seen = 0;
          for (const { va, entry } of ram.mapped(domain.vcpu.cr3Mfn)) {
            const pfn = expected.get(va);
            const mfn = pfn === undefined ? -1 : memory.mfnOf(pfn);
            const flags = (tableMfns.has(mfn) ? 0x21n : 0x23n) | user;
            if (entry !== ((BigInt(mfn) << 12n) | flags)) throw new Error(`${va.toString(16)}: ${entry.toString(16)}`);
            seen++;
          }
          expect(seen).toBe(expected.size);
          const { path } = ram.walk(domain.vcpu.cr3Mfn, domain.vcpu.rip) ?? { path: [] };
          expect(path.map((e) => e & 0xfffn)).toEqual([0x67n, 0x67n, 0x67n]);
          expect(domain.vcpu.cr3Mfn).toBe(domain.pageTables[0].mfn);
          expect(domain.pageTables[0].level).toBe(4);
          // The hypervisor's slots stay empty.
          const root = ram.frame(domain.vcpu.cr3Mfn);
          expect(root.subarray(256 * 8, 272 * 8).every((b) => b === 0)).toBe(true);
        },
      ),
      { numRuns: 25 },
    );
  });
});

describe('the machine-to-physical table', () => {
  test('has the pfn of every frame of the domain, and nothing else is written', () => {
    const runs = runsWithHole(3000, 100, 1000, 500);
    const ram = new FakeMemory([{ pfn: 0, mfn: 0, count: 100_000 }], 0xff);
    const memory = new DomainMemory(ram, runs);
    memory.writeM2p(0x2000000);
    for (let mfn = 0; mfn < 4096; mfn++) {
      const entry = ram.read(0x2000000 + mfn * 8, 8).readBigUInt64LE();
      expect(entry).toBe(BigInt.asUintN(64, BigInt(memory.pfnOf(mfn) ?? -1)));
    }
  });

  test('runs that overlap or leave gaps are refused', () => {
    const ram = new FakeMemory([]);
    expect(() => new DomainMemory(ram, [{ pfn: 1, mfn: 0, count: 1 }])).toThrow(RangeError);
    expect(
      () =>
        new DomainMemory(ram, [
          { pfn: 0, mfn: 5, count: 10 },
          { pfn: 10, mfn: 14, count: 10 },
        ]),
    ).toThrow(/machine frame 14 is used twice/);
    expect(() => new DomainMemory(ram, [{ pfn: 0, mfn: 0, count: 0 }])).toThrow(RangeError);
    expect(() => new DomainMemory(ram, [{ pfn: 0, mfn: 0, count: 5 }]).mfnOf(5)).toThrow(RangeError);
  });
});

test.each([true, false])('zeroes are not written into memory that holds them (%s)', (zeroed) => {
  const runs = runsWithHole(1000, 50, 100, 7);
  const ram = new FakeMemory(runs);
  const memory = new DomainMemory(ram, runs, zeroed);
  const bytes = Buffer.alloc(900 * 4096 + 10);
  for (const at of [5, 40 * 4096, 300 * 4096 + 17, 899 * 4096]) bytes[at] = 0xab;
  bytes[bytes.length - 1] = 0xcd;
  memory.writeSparse(3 * 4096 + 1, bytes);
  const expected = Buffer.alloc(1000 * 4096);
  bytes.copy(expected, 3 * 4096 + 1);
  for (let pfn = 0; pfn < 1000; pfn++) {
    const page = expected.subarray(pfn * 4096, (pfn + 1) * 4096);
    if (!ram.frame(memory.mfnOf(pfn)).equals(page)) throw new Error(`pfn ${pfn}`);
  }
  const sparse = new FakeMemory(runs);
  new DomainMemory(sparse, runs, zeroed).writeSparse(0, bytes);
  if (zeroed) expect(sparse.frames.size).toBeLessThan(90);
  else expect(sparse.frames.size).toBe(901);
});

describe('the command line', () => {
  const at = (cmdline: string): Promise<Built> => build(tinyLinux(), LINUX_RUNS, { cmdline });
  test('1023 bytes fit', async () => {
    const built = await at('x'.repeat(1023));
    const page = readPfn(built, built.domain.plan.startInfoPfn * 4096, 4096);
    expect(page.toString('latin1', 128, 1152)).toBe(`${'x'.repeat(1023)}\0`);
    expect(StartInfo.get.first_p2m_pfn(viewOf(page), 0)).toBe(BigInt(built.domain.plan.p2m.pfn));
  });
  test.each([
    ['x'.repeat(1024), 'cmdline: kernel command line too long: found 1024 bytes, wanted at most 1023'],
    ['\u00e4'.repeat(512), 'cmdline: kernel command line too long: found 1024 bytes, wanted at most 1023'],
    ['a\0b', 'cmdline: malformed kernel command line: found a NUL at byte 1, wanted text'],
  ])('%#', async (cmdline, message) => {
    await expect(at(cmdline)).rejects.toThrow(new UsageError('', { found: '', wanted: '' }).constructor as never);
    await expect(at(cmdline)).rejects.toMatchObject({ name: 'UsageError', message });
  });
});

test('what does not fit leaves memory untouched', async () => {
  const kernel = await kernelOf(tinyLinux());
  const runs = runsWithHole(8 * MB, 0, 1e9, 0);
  const ram = new FakeMemory(runs);
  const memory = new DomainMemory(ram, runs);
  const options = {
    kernel,
    memory,
    cmdline: '',
    guestRing: 3,
    sharedInfoMfn: 1,
    storeEvtchn: 1,
    consoleEvtchn: 2,
  } as const;
  await expect(buildDomain(options)).rejects.toThrow(/too little memory: found 8 MB of memory, wanted at least 2\d MB/);
  expect(ram.frames.size).toBe(0);
});

test('8 GiB are built quickly', async () => {
  const kernel = await kernelOf(tinyLinux());
  const table = new BigUint64Array(2 << 20);
  // Stands in for memory in which a table of 2M entries is filled natively: here by a plain loop.
  const ram = {
    copyIn: (): void => {},
    fill: (): void => {},
    fill64: (_gpa: number, count: number, start: bigint, step: bigint): void => {
      for (let i = 0, next = start; i < count; i++, next += step) table[i] = next;
    },
  };
  const memory = new DomainMemory(ram, runsWithHole(8192 * MB, 0x2000, 0xc0000, 0x40000), true);
  const started = performance.now();
  const domain = await buildDomain({
    kernel,
    memory,
    cmdline: '',
    guestRing: 3,
    sharedInfoMfn: 1,
    storeEvtchn: 1,
    consoleEvtchn: 2,
  });
  expect(domain.plan.p2m.count).toBe(4096);
  // Some 40 ms on an idle machine, most of it the loop above.
  expect(performance.now() - started).toBeLessThan(1000);
});
