/**
 * Watches (Xen's docs/misc/xenstore.txt, WATCH): who wants to hear of which paths, and who may.
 *
 * A watch fires for its path and for everything below. When a whole subtree goes, the nodes inside it fire only the
 * watches set on exactly them. A client hears of a change only if it may read the node (before or after a change of
 * permissions) or the node's parent, whose list of children would tell it anyway (XSA-115). Special events go to those
 * whom their own permissions allow to read.
 *
 * Quirks: a watch on "/" also hears special events; a watch set with a relative path reports relative paths; events
 * whose payload would exceed XENSTORE_PAYLOAD_MAX are not sent (XSA-324).
 */
import { XENSTORE } from '../../../abi/xen/xenstore';
import { isSpecial, parentPath } from './path';
import { accessOf, PERM_READ, type Perms, type Subject } from './perms';
import type { Store, StoreNode } from './store';

/** Who set a watch, and where its events go. */
export interface Watcher extends Subject {
  event(path: string, token: string): void;
}

export interface Watch {
  readonly watcher: Watcher;
  /** Absolute, or special. */
  readonly path: string;
  readonly token: string;
  /** Bytes to cut off paths that are reported: the client's home and a '/', or 0. */
  readonly cut: number;
  /** Events are delivered in the order in which watches were set. */
  readonly order: number;
}

export class WatchRegistry {
  private readonly byPath = new Map<string, Set<Watch>>();
  private lastOrder = 0;

  add(watcher: Watcher, path: string, token: string, cut: number): Watch {
    const watch = { watcher, path, token, cut, order: ++this.lastOrder };
    let set = this.byPath.get(path);
    if (set === undefined) {
      set = new Set();
      this.byPath.set(path, set);
    }
    set.add(watch);
    return watch;
  }

  remove(watch: Watch): void {
    const set = this.byPath.get(watch.path);
    if (set === undefined) return;
    set.delete(watch);
    if (set.size === 0) this.byPath.delete(watch.path);
  }

  /** Delivers one event to one watch, without asking who may: the first event of a new watch comes always. */
  deliver(watch: Watch, path: string): void {
    const reported = path.slice(watch.cut);
    if (reported.length + watch.token.length + 2 > XENSTORE.XENSTORE_PAYLOAD_MAX) return;
    watch.watcher.event(reported, watch.token);
  }

  /** A node of the tree changed. */
  fire(store: Store, path: string, node: StoreNode | undefined, exact: boolean, oldPerms?: Perms): void {
    const hit = this.matching(path, exact);
    if (hit.length === 0) return;
    const parent = parentPath(path);
    const parentNode = parent === undefined ? undefined : store.get(parent);
    const allowed = new Map<Watcher, boolean>();
    for (const watch of hit) {
      let may = allowed.get(watch.watcher);
      if (may === undefined) {
        may = mayLearn(watch.watcher, node, parentNode, oldPerms);
        allowed.set(watch.watcher, may);
      }
      if (may) this.deliver(watch, path);
    }
  }

  /** A special event happened. */
  fireSpecial(store: Store, name: string): void {
    const perms = store.specialPerms(name);
    if (perms === undefined) return;
    for (const watch of this.matching(name, false)) {
      if ((accessOf(perms, watch.watcher) & PERM_READ) !== 0) this.deliver(watch, name);
    }
  }

  private matching(path: string, exact: boolean): Watch[] {
    const hit: Watch[] = [];
    for (let at: string | undefined = path; at !== undefined; ) {
      const set = this.byPath.get(at);
      if (set !== undefined) hit.push(...set);
      if (exact) break;
      at = isSpecial(at) ? '/' : parentPath(at);
    }
    return hit.sort((a, b) => a.order - b.order);
  }
}

function mayLearn(
  who: Subject,
  node: StoreNode | undefined,
  parent: StoreNode | undefined,
  oldPerms: Perms | undefined,
): boolean {
  if (oldPerms !== undefined && (accessOf(oldPerms, who) & PERM_READ) !== 0) return true;
  if (node === undefined) return false;
  if ((accessOf(node.perms, who) & PERM_READ) !== 0) return true;
  return parent !== undefined && (accessOf(parent.perms, who) & PERM_READ) !== 0;
}
