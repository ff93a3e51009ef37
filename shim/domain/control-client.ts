/**
 * The control socket's other end: finds running domains of this user and asks them.
 */
import { connect, type Socket } from 'node:net';
import { UsageError } from '../errors';
import { address, controlDirectory, removeLeftovers, removeStale, socketNames, socketPath } from './control-directory';
import {
  CONTROL_VERSION,
  ControlError,
  type ControlErrorCode,
  type ControlMethod,
  type ControlMethods,
  encodeLine,
  MAX_ANSWER,
  parseLine,
} from './control-protocol';
import type { DomainInfo } from './domain-info';

export interface ControlClientOptions {
  /** Default: the user's. */
  readonly directory?: string;
  /** For each answer; default 10 s; 0: as long as it takes. */
  readonly timeoutMs?: number;
}

const DEFAULT_TIMEOUT_MS = 10_000;

interface Waiter {
  readonly resolve: (result: unknown) => void;
  readonly reject: (error: Error) => void;
  readonly timer: NodeJS.Timeout | undefined;
}

export class ControlClient {
  private next = 1;
  private readonly waiters = new Map<number, Waiter>();
  private chunks: Buffer[] = [];
  private size = 0;
  /** The request that makes the connection a console, while it is not answered. */
  private consoleId: number | undefined;
  /** Resolves when the connection is over, whoever ended it. */
  readonly ended: Promise<void>;

  private constructor(
    private readonly name: string,
    private readonly socket: Socket,
    private readonly timeoutMs: number,
  ) {
    this.ended = new Promise((resolve) => {
      socket.on('close', () => {
        for (const waiter of this.waiters.values()) {
          waiter.reject(new ControlError('closed', `${this.name}: the domain closed the connection`));
        }
        resolve();
      });
    });
    socket.on('error', () => undefined);
    socket.on('data', (chunk: Buffer) => this.received(chunk));
  }

  /** Connects to a domain. UsageError when there is none of this name. */
  static async connect(name: string, options: ControlClientOptions = {}): Promise<ControlClient> {
    const directory = options.directory ?? controlDirectory();
    const path = socketPath(directory, name);
    let socket: Socket;
    try {
      const opened = connect(await address(path));
      await new Promise<void>((resolve, reject) => {
        opened.once('connect', resolve);
        opened.once('error', reject);
      });
      socket = opened;
    } catch (error) {
      const { code } = error as NodeJS.ErrnoException;
      if (code !== 'ENOENT' && code !== 'ECONNREFUSED') throw error;
      // A pipe that nobody serves is not there, though the file that names it may be.
      await removeStale(path);
      const names = await socketNames(directory);
      throw new UsageError('no such domain', {
        file: name,
        found: names.length === 0 ? 'no running domain' : `running domains ${names.join(', ')}`,
        wanted: 'the name of a running domain',
      });
    }
    socket.removeAllListeners('error');
    if (!socket.writable) {
      // Who may not write to a pipe of Windows is connected for reading only, and could ask nothing.
      socket.on('error', () => undefined);
      socket.destroy();
      throw new ControlError(
        'closed',
        `${name}: its pipe takes no requests from here: the domain was started in an elevated window, or by another user; ` +
          'use a window such as that one',
      );
    }
    return new ControlClient(name, socket, options.timeoutMs ?? DEFAULT_TIMEOUT_MS);
  }

  /** Asks and waits for the answer. ControlError: what the domain said, or 'closed', 'timeout', 'bad-answer'. */
  request<M extends ControlMethod>(
    method: M,
    ...[params]: ControlMethods[M]['params'] extends Record<string, never> ? [] : [ControlMethods[M]['params']]
  ): Promise<ControlMethods[M]['result']> {
    const id = this.next++;
    return new Promise((resolve, reject) => {
      const late = (): void => {
        this.waiters.delete(id);
        reject(new ControlError('timeout', `${this.name}: no answer to ${method} within ${this.timeoutMs / 1000} s`));
      };
      const timer = this.timeoutMs === 0 ? undefined : setTimeout(late, this.timeoutMs);
      const done = (): void => {
        clearTimeout(timer);
        this.waiters.delete(id);
      };
      this.waiters.set(id, {
        timer,
        resolve: (result) => {
          done();
          resolve(result as ControlMethods[M]['result']);
        },
        reject: (error) => {
          done();
          reject(error);
        },
      });
      if (!this.socket.writable) {
        this.waiters.get(id)?.reject(new ControlError('closed', `${this.name}: the domain closed the connection`));
        return;
      }
      this.socket.write(
        encodeLine({ version: CONTROL_VERSION, id, method, ...(params === undefined ? {} : { params }) }),
      );
    });
  }

  /**
   * Makes the connection the guest's console: what is read from the stream that it resolves with is what the guest says,
   * after what it said before; what is written to it is typed. Nothing else can be asked any more. The stream is paused.
   */
  async openConsole(history = true): Promise<Socket> {
    this.consoleId = this.next;
    try {
      await this.request('console', { history });
    } finally {
      this.consoleId = undefined;
    }
    return this.socket;
  }

  close(): void {
    this.socket.destroy();
  }

  private received(chunk: Buffer): void {
    this.chunks.push(chunk);
    this.size += chunk.length;
    if (this.size > MAX_ANSWER) {
      this.socket.destroy();
      return;
    }
    if (chunk.indexOf(10) < 0) return;
    let rest = Buffer.concat(this.chunks);
    for (let end = rest.indexOf(10); end >= 0; end = rest.indexOf(10)) {
      const isConsole = this.answered(rest.subarray(0, end));
      rest = rest.subarray(end + 1);
      if (!isConsole) continue;
      this.socket.removeAllListeners('data');
      this.socket.pause();
      if (rest.length > 0) this.socket.unshift(rest);
      return;
    }
    this.chunks = rest.length === 0 ? [] : [rest];
    this.size = rest.length;
  }

  /** True if what follows is no answer: the connection is a console. */
  private answered(line: Buffer): boolean {
    let answer: Record<string, unknown>;
    try {
      answer = parseLine(line) as Record<string, unknown>;
      if (typeof answer !== 'object' || answer === null) throw new SyntaxError('not an object');
    } catch (error) {
      for (const w of this.waiters.values()) w.reject(new ControlError('bad-answer', `${this.name}: ${String(error)}`));
      this.socket.destroy();
      return false;
    }
    // An answer without an id is about what was sent last.
    const waiter = this.waiters.get(answer['id'] as number) ?? (answer['id'] === null ? this.oldest() : undefined);
    if (waiter === undefined) return false;
    const error = answer['error'] as { code?: unknown; message?: unknown } | undefined;
    if (error === undefined) waiter.resolve(answer['result']);
    else
      waiter.reject(new ControlError(String(error.code) as ControlErrorCode, `${this.name}: ${String(error.message)}`));
    return error === undefined && answer['id'] === this.consoleId;
  }

  private oldest(): Waiter | undefined {
    return this.waiters.values().next().value;
  }
}

export interface ListedDomain {
  readonly name: string;
  /** Undefined when the domain does not answer. */
  readonly info: DomainInfo | undefined;
}

/** The user's running domains, by name. What killed processes left is removed on the way. */
export async function listDomains(options: ControlClientOptions = {}): Promise<ListedDomain[]> {
  const directory = options.directory ?? controlDirectory();
  const names = await socketNames(directory);
  if (names.length > 0) await removeLeftovers(directory);
  const domains = await Promise.all(
    names.map(async (name): Promise<ListedDomain | undefined> => {
      let client: ControlClient | undefined;
      try {
        client = await ControlClient.connect(name, { ...options, timeoutMs: options.timeoutMs ?? 2000 });
        return { name, info: await client.request('info') };
      } catch (error) {
        if (error instanceof UsageError) return undefined;
        if (error instanceof ControlError) return { name, info: undefined };
        throw error;
      } finally {
        client?.close();
      }
    }),
  );
  return domains.filter((d) => d !== undefined);
}
