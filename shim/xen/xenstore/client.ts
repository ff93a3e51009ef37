/**
 * Xenstore from within the shim: what the toolstack and the back-ends use. Works on the server directly, without
 * bytes, as domain 0. Failures are XenstoreError.
 *
 * Quirks: events of watches arrive in a microtask after the change, in order, so that a callback can use the store
 * without getting in the way of the change that caused it. transaction() runs a synchronous function and therefore
 * never conflicts; begin() is for work that waits in between and may get EAGAIN at commit.
 */
import { XenstoreError } from './errors';
import * as operations from './operations';
import { canonicalize } from './path';
import { formatPerm, type Perms, parsePerm } from './perms';
import type { Session, XenstoreServer } from './server';
import type { NodeSpace } from './store';
import type { Watch } from './watches';
import { decodeText, encodeText } from './wire';

/** A node's permissions as text, owner first: ['n5', 'r0']. */
export type PermStrings = readonly string[];

/** Reads and writes, in the store itself or in a transaction. */
export interface XenstoreView {
  /** ENOENT if missing. */
  readBytes(path: string): Uint8Array;
  /** As Latin-1 text; undefined if the node is missing. */
  read(path: string): string | undefined;
  /** Text is stored as Latin-1. Creates missing parents. */
  write(path: string, value: string | Uint8Array): void;
  mkdir(path: string): void;
  /** True if there was something to remove. */
  rm(path: string): boolean;
  /** Names of the children in order of creation; ENOENT if the node is missing. */
  list(path: string): readonly string[];
  exists(path: string): boolean;
  getPerms(path: string): string[];
  setPerms(path: string, perms: PermStrings): void;
}

class View implements XenstoreView {
  constructor(
    protected readonly server: XenstoreServer,
    protected readonly session: Session,
    private readonly space?: NodeSpace,
  ) {}

  readBytes(path: string): Uint8Array {
    return operations.read(this.context(), this.full(path)).slice();
  }

  read(path: string): string | undefined {
    const node = this.context().space.get(this.full(path));
    return node === undefined ? undefined : decodeText(node.value);
  }

  write(path: string, value: string | Uint8Array): void {
    const bytes = typeof value === 'string' ? encodeText(value) : value.slice();
    operations.write(this.context(), this.full(path), bytes);
  }

  mkdir(path: string): void {
    operations.mkdir(this.context(), this.full(path));
  }

  rm(path: string): boolean {
    if (!this.exists(path)) return false;
    operations.rm(this.context(), this.full(path));
    return true;
  }

  list(path: string): readonly string[] {
    return operations.directory(this.context(), this.full(path)).children;
  }

  exists(path: string): boolean {
    return this.context().space.get(this.full(path)) !== undefined;
  }

  getPerms(path: string): string[] {
    return operations.getPerms(this.context(), this.full(path)).map(formatPerm);
  }

  setPerms(path: string, perms: PermStrings): void {
    const parsed: Perms = perms.map(parsePerm);
    this.server.setPerms(this.session, path, parsed, this.space);
  }

  private full(path: string): string {
    return canonicalize(path, this.session.home);
  }

  private context() {
    return this.server.context(this.session, this.space);
  }
}

/** A transaction that outlives one turn of the event loop. End it in every case. */
export interface XenstoreTransaction extends XenstoreView {
  /** EAGAIN if somebody else changed what this transaction read or wrote: begin again. */
  commit(): void;
  abort(): void;
}

class OpenTransaction extends View implements XenstoreTransaction {
  constructor(
    server: XenstoreServer,
    session: Session,
    private readonly id: number,
    space: NodeSpace,
  ) {
    super(server, session, space);
  }

  commit(): void {
    this.server.endTransaction(this.session, this.id, true);
  }

  abort(): void {
    this.server.endTransaction(this.session, this.id, false);
  }
}

export type WatchCallback = (path: string) => void;

/** Stops a watch; no callback comes after it, not even for events on their way. */
export type Unwatch = () => void;

export class XenstoreClient extends View {
  private readonly callbacks = new Map<string, WatchCallback>();
  private events: { path: string; token: string }[] = [];
  private nextToken = 1;

  /** `onError` gets what watch callbacks throw; without it they go to process.emitWarning(). */
  constructor(
    server: XenstoreServer,
    private readonly onError: (error: unknown) => void = (error) => process.emitWarning(String(error)),
  ) {
    super(
      server,
      server.open(0, (path, token) => this.queue(path, token)),
    );
  }

  /** Calls back at once (in a microtask) with `path` itself, then for each change at or below it. */
  watch(path: string, callback: WatchCallback): Unwatch {
    const token = String(this.nextToken++);
    const watch: Watch = this.server.watch(this.session, path, token);
    this.callbacks.set(token, callback);
    this.server.firstEvent(watch);
    return () => {
      this.callbacks.delete(token);
      this.server.dropWatch(this.session, watch);
    };
  }

  /** Runs `body` as one transaction: all of it happens, or nothing if it throws. Events come after it. */
  transaction<T>(body: (view: XenstoreView) => T): T {
    const open = this.begin();
    let result: T;
    try {
      result = body(open);
    } catch (error) {
      open.abort();
      throw error;
    }
    open.commit();
    return result;
  }

  /** Begins a transaction to be ended with commit() or abort(). */
  begin(): XenstoreTransaction {
    const { id, transaction } = this.server.startTransaction(this.session);
    return new OpenTransaction(this.server, this.session, id, transaction);
  }

  /** Reads a decimal number; undefined if missing or not a number. */
  readNumber(path: string): number | undefined {
    const text = this.read(path);
    return text !== undefined && /^[0-9]{1,15}$/.test(text) ? Number(text) : undefined;
  }

  /** Ends the session: watches and open transactions are gone. */
  close(): void {
    this.callbacks.clear();
    this.events = [];
    this.server.close(this.session);
  }

  private queue(path: string, token: string): void {
    this.events.push({ path, token });
    if (this.events.length === 1) queueMicrotask(() => this.deliver());
  }

  private deliver(): void {
    // What the callbacks cause in turn is queued behind and comes in the next microtask.
    const events = this.events;
    this.events = [];
    for (const { path, token } of events) {
      try {
        this.callbacks.get(token)?.(path);
      } catch (error) {
        this.onError(error);
      }
    }
  }
}

/** True if `error` is the given failure of a xenstore request. */
export function isXenstoreError(error: unknown, code: XenstoreError['code']): boolean {
  return error instanceof XenstoreError && error.code === code;
}
