/**
 * Transactions (Xen's docs/misc/xenstore.txt, TRANSACTION_START and TRANSACTION_END).
 *
 * A transaction sees each node as it was when it first touched it, plus its own changes; nobody else sees those until
 * it ends. At the end every node that it read or wrote must still have the generation first seen, and every node that
 * it found missing must still be missing; otherwise nothing is done and the client gets EAGAIN. What commits is
 * therefore serializable. Events of a transaction are delivered when it commits, one per changed path.
 *
 * Quirks, as in xenstored 4.17: looking for a missing node also touches its nearest existing parent; a node created
 * and removed within the transaction leaves no trace at all; more touched nodes than the quota allows fail the request
 * with ENOSPC, and later the commit with ENOMEM.
 */
import { XenstoreError } from './errors';
import type { Perms } from './perms';
import { type NewNode, type NodeSpace, nodeMemory, type Store, type StoreNode } from './store';

interface Access {
  /** The node as first seen; undefined if it was missing. */
  readonly base: StoreNode | undefined;
  node: StoreNode | undefined;
  modified: boolean;
  fire: 'no' | 'subtree' | 'exact';
}

export class Transaction implements NodeSpace {
  private readonly accessed = new Map<string, Access>();
  private readonly entryDelta = new Map<number, number>();
  private failed = false;
  private held = 0;

  /** `domid` pays for the memory that pending changes take; `maxNodes` limits the nodes touched (Infinity: none). */
  constructor(
    private readonly store: Store,
    private readonly domid: number,
    private readonly maxNodes: number,
  ) {}

  get(path: string): StoreNode | undefined {
    return this.access(path).node;
  }

  put(path: string, node: NewNode): StoreNode {
    const access = this.access(path);
    this.charge(path, access, -1);
    const { value, perms, children, childBytes } = node;
    access.node = { value, perms, children, childBytes, generation: this.store.nextGeneration() };
    access.modified = true;
    this.charge(path, access, 1);
    return access.node;
  }

  delete(path: string): void {
    const access = this.access(path);
    this.charge(path, access, -1);
    access.node = undefined;
    access.modified = true;
    if (access.base === undefined) this.accessed.delete(path);
  }

  changed(path: string, _node: StoreNode | undefined, exact: boolean): void {
    const access = this.accessed.get(path);
    if (access !== undefined) access.fire = exact ? 'exact' : 'subtree';
  }

  entriesOf(domid: number): number {
    return this.store.entriesOf(domid) + (this.entryDelta.get(domid) ?? 0);
  }

  /**
   * Ends the transaction and applies it. EAGAIN on a conflict, ENOSPC if the client's domain would own more than
   * `maxEntries` nodes, ENOMEM if a request had failed for the number of nodes; in all three cases nothing is changed.
   */
  commit(maxEntries: number): void {
    try {
      if (this.failed) throw new XenstoreError('ENOMEM', 'transaction touched too many nodes');
      for (const [path, access] of this.accessed) {
        if (this.store.get(path)?.generation !== access.base?.generation) throw new XenstoreError('EAGAIN');
      }
      if ((this.entryDelta.get(this.domid) ?? 0) > 0 && this.entriesOf(this.domid) > maxEntries) {
        throw new XenstoreError('ENOSPC', 'too many entries');
      }
    } finally {
      this.abort();
    }
    const fire: [string, Access][] = [];
    for (const [path, access] of this.accessed) {
      if (access.fire !== 'no') fire.push([path, access]);
      if (!access.modified) continue;
      if (access.node === undefined) this.store.delete(path);
      else this.store.put(path, access.node);
    }
    for (const [path, access] of fire) {
      const oldPerms: Perms | undefined = access.base?.perms;
      this.store.changed(path, this.store.get(path), access.fire === 'exact', oldPerms);
    }
  }

  /** Gives back what the pending changes were charged. */
  abort(): void {
    this.store.account(this.domid).memory -= this.held;
    this.held = 0;
  }

  private access(path: string): Access {
    let access = this.accessed.get(path);
    if (access === undefined) {
      if (this.accessed.size >= this.maxNodes) {
        this.failed = true;
        throw new XenstoreError('ENOSPC', 'transaction touches too many nodes');
      }
      const base = this.store.get(path);
      access = { base, node: base, modified: false, fire: 'no' };
      this.accessed.set(path, access);
    }
    return access;
  }

  /** Keeps count of entries by owner and of the memory that the node as it is now holds. */
  private charge(path: string, access: Access, sign: 1 | -1): void {
    const owner = access.node?.perms[0]?.domid;
    if (access.node === undefined || owner === undefined) return;
    this.entryDelta.set(owner, (this.entryDelta.get(owner) ?? 0) + sign);
    if (!access.modified) return;
    const bytes = sign * nodeMemory(path, access.node);
    this.held += bytes;
    this.store.account(this.domid).memory += bytes;
  }
}
