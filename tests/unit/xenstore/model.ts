/**
 * A model of xenstore to hold the server against: flat maps, linear searches, everything copied, no thought of speed.
 * It predicts the answer to each request and the events that each client gets. Children are found by looking at all
 * paths; a change of the set of children counts as a change of the parent, as the protocol's transactions want it.
 */

export interface ModelQuota {
  entries: number;
  entrySize: number;
  watches: number;
  transactions: number;
  transactionNodes: number;
  permsPerNode: number;
}

interface ModelNode {
  value: string;
  perms: string[];
  version: number;
}

interface ModelTransaction {
  first: Map<string, ModelNode | undefined>;
  now: Map<string, ModelNode | undefined>;
  kids: Map<string, Set<string>>;
  written: Set<string>;
  fire: Map<string, boolean>;
  failed: boolean;
}

interface ModelClient {
  domid: number;
  watches: { path: string; token: string; relative: boolean; order: number }[];
  transactions: Map<number, ModelTransaction>;
  nextId: number;
  events: string[];
}

class Refused extends Error {
  constructor(readonly code: string) {
    super(code);
  }
}

const parentOf = (path: string): string | undefined => {
  if (path === '/') return undefined;
  return path.slice(0, path.lastIndexOf('/')) || '/';
};
const may = (perms: string[], domid: number): string => {
  if (domid === 0 || Number(perms[0]!.slice(1)) === domid) return 'rwo';
  const own = perms.slice(1).find((perm) => Number(perm.slice(1)) === domid) ?? perms[0]!;
  return { n: '', r: 'r', w: 'w', b: 'rw' }[own[0]!]!;
};

export class Model {
  private nodes = new Map<string, ModelNode>();
  private version = 0;
  private order = 0;
  readonly clients = new Map<number, ModelClient>();

  constructor(private readonly quota: ModelQuota) {
    this.nodes.set('/', { value: '', perms: ['n0'], version: 0 });
  }

  addClient(domid: number): void {
    this.clients.set(domid, { domid, watches: [], transactions: new Map(), nextId: 1, events: [] });
  }

  /** Events since the last call. */
  takeEvents(domid: number): string[] {
    return this.clients.get(domid)!.events.splice(0);
  }

  openTransactions(domid: number): number[] {
    return [...this.clients.get(domid)!.transactions.keys()];
  }

  /** The answer: "OK", "ERROR code", or the payload with '|' for NUL. */
  ask(domid: number, op: string, args: string[], txId = 0): string {
    const client = this.clients.get(domid)!;
    try {
      return this.run(client, op, args, txId);
    } catch (error) {
      if (error instanceof Refused) return `ERROR ${error.code}`;
      throw error;
    }
  }

  private run(client: ModelClient, op: string, args: string[], txId: number): string {
    const isWatch = op === 'watch' || op === 'unwatch';
    const tx = txId === 0 || isWatch ? undefined : client.transactions.get(txId);
    if (txId !== 0 && !isWatch && tx === undefined) throw new Refused('ENOENT');
    const unlimited = client.domid === 0;
    const name = args[0] ?? '';
    const path = name.startsWith('/') ? name : `/local/domain/${client.domid}/${name}`;
    switch (op) {
      case 'read':
        return this.want(client, tx, path, 'r').value;
      case 'directory': {
        this.want(client, tx, path, 'r');
        return this.children(tx, path).sort().join('|');
      }
      case 'getPerms':
        return this.want(client, tx, path, 'r').perms.join('|');
      case 'write':
      case 'mkdir': {
        const node = this.forWrite(client, tx, path);
        if (node === undefined) this.create(client, tx, path, op === 'write' ? args[1]! : '');
        else {
          if (op === 'mkdir') return 'OK';
          this.checkSize(client, node.perms, args[1]!, this.childBytes(tx, path));
          this.put(tx, path, { ...node, value: args[1]! });
        }
        this.changed(tx, path, false);
        return 'OK';
      }
      case 'rm': {
        const node = this.forWrite(client, tx, path);
        const parent = parentOf(path);
        if (node === undefined) {
          if (this.get(tx, parent!) === undefined) throw new Refused('ENOENT');
          return 'OK';
        }
        const up = parent === undefined ? undefined : this.get(tx, parent);
        if (parent === undefined || up === undefined) throw new Refused('EINVAL');
        this.remove(tx, path, false);
        tx?.kids.get(parent)?.delete(path.slice(path.lastIndexOf('/') + 1));
        this.put(tx, parent, { ...up });
        return 'OK';
      }
      case 'setPerms': {
        const perms = args.slice(1);
        if (!unlimited && perms.length > this.quota.permsPerNode) throw new Refused('ENOSPC');
        const node = this.want(client, tx, path, 'wo');
        if (!unlimited && perms[0]!.slice(1) !== node.perms[0]!.slice(1)) throw new Refused('EPERM');
        this.checkSize(client, perms, node.value, this.childBytes(tx, path));
        this.put(tx, path, { ...node, perms });
        this.changed(tx, path, false, node.perms);
        return 'OK';
      }
      case 'watch': {
        const token = args[1]!;
        if (client.watches.some((w) => w.path === path && w.token === token)) throw new Refused('EEXIST');
        if (!unlimited && client.watches.length > this.quota.watches) throw new Refused('E2BIG');
        const watch = { path, token, relative: !name.startsWith('/'), order: ++this.order };
        client.watches.push(watch);
        this.tell(client, watch, path);
        return 'OK';
      }
      case 'unwatch': {
        const at = client.watches.findIndex((w) => w.path === path && w.token === args[1]);
        if (at < 0) throw new Refused('ENOENT');
        client.watches.splice(at, 1);
        return 'OK';
      }
      case 'reset':
        client.watches = [];
        client.transactions.clear();
        return 'OK';
      case 'start': {
        if (tx !== undefined) throw new Refused('EBUSY');
        if (!unlimited && client.transactions.size > this.quota.transactions) throw new Refused('ENOSPC');
        const id = client.nextId++;
        const seen = { first: new Map(), now: new Map(), kids: new Map<string, Set<string>>() };
        const done = { written: new Set<string>(), fire: new Map<string, boolean>() };
        client.transactions.set(id, { ...seen, ...done, failed: false });
        return `${id}|`;
      }
      case 'commit':
      case 'abort': {
        if (tx === undefined) throw new Refused('ENOENT');
        client.transactions.delete(txId);
        if (op === 'commit') this.commit(client, tx);
        return 'OK';
      }
    }
    throw new Error(`no such op: ${op}`);
  }

  private commit(client: ModelClient, tx: ModelTransaction): void {
    if (tx.failed) throw new Refused('ENOMEM');
    for (const [path, node] of tx.first) {
      if (this.nodes.get(path)?.version !== node?.version) throw new Refused('EAGAIN');
    }
    const merged = new Map(this.nodes);
    for (const [path, node] of tx.now) {
      if (!tx.written.has(path)) continue;
      if (node === undefined) merged.delete(path);
      else merged.set(path, { ...node, version: ++this.version });
    }
    const before = this.owned(this.nodes, client.domid);
    const after = this.owned(merged, client.domid);
    if (client.domid !== 0 && after > before && after > this.quota.entries) throw new Refused('ENOSPC');
    this.nodes = merged;
    for (const [path, node] of tx.first) {
      const exact = tx.fire.get(path);
      if (exact !== undefined) this.changed(undefined, path, exact, node?.perms);
    }
  }

  private owned(nodes: Map<string, ModelNode>, domid: number): number {
    return [...nodes.values()].filter((node) => Number(node.perms[0]!.slice(1)) === domid).length;
  }

  /** Nodes owned by `domid`, with what `tx` adds and takes away. */
  private entries(tx: ModelTransaction | undefined, domid: number): number {
    const mine = (node: ModelNode | undefined) =>
      node !== undefined && Number(node.perms[0]!.slice(1)) === domid ? 1 : 0;
    let count = this.owned(this.nodes, domid);
    for (const path of tx?.written ?? []) count += mine(tx!.now.get(path)) - mine(tx!.first.get(path));
    return count;
  }

  /** A transaction sees the children that a node had when it first touched it, and its own changes. */
  private children(tx: ModelTransaction | undefined, path: string): string[] {
    if (tx !== undefined) return [...(tx.kids.get(path) ?? [])];
    const out: string[] = [];
    for (const other of this.nodes.keys()) {
      if (other !== '/' && parentOf(other) === path) out.push(other.slice(other.lastIndexOf('/') + 1));
    }
    return out;
  }

  private childBytes(tx: ModelTransaction | undefined, path: string): number {
    return this.children(tx, path).reduce((sum, child) => sum + child.length + 1, 0);
  }

  private get(tx: ModelTransaction | undefined, path: string): ModelNode | undefined {
    if (tx === undefined) return this.nodes.get(path);
    if (!tx.first.has(path)) {
      if (tx.first.size >= this.limitOf(tx)) {
        tx.failed = true;
        throw new Refused('ENOSPC');
      }
      tx.first.set(path, this.nodes.get(path));
      tx.now.set(path, this.nodes.get(path));
      tx.kids.set(path, new Set(this.children(undefined, path)));
    }
    return tx.now.get(path);
  }

  private limitOf(tx: ModelTransaction): number {
    const client = [...this.clients.values()].find((c) => [...c.transactions.values()].includes(tx));
    return client?.domid === 0 ? Number.POSITIVE_INFINITY : this.quota.transactionNodes;
  }

  private put(tx: ModelTransaction | undefined, path: string, node: ModelNode): void {
    const fresh = { ...node, version: ++this.version };
    if (tx === undefined) this.nodes.set(path, fresh);
    else {
      this.get(tx, path);
      tx.now.set(path, fresh);
      tx.written.add(path);
    }
  }

  private remove(tx: ModelTransaction | undefined, path: string, exact: boolean): void {
    for (const child of this.children(tx, path)) {
      if (this.get(tx, `${path}/${child}`) !== undefined) this.remove(tx, `${path}/${child}`, true);
    }
    this.get(tx, path);
    this.changed(tx, path, exact);
    if (tx === undefined) this.nodes.delete(path);
    else if (tx.first.get(path) === undefined) {
      for (const part of [tx.first, tx.now, tx.fire, tx.kids]) part.delete(path);
      tx.written.delete(path);
    } else {
      tx.now.set(path, undefined);
      tx.kids.set(path, new Set());
      tx.written.add(path);
    }
  }

  private missing(client: ModelClient, tx: ModelTransaction | undefined, path: string, access: string): Refused {
    for (let up = parentOf(path); up !== undefined; up = parentOf(up)) {
      const node = this.get(tx, up);
      if (node === undefined) continue;
      const has = may(node.perms, client.domid);
      return new Refused([...access].some((letter) => has.includes(letter)) ? 'ENOENT' : 'EACCES');
    }
    return new Refused('EACCES');
  }

  private want(client: ModelClient, tx: ModelTransaction | undefined, path: string, access: string): ModelNode {
    const node = this.get(tx, path);
    if (node === undefined) throw this.missing(client, tx, path, access);
    const has = may(node.perms, client.domid);
    if ([...access].every((letter) => has.includes(letter))) return node;
    this.missing(client, tx, path, access);
    throw new Refused('EACCES');
  }

  private forWrite(client: ModelClient, tx: ModelTransaction | undefined, path: string): ModelNode | undefined {
    if (this.get(tx, path) !== undefined) return this.want(client, tx, path, 'w');
    const refused = this.missing(client, tx, path, 'w');
    if (refused.code !== 'ENOENT') throw refused;
    return undefined;
  }

  private checkSize(client: ModelClient, perms: string[], value: string, childBytes: number): void {
    const size = 24 + 8 * perms.length + value.length + childBytes;
    if (client.domid !== 0 && size >= this.quota.entrySize) throw new Refused('ENOSPC');
  }

  private create(client: ModelClient, tx: ModelTransaction | undefined, path: string, value: string): void {
    const chain: string[] = [];
    let up = path;
    while (this.get(tx, up) === undefined) {
      chain.unshift(up);
      up = parentOf(up)!;
    }
    const parent = this.get(tx, up)!;
    const perms = [...parent.perms];
    if (client.domid !== 0) perms[0] = `${perms[0]![0]}${client.domid}`;
    const nameBytes = (p: string) => p.length - p.lastIndexOf('/');
    const listed = this.children(tx, up).includes(chain[0]!.slice(chain[0]!.lastIndexOf('/') + 1));
    const grown = this.childBytes(tx, up) + (listed ? 0 : nameBytes(chain[0]!));
    this.checkSize(client, parent.perms, parent.value, grown);
    const owned = this.entries(tx, client.domid);
    if (client.domid !== 0 && owned + chain.length > this.quota.entries) throw new Refused('ENOSPC');
    chain.forEach((_, i) => {
      const last = i === chain.length - 1;
      this.checkSize(client, perms, last ? value : '', last ? 0 : nameBytes(chain[i + 1]!));
    });
    this.put(tx, up, parent);
    for (const p of chain) {
      this.put(tx, p, { value: p === path ? value : '', perms, version: 0 });
      tx?.kids.get(parentOf(p)!)?.add(p.slice(p.lastIndexOf('/') + 1));
    }
  }

  private changed(tx: ModelTransaction | undefined, path: string, exact: boolean, oldPerms?: string[]): void {
    if (tx !== undefined) {
      tx.fire.set(path, exact);
      return;
    }
    const node = this.nodes.get(path);
    const parent = this.nodes.get(parentOf(path) ?? '');
    for (const client of this.clients.values()) {
      const readable = (perms: string[] | undefined) => perms !== undefined && may(perms, client.domid).includes('r');
      const knows = readable(oldPerms) || (node !== undefined && (readable(node.perms) || readable(parent?.perms)));
      if (!knows) continue;
      for (const watch of client.watches) {
        const below = watch.path === '/' || path === watch.path || path.startsWith(`${watch.path}/`);
        if (exact ? path === watch.path : below) this.tell(client, watch, path);
      }
    }
  }

  private tell(client: ModelClient, watch: { token: string; relative: boolean }, path: string): void {
    const shown = watch.relative ? path.slice(`/local/domain/${client.domid}/`.length) : path;
    client.events.push(`EVENT ${shown}|${watch.token}|`);
  }
}
