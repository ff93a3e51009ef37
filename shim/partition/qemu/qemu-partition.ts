/**
 * The qemu engine: a partition whose VPs run in a QEMU TCG child process, for development and for trusted guests on
 * machines without hardware virtualization. TCG is no security boundary: see ARCHITECTURE.md.
 *
 * The child inherits guest memory, its end of the doorbell, the reset ROM and its end of a control socket as descriptors
 * without names. It dies with this process (native/host/linux/launch.c), so nothing is left after any end of either, SIGKILL
 * included.
 *
 * Quirk: QEMU ends with status 0 both when a VP shuts down by a triple fault (-no-reboot) and when it is ended by
 * SIGTERM; its standard error tells the second.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { writeSync } from 'node:fs';
import { readFile } from 'node:fs/promises';
import { TRAP_ENGINE } from '../../../abi/trap';
import { GuestMemory } from '../guest-memory';
import { closeFile, createSealedFile, createSocketPair } from '../host';
import { nativeFile } from '../native-files';
import {
  checkVp,
  type Partition,
  type PartitionDescription,
  type PartitionEvents,
  type PartitionExit,
} from '../partition';
import { ramRegions } from '../ram-layout';
import { Bell } from './bell';
import { findQemu, type QemuBinary, QemuUnusableError } from './binary';
import { commandLine, type QemuMachine } from './command-line';

export interface QemuPartitionOptions extends QemuMachine {
  /** The QEMU to use instead of the one in PATH. */
  readonly qemu?: string;
  /** QEMU, if someone began to look for it earlier: that takes as long as loading a kernel. */
  readonly binary?: Promise<QemuBinary>;
  /** Ask the host for huge pages behind guest memory. */
  readonly hugePages?: boolean;
}

/** QEMU starts with its VPs stopped (-S); what it answers is not read. */
const RUN_COMMANDS = '{"execute":"qmp_capabilities"}{"execute":"cont"}';

const STDERR_LIMIT = 65_536;
const STOPPED_BEFORE = 'the partition was stopped before it had started';

/** What QEMU writes to standard error that is no error. */
function isNoise(line: string): boolean {
  return /module \S+ not found, do you want to install/.test(line);
}

export function classifyExit(
  stopRequested: boolean,
  code: number | null,
  signal: NodeJS.Signals | null,
  stderr: string,
): PartitionExit {
  const said = stderr
    .split('\n')
    .filter((line) => line.trim() !== '' && !isNoise(line))
    .join('\n');
  const withWords = (text: string): string => (said === '' ? text : `${text}: ${said}`);
  const rest = { code: code ?? undefined, signal: signal ?? undefined, stderr: said };
  if (stopRequested) return { reason: 'stopped', message: 'the partition was stopped', ...rest };
  if (signal !== null) return { reason: 'killed', message: withWords(`QEMU was ended by ${signal}`), ...rest };
  if (code === 0 && /terminating on signal/.test(said))
    return { reason: 'killed', message: withWords('QEMU was ended'), ...rest };
  if (code === 0)
    return { reason: 'triple-fault', message: withWords('a virtual processor shut down by a triple fault'), ...rest };
  return { reason: 'failed', message: withWords(`QEMU ended with status ${code}`), ...rest };
}

export class QemuPartition implements Partition {
  readonly engine = 'qemu';
  readonly trapEngine = TRAP_ENGINE.TRAP_ENGINE_SOFT;
  readonly memory: GuestMemory;
  private readonly binary: Promise<QemuBinary>;
  private version = 'not started';
  private bell: Bell | undefined;
  private child: ChildProcess | undefined;
  private ended: Promise<void> | undefined;
  private stopRequested = false;
  private launched: Promise<void> | undefined;
  /** Lets the VPs run. */
  private release: (() => void) | undefined;
  private events: PartitionEvents | undefined;
  /** How QEMU ended before start(). */
  private early: PartitionExit | undefined;

  /** Makes the partition's memory and starts looking for QEMU; nothing runs before start(). RangeError for sizes. */
  constructor(private readonly options: QemuPartitionOptions) {
    if (!Number.isInteger(options.vpCount) || options.vpCount < 1 || options.vpCount > 64) {
      throw new RangeError(`${options.vpCount} virtual processors: the qemu engine runs 1 to 64`);
    }
    this.memory = GuestMemory.create(ramRegions(options.memoryBytes), { hugePages: options.hugePages });
    this.binary = options.binary ?? findQemu(options.qemu);
    // start() reports it; without start() it does not matter.
    this.binary.catch(() => undefined);
  }

  prepare(): void {
    if (this.launched !== undefined) return;
    this.launched = this.launch();
    this.launched.catch(() => undefined);
  }

  async start(events: PartitionEvents): Promise<void> {
    if (this.events !== undefined) throw new Error('the partition was started before');
    if (this.stopRequested) throw new Error(STOPPED_BEFORE);
    this.events = events;
    this.launched ??= this.launch();
    await this.launched;
    const { early } = this;
    if (early !== undefined) setImmediate(() => events.exit(early));
    this.release?.();
  }

  private async launch(): Promise<void> {
    const [binary, rom] = await Promise.all([this.binary, readFile(nativeFile('rom', 'reset.bin'))]);
    this.version = binary.version;
    if (this.stopRequested) throw new Error(STOPPED_BEFORE);
    await this.spawn(binary, rom);
  }

  private spawn(binary: QemuBinary, rom: Uint8Array): Promise<void> {
    const launcher = nativeFile('Release', 'xl-launch');
    const memoryFd = this.memory.fd;
    if (memoryFd === undefined) throw new Error('guest memory has no file');
    const romFd = createSealedFile('xenlighten-rom', rom);
    const [ourBell, theirBell] = createSocketPair();
    const [ourControl, theirControl] = createSocketPair();
    const bell = new Bell(ourBell, () => this.events?.doorbell());
    this.bell = bell;
    let child: ChildProcess;
    try {
      child = spawn(launcher, [`${process.pid}`, '--', binary.file, ...commandLine(this.options)], {
        // In the order of RAM_FD, BELL_FD, ROM_FD and CONTROL_FD.
        stdio: ['ignore', 'ignore', 'pipe', memoryFd, theirBell, romFd, theirControl],
        env: { PATH: process.env.PATH ?? '/usr/bin:/bin', LC_ALL: 'C' },
        windowsHide: true,
      });
    } catch (error) {
      bell.close();
      closeFile(ourControl);
      throw error;
    } finally {
      closeFile(romFd);
      closeFile(theirBell);
      closeFile(theirControl);
    }
    this.child = child;
    this.release = () => {
      try {
        // It fits into the socket's buffer; QEMU reads it when it is up. If it is gone, its exit is reported.
        writeSync(ourControl, RUN_COMMANDS);
      } catch {}
    };
    /** Not before QEMU is gone: a socket whose other end is closed it may close without reading it. */
    const close = (): void => {
      this.release = undefined;
      bell.close();
      closeFile(ourControl);
    };
    const stderr = collect(child);
    return new Promise((resolve, reject) => {
      this.ended = new Promise((finished) => {
        let failed = false;
        child.once('error', (error) => {
          failed = true;
          close();
          finished();
          reject(new QemuUnusableError(`cannot start ${launcher}: ${error.message}`));
        });
        // 'close' comes when standard error has been read to its end as well.
        child.once('close', (code, signal) => {
          if (failed) return;
          close();
          finished();
          const exit = classifyExit(this.stopRequested, code, signal, stderr());
          if (this.events === undefined) this.early = exit;
          else this.events.exit(exit);
        });
      });
      child.once('spawn', () => resolve());
    });
  }

  /** The one serial line interrupts VP 0, which passes the kick on. */
  kick(vp: number): void {
    checkVp(vp, this.options.vpCount);
    this.bell?.kick();
  }

  /** There is nothing to leave for in an emulator. */
  exits(): undefined {
    return undefined;
  }

  async stop(): Promise<void> {
    this.stopRequested = true;
    await this.launched?.catch(() => undefined);
    if (this.child?.exitCode === null && this.child.signalCode === null) this.child.kill('SIGKILL');
    await this.ended;
  }

  describe(): PartitionDescription {
    return {
      engine: this.engine,
      summary: `QEMU ${this.version} TCG, software emulation`,
      vpCount: this.options.vpCount,
      memoryBytes: this.options.memoryBytes,
      pid: this.child?.pid,
    };
  }
}

/** Keeps the end of a child's standard error. */
function collect(child: ChildProcess): () => string {
  let text = '';
  child.stderr?.setEncoding('utf8');
  child.stderr?.on('data', (chunk: string) => {
    text = (text + chunk).slice(-STDERR_LIMIT);
  });
  return () => text;
}
