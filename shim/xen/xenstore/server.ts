/**
 * The xenstore server: sessions, the request table, domains coming and going (Xen's docs/misc/xenstore.txt; behaviour
 * of xenstored 4.17 where that leaves a choice). It knows messages but not how they travel: connection.ts turns bytes
 * into requests, client.ts calls in from within the shim.
 *
 * Quirks, as in xenstored 4.17:
 * - an answer follows the events that the request caused, except that WATCH is answered before its first event;
 * - a transaction id is looked at only by requests that can belong to one, after the check for privilege; WATCH and
 *   UNWATCH ignore it, a nested TRANSACTION_START is EBUSY, an unknown id ENOENT;
 * - numbers are read as atoi() does;
 * - domUs may not ask IS_DOMAIN_INTRODUCED, but may ask GET_DOMAIN_PATH of anyone;
 * - RESET_WATCHES also drops the client's transactions.
 * Where xenstored answers with whatever error an earlier request left behind (a payload that is not exactly one string;
 * permissions of a special event set by a stranger), we answer EINVAL and EACCES.
 * CONTROL answers ENOSYS to domain 0 (there is no daemon to control); INTRODUCE over the wire does so unless the
 * embedding program offers a way to reach another domain's ring.
 */
import { DOMID } from '../../../abi/xen/domid';
import { XENSTORE, XS, type XsdError } from '../../../abi/xen/xenstore';
import { XenstoreError } from './errors';
import * as operations from './operations';
import { canonicalize, canonicalizeWatch, domainPath, INTRODUCE_DOMAIN, isSpecial, RELEASE_DOMAIN } from './path';
import { accessOf, formatPerm, PERM_OWNER, PERM_WRITE, type Perms, parsePerm } from './perms';
import { type Account, DEFAULT_QUOTA, type Quota } from './quota';
import { type NodeSpace, Store } from './store';
import { Transaction } from './transaction';
import { type Watch, type Watcher, WatchRegistry } from './watches';
import { decodeStrings, decodeText, encodeStrings, encodeText } from './wire';

const OK = encodeText('OK\0');
/** What a watch costs beside its path and token. */
const WATCH_BYTES = 64;

/** One client: a domain's ring, a socket, or a part of the shim. Made by XenstoreServer.open(). */
export class Session implements Watcher {
  readonly privileged: boolean;
  /** Relative paths start here. */
  readonly home: string;
  target: number | undefined;
  readonly transactions = new Map<number, Transaction>();
  readonly watches: Watch[] = [];
  closed = false;
  private nextTransaction = 1;

  constructor(
    readonly domid: number,
    private readonly onEvent: (path: string, token: string) => void,
  ) {
    this.privileged = domid === 0;
    this.home = domainPath(domid);
  }

  event(path: string, token: string): void {
    if (!this.closed) this.onEvent(path, token);
  }

  /** An id that is not in use; never 0. */
  newTransactionId(): number {
    let id: number;
    do {
      id = this.nextTransaction;
      this.nextTransaction = id >= 0xffff_ffff ? 1 : id + 1;
    } while (this.transactions.has(id));
    return id;
  }
}

/** Sends an answer: the request's own type, or XS_ERROR. */
export type Reply = (type: number, payload: Uint8Array) => void;

export interface XenstoreServerOptions {
  readonly quota?: Partial<Quota>;
  /** Whether a domain exists, and so may own nodes. Default: every domid that is not reserved. */
  readonly domainExists?: (domid: number) => boolean;
  /** Serves INTRODUCE from a privileged connection: connect the ring of `domid`. Throws XenstoreError to refuse. */
  readonly introduce?: (domid: number, mfn: number, port: number) => void;
  /** A defect of the server met while it served a request; the client gets EIO. */
  readonly onInternalError?: (error: unknown) => void;
}

interface Request {
  readonly session: Session;
  readonly transaction: Transaction | undefined;
  readonly payload: Uint8Array;
  readonly reply: (payload: Uint8Array) => void;
}

interface Handler {
  readonly run: (request: Request) => void;
  readonly privileged?: boolean;
  readonly ignoresTransaction?: boolean;
}

export class XenstoreServer {
  readonly quota: Quota;
  readonly store: Store;
  private readonly watches = new WatchRegistry();
  private readonly sessions = new Set<Session>();
  private readonly introduced = new Set<number>([0]);
  private readonly handlers: ReadonlyMap<number, Handler>;
  /** Told of each XS_DIRECTORY of an unprivileged domain, before it is answered: the absolute path. */
  onDirectory: ((domid: number, path: string) => void) | undefined;

  constructor(private readonly options: XenstoreServerOptions = {}) {
    this.quota = { ...DEFAULT_QUOTA, ...options.quota };
    this.store = new Store((path, node, exact, oldPerms) => this.watches.fire(this.store, path, node, exact, oldPerms));
    this.handlers = this.table();
    operations.mkdir(this.context({ domid: 0, privileged: true }), '/tool/xenstored');
  }

  /** A new session of `domid`; `onEvent` gets its watch events, synchronously. */
  open(domid: number, onEvent: (path: string, token: string) => void): Session {
    const session = new Session(domid, onEvent);
    this.sessions.add(session);
    return session;
  }

  /** Ends a session: its watches and transactions are gone. */
  close(session: Session): void {
    if (session.closed) return;
    session.closed = true;
    this.dropWatches(session);
    this.dropTransactions(session);
    this.sessions.delete(session);
  }

  isIntroduced(domid: number): boolean {
    return this.introduced.has(domid);
  }

  /** The domain's ring is connected: fires @introduceDomain. */
  introduceDomain(domid: number): void {
    if (this.introduced.has(domid)) return;
    this.introduced.add(domid);
    this.watches.fireSpecial(this.store, INTRODUCE_DOMAIN);
  }

  /** Fires @releaseDomain for a domain that has shut down but whose nodes stay until releaseDomain(). */
  domainShutDown(domid: number): void {
    if (this.introduced.has(domid)) this.watches.fireSpecial(this.store, RELEASE_DOMAIN);
  }

  /**
   * The domain is gone: ends its sessions, removes what it owned and its name from the permissions of what is left,
   * so that a later domain with the same number inherits nothing (XSA-322), then fires @releaseDomain.
   */
  releaseDomain(domid: number): void {
    for (const session of [...this.sessions]) if (session.domid === domid && domid !== 0) this.close(session);
    const dom0 = this.context({ domid: 0, privileged: true });
    const { owned } = this.store.pathsConcerning(domid);
    for (const path of owned) {
      const node = this.store.get(path);
      if (path === '/') this.store.put(path, { ...node!, perms: [{ domid: 0, access: 0 }, ...node!.perms.slice(1)] });
      else if (node !== undefined) operations.rm(dom0, path);
    }
    for (const path of this.store.pathsConcerning(domid).named) {
      const node = this.store.get(path);
      if (node !== undefined) this.store.put(path, { ...node, perms: node.perms.filter((p) => p.domid !== domid) });
    }
    this.store.forgetDomain(domid);
    if (this.introduced.delete(domid)) this.watches.fireSpecial(this.store, RELEASE_DOMAIN);
  }

  /** Answers one request; exactly one reply, before or after the events it causes. Never throws. */
  handle(session: Session, type: number, txId: number, payload: Uint8Array, reply: Reply): void {
    try {
      const handler = this.handlers.get(type);
      if (handler === undefined) throw new XenstoreError('ENOSYS');
      if (handler.privileged && !session.privileged) throw new XenstoreError('EACCES');
      const transaction = handler.ignoresTransaction ? undefined : this.transaction(session, txId);
      const answer = (bytes: Uint8Array) => {
        if (bytes.length > XENSTORE.XENSTORE_PAYLOAD_MAX) throw new XenstoreError('E2BIG');
        reply(type, bytes);
      };
      handler.run({ session, transaction, payload, reply: answer });
    } catch (error) {
      let code: XsdError = 'EIO';
      if (error instanceof XenstoreError) code = error.code;
      else this.options.onInternalError?.(error);
      reply(XS.XS_ERROR, encodeText(`${code}\0`));
    }
  }

  /** What operations.ts needs to act for `who`, in a transaction or directly. */
  context(
    who: Pick<Session, 'domid' | 'privileged' | 'target'> | { domid: number; privileged: true },
    space?: NodeSpace,
  ) {
    const account: Account = this.store.account(who.domid);
    return { who, space: space ?? this.store, quota: this.quota, account };
  }

  /** EEXIST for the same path and token, E2BIG beyond the quota. The first event comes from firstEvent(). */
  watch(session: Session, path: string, token: string): Watch {
    const full = canonicalizeWatch(path, session.home);
    if (session.watches.some((w) => w.path === full && w.token === token)) throw new XenstoreError('EEXIST');
    const account = this.store.account(session.domid);
    if (!session.privileged && account.watches > this.quota.watches) throw new XenstoreError('E2BIG');
    const bytes = WATCH_BYTES + full.length + token.length;
    operations.checkMemory(this.context(session), bytes);
    const relative = !path.startsWith('/') && !isSpecial(path);
    const watch = this.watches.add(session, full, token, relative ? session.home.length + 1 : 0);
    session.watches.push(watch);
    account.watches++;
    account.memory += bytes;
    return watch;
  }

  /** Every new watch fires once at once, whether or not the node exists. */
  firstEvent(watch: Watch): void {
    this.watches.deliver(watch, watch.path);
  }

  /** ENOENT if there is no such watch. */
  unwatch(session: Session, path: string, token: string): void {
    const full = path.startsWith('/') || isSpecial(path) ? path : `${session.home}/${path}`;
    const watch = session.watches.find((w) => w.path === full && w.token === token);
    if (watch === undefined) throw new XenstoreError('ENOENT');
    this.dropWatch(session, watch);
  }

  dropWatch(session: Session, watch: Watch): void {
    const at = session.watches.indexOf(watch);
    if (at < 0) return;
    session.watches.splice(at, 1);
    this.watches.remove(watch);
    const account = this.store.account(session.domid);
    account.watches--;
    account.memory -= WATCH_BYTES + watch.path.length + watch.token.length;
  }

  /** ENOSPC beyond the quota. */
  startTransaction(session: Session): { id: number; transaction: Transaction } {
    if (!session.privileged && session.transactions.size > this.quota.transactions) throw new XenstoreError('ENOSPC');
    const id = session.newTransactionId();
    const maxNodes = session.privileged ? Number.POSITIVE_INFINITY : this.quota.transactionNodes;
    const transaction = new Transaction(this.store, session.domid, maxNodes);
    session.transactions.set(id, transaction);
    return { id, transaction };
  }

  /** ENOENT if there is no such transaction; otherwise as Transaction.commit(). It is gone in any case. */
  endTransaction(session: Session, id: number, commit: boolean): void {
    const transaction = this.transaction(session, id);
    if (transaction === undefined) throw new XenstoreError('ENOENT');
    session.transactions.delete(id);
    if (commit) transaction.commit(session.privileged ? Number.POSITIVE_INFINITY : this.quota.entries);
    else transaction.abort();
  }

  /** Permissions of a node, or of a special event (owner and privileged clients only). */
  setPerms(session: Session, path: string, perms: Perms, space?: NodeSpace): void {
    const owner = perms[0];
    if (owner === undefined) throw new XenstoreError('EINVAL', 'no permissions');
    if (!session.privileged && perms.length > this.quota.permsPerNode) throw new XenstoreError('ENOSPC');
    if (isSpecial(path)) {
      const old = this.store.specialPerms(path);
      if (old === undefined) throw new XenstoreError('EINVAL', 'no such event');
      const wanted = PERM_WRITE | PERM_OWNER;
      if ((accessOf(old, session) & wanted) !== wanted) throw new XenstoreError('EACCES');
      if (!session.privileged && owner.domid !== old[0]?.domid) throw new XenstoreError('EPERM');
      if (!this.domainExists(owner.domid)) throw new XenstoreError('ENOENT', 'no such owner');
      this.store.setSpecialPerms(path, perms);
      return;
    }
    const full = canonicalize(path, session.home);
    const context = this.context(session, space);
    operations.getNode(context, full, PERM_WRITE | PERM_OWNER);
    if (session.privileged && !this.domainExists(owner.domid)) throw new XenstoreError('ENOENT', 'no such owner');
    operations.setPerms(context, full, perms);
  }

  private domainExists(domid: number): boolean {
    if (domid >= DOMID.DOMID_FIRST_RESERVED) return false;
    return domid === 0 || (this.options.domainExists?.(domid) ?? true);
  }

  private transaction(session: Session, id: number): Transaction | undefined {
    if (id === 0) return undefined;
    const transaction = session.transactions.get(id);
    if (transaction === undefined) throw new XenstoreError('ENOENT', 'no such transaction');
    return transaction;
  }

  private dropWatches(session: Session): void {
    for (const watch of [...session.watches]) this.dropWatch(session, watch);
  }

  private dropTransactions(session: Session): void {
    for (const transaction of session.transactions.values()) transaction.abort();
    session.transactions.clear();
  }

  private table(): ReadonlyMap<number, Handler> {
    const context = (r: Request) => this.context(r.session, r.transaction);
    const path = (r: Request) => canonicalize(oneString(r.payload), r.session.home);
    const handlers: [number, Handler][] = [
      [XS.XS_CONTROL, { privileged: true, run: () => refuse('ENOSYS') }],
      [
        XS.XS_DIRECTORY,
        {
          run: (r) => {
            const full = path(r);
            if (r.session.domid !== 0) this.onDirectory?.(r.session.domid, full);
            const node = operations.directory(context(r), full);
            r.reply(encodeStrings(node.children));
          },
        },
      ],
      [XS.XS_DIRECTORY_PART, { run: (r) => this.directoryPart(r) }],
      [XS.XS_READ, { run: (r) => r.reply(operations.read(context(r), path(r))) }],
      [
        XS.XS_GET_PERMS,
        {
          run: (r) => r.reply(encodeStrings(operations.getPerms(context(r), path(r)).map(formatPerm))),
        },
      ],
      [XS.XS_SET_PERMS, { run: (r) => this.setPermsRequest(r) }],
      [
        XS.XS_WRITE,
        {
          run: (r) => {
            const { strings, rest } = decodeStrings(r.payload, 1);
            if (strings[0] === undefined) throw new XenstoreError('EINVAL');
            const full = canonicalize(strings[0], r.session.home);
            operations.write(context(r), full, r.payload.slice(rest));
            r.reply(OK);
          },
        },
      ],
      [
        XS.XS_MKDIR,
        {
          run: (r) => {
            operations.mkdir(context(r), path(r));
            r.reply(OK);
          },
        },
      ],
      [
        XS.XS_RM,
        {
          run: (r) => {
            operations.rm(context(r), path(r));
            r.reply(OK);
          },
        },
      ],
      [
        XS.XS_WATCH,
        {
          ignoresTransaction: true,
          run: (r) => {
            const [name, token] = twoStrings(r.payload);
            const watch = this.watch(r.session, name, token);
            r.reply(OK);
            this.firstEvent(watch);
          },
        },
      ],
      [
        XS.XS_UNWATCH,
        {
          ignoresTransaction: true,
          run: (r) => {
            const [name, token] = twoStrings(r.payload);
            this.unwatch(r.session, name, token);
            r.reply(OK);
          },
        },
      ],
      [
        XS.XS_RESET_WATCHES,
        {
          run: (r) => {
            this.dropWatches(r.session);
            this.dropTransactions(r.session);
            r.reply(OK);
          },
        },
      ],
      [
        XS.XS_TRANSACTION_START,
        {
          run: (r) => {
            if (r.transaction !== undefined) throw new XenstoreError('EBUSY', 'transactions do not nest');
            r.reply(encodeText(`${this.startTransaction(r.session).id}\0`));
          },
        },
      ],
      [XS.XS_TRANSACTION_END, { run: (r) => this.transactionEnd(r) }],
      [XS.XS_GET_DOMAIN_PATH, { run: (r) => r.reply(encodeText(`${domainPath(atoi(oneString(r.payload)))}\0`)) }],
      [
        XS.XS_IS_DOMAIN_INTRODUCED,
        {
          privileged: true,
          run: (r) => {
            const domid = atoi(oneString(r.payload));
            r.reply(encodeText(domid === DOMID.DOMID_SELF || this.introduced.has(domid) ? 'T\0' : 'F\0'));
          },
        },
      ],
      [XS.XS_INTRODUCE, { privileged: true, run: (r) => this.introduceRequest(r) }],
      [
        XS.XS_RELEASE,
        {
          privileged: true,
          run: (r) => {
            this.releaseDomain(this.knownDomain(atoi(oneString(r.payload))));
            r.reply(OK);
          },
        },
      ],
      [
        XS.XS_RESUME,
        {
          privileged: true,
          run: (r) => {
            this.knownDomain(atoi(oneString(r.payload)));
            r.reply(OK);
          },
        },
      ],
      [
        XS.XS_SET_TARGET,
        {
          privileged: true,
          run: (r) => {
            const [domid, target] = twoStrings(r.payload).map(atoi) as [number, number];
            this.knownDomain(domid);
            this.knownDomain(target);
            for (const session of this.sessions) if (session.domid === domid) session.target = target;
            r.reply(OK);
          },
        },
      ],
    ];
    return new Map(handlers);
  }

  /** EINVAL for domain 0, ENOENT for a domain that is not introduced. */
  private knownDomain(domid: number): number {
    if (domid === 0) throw new XenstoreError('EINVAL');
    if (!this.introduced.has(domid)) throw new XenstoreError('ENOENT');
    return domid;
  }

  private introduceRequest(r: Request): void {
    const { strings } = decodeStrings(r.payload, 3);
    if (strings.length < 3) throw new XenstoreError('EINVAL');
    const [domid, mfn, port] = strings.map(atoi) as [number, number, number];
    if (domid <= 0 || port <= 0) throw new XenstoreError('EINVAL');
    if (this.options.introduce === undefined) throw new XenstoreError('ENOSYS');
    this.options.introduce(domid, mfn, port);
    r.reply(OK);
  }

  private setPermsRequest(r: Request): void {
    const { strings } = decodeStrings(r.payload);
    const [name, ...letters] = strings;
    if (name === undefined || letters.length === 0) throw new XenstoreError('EINVAL');
    if (!r.session.privileged && letters.length > this.quota.permsPerNode) throw new XenstoreError('ENOSPC');
    this.setPerms(r.session, name, letters.map(parsePerm), r.transaction);
    r.reply(OK);
  }

  private transactionEnd(r: Request): void {
    const how = oneString(r.payload);
    if (how !== 'T' && how !== 'F') throw new XenstoreError('EINVAL');
    if (r.transaction === undefined) throw new XenstoreError('ENOENT');
    for (const [id, transaction] of r.session.transactions) {
      if (transaction !== r.transaction) continue;
      this.endTransaction(r.session, id, how === 'T');
      break;
    }
    r.reply(OK);
  }

  /**
   * A page of a long listing: the generation, then the children from a byte offset on, as many as fit. An empty string
   * at the end says that this was the last page. A changed generation tells the client to start again.
   */
  private directoryPart(r: Request): void {
    const [name, offsetText] = twoStrings(r.payload);
    const node = operations.directory(this.context(r.session, r.transaction), canonicalize(name, r.session.home));
    const generation = encodeText(`${node.generation}\0`);
    const list = encodeStrings(node.children);
    const offset = atoi(offsetText);
    const max = XENSTORE.XENSTORE_PAYLOAD_MAX - generation.length - 1;
    let end = offset < 0 ? list.length : Math.min(offset, list.length);
    const start = end;
    while (end < list.length) {
      const next = list.indexOf(0, end) + 1;
      if (next - start > max) break;
      end = next;
    }
    const last = end === list.length;
    const reply = new Uint8Array(generation.length + (end - start) + (last ? 1 : 0));
    reply.set(generation);
    reply.set(list.subarray(start, end), generation.length);
    r.reply(reply);
  }
}

function refuse(code: XsdError): never {
  throw new XenstoreError(code);
}

/** The one string that makes up a payload. EINVAL if it is anything else. */
function oneString(payload: Uint8Array): string {
  const nul = payload.indexOf(0);
  if (nul < 0 || nul !== payload.length - 1) throw new XenstoreError('EINVAL', 'malformed request');
  return decodeText(payload.subarray(0, nul));
}

/** The first two strings of a payload; what follows is ignored. EINVAL if there are fewer. */
function twoStrings(payload: Uint8Array): [string, string] {
  const { strings } = decodeStrings(payload, 2);
  if (strings.length < 2) throw new XenstoreError('EINVAL');
  return strings as [string, string];
}

/** Leading decimal digits as a number, 0 without any: how the C library's atoi() reads. */
function atoi(text: string): number {
  const match = /^\s*([+-]?[0-9]{1,10})/.exec(text);
  return match === null ? 0 : Number(match[1]);
}
