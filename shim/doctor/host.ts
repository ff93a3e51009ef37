/**
 * The host as `xenlighten doctor` sees it: all that checks ask, in one interface, so that each of their outcomes can be had
 * in a test. `realHost` asks the real one.
 *
 * Quirk: nothing here waits longer than PATIENCE_MS for another program.
 */
import { execFile } from 'node:child_process';
import { mkdir, readFile, rm, writeFile } from 'node:fs/promises';
import { createServer } from 'node:net';
import os from 'node:os';
import path from 'node:path';
import { controlDirectory, makeDirectory, pipeAddress } from '../domain/control-directory';
import { hostMeltdown, type Meltdown } from '../domain/guest-ring';
import { narrowPipeAccess } from '../domain/pipe-access';
import type { ChosenEngine } from '../partition/engines';
import type { KvmProbe } from '../partition/kvm/probe';
import type { QemuBinary } from '../partition/qemu/binary';
import type { WhpProbe } from '../partition/whp/probe';
import { defaultCacheDirectory } from '../xen/builder/cache';
import type { Bench } from './self-tests';

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
  /** What a program prints, with this environment (default: ours). Rejects when it fails, is not there or takes too long. */
  execute(file: string, args: readonly string[], env?: NodeJS.ProcessEnv): Promise<string>;
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
  /** The access list, in SDDL, that a control pipe has in the end. Rejects where it cannot be narrowed. Only on Windows. */
  pipeAccess(): Promise<string>;
  /** What the platform of Windows answers. Throws where there is none. */
  whpFacts(): Record<string, unknown>;
  /** What self-tests run on. Rejects, with the reason, where no engine of this process can be used. */
  bench(force: boolean): Promise<Bench>;
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

/** Of a pipe that is made for this and closed again. */
async function pipeAccess(): Promise<string> {
  const pipe = pipeAddress('doctor');
  const server = createServer((socket) => socket.on('error', () => undefined).resume());
  await new Promise<void>((resolve, reject) => {
    server.once('error', reject).listen(pipe, resolve);
  });
  try {
    return narrowPipeAccess(pipe);
  } finally {
    server.close();
  }
}

function execute(file: string, args: readonly string[], env: NodeJS.ProcessEnv = process.env): Promise<string> {
  return new Promise((resolve, reject) => {
    const options = { timeout: PATIENCE_MS, maxBuffer: MAX_OUTPUT, encoding: 'utf8', windowsHide: true } as const;
    execFile(file, [...args], { ...options, env }, (error, stdout) => {
      if (error === null) resolve(stdout);
      else reject(error);
    });
  });
}

/** The engines of this process: whp on Windows, kvm elsewhere. */
async function bench(force: boolean): Promise<Bench> {
  const engine = process.platform === 'win32' ? 'whp' : 'kvm';
  const windows = engine === 'whp';
  const probe = windows
    ? (await import('../partition/whp/probe.js')).probeWhp()
    : await (await import('../partition/kvm/probe.js')).probeKvm();
  const { impossible, unfit, hyperv } = probe;
  if (impossible !== undefined) throw new Error(`the ${engine} engine cannot be used: ${impossible}`);
  if (unfit !== undefined && !force) throw new Error(`the ${engine} engine is not fit: ${unfit} (--force runs them)`);
  const { WhpPartition } = await import('../partition/whp/whp-partition.js');
  const { KvmPartition } = await import('../partition/kvm/kvm-partition.js');
  return {
    create: (options) =>
      windows ? new WhpPartition({ ...options, hyperv }) : new KvmPartition({ ...options, hyperv }),
    hyperv,
    spareMemory: os.freemem(),
  };
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
    pipeAccess,
    whpFacts: () => {
      const { whpFacts } = require('./whp-facts') as typeof import('./whp-facts');
      const { whpApi } = require('../partition/whp/api') as typeof import('../partition/whp/api');
      return whpFacts(whpApi());
    },
    bench,
  };
}
