/**
 * The tree of xenstore: nodes by absolute path, who owns how much of it, and the permissions of the special events.
 *
 * Nodes are immutable: a change replaces the node under its path and gives it a new generation, a number from one
 * counter that only grows. Transactions (transaction.ts) keep references to the nodes they have seen and compare
 * generations at the end. Rules (permissions, inheritance, quotas) are in operations.ts; this file only stores.
 *
 * Quirk: a change to the list of children is a change to the parent and gives it a new generation too, as in
 * xenstored, so two transactions that create siblings conflict.
 */
import { INTRODUCE_DOMAIN, RELEASE_DOMAIN } from './path';
import type { Perms } from './perms';
import { type Account, entrySize } from './quota';

export interface StoreNode {
  readonly value: Uint8Array;
  readonly perms: Perms;
  /** Names, in order of creation. */
  readonly children: readonly string[];
  /** Bytes of the names of the children, each with a NUL. */
  readonly childBytes: number;
  readonly generation: number;
}

/** A node as an operation hands it over: the generation is the store's to give. */
export type NewNode = Omit<StoreNode, 'generation'>;

/** What operations work on: the tree itself, or a transaction's view of it. */
export interface NodeSpace {
  get(path: string): StoreNode | undefined;
  put(path: string, node: NewNode): StoreNode;
  delete(path: string): void;
  /** Reports a change. `exact`: only watches on this very path care (it vanished along with a parent). */
  changed(path: string, node: StoreNode | undefined, exact: boolean, oldPerms?: Perms): void;
  /** Nodes owned by `domid`, as this view sees it. */
  entriesOf(domid: number): number;
}

/** Called for each change of the tree, in order. */
export type ChangeListener = (path: string, node: StoreNode | undefined, exact: boolean, oldPerms?: Perms) => void;

export const EMPTY = new Uint8Array(0);
const DOM0_ONLY: Perms = [{ domid: 0, access: 0 }];

/** Bytes that a node costs its owner. */
export function nodeMemory(path: string, node: NewNode): number {
  return entrySize(node) + path.length;
}

export class Store implements NodeSpace {
  private readonly nodes = new Map<string, StoreNode>();
  private readonly accounts = new Map<number, Account>();
  private readonly special = new Map<string, Perms>([
    [INTRODUCE_DOMAIN, DOM0_ONLY],
    [RELEASE_DOMAIN, DOM0_ONLY],
  ]);
  private lastGeneration = 0;

  constructor(private readonly onChange: ChangeListener) {
    this.put('/', { value: EMPTY, perms: DOM0_ONLY, children: [], childBytes: 0 });
  }

  /** Number of nodes, "/" included. */
  get size(): number {
    return this.nodes.size;
  }

  nextGeneration(): number {
    return ++this.lastGeneration;
  }

  get(path: string): StoreNode | undefined {
    return this.nodes.get(path);
  }

  put(path: string, node: NewNode): StoreNode {
    this.charge(path, this.nodes.get(path), -1);
    const { value, perms, children, childBytes } = node;
    const stored = { value, perms, children, childBytes, generation: this.nextGeneration() };
    this.nodes.set(path, stored);
    this.charge(path, stored, 1);
    return stored;
  }

  delete(path: string): void {
    this.charge(path, this.nodes.get(path), -1);
    this.nodes.delete(path);
  }

  changed(path: string, node: StoreNode | undefined, exact: boolean, oldPerms?: Perms): void {
    this.onChange(path, node, exact, oldPerms);
  }

  entriesOf(domid: number): number {
    return this.account(domid).entries;
  }

  /** The account of a domain; it comes into being when first asked for. */
  account(domid: number): Account {
    let account = this.accounts.get(domid);
    if (account === undefined) {
      account = { entries: 0, watches: 0, memory: 0 };
      this.accounts.set(domid, account);
    }
    return account;
  }

  /** Permissions of a special event; undefined if there is no such event. */
  specialPerms(name: string): Perms | undefined {
    return this.special.get(name);
  }

  setSpecialPerms(name: string, perms: Perms): void {
    this.special.set(name, perms);
  }

  /** All paths owned by `domid`, or naming it in their permissions. For clean-up when a domain goes. */
  pathsConcerning(domid: number): { owned: string[]; named: string[] } {
    const owned: string[] = [];
    const named: string[] = [];
    for (const [path, node] of this.nodes) {
      if (node.perms[0]?.domid === domid) owned.push(path);
      else if (node.perms.some((perm) => perm.domid === domid)) named.push(path);
    }
    return { owned, named };
  }

  /** Takes a domain out of the permissions of the special events and drops its account. */
  forgetDomain(domid: number): void {
    for (const [name, perms] of this.special) {
      if (perms[0]?.domid === domid) this.special.set(name, DOM0_ONLY);
      else {
        this.special.set(
          name,
          perms.filter((perm) => perm.domid !== domid),
        );
      }
    }
    this.accounts.delete(domid);
  }

  private charge(path: string, node: StoreNode | undefined, sign: 1 | -1): void {
    const owner = node?.perms[0];
    if (node === undefined || owner === undefined) return;
    const account = this.account(owner.domid);
    account.entries += sign;
    account.memory += sign * nodeMemory(path, node);
  }
}
