/**
 * A domain's control socket: the serving end. See control-protocol.ts for the protocol and control-directory.ts for the
 * place and who can reach it.
 *
 * Whoever connects is the user, but may be broken: requests have a maximum size, connections a maximum number, answers
 * wait for a client that does not read, and no error here touches the domain.
 */
import { chmod, unlink, writeFile } from 'node:fs/promises';
import { createServer, type Server, type Socket } from 'node:net';
import { isAbsolute, resolve } from 'node:path';
import type { Logger } from 'pino';
import { UsageError } from '../errors';
import type { Stats } from '../translate/stats';
import type { TraceSummary } from '../translate/trace';
import { ConsoleStream, type StreamedConsole } from './console-stream';
import {
  claimName,
  controlDirectory,
  makeDirectory,
  pipeAddress,
  pipeFile,
  removeLeftovers,
  socketPath,
  temporaryPath,
} from './control-directory';
import {
  CONTROL_METHODS,
  CONTROL_VERSION,
  ControlError,
  type ControlMethod,
  type ControlMethods,
  type ControlRequest,
  checkRequest,
  encodeLine,
  idOf,
  MAX_REQUEST,
  parseLine,
} from './control-protocol';
import { BlockDeviceError, type BlockInfo } from './disks/block-devices';
import { type DiskSpec, parseDiskSpec } from './disks/disk-spec';
import type { DomainEnd } from './domain';
import type { DomainInfo } from './domain-info';
import { ACKNOWLEDGE_MS, type GuestControl, SHUTDOWN_KINDS } from './guest-control';
import { narrowPipeAccess } from './pipe-access';

/** What is controlled; a Domain fits. */
export interface ControlTarget {
  readonly guest: Pick<
    GuestControl,
    'paused' | 'requestShutdown' | 'setMemory' | 'setMaxMemory' | 'setVcpus' | 'sysrq'
  >;
  readonly console: StreamedConsole;
  readonly ended: Promise<Pick<DomainEnd, 'kind'>>;
  readonly blocks: { list(): readonly BlockInfo[] };
  attachDisk(spec: DiskSpec): Promise<void>;
  detachDisk(device: string, force: boolean): Promise<void>;
  info(): DomainInfo;
  stats(): Stats;
  destroy(): Promise<void>;
  pause(): Promise<void>;
  unpause(): Promise<void>;
  startTrace(file: string): Promise<void>;
  stopTrace(): Promise<TraceSummary | undefined>;
}

export interface ControlSocketOptions {
  /** Default: the user's. */
  readonly directory?: string;
  /** Take NAME-2, NAME-3, ... if NAME is taken. */
  readonly unique?: boolean;
  readonly log?: Logger;
  /** Serve at the address that this makes, and let the directory have a file that says it; default on Windows. */
  readonly pipe?: ((name: string) => string) | undefined;
}

const MAX_CONNECTIONS = 64;
const MAX_UNIQUE = 1000;

type Methods = { readonly [M in ControlMethod]: (params: Record<string, unknown>) => unknown };

/** How long the end of the socket waits for clients to take what is theirs. */
const CLOSE_MS = 500;
/** setTimeout counts no further. */
const MAX_TIMEOUT_MS = 2 ** 31 - 1;

/** The result of the method console: what the connection is to become behind the answer. */
class BecomeConsole {
  constructor(readonly history: boolean) {}
}

interface Connection {
  readonly socket: Socket;
  /** What is being answered. */
  work: Promise<void>;
  stream?: ConsoleStream;
}

export class ControlSocket {
  private target: ControlTarget | undefined;
  private readonly connections = new Set<Connection>();
  private closed = false;

  private constructor(
    /** The name that was got. */
    readonly name: string,
    readonly path: string,
    private readonly server: Server,
    private readonly log: Logger | undefined,
  ) {
    server.on('connection', (socket) => this.serve(socket));
    server.on('error', (err) => log?.warn({ err }, 'control socket'));
  }

  /**
   * Takes the name. UsageError when a running domain has it; Error when the directory is not fit. Requests are answered
   * with 'not-running' until control() is called.
   */
  static async open(name: string, options: ControlSocketOptions = {}): Promise<ControlSocket> {
    const directory = options.directory ?? controlDirectory();
    await makeDirectory(directory);
    await removeLeftovers(directory);
    const temporary = temporaryPath(directory);
    const pipe = (options.pipe ?? (process.platform === 'win32' ? pipeAddress : undefined))?.(name);
    const server = createServer({ allowHalfOpen: false });
    server.maxConnections = MAX_CONNECTIONS;
    await new Promise<void>((resolve, reject) => {
      server.once('error', reject);
      // Clients and the domain keep the process alive, the socket does not.
      server.listen(pipe ?? temporary, () => resolve()).unref();
    });
    server.removeAllListeners('error');
    if (pipe !== undefined && process.platform === 'win32') {
      try {
        narrowPipeAccess(pipe);
      } catch (error) {
        const why = (error as Error).message;
        options.log?.warn({ pipe }, `control pipe: others may connect to it for reading: ${why}`);
      }
    }
    try {
      if (pipe === undefined) await chmod(temporary, 0o600);
      else await writeFile(temporary, pipeFile(pipe), { flag: 'wx', mode: 0o600 });
      for (let n = 1; n <= (options.unique === true ? MAX_UNIQUE : 1); n++) {
        const candidate = n === 1 ? name : `${name}-${n}`;
        const path = socketPath(directory, candidate);
        if (await claimName(temporary, path)) return new ControlSocket(candidate, path, server, options.log);
      }
      throw new UsageError('the name is taken', {
        file: name,
        found: 'a running domain of this name',
        wanted: "another name (see 'xenlighten list')",
      });
    } catch (error) {
      server.close();
      throw error;
    } finally {
      await unlink(temporary).catch(() => undefined);
    }
  }

  /** Directs requests, and consoles, to this domain from now on; to none with undefined. */
  control(target: ControlTarget | undefined): void {
    this.target = target;
    for (const { stream } of this.connections) stream?.attach(target?.console);
  }

  /** Frees the name and ends all connections; clients have a moment to take what is being answered and shown. */
  async close(): Promise<void> {
    if (this.closed) return;
    this.closed = true;
    this.control(undefined);
    await unlink(this.path).catch(() => undefined);
    this.server.close();
    const ends = [...this.connections].map(async ({ socket, work }) => {
      await work;
      await new Promise<void>((resolve) => {
        socket.once('close', resolve);
        socket.end(resolve);
      });
    });
    let timer: NodeJS.Timeout | undefined;
    const late = new Promise<void>((resolve) => {
      timer = setTimeout(resolve, CLOSE_MS);
    });
    await Promise.race([Promise.all(ends), late]);
    clearTimeout(timer);
    for (const { socket } of this.connections) {
      socket.end();
      socket.unref();
    }
  }

  private serve(socket: Socket): void {
    const connection: Connection = { socket, work: Promise.resolve() };
    this.connections.add(connection);
    socket.on('close', () => this.connections.delete(connection));
    // A client that goes away while it is being answered.
    socket.on('error', (err) => this.log?.debug({ err }, 'control connection'));
    let rest: Buffer = Buffer.alloc(0);
    let busy = false;
    const work = async (): Promise<void> => {
      busy = true;
      socket.pause();
      for (;;) {
        const end = rest.indexOf(10);
        if (end < 0 || end >= MAX_REQUEST) break;
        const line = rest.subarray(0, end);
        rest = rest.subarray(end + 1);
        const { bytes, become } = await this.answer(line);
        if (become === undefined && !(await this.send(socket, bytes))) return;
        if (become !== undefined) {
          // Not only when the client has taken the answer: it counts on all that is said from then on.
          socket.write(bytes);
          socket.removeAllListeners('data');
          connection.stream = new ConsoleStream(socket, this.target?.console, become.history, rest);
          return;
        }
      }
      busy = false;
      if (rest.length >= MAX_REQUEST) {
        const error = { code: 'too-large', message: `a request has at most ${MAX_REQUEST} bytes` };
        socket.end(encodeLine({ version: CONTROL_VERSION, id: null, error }));
        rest = Buffer.alloc(0);
        socket.removeAllListeners('data');
        // What it still sends goes nowhere, and not for long.
        socket.resume();
        setTimeout(() => socket.destroy(), 1000).unref();
        return;
      }
      socket.resume();
    };
    socket.on('data', (chunk: Buffer) => {
      rest = rest.length === 0 ? chunk : Buffer.concat([rest, chunk]);
      if (!busy) connection.work = work();
    });
  }

  /** Writes and waits until the client has taken it; false if it is gone. */
  private send(socket: Socket, line: Buffer): Promise<boolean> {
    if (!socket.writable) return Promise.resolve(false);
    return new Promise((resolve) => {
      const gone = (): void => resolve(false);
      socket.once('close', gone);
      socket.write(line, (error) => {
        socket.off('close', gone);
        resolve(error === undefined || error === null);
      });
    });
  }

  private async answer(line: Buffer): Promise<{ bytes: Buffer; become?: BecomeConsole }> {
    let value: unknown;
    try {
      value = parseLine(line);
    } catch {
      return { bytes: failure(null, new ControlError('bad-request', 'not JSON')) };
    }
    try {
      const request = checkRequest(value);
      const result = await this.call(request);
      const become = result instanceof BecomeConsole ? result : undefined;
      const bytes = encodeLine({
        version: CONTROL_VERSION,
        id: request.id,
        result: become === undefined ? result : {},
      });
      return become === undefined ? { bytes } : { bytes, become };
    } catch (error) {
      return { bytes: failure(idOf(value), error) };
    }
  }

  private async call(request: ControlRequest): Promise<unknown> {
    const { target } = this;
    const method = CONTROL_METHODS.find((m) => m === request.method);
    if (method === undefined) {
      throw new ControlError(
        'unknown-method',
        `${JSON.stringify(request.method.slice(0, 80))}: known are ${CONTROL_METHODS.join(', ')}`,
      );
    }
    if (target === undefined) throw new ControlError('not-running', 'the domain is being built or is ending');
    return methods(target, this.log)[method](request.params);
  }
}

function failure(id: number | string | null, error: unknown): Buffer {
  const code = error instanceof ControlError ? error.code : 'failed';
  const message = error instanceof Error ? error.message : String(error);
  return encodeLine({ version: CONTROL_VERSION, id, error: { code, message } });
}

/** A disk whose path may be relative to the client's directory. Throws UsageError. */
function diskIn(directory: string, text: string): DiskSpec {
  const { disk } = parseDiskSpec(text, 'block-attach');
  return disk.path === undefined ? disk : { ...disk, path: resolve(directory, disk.path) };
}

/** What is wrong with a disk is the client's error. */
async function asked(run: () => Promise<void>): Promise<void> {
  try {
    await run();
  } catch (error) {
    if (error instanceof UsageError) throw new ControlError('bad-params', error.message, { cause: error });
    if (error instanceof BlockDeviceError)
      throw new ControlError(error.late ? 'not-acknowledged' : 'wrong-state', error.message, { cause: error });
    throw error;
  }
}

function methods(target: ControlTarget, log: Logger | undefined): Methods {
  return {
    info: (): ControlMethods['info']['result'] => target.info(),
    stats: (): ControlMethods['stats']['result'] => target.stats(),
    destroy: () => {
      // Not waited for: the answer is to leave before the connection ends.
      setImmediate(() => void target.destroy().catch((err: unknown) => log?.error({ err }, 'destroying the domain')));
      return {};
    },
    shutdown: async (params): Promise<ControlMethods['shutdown']['result']> => {
      const kind = SHUTDOWN_KINDS.find((k) => k === params['kind']);
      const { wait = false, timeoutMs = ACKNOWLEDGE_MS } = params;
      if (kind === undefined) throw new ControlError('bad-params', `kind: wanted ${SHUTDOWN_KINDS.join(', ')}`);
      if (typeof wait !== 'boolean') throw new ControlError('bad-params', 'wait: wanted true or false');
      if (typeof timeoutMs !== 'number' || !(timeoutMs >= 0 && timeoutMs <= MAX_TIMEOUT_MS)) {
        throw new ControlError('bad-params', `timeoutMs: wanted a number from 0 to ${MAX_TIMEOUT_MS}`);
      }
      if (target.guest.paused) {
        throw new ControlError('wrong-state', 'cannot shut the domain down: it is paused, wanted one that is running');
      }
      const outcome = await target.guest.requestShutdown(kind, timeoutMs);
      return outcome === 'acknowledged' && !wait ? {} : { end: (await target.ended).kind };
    },
    pause: async () => {
      await target.pause();
      return {};
    },
    unpause: async () => {
      await target.unpause();
      return {};
    },
    // What is wrong with a parameter is found where it is used.
    'mem-set': ({ mib }) => {
      target.guest.setMemory(mib as number);
      return {};
    },
    'mem-max': ({ mib }) => {
      target.guest.setMaxMemory(mib as number);
      return {};
    },
    'vcpu-set': ({ vcpus }) => {
      target.guest.setVcpus(vcpus as number);
      return {};
    },
    'block-attach': async ({ disk, directory }) => {
      if (typeof disk !== 'string' || typeof directory !== 'string' || !isAbsolute(directory))
        throw new ControlError('bad-params', 'disk: wanted a text; directory: wanted an absolute path');
      await asked(async () => target.attachDisk(diskIn(directory, disk)));
      return {};
    },
    'block-detach': async ({ device, force = false }) => {
      if (typeof device !== 'string' || typeof force !== 'boolean')
        throw new ControlError('bad-params', 'device: wanted a name or number; force: wanted true or false');
      await asked(() => target.detachDisk(device, force));
      return {};
    },
    'block-list': (): ControlMethods['block-list']['result'] => target.blocks.list(),
    sysrq: ({ key }) => {
      target.guest.sysrq(key as string);
      return {};
    },
    console: ({ history = true }) => {
      if (typeof history !== 'boolean') throw new ControlError('bad-params', 'history: wanted true or false');
      return new BecomeConsole(history);
    },
    'trace-start': async (params) => {
      const { file } = params;
      if (typeof file !== 'string' || !isAbsolute(file) || file.includes('\0')) {
        throw new ControlError('bad-params', 'file: wanted an absolute path');
      }
      await target.startTrace(file);
      return {};
    },
    'trace-stop': async () => {
      const summary = await target.stopTrace();
      if (summary === undefined) throw new ControlError('failed', 'no trace is being written');
      return summary;
    },
  };
}
