/**
 * The nodes that a toolstack creates for a domU, as libxl does: names, values and, above all, permissions. Guests read
 * their home directory, write only in the few places that are theirs, and find their devices there.
 *
 * Quirks: memory sizes are in KiB; libxl writes no trailing NULs or newlines. A device directory must not appear
 * before the device will be served: Linux waits up to 5 minutes at boot for every device that it finds.
 */
import { XENBUS } from '../../../abi/xen/xenbus';
import type { XenstoreClient, XenstoreView } from './client';
import { domainPath } from './path';

export interface ToolstackDomain {
  readonly domid: number;
  readonly name: string;
  /** In the form 01234567-89ab-cdef-0123-456789abcdef. */
  readonly uuid: string;
  /** What the domain has now, in KiB. */
  readonly memoryKiB: number;
  /** What it may grow to, in KiB; default: memoryKiB. */
  readonly maxMemoryKiB?: number;
  readonly vcpus: number;
  /** VCPUs that exist but start offline are beyond this number; default: all are online. */
  readonly onlineVcpus?: number;
  /** Ports and frames of the two shared rings, as in start_info. */
  readonly store: { readonly port: number; readonly mfn: number };
  readonly console: { readonly port: number; readonly mfn: number; readonly tty?: string };
  /** Guest operating system for /vm/UUID/image/ostype; default "linux". */
  readonly osType?: string;
}

/** Places in its home that a guest may create nodes in or write to, as libxl hands them out. */
const GUEST_WRITABLE = [
  'control/shutdown',
  'control/feature-poweroff',
  'control/feature-reboot',
  'control/feature-suspend',
  'control/sysrq',
  'device/suspend/event-channel',
  'data',
  'drivers',
  'feature',
  'attr',
  'error',
] as const;

/** Bytes of console output that a console daemon may keep. */
const CONSOLE_LIMIT = 1024 * 1024;

/** Creates everything in one transaction. The domain's home must not exist yet; what is left of one is removed. */
export function createDomainNodes(client: XenstoreClient, domain: ToolstackDomain): void {
  client.transaction((tx) => {
    const { domid } = domain;
    const home = domainPath(domid);
    const vm = `/vm/${domain.uuid}`;
    const readable = ['n0', `r${domid}`];
    const owned = [`n${domid}`];
    const make = (path: string, perms: readonly string[]) => {
      tx.mkdir(path);
      tx.setPerms(path, perms);
    };
    const put = (path: string, value: string | number, perms: readonly string[] = readable) => {
      tx.write(path, String(value));
      tx.setPerms(path, perms);
    };

    tx.rm(home);
    tx.rm(vm);
    make(home, readable);
    make(vm, readable);
    put(`${home}/vm`, vm);
    put(`${home}/name`, domain.name);
    put(`${home}/domid`, domid);
    for (const name of ['cpu', 'memory', 'device', 'control', 'store', 'console']) make(`${home}/${name}`, readable);
    make(`${home}/device/suspend`, readable);
    for (const name of GUEST_WRITABLE) make(`${home}/${name}`, owned);
    put(`${home}/control/platform-feature-multiprocessor-suspend`, 1);
    put(`${home}/control/platform-feature-xs_reset_watches`, 1);

    for (let i = 0; i < domain.vcpus; i++) {
      make(`${home}/cpu/${i}`, readable);
      put(`${home}/cpu/${i}/availability`, i < (domain.onlineVcpus ?? domain.vcpus) ? 'online' : 'offline');
    }
    put(`${home}/memory/static-max`, domain.maxMemoryKiB ?? domain.memoryKiB);
    put(`${home}/memory/target`, domain.memoryKiB);
    put(`${home}/memory/videoram`, 0);
    put(`${home}/store/port`, domain.store.port);
    put(`${home}/store/ring-ref`, domain.store.mfn);

    put(`${vm}/name`, domain.name);
    put(`${vm}/uuid`, domain.uuid);
    make(`${vm}/image`, readable);
    put(`${vm}/image/ostype`, domain.osType ?? 'linux');
    putConsole(tx, domain);
  });
}

/** The primary console: its ring is known from start_info, so it is no device that goes through states. */
function putConsole(tx: XenstoreView, domain: ToolstackDomain): void {
  const { domid } = domain;
  const front = `${domainPath(domid)}/console`;
  const back = `${domainPath(0)}/backend/console/${domid}/0`;
  const perms = ['n0', `r${domid}`];
  const put = (path: string, value: string | number) => {
    tx.write(path, String(value));
    tx.setPerms(path, perms);
  };
  put(`${front}/backend`, back);
  put(`${front}/backend-id`, 0);
  put(`${front}/limit`, CONSOLE_LIMIT);
  put(`${front}/type`, 'xenconsoled');
  put(`${front}/output`, 'pty');
  put(`${front}/tty`, domain.console.tty ?? '');
  put(`${front}/port`, domain.console.port);
  put(`${front}/ring-ref`, domain.console.mfn);
  tx.mkdir(back);
  tx.setPerms(back, perms);
  put(`${back}/frontend`, front);
  put(`${back}/frontend-id`, domid);
  put(`${back}/online`, 1);
  put(`${back}/state`, XENBUS.XenbusStateInitialising);
  put(`${back}/protocol`, 'vt100');
}

export interface ToolstackDevice {
  readonly domid: number;
  /** 'vbd', 'vif' and so on; the front-end's directory is device/TYPE/ID. */
  readonly type: string;
  readonly id: number;
  /** Nodes of the front-end beside backend, backend-id and state. */
  readonly front: Readonly<Record<string, string | number>>;
  /** Nodes of the back-end beside frontend, frontend-id, online and state. */
  readonly back: Readonly<Record<string, string | number>>;
}

/** Absolute paths of a device's two directories. */
export interface DevicePaths {
  readonly front: string;
  readonly back: string;
}

export function devicePaths(domid: number, type: string, id: number): DevicePaths {
  return {
    front: `${domainPath(domid)}/device/${type}/${id}`,
    back: `${domainPath(0)}/backend/${type}/${domid}/${id}`,
  };
}

/**
 * Advertises a device: both directories in state Initialising, in one transaction. The front-end's directory belongs
 * to the guest and is readable for the back-end; the back-end's belongs to domain 0 and is readable for the guest.
 */
export function createDeviceNodes(client: XenstoreClient, device: ToolstackDevice): DevicePaths {
  const { domid, type, id } = device;
  const paths = devicePaths(domid, type, id);
  client.transaction((tx) => {
    const fill = (dir: string, perms: readonly string[], nodes: Readonly<Record<string, string | number>>) => {
      tx.rm(dir);
      tx.mkdir(dir);
      tx.setPerms(dir, perms);
      for (const [name, value] of Object.entries(nodes)) {
        tx.write(`${dir}/${name}`, String(value));
        tx.setPerms(`${dir}/${name}`, perms);
      }
    };
    fill(paths.front, [`n${domid}`, 'r0'], {
      backend: paths.back,
      'backend-id': 0,
      state: XENBUS.XenbusStateInitialising,
      ...device.front,
    });
    fill(paths.back, ['n0', `r${domid}`], {
      frontend: paths.front,
      'frontend-id': domid,
      online: 1,
      state: XENBUS.XenbusStateInitialising,
      ...device.back,
    });
  });
  return paths;
}

/** Removes a device's two directories. */
export function removeDeviceNodes(client: XenstoreClient, domid: number, type: string, id: number): void {
  const paths = devicePaths(domid, type, id);
  client.transaction((tx) => {
    tx.rm(paths.front);
    tx.rm(paths.back);
  });
}
