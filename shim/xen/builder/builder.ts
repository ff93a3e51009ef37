/**
 * Builds a PV domain in its memory: kernel, ramdisk, p2m list, start_info, rings, page tables, hypercall page; and says
 * with what its first vCPU starts. Implements xen-pv-abi section 2 (2.1 layout, 2.2 start_info, 2.3 vCPU 0).
 *
 * Nothing here knows the trap module: reserved frames, shared_info and the machine-to-physical table are the caller's,
 * who gets the means to fill the latter (DomainMemory.writeM2p).
 *
 * Quirks: store_mfn and console mfn are machine frames, mod_start a pfn or an address. The lengths given for ramdisks
 * are whole pages, as under Xen. `connection` in the console page says "disconnected" until a console attaches.
 */

import { XENCONSOLE, XenconsInterface } from '../../../abi/xen/console-ring';
import { SELECTORS } from '../../../abi/xen/selectors';
import { START_INFO, StartInfo } from '../../../abi/xen/start-info';
import { UsageError } from '../../errors';
import { hypercallPage } from './hypercall-page';
import type { Kernel } from './image';
import { PAGE_SIZE } from './kernel-facts';
import { type LayoutPlan, planLayout } from './layout';
import type { DomainMemory } from './memory';
import { writePageTables } from './page-tables';

/** What every 64-bit PV guest finds in start_info.magic. */
const START_INFO_MAGIC = 'xen-3.0-x86_64';
/** RFLAGS with interrupts on; bit 1 always reads as one. */
const INITIAL_RFLAGS = 0x202n;
const INITIAL_DR6 = 0xffff0ff0n;
const INITIAL_DR7 = 0x400n;
/** Copied at one go before the event loop gets its turn: some 10 ms of first-touch page faults. */
const PIECE_BYTES = 8 * 1024 * 1024;
/** Bytes of command line without the terminating NUL. */
export const MAX_CMDLINE_BYTES = START_INFO.MAX_GUEST_CMDLINE - 1;

export interface BuildOptions {
  readonly kernel: Kernel;
  readonly memory: DomainMemory;
  /** Contents of the ramdisk file; `file` is for errors. */
  readonly ramdisk?: { readonly file: string; readonly bytes: Buffer } | undefined;
  readonly cmdline: string;
  /** The ring in which the guest kernel runs. */
  readonly guestRing: 1 | 3;
  /** Machine frame of shared_info, outside the domain's own memory. */
  readonly sharedInfoMfn: number;
  /** The guest's ports for xenstore and console; 0 for none. */
  readonly storeEvtchn: number;
  readonly consoleEvtchn: number;
}

/** Registers and roots with which vCPU 0 starts; everything not named is zero. */
export interface InitialVcpu {
  readonly rip: bigint;
  readonly rsp: bigint;
  /** Virtual address of start_info. */
  readonly rsi: bigint;
  readonly rflags: bigint;
  /** Selectors as the guest sees them (ring-3 numbers in either ring). */
  readonly cs: number;
  readonly ss: number;
  readonly kernelSs: number;
  readonly kernelSp: bigint;
  /** Machine frame of the initial L4. */
  readonly cr3Mfn: number;
  readonly dr6: bigint;
  readonly dr7: bigint;
}

/** An initial page table by machine frame: the frames to be typed when the L4 is pinned. */
export interface InitialPageTable {
  readonly mfn: number;
  readonly level: 1 | 2 | 3 | 4;
}

export interface BuiltDomain {
  readonly plan: LayoutPlan;
  readonly vcpu: InitialVcpu;
  readonly startInfoMfn: number;
  readonly storeMfn: number;
  readonly consoleMfn: number;
  /** start_info.nr_pt_frames: the initial mapping's tables only. */
  readonly nrPtFrames: number;
  /** All of them, the root first, including those of the p2m list's own mapping. */
  readonly pageTables: readonly InitialPageTable[];
}

const yieldToEventLoop = (): Promise<void> => new Promise((resolve) => setImmediate(resolve));

/** The command line as bytes with NUL. Throws UsageError if it is too long or has a NUL in it. */
export function encodeCmdline(cmdline: string): Buffer {
  const bytes = Buffer.from(cmdline, 'utf8');
  if (bytes.length > MAX_CMDLINE_BYTES) {
    throw new UsageError('kernel command line too long', {
      file: 'cmdline',
      found: `${bytes.length} bytes`,
      wanted: `at most ${MAX_CMDLINE_BYTES}`,
    });
  }
  if (bytes.includes(0)) {
    throw new UsageError('malformed kernel command line', {
      file: 'cmdline',
      found: `a NUL at byte ${bytes.indexOf(0)}`,
      wanted: 'text',
    });
  }
  return Buffer.concat([bytes, Buffer.alloc(1)]);
}

/** Builds the domain. Throws UsageError if kernel, ramdisk and command line do not fit; memory is untouched then. */
export async function buildDomain(options: BuildOptions): Promise<BuiltDomain> {
  const { kernel, memory, ramdisk, guestRing } = options;
  const { facts } = kernel;
  const cmdline = encodeCmdline(options.cmdline);
  const plan = planLayout({
    kernel: facts,
    nrPages: memory.nrPages,
    ramdisk: ramdisk && { file: ramdisk.file, bytes: ramdisk.bytes.length },
  });
  const write = async (address: number, bytes: Uint8Array): Promise<void> => {
    for (let at = 0; at < bytes.length; at += PIECE_BYTES) {
      memory.writeSparse(address + at, bytes.subarray(at, at + PIECE_BYTES));
      await yieldToEventLoop();
    }
  };
  const address = (pfn: number): number => pfn * PAGE_SIZE;

  for (const s of facts.segments) {
    await write(s.address, kernel.elf.bytes.subarray(s.fileOffset, s.fileOffset + s.fileSize));
    memory.zero(s.address + s.fileSize, s.memSize - s.fileSize);
  }
  if (facts.hypercallPfn !== undefined) memory.write(address(facts.hypercallPfn), hypercallPage());
  if (ramdisk !== undefined && plan.ramdisk !== undefined) {
    const start = address(plan.ramdisk.pfn);
    await write(start, ramdisk.bytes);
    memory.zero(start + ramdisk.bytes.length, plan.ramdisk.count * PAGE_SIZE - ramdisk.bytes.length);
  }
  memory.zero(address(plan.p2m.pfn + plan.p2m.count - 1), PAGE_SIZE);
  memory.writeP2m(address(plan.p2m.pfn));
  memory.zero(address(plan.xenstorePfn), PAGE_SIZE);
  memory.write(address(plan.consolePfn), consolePage());
  memory.zero(address(plan.bootStackPfn), PAGE_SIZE);
  memory.write(address(plan.startInfoPfn), startInfo(options, plan, cmdline));
  writePageTables(plan, memory, guestRing === 1 && !facts.isLinux);

  const va = (pfn: number): bigint => plan.virtBase + BigInt(pfn) * BigInt(PAGE_SIZE);
  const stackTop = va(plan.bootStackPfn + 1);
  return {
    plan,
    vcpu: {
      rip: facts.entry,
      rsp: stackTop,
      rsi: va(plan.startInfoPfn),
      rflags: INITIAL_RFLAGS,
      cs: SELECTORS.FLAT_KERNEL_CS,
      ss: SELECTORS.FLAT_KERNEL_SS,
      kernelSs: SELECTORS.FLAT_KERNEL_SS,
      kernelSp: stackTop,
      cr3Mfn: memory.mfnOf(plan.pageTables.pfn),
      dr6: INITIAL_DR6,
      dr7: INITIAL_DR7,
    },
    startInfoMfn: memory.mfnOf(plan.startInfoPfn),
    storeMfn: memory.mfnOf(plan.xenstorePfn),
    consoleMfn: memory.mfnOf(plan.consolePfn),
    nrPtFrames: plan.pageTables.count,
    pageTables: plan.tables.map(({ pfn, level }) => ({ mfn: memory.mfnOf(pfn), level })),
  };
}

function consolePage(): Buffer {
  const page = Buffer.alloc(PAGE_SIZE);
  XenconsInterface.set.connection(
    new DataView(page.buffer, page.byteOffset, PAGE_SIZE),
    0,
    XENCONSOLE.XENCONSOLE_DISCONNECTED,
  );
  return page;
}

/** The start_info page. */
function startInfo(options: BuildOptions, plan: LayoutPlan, cmdline: Buffer): Buffer {
  const { memory } = options;
  const page = Buffer.alloc(PAGE_SIZE);
  const view = new DataView(page.buffer, page.byteOffset, PAGE_SIZE);
  const { set } = StartInfo;
  const va = (pfn: number): bigint => plan.virtBase + BigInt(pfn) * BigInt(PAGE_SIZE);
  page.write(START_INFO_MAGIC, StartInfo.offsetOf('magic'), 'latin1');
  set.nr_pages(view, 0, BigInt(plan.nrPages));
  set.shared_info(view, 0, BigInt(options.sharedInfoMfn) * BigInt(PAGE_SIZE));
  set.store_mfn(view, 0, BigInt(memory.mfnOf(plan.xenstorePfn)));
  set.store_evtchn(view, 0, options.storeEvtchn);
  set.console_domU_mfn(view, 0, BigInt(memory.mfnOf(plan.consolePfn)));
  set.console_domU_evtchn(view, 0, options.consoleEvtchn);
  set.pt_base(view, 0, va(plan.pageTables.pfn));
  set.nr_pt_frames(view, 0, BigInt(plan.pageTables.count));
  set.mfn_list(view, 0, plan.p2m.va);
  // As Xen's tools: only a guest whose p2m list has a mapping of its own is told that tools can follow it there.
  let flags: number = plan.p2mFrames === undefined ? 0 : START_INFO.SIF_VIRT_P2M_4TOOLS;
  if (plan.ramdisk !== undefined) {
    if (!plan.ramdisk.mapped) flags |= START_INFO.SIF_MOD_START_PFN;
    set.mod_start(view, 0, plan.ramdisk.mapped ? va(plan.ramdisk.pfn) : BigInt(plan.ramdisk.pfn));
    set.mod_len(view, 0, BigInt(plan.ramdisk.count * PAGE_SIZE));
  }
  set.flags(view, 0, flags);
  cmdline.copy(page, StartInfo.offsetOf('cmd_line'));
  if (plan.p2mFrames !== undefined) {
    set.first_p2m_pfn(view, 0, BigInt(plan.p2mFrames.pfn));
    set.nr_p2m_frames(view, 0, BigInt(plan.p2mFrames.count));
  }
  return page;
}
