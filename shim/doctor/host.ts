/**
 * The host as `xenlighten doctor` sees it: all that checks ask, in one interface, so that each of their outcomes can be had
 * in a test. `realHost` asks the real one.
 *
 * Quirk: nothing here waits longer than PATIENCE_MS for another program.
 */
import { execFile } from 'node:child_process';
import { mkdir, readFile, rm, writeFile } from 'node:fs/promises';
import os from 'node:os';
import path from 'node:path';
import { controlDirectory, makeDirectory } from '../domain/control-directory';
import { hostMeltdown, type Meltdown } from '../domain/guest-ring';
import type { ChosenEngine } from '../partition/engines';
import type { KvmProbe } from '../partition/kvm/probe';
import type { QemuBinary } from '../partition/qemu/binary';
import type { WhpProbe } from '../partition/whp/probe';
import { defaultCacheDirectory } from '../xen/builder/cache';

export interface DoctorHost {
  /** As process has them. */
  readonly platform: string;
  readonly arch: string;
  readonly nodeVersion: string;
  readonly env: NodeJS.ProcessEnv;
  /** As os has them: "6.1.0-28-amd64", "10.0.20348". */
  readonly release: string;
  /** "Windows Server 2022 Datacenter". */
  readonly systemName: string;
  readonly processor: string;
  readonly processorCount: number;
  /** Bytes. */
  readonly totalMemory: number;
  readonly freeMemory: number;
  readonly cacheDirectory: string;
  readonly controlDirectory: string;
  /** A small text file of the system. Rejects where it is not there. */
  read(file: string): Promise<string>;
  /** What a program prints. Rejects when it fails, is not there or takes too long. */
  execute(file: string, args: readonly string[]): Promise<string>;
  probeKvm(): Promise<KvmProbe>;
  probeWhp(): Promise<WhpProbe>;
  findQemu(): Promise<QemuBinary>;
  /** What --engine auto takes. */
  chooseEngine(): Promise<Pick<ChosenEngine, 'name' | 'why' | 'onHostCpu'>>;
  meltdown(): Meltdown;
  /** Loads the addon and calls it. Throws. */
  useAddon(): void;
  /** Throws when the trap module is not there. */
  trapImage(): { readonly size: number; readonly abiVersion?: number | undefined };
  /** Makes the folder if need be, and a file in it, and removes the file. */
  tryFolder(directory: string): Promise<void>;
  /** Makes the control directory and checks that it is the user's alone. */
  tryControlDirectory(directory: string): Promise<void>;
}

/** In ms; Windows PowerShell takes seconds to begin on a small machine. */
const PATIENCE_MS = 30_000;
const MAX_OUTPUT = 1 << 20;

async function tryFolder(directory: string): Promise<void> {
  await mkdir(directory, { recursive: true, mode: 0o700 });
  const file = path.join(directory, `.doctor-${process.pid}`);
  await writeFile(file, 'xenlighten doctor\n', { flag: 'wx' });
  await rm(file);
}

function execute(file: string, args: readonly string[]): Promise<string> {
  return new Promise((resolve, reject) => {
    const options = { timeout: PATIENCE_MS, maxBuffer: MAX_OUTPUT, encoding: 'utf8', windowsHide: true } as const;
    execFile(file, [...args], options, (error, stdout) => {
      if (error === null) resolve(stdout);
      else reject(error);
    });
  });
}

/** This host. */
export function realHost(): DoctorHost {
  const cpus = os.cpus();
  return {
    platform: process.platform,
    arch: process.arch,
    nodeVersion: process.versions.node,
    env: process.env,
    release: os.release(),
    systemName: os.version(),
    processor: cpus[0]?.model.trim() ?? '',
    processorCount: cpus.length,
    totalMemory: os.totalmem(),
    freeMemory: os.freemem(),
    cacheDirectory: defaultCacheDirectory(),
    controlDirectory: controlDirectory(),
    read: (file) => readFile(file, 'utf8'),
    execute,
    probeKvm: async () => (await import('../partition/kvm/probe.js')).probeKvm(),
    probeWhp: async () => (await import('../partition/whp/probe.js')).probeWhp(),
    findQemu: async () => (await import('../partition/qemu/binary.js')).findQemu(),
    chooseEngine: async () => (await import('../partition/engines.js')).chooseEngine('auto'),
    meltdown: hostMeltdown,
    useAddon: () => {
      const { readClocks } = require('../partition/host') as typeof import('../partition/host');
      readClocks();
    },
    trapImage: () => (require('../partition/trap-image') as typeof import('../partition/trap-image')).trapImage(),
    tryFolder,
    tryControlDirectory: makeDirectory,
  };
}
