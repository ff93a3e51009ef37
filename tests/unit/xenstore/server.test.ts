/** Limits, listings in parts, domains that come and go: what the model and the recorded conversation do not reach. */
import { XENSTORE, XS } from '../../../abi/xen/xenstore';
import { XenstoreClient } from '../../../shim/xen/xenstore/client';
import { DEFAULT_QUOTA } from '../../../shim/xen/xenstore/quota';
import { XenstoreServer } from '../../../shim/xen/xenstore/server';
import { WireClient } from './support';

function setUp(quota = {}) {
  const server = new XenstoreServer({ quota });
  const dom0 = new WireClient(server, 0);
  const guest = new WireClient(server, 1);
  const toolstack = new XenstoreClient(server);
  toolstack.mkdir('/local/domain/1');
  toolstack.setPerms('/local/domain/1', ['n0', 'r1']);
  toolstack.mkdir('/local/domain/1/data');
  toolstack.setPerms('/local/domain/1/data', ['n1']);
  server.introduceDomain(1);
  return { server, dom0, guest, toolstack };
}

test('answers echo request and transaction ids', () => {
  const { guest } = setUp();
  guest.send(XS.XS_READ, 'data|');
  guest.send(99, '', 5);
  expect(guest.messages().map(({ type, reqId, txId }) => [type, reqId, txId])).toEqual([
    [XS.XS_READ, 7, 0],
    [XS.XS_ERROR, 7, 5],
  ]);
});

test.each([
  ['READ without NUL', XS.XS_READ, 'data', 'EINVAL'],
  ['READ of two strings', XS.XS_READ, 'data|data|', 'EINVAL'],
  ['MKDIR without NUL', XS.XS_MKDIR, 'data/x', 'EINVAL'],
  ['RM of nothing', XS.XS_RM, '', 'EINVAL'],
  ['GET_PERMS of a special event', XS.XS_GET_PERMS, '@releaseDomain|', 'EINVAL'],
  ['SET_PERMS of a special event by a stranger', XS.XS_SET_PERMS, '@releaseDomain|n0|', 'EACCES'],
  ['SET_PERMS of an unknown event', XS.XS_SET_PERMS, '@nothing|n1|', 'EINVAL'],
])('%s is refused', (_name, type, payload, code) => {
  expect(setUp().guest.ask(type, payload)).toEqual([`ERROR ${code}`]);
});

test('a directory that fits no message is E2BIG, and comes in parts', () => {
  const { dom0, toolstack } = setUp();
  const names = Array.from({ length: 700 }, (_, i) => `child-number-${i}`);
  for (const name of names) toolstack.mkdir(`/dir/${name}`);
  expect(dom0.ask(XS.XS_DIRECTORY, '/dir|')).toEqual(['ERROR E2BIG']);
  let offset = 0;
  let parts = 0;
  const found: string[] = [];
  for (let last = false; !last; parts++) {
    dom0.send(XS.XS_DIRECTORY_PART, `/dir|${offset}|`);
    const [message] = dom0.messages();
    expect(message!.payload.length).toBeLessThanOrEqual(XENSTORE.XENSTORE_PAYLOAD_MAX);
    const strings = Buffer.from(message!.payload).toString('latin1').split('\0').slice(0, -1);
    const children = strings.slice(1);
    last = children[children.length - 1] === '';
    if (last) children.pop();
    found.push(...children);
    offset += children.reduce((sum, child) => sum + child.length + 1, 0);
  }
  expect(found).toEqual(names);
  expect(parts).toBe(3);
  expect(dom0.answer(XS.XS_DIRECTORY_PART, '/dir|99999|')).toMatch(/^22 \d+\|\|$/);
});

test('the generation of a listing changes with its children', () => {
  const { dom0, toolstack } = setUp();
  toolstack.mkdir('/dir/a');
  const before = dom0.answer(XS.XS_DIRECTORY_PART, '/dir|0|');
  expect(dom0.answer(XS.XS_DIRECTORY_PART, '/dir|0|')).toBe(before);
  toolstack.mkdir('/dir/b');
  expect(dom0.answer(XS.XS_DIRECTORY_PART, '/dir|0|').split('|')[0]).not.toBe(before.split('|')[0]);
});

test('a guest owns a limited number of nodes, in and out of transactions', () => {
  const { guest, server } = setUp();
  let made = 0;
  while (guest.answer(XS.XS_MKDIR, `data/${made % 30}/${made}|`) === '12 OK|') made++;
  expect(guest.answer(XS.XS_MKDIR, 'data/more|')).toBe('ERROR ENOSPC');
  expect(server.store.account(1).entries).toBe(DEFAULT_QUOTA.entries);
  const id = Number(guest.answer(XS.XS_TRANSACTION_START, '|').split(' ')[1]!.slice(0, -1));
  expect(guest.answer(XS.XS_MKDIR, 'data/more|', id)).toBe('ERROR ENOSPC');
  expect(guest.answer(XS.XS_RM, 'data/7|', id)).toBe('13 OK|');
  expect(guest.answer(XS.XS_MKDIR, 'data/more|', id)).toBe('12 OK|');
  expect(guest.answer(XS.XS_TRANSACTION_END, 'T|', id)).toBe('7 OK|');
  expect(guest.answer(XS.XS_RM, 'data|')).toBe('13 OK|');
  expect(server.store.account(1).entries).toBe(0);
});

test('two transactions cannot together exceed the number of nodes', () => {
  const { guest, server } = setUp({ entries: 5 });
  expect(guest.answer(XS.XS_MKDIR, 'data/a|')).toBe('12 OK|');
  expect(guest.answer(XS.XS_MKDIR, 'data/b|')).toBe('12 OK|');
  for (const _ of [1, 2]) guest.ask(XS.XS_TRANSACTION_START, '|');
  expect(guest.answer(XS.XS_MKDIR, 'data/a/1/2|', 1)).toBe('12 OK|');
  expect(guest.answer(XS.XS_MKDIR, 'data/b/1/2|', 2)).toBe('12 OK|');
  expect(guest.answer(XS.XS_TRANSACTION_END, 'T|', 1)).toBe('7 OK|');
  expect(guest.answer(XS.XS_TRANSACTION_END, 'T|', 2)).toBe('ERROR ENOSPC');
  expect(server.store.account(1).entries).toBe(5);
});

test('memory is limited over nodes, watches and pending transactions, and given back', () => {
  const { guest, server } = setUp({ memory: 20_000 });
  const idle = server.store.account(1).memory;
  const value = 'v'.repeat(1900);
  let made = 0;
  while (guest.answer(XS.XS_WRITE, `data/${made}|${value}`) === '11 OK|') made++;
  expect(made).toBe(10);
  expect(guest.answer(XS.XS_WRITE, `data/x|${value}`)).toBe('ERROR ENOMEM');
  expect(guest.ask(XS.XS_WATCH, `data/x|${'t'.repeat(2000)}|`)).toEqual(['ERROR ENOMEM']);
  expect(guest.answer(XS.XS_WRITE, 'data/0|short')).toBe('11 OK|');
  guest.ask(XS.XS_TRANSACTION_START, '|');
  expect(guest.answer(XS.XS_WRITE, `data/0|${value}`, 1)).toBe('11 OK|');
  expect(guest.answer(XS.XS_WRITE, `data/1|${value}`, 1)).toBe('11 OK|');
  expect(server.store.account(1).memory).toBeGreaterThan(20_000);
  expect(guest.answer(XS.XS_WRITE, `data/y|${value}`)).toBe('ERROR ENOMEM');
  guest.ask(XS.XS_TRANSACTION_END, 'F|', 1);
  for (let i = 0; i < made; i++) guest.ask(XS.XS_RM, `data/${i}|`);
  expect(server.store.account(1).memory).toBe(idle);
});

test('a transaction touches a limited number of nodes, then can only fail', () => {
  const { guest } = setUp({ transactionNodes: 4 });
  guest.ask(XS.XS_TRANSACTION_START, '|');
  expect(guest.answer(XS.XS_MKDIR, 'data/a/b/c|', 1)).toBe('12 OK|');
  expect(guest.answer(XS.XS_READ, '/local/domain/1|', 1)).toBe('ERROR ENOSPC');
  expect(guest.answer(XS.XS_TRANSACTION_END, 'T|', 1)).toBe('ERROR ENOMEM');
  expect(guest.answer(XS.XS_READ, 'data/a|')).toBe('ERROR ENOENT');
});

test('a client that goes leaves no transactions, watches or changes behind', () => {
  const { server, guest, toolstack } = setUp();
  guest.ask(XS.XS_WATCH, 'data|t|');
  guest.ask(XS.XS_TRANSACTION_START, '|');
  guest.ask(XS.XS_WRITE, 'data/x|1', 1);
  const memory = server.store.account(1).memory;
  guest.connection.close();
  expect(toolstack.exists('/local/domain/1/data/x')).toBe(false);
  expect(server.store.account(1).watches).toBe(0);
  expect(server.store.account(1).memory).toBeLessThan(memory);
  toolstack.write('/local/domain/1/data/x', '1');
  expect(guest.received()).toEqual([]);
});

test('events that would not fit a message are not sent', () => {
  const { guest, toolstack } = setUp();
  const token = 't'.repeat(4000);
  expect(guest.ask(XS.XS_WATCH, `data|${token}|`)).toHaveLength(2);
  toolstack.write(`/local/domain/1/data/${'n'.repeat(200)}`, '');
  expect(guest.received()).toEqual([]);
});

test('@introduceDomain and @releaseDomain come to those who may read them, and to watches on "/"', () => {
  const { server, dom0, guest } = setUp();
  for (const client of [dom0, guest]) {
    for (const path of ['@introduceDomain', '@releaseDomain', '/']) client.ask(XS.XS_WATCH, `${path}|t|`);
  }
  server.introduceDomain(2);
  server.introduceDomain(2);
  expect(dom0.received()).toEqual(['EVENT @introduceDomain|t|']);
  expect(dom0.answer(XS.XS_SET_PERMS, '@releaseDomain|n0|r1|')).toBe('14 OK|');
  expect(dom0.answer(XS.XS_IS_DOMAIN_INTRODUCED, '2|')).toBe('17 T|');
  expect(dom0.ask(XS.XS_RELEASE, '2|')).toEqual(['EVENT @releaseDomain|t|', '9 OK|']);
  expect(dom0.answer(XS.XS_IS_DOMAIN_INTRODUCED, '2|')).toBe('17 F|');
  expect(guest.received()).toEqual(['EVENT @releaseDomain|t|']);
});

test('a later domain with the same number inherits nothing', () => {
  const { server, guest, toolstack } = setUp();
  guest.ask(XS.XS_WRITE, 'data/private|1');
  toolstack.write('/shared', 'x');
  toolstack.setPerms('/shared', ['n0', 'b1', 'r2']);
  server.releaseDomain(1);
  expect(guest.connection.closed).toBe(true);
  expect(toolstack.exists('/local/domain/1/data')).toBe(false);
  expect(toolstack.getPerms('/shared')).toEqual(['n0', 'r2']);
  expect(toolstack.getPerms('/local/domain/1')).toEqual(['n0']);
  const next = new WireClient(server, 1);
  expect(next.ask(XS.XS_READ, '/shared|')).toEqual(['ERROR EACCES']);
});

test('SET_TARGET lets a stub domain act for its guest', () => {
  const { server, dom0, guest } = setUp();
  const stub = new WireClient(server, 2);
  server.introduceDomain(2);
  guest.ask(XS.XS_WRITE, 'data/x|1');
  expect(stub.answer(XS.XS_WRITE, '/local/domain/1/data/x|2')).toBe('ERROR EACCES');
  expect(dom0.answer(XS.XS_SET_TARGET, '2|1|')).toBe('19 OK|');
  expect(stub.answer(XS.XS_WRITE, '/local/domain/1/data/x|2')).toBe('11 OK|');
  expect(guest.answer(XS.XS_READ, 'data/x|')).toBe('2 2');
});

test('INTRODUCE asks the embedding program', () => {
  const calls: number[][] = [];
  const server = new XenstoreServer({ introduce: (...args) => calls.push(args) });
  const dom0 = new WireClient(server, 0);
  expect(dom0.ask(XS.XS_INTRODUCE, '3|4660|7|')).toEqual(['8 OK|']);
  expect(dom0.ask(XS.XS_INTRODUCE, '3|4660|')).toEqual(['ERROR EINVAL']);
  expect(calls).toEqual([[3, 4660, 7]]);
  expect(setUp().dom0.ask(XS.XS_INTRODUCE, '3|4660|7|')).toEqual(['ERROR ENOSYS']);
});

test('RESET_WATCHES drops watches and transactions', () => {
  const { guest, toolstack } = setUp();
  guest.ask(XS.XS_WATCH, 'data|t|');
  guest.ask(XS.XS_TRANSACTION_START, '|');
  expect(guest.ask(XS.XS_RESET_WATCHES, '|')).toEqual(['21 OK|']);
  toolstack.write('/local/domain/1/data/x', '');
  expect(guest.ask(XS.XS_READ, 'data|', 1)).toEqual(['ERROR ENOENT']);
});
