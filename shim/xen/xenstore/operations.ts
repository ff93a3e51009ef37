/**
 * What clients do to nodes: read, write, create, remove, permissions (Xen's docs/misc/xenstore.txt), with the rules of
 * who may. Works on a NodeSpace, the tree itself or a transaction, and throws XenstoreError; nothing is changed by an
 * operation that fails.
 *
 * Quirks, as in xenstored 4.17:
 * - whether a missing node is missing (ENOENT) or none of the client's business (EACCES) depends on what its nearest
 *   existing parent lets the client do; a transaction touches that parent also when access to the node is refused;
 * - new nodes inherit the permissions of their nearest existing parent, but what an unprivileged client creates it owns;
 * - removing a missing node succeeds if its parent exists;
 * - parents that WRITE and MKDIR create on the way fire no watches of their own; children that RM removes fire only
 *   watches set on exactly them;
 * - SET_PERMS wants ownership, but GET_PERMS no more than read access.
 */
import { XenstoreError } from './errors';
import { baseName, joinPath, parentPath } from './path';
import { accessOf, PERM_OWNER, PERM_READ, PERM_WRITE, type Perms, type Subject } from './perms';
import { type Account, entrySize, type Quota } from './quota';
import { EMPTY, type NewNode, type NodeSpace, nodeMemory, type StoreNode } from './store';

/** Who does it, where, and within which limits. */
export interface OperationContext {
  readonly who: Subject;
  readonly space: NodeSpace;
  readonly quota: Quota;
  readonly account: Account;
}

/** The node if it exists and `who` has all of `access`; otherwise EACCES, or ENOENT if the client may know that. */
export function getNode(ctx: OperationContext, path: string, access: number): StoreNode {
  const node = ctx.space.get(path);
  if (node !== undefined && (accessOf(node.perms, ctx.who) & access) === access) return node;
  const error = missing(ctx, path, access);
  throw node === undefined ? error : new XenstoreError('EACCES', path);
}

/** The error for a node that is missing. Asks the nearest existing parent, which a transaction thereby touches. */
function missing(ctx: OperationContext, path: string, access: number): XenstoreError {
  for (let parent = parentPath(path); parent !== undefined; parent = parentPath(parent)) {
    const node = ctx.space.get(parent);
    if (node !== undefined) {
      return new XenstoreError((accessOf(node.perms, ctx.who) & access) !== 0 ? 'ENOENT' : 'EACCES', path);
    }
  }
  return new XenstoreError('EACCES', path);
}

/** getNode() for writing, but undefined where the client may create the node. */
function getForWrite(ctx: OperationContext, path: string): StoreNode | undefined {
  const node = ctx.space.get(path);
  if (node !== undefined) return getNode(ctx, path, PERM_WRITE);
  const error = missing(ctx, path, PERM_WRITE);
  if (error.code !== 'ENOENT') throw error;
  return undefined;
}

function checkSize(ctx: OperationContext, path: string, node: NewNode, before: StoreNode | undefined): void {
  if (ctx.who.privileged) return;
  if (entrySize(node) >= ctx.quota.entrySize) throw new XenstoreError('ENOSPC', 'entry too large');
  const growth = nodeMemory(path, node) - (before === undefined ? 0 : nodeMemory(path, before));
  if (growth > 0) checkMemory(ctx, growth);
}

/** ENOMEM if `bytes` more would exceed what the client's domain may hold. */
export function checkMemory(ctx: Pick<OperationContext, 'who' | 'quota' | 'account'>, bytes: number): void {
  if (!ctx.who.privileged && ctx.account.memory + bytes > ctx.quota.memory) {
    throw new XenstoreError('ENOMEM', 'domain holds too much memory');
  }
}

/** Creates `path` and its missing parents. The caller has made sure that the client may. */
function create(ctx: OperationContext, path: string, value: Uint8Array): StoreNode {
  const { who, space, quota } = ctx;
  const chain: string[] = [];
  let at = path;
  let existing = space.get(at);
  while (existing === undefined) {
    chain.push(at);
    const parent = parentPath(at);
    if (parent === undefined) throw new XenstoreError('EINVAL', 'the root is missing');
    at = parent;
    existing = space.get(at);
  }
  let perms = existing.perms;
  if (!who.privileged) perms = [{ domid: who.domid, access: perms[0]?.access ?? 0 }, ...perms.slice(1)];

  const top = baseName(chain[chain.length - 1]!);
  const parentNode = withChild(existing, top);
  checkSize(ctx, at, parentNode, existing);
  if (!who.privileged && space.entriesOf(who.domid) + chain.length > quota.entries) {
    throw new XenstoreError('ENOSPC', 'too many entries');
  }
  const fresh = chain.map((name, i): [string, NewNode] => {
    const child = i === 0 ? undefined : baseName(chain[i - 1]!);
    const node: NewNode = {
      value: i === 0 ? value : EMPTY,
      perms,
      children: child === undefined ? [] : [child],
      childBytes: child === undefined ? 0 : child.length + 1,
    };
    checkSize(ctx, name, node, undefined);
    return [name, node];
  });
  let bytes = 0;
  for (const [name, node] of fresh) bytes += nodeMemory(name, node);
  checkMemory(ctx, bytes);

  space.put(at, parentNode);
  let last: StoreNode | undefined;
  for (const [name, node] of fresh.reverse()) last = space.put(name, node);
  return last!;
}

// Within a transaction that is bound to fail, a parent seen early and a child seen late may contradict each other: a
// name may be there already, or be gone.
function withChild(node: StoreNode, name: string): NewNode {
  if (node.children.includes(name)) return node;
  return { ...node, children: [...node.children, name], childBytes: node.childBytes + name.length + 1 };
}

function withoutChild(node: StoreNode, name: string): NewNode {
  const children = node.children.filter((child) => child !== name);
  const gone = node.children.length - children.length;
  return { ...node, children, childBytes: node.childBytes - gone * (name.length + 1) };
}

export function read(ctx: OperationContext, path: string): Uint8Array {
  return getNode(ctx, path, PERM_READ).value;
}

/** The node's children and its generation, which tells pages of one listing apart from those of another. */
export function directory(ctx: OperationContext, path: string): StoreNode {
  return getNode(ctx, path, PERM_READ);
}

/** `value` is kept, not copied. */
export function write(ctx: OperationContext, path: string, value: Uint8Array): void {
  const node = getForWrite(ctx, path);
  let stored: StoreNode;
  if (node === undefined) stored = create(ctx, path, value);
  else {
    const changed = { ...node, value };
    checkSize(ctx, path, changed, node);
    stored = ctx.space.put(path, changed);
  }
  ctx.space.changed(path, stored, false);
}

/** Does nothing if the node exists. */
export function mkdir(ctx: OperationContext, path: string): void {
  if (getForWrite(ctx, path) !== undefined) return;
  ctx.space.changed(path, create(ctx, path, EMPTY), false);
}

/** Removes a node and everything below it. EINVAL for "/". */
export function rm(ctx: OperationContext, path: string): void {
  const { space } = ctx;
  const node = getForWrite(ctx, path);
  const parent = parentPath(path);
  if (node === undefined) {
    if (parent !== undefined && space.get(parent) !== undefined) return;
    throw new XenstoreError('ENOENT', path);
  }
  const parentNode = parent === undefined ? undefined : space.get(parent);
  if (parent === undefined || parentNode === undefined) throw new XenstoreError('EINVAL', path);
  removeTree(space, path, node, false);
  space.put(parent, withoutChild(parentNode, baseName(path)));
}

/** Children before parents; each change is reported while the node still exists, for the check of who may know. */
function removeTree(space: NodeSpace, path: string, node: StoreNode, exact: boolean): void {
  for (const child of node.children) {
    const childPath = joinPath(path, child);
    const childNode = space.get(childPath);
    if (childNode !== undefined) removeTree(space, childPath, childNode, true);
  }
  space.changed(path, node, exact);
  space.delete(path);
}

export function getPerms(ctx: OperationContext, path: string): Perms {
  return getNode(ctx, path, PERM_READ).perms;
}

/** EPERM if an unprivileged client would give the node to another owner; ENOSPC for too many entries. */
export function setPerms(ctx: OperationContext, path: string, perms: Perms): void {
  const node = getNode(ctx, path, PERM_WRITE | PERM_OWNER);
  if (!ctx.who.privileged && perms[0]?.domid !== node.perms[0]?.domid) throw new XenstoreError('EPERM', path);
  const changed = { ...node, perms };
  checkSize(ctx, path, changed, node);
  const stored = ctx.space.put(path, changed);
  ctx.space.changed(path, stored, false, node.perms);
}
