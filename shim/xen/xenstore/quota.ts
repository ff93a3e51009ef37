/**
 * Limits that keep an unprivileged domain from using up the store, with xenstored 4.17's defaults. They answer the
 * classes of attack of XSA-115, 322 to 326, 419 and 421: unbounded entries, watches, transactions, permission entries,
 * nodes touched by one transaction, memory in all, and events that the domain never reads.
 *
 * Quirks kept from xenstored because clients can see them: the numbers of watches and transactions are compared with
 * ">" before adding (so one more than the limit fits); the size of an entry counts a 24-byte header, 8 bytes per
 * permission, the value and the names of the children, each with its NUL, and must stay below the limit.
 */
import type { Perms } from './perms';

export interface Quota {
  /** Nodes owned by the domain. */
  readonly entries: number;
  /** Bytes of one entry, see entrySize(). */
  readonly entrySize: number;
  readonly watches: number;
  /** Open transactions. */
  readonly transactions: number;
  /** Nodes that one transaction may touch. */
  readonly transactionNodes: number;
  readonly permsPerNode: number;
  /** Bytes of nodes, watches and pending transactions together. */
  readonly memory: number;
}

export const DEFAULT_QUOTA: Quota = {
  entries: 1000,
  entrySize: 2048,
  watches: 128,
  transactions: 10,
  transactionNodes: 1024,
  permsPerNode: 5,
  memory: 2.5 * 1024 * 1024,
};

const HEADER_BYTES = 24;
const PERM_BYTES = 8;

/** Size of an entry in bytes, as quotas count it. */
export function entrySize(node: { value: Uint8Array; perms: Perms; childBytes: number }): number {
  return HEADER_BYTES + PERM_BYTES * node.perms.length + node.value.length + node.childBytes;
}

/** What a domain holds. */
export interface Account {
  entries: number;
  watches: number;
  /** Bytes held by its nodes, watches and pending transactions. */
  memory: number;
}
