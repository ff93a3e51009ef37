/** The in-process client, and the nodes that a toolstack makes with it, as the guest sees them. */
import { XS } from '../../../abi/xen/xenstore';
import { isXenstoreError, XenstoreClient } from '../../../shim/xen/xenstore/client';
import { XenstoreServer } from '../../../shim/xen/xenstore/server';
import {
  createDeviceNodes,
  createDomainNodes,
  devicePaths,
  removeDeviceNodes,
} from '../../../shim/xen/xenstore/toolstack-nodes';
import { WireClient } from './support';

const microtasks = () => new Promise((resolve) => setImmediate(resolve));

function codeOf(run: () => void): string | undefined {
  try {
    run();
  } catch (error) {
    return ['ENOENT', 'EAGAIN', 'EINVAL'].find((code) => isXenstoreError(error, code as 'ENOENT'));
  }
  return undefined;
}

test('reads, writes, lists and removes', () => {
  const client = new XenstoreClient(new XenstoreServer());
  client.write('/a/b', 'text');
  client.write('/a/c', Uint8Array.of(0, 255));
  expect(client.read('/a/b')).toBe('text');
  expect(client.readBytes('/a/c')).toEqual(Uint8Array.of(0, 255));
  expect(client.list('/a')).toEqual(['b', 'c']);
  expect(client.read('/nothing')).toBeUndefined();
  expect(client.readNumber('/a/b')).toBeUndefined();
  client.write('/a/n', '51712');
  expect(client.readNumber('/a/n')).toBe(51712);
  expect(codeOf(() => client.readBytes('/nothing'))).toBe('ENOENT');
  expect(codeOf(() => client.write('/a//b', ''))).toBe('EINVAL');
  expect(client.rm('/a')).toBe(true);
  expect(client.rm('/a')).toBe(false);
  expect(codeOf(() => client.list('/a'))).toBe('ENOENT');
});

test('a value that was written is not the caller’s buffer any more', () => {
  const client = new XenstoreClient(new XenstoreServer());
  const bytes = Uint8Array.of(1);
  client.write('/a', bytes);
  bytes[0] = 2;
  client.readBytes('/a')[0] = 3;
  expect(client.readBytes('/a')).toEqual(Uint8Array.of(1));
});

test('a watch calls back first for itself, later for changes, never after it was stopped', async () => {
  const errors: unknown[] = [];
  const client = new XenstoreClient(new XenstoreServer(), (error) => errors.push(error));
  const seen: string[] = [];
  const stop = client.watch('/a', (path) => {
    seen.push(path);
    if (path === '/a/1') client.write('/a/2', '');
    if (path === '/a/2') throw new Error('from a callback');
  });
  expect(seen).toEqual([]);
  await microtasks();
  expect(seen).toEqual(['/a']);
  client.write('/a/1', '');
  await microtasks();
  expect(seen).toEqual(['/a', '/a/1', '/a/2']);
  expect(errors).toHaveLength(1);
  client.write('/a/3', '');
  stop();
  await microtasks();
  expect(seen).toHaveLength(3);
});

test('a transaction happens as a whole or not at all', async () => {
  const client = new XenstoreClient(new XenstoreServer());
  const seen: string[] = [];
  client.watch('/t', (path) => seen.push(path));
  await microtasks();
  expect(() =>
    client.transaction((tx) => {
      tx.write('/t/a', '1');
      throw new Error('changed my mind');
    }),
  ).toThrow('changed my mind');
  expect(client.exists('/t')).toBe(false);
  const result = client.transaction((tx) => {
    tx.write('/t/a', '1');
    expect(client.exists('/t')).toBe(false);
    return tx.read('/t/a');
  });
  expect(result).toBe('1');
  await microtasks();
  expect(seen.slice(1)).toEqual(['/t/a']);
});

test('a transaction that waited may have to begin again', () => {
  const client = new XenstoreClient(new XenstoreServer());
  client.write('/a', '1');
  const tx = client.begin();
  expect(tx.read('/a')).toBe('1');
  client.write('/a', '2');
  tx.write('/b', '');
  expect(tx.read('/a')).toBe('1');
  expect(codeOf(() => tx.commit())).toBe('EAGAIN');
  expect(client.exists('/b')).toBe(false);
});

describe('the nodes of a domain', () => {
  const server = new XenstoreServer();
  const toolstack = new XenstoreClient(server);
  const guest = new WireClient(server, 5);
  createDomainNodes(toolstack, {
    domid: 5,
    name: 'deb',
    uuid: '01234567-89ab-cdef-0123-456789abcdef',
    memoryKiB: 131072,
    vcpus: 2,
    onlineVcpus: 1,
    store: { port: 1, mfn: 0x1234 },
    console: { port: 2, mfn: 0x1235 },
  });

  test.each([
    ['name', 'deb'],
    ['domid', '5'],
    ['vm', '/vm/01234567-89ab-cdef-0123-456789abcdef'],
    ['cpu/0/availability', 'online'],
    ['cpu/1/availability', 'offline'],
    ['memory/target', '131072'],
    ['memory/static-max', '131072'],
    ['store/port', '1'],
    ['store/ring-ref', '4660'],
    ['console/port', '2'],
    ['console/ring-ref', '4661'],
    ['console/type', 'xenconsoled'],
    ['control/platform-feature-multiprocessor-suspend', '1'],
    ['control/shutdown', ''],
    ['/vm/01234567-89ab-cdef-0123-456789abcdef/uuid', '01234567-89ab-cdef-0123-456789abcdef'],
  ])('the guest reads %s', (path, value) => expect(guest.answer(XS.XS_READ, `${path}|`)).toBe(`2 ${value}`));

  test.each(['name', 'memory/target', 'cpu/0/availability', 'console/port', 'new', 'device/new', 'control/new'])(
    'the guest may not write %s',
    (path) => expect(guest.answer(XS.XS_WRITE, `${path}|x`)).toBe('ERROR EACCES'),
  );

  test.each([
    'control/shutdown',
    'control/sysrq',
    'control/feature-poweroff',
    'data/anything',
    'drivers/0',
    'feature/x',
    'attr/os',
    'error/device',
    'device/suspend/event-channel',
  ])('the guest may write %s', (path) => expect(guest.answer(XS.XS_WRITE, `${path}|x`)).toBe('11 OK|'));

  test('home lists what Linux looks for, and no other domain may look', () => {
    expect(guest.answer(XS.XS_DIRECTORY, 'device|')).toBe('1 suspend|');
    const stranger = new WireClient(server, 6);
    expect(stranger.answer(XS.XS_READ, '/local/domain/5/name|')).toBe('ERROR EACCES');
  });

  test('creating them again starts afresh', () => {
    guest.ask(XS.XS_WRITE, 'data/left|over');
    const config = { domid: 5, name: 'again', uuid: 'u', memoryKiB: 1, vcpus: 1 };
    createDomainNodes(toolstack, { ...config, store: { port: 1, mfn: 1 }, console: { port: 2, mfn: 2 } });
    expect(guest.answer(XS.XS_READ, 'name|')).toBe('2 again');
    expect(guest.answer(XS.XS_READ, 'data/left|')).toBe('ERROR ENOENT');
  });

  test('a device belongs to the guest in front, to domain 0 behind', () => {
    const paths = createDeviceNodes(toolstack, {
      domid: 5,
      type: 'vbd',
      id: 51712,
      front: { 'virtual-device': 51712, 'device-type': 'disk' },
      back: { dev: 'xvda', mode: 'w' },
    });
    expect(paths).toEqual(devicePaths(5, 'vbd', 51712));
    expect(guest.answer(XS.XS_READ, 'device/vbd/51712/backend|')).toBe('2 /local/domain/0/backend/vbd/5/51712');
    expect(guest.answer(XS.XS_READ, 'device/vbd/51712/state|')).toBe('2 1');
    expect(guest.answer(XS.XS_WRITE, 'device/vbd/51712/ring-ref|8')).toBe('11 OK|');
    expect(guest.answer(XS.XS_GET_PERMS, 'device/vbd/51712/ring-ref|')).toBe('3 n5|r0|');
    expect(guest.answer(XS.XS_READ, `${paths.back}/mode|`)).toBe('2 w');
    expect(guest.answer(XS.XS_WRITE, `${paths.back}/state|4`)).toBe('ERROR EACCES');
    removeDeviceNodes(toolstack, 5, 'vbd', 51712);
    expect(guest.answer(XS.XS_READ, 'device/vbd/51712/state|')).toBe('ERROR ENOENT');
  });
});
