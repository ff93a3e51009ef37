/** Security advisories of Xen about xenstore, as tests of ours. */
import { XENSTORE, XS } from '../../../abi/xen/xenstore';
import { XenstoreClient } from '../../../shim/xen/xenstore/client';
import { CONGESTED_BYTES, MAX_EVENT_BYTES } from '../../../shim/xen/xenstore/connection';
import { DEFAULT_QUOTA, type Quota } from '../../../shim/xen/xenstore/quota';
import { XenstoreServer } from '../../../shim/xen/xenstore/server';
import { WireClient } from '../xenstore/support';

const OK = {
  WRITE: `${XS.XS_WRITE} OK|`,
  MKDIR: `${XS.XS_MKDIR} OK|`,
  RM: `${XS.XS_RM} OK|`,
  END: `${XS.XS_TRANSACTION_END} OK|`,
};

/** Two guests, each with a directory `data` of its own. */
function setUp(quota: Partial<Quota> = {}) {
  const server = new XenstoreServer({ quota });
  const toolstack = new XenstoreClient(server);
  for (const domid of [1, 2]) {
    toolstack.mkdir(`/local/domain/${domid}`);
    toolstack.setPerms(`/local/domain/${domid}`, ['n0', `r${domid}`]);
    toolstack.mkdir(`/local/domain/${domid}/data`);
    toolstack.setPerms(`/local/domain/${domid}/data`, [`n${domid}`]);
    server.introduceDomain(domid);
  }
  const [guest, other] = [1, 2].map((domid) => new WireClient(server, domid)) as [WireClient, WireClient];
  const begin = (who: WireClient): number =>
    Number(/\d+/.exec(who.answer(XS.XS_TRANSACTION_START, '|').split(' ')[1]!));
  return { server, toolstack, guest, other, begin };
}
const entries = (server: XenstoreServer, domid = 1) => server.store.account(domid).entries;

/** XSA-115: who watched a path was told of changes below it, also of nodes that it may not read. */
describe('events of what one may not read (XSA-115)', () => {
  test('a watch of everything tells of one’s own nodes alone', () => {
    const { guest, other, toolstack } = setUp();
    for (const path of ['/', '/local', '/local/domain/2', '/local/domain/2/data/secret'])
      guest.ask(XS.XS_WATCH, `${path}|${path}|`);
    other.ask(XS.XS_WRITE, 'data/secret|1');
    other.ask(XS.XS_RM, 'data/secret|');
    toolstack.write('/local/domain/0/backend/vbd/2/51712/params', 'x');
    toolstack.rm('/local/domain/0/backend');
    expect(guest.received()).toEqual([]);
    guest.ask(XS.XS_WRITE, 'data/mine|1');
    other.ask(XS.XS_SET_PERMS, 'data|r2|');
    expect(guest.received().filter((event) => event.includes('secret'))).toEqual([]);
  });

  test('a node that is taken away with its directory tells those who could read it, and nobody else', () => {
    const { guest, toolstack } = setUp();
    toolstack.write('/shared/open', '1');
    toolstack.setPerms('/shared/open', ['n0', 'r1']);
    toolstack.write('/shared/closed', '1');
    for (const path of ['/shared/open', '/shared/closed']) guest.ask(XS.XS_WATCH, `${path}|t|`);
    toolstack.rm('/shared');
    expect(guest.received()).toEqual(['EVENT /shared/open|t|']);
  });

  test('that domains come and go is domain 0’s business', () => {
    const { guest, server } = setUp();
    for (const path of ['@introduceDomain', '@releaseDomain']) guest.ask(XS.XS_WATCH, `${path}|t|`);
    server.introduceDomain(3);
    server.releaseDomain(3);
    expect(guest.received()).toEqual([]);
  });
});

/** XSA-322: what was granted to a domain stayed in the store, and went to the next domain with its number. */
test('a new domain with an old number inherits nothing (XSA-322)', () => {
  const { server, guest, other, toolstack } = setUp();
  other.ask(XS.XS_WRITE, 'data/for1|1');
  other.ask(XS.XS_SET_PERMS, 'data/for1|n2|b1|');
  guest.ask(XS.XS_WRITE, 'data/private|1');
  server.releaseDomain(1);
  expect(toolstack.getPerms('/local/domain/2/data/for1')).toEqual(['n2']);
  expect(toolstack.exists('/local/domain/1/data')).toBe(false);
  server.introduceDomain(1);
  const next = new WireClient(server, 1);
  for (const path of ['/local/domain/2/data/for1', '/local/domain/1/data/private', '/local/domain/1'])
    expect(next.ask(XS.XS_READ, `${path}|`)).toEqual(['ERROR EACCES']);
  expect(entries(server)).toBe(0);
});

/** XSA-323: relative paths were measured before they were made absolute, so that nodes came to be that nobody could name. */
test('a path is measured as it is in the end (XSA-323)', () => {
  const { guest, toolstack } = setUp({ entrySize: 10_000 });
  const long = (length: number) => `data/${'n'.repeat(length - 5)}`;
  const max = XENSTORE.XENSTORE_REL_PATH_MAX;
  expect(guest.answer(XS.XS_MKDIR, `${long(max + 1)}|`)).toBe('ERROR EINVAL');
  expect(guest.answer(XS.XS_MKDIR, `/local/domain/1/${long(max + 1)}|`)).toBe('ERROR EINVAL');
  expect(guest.answer(XS.XS_MKDIR, `${long(max)}|`)).toBe(OK.MKDIR);
  const [name] = toolstack.list('/local/domain/1/data');
  const path = `/local/domain/1/data/${name}`;
  expect(path.length).toBeLessThan(XENSTORE.XENSTORE_ABS_PATH_MAX);
  expect(toolstack.rm(path)).toBe(true);
});

/** XSA-324: a watch with a long token made an event longer than a message can be, and the daemon crashed. */
test('an event that fits no message is not sent, and nothing else suffers (XSA-324)', () => {
  const { guest, toolstack } = setUp();
  expect(guest.ask(XS.XS_WATCH, `data|${'t'.repeat(4000)}|`)).toHaveLength(2);
  guest.ask(XS.XS_WATCH, 'data|short|');
  toolstack.write(`/local/domain/1/data/${'n'.repeat(200)}`, '');
  expect(guest.received()).toEqual([`EVENT data/${'n'.repeat(200)}|short|`]);
});

/**
 * XSA-325: a guest that broke the protocol was forgotten as if it had gone: @releaseDomain was fired too early, not again
 * when it really went, and it stayed as a zombie.
 */
test('a guest that breaks the protocol is still there until it goes (XSA-325)', () => {
  const { server, guest, toolstack } = setUp();
  const dom0 = new WireClient(server, 0);
  dom0.ask(XS.XS_WATCH, '@releaseDomain|t|');
  const header = Buffer.alloc(16);
  header.writeUInt32LE(0xffff_ffff, 12);
  guest.connection.receive(header);
  expect([guest.connection.closed, guest.connection.violated]).toEqual([true, true]);
  expect(dom0.received()).toEqual([]);
  expect(server.isIntroduced(1)).toBe(true);
  expect(toolstack.exists('/local/domain/1/data')).toBe(true);
  server.releaseDomain(1);
  expect(dom0.received()).toEqual(['EVENT @releaseDomain|t|']);
  expect(toolstack.exists('/local/domain/1/data')).toBe(false);
});

/**
 * XSA-326: a guest could make the daemon hold memory without end: answers and events that it does not read, large nodes in
 * many transactions, a transaction that looks at everything.
 */
describe('memory without end (XSA-326)', () => {
  test('answers that are not read keep requests from being read', () => {
    const { guest } = setUp();
    guest.ask(XS.XS_WRITE, `data/big|${'v'.repeat(1900)}`);
    // What carries the bytes stops when the connection is congested.
    let asked = 0;
    while (!guest.connection.congested) {
      guest.send(XS.XS_READ, 'data/big|');
      asked++;
    }
    expect(asked).toBeLessThan(CONGESTED_BYTES / 1900 + 2);
    expect(guest.connection.outputBytes).toBeLessThan(CONGESTED_BYTES + XENSTORE.XENSTORE_PAYLOAD_MAX + 16);
  });

  test('events that are not read wait once each, up to a limit, and are counted beyond it', () => {
    const { guest, toolstack } = setUp();
    for (let i = 0; i <= DEFAULT_QUOTA.watches; i++) guest.ask(XS.XS_WATCH, `data|token${i}|`);
    expect(guest.answer(XS.XS_WATCH, 'data|more|')).toBe('ERROR E2BIG');
    for (let i = 0; i < 1000; i++) toolstack.write('/local/domain/1/data/same', String(i));
    expect(guest.connection.outputBytes).toBeLessThan((DEFAULT_QUOTA.watches + 1) * 100);
    for (let i = 0; i < 1000; i++) {
      toolstack.write(`/local/domain/1/data/${'n'.repeat(500)}${i}`, '');
      toolstack.rm(`/local/domain/1/data/${'n'.repeat(500)}${i}`);
    }
    expect(guest.connection.outputBytes).toBeLessThan(MAX_EVENT_BYTES + XENSTORE.XENSTORE_PAYLOAD_MAX + 16);
    expect(guest.connection.droppedEvents).toBeGreaterThan(0);
  });

  test('large nodes in as many transactions as there may be count together, and are given back', () => {
    const { guest, server, begin } = setUp();
    const idle = server.store.account(1).memory;
    const ids: number[] = [];
    for (let i = 0; i <= DEFAULT_QUOTA.transactions; i++) ids.push(begin(guest));
    expect(guest.answer(XS.XS_TRANSACTION_START, '|')).toBe('ERROR ENOSPC');
    const value = 'v'.repeat(1900);
    const answers = new Set<string>();
    for (const id of ids)
      for (let i = 0; i < 300; i++) answers.add(guest.answer(XS.XS_WRITE, `data/${i}|${value}`, id));
    expect([...answers].sort()).toEqual([OK.WRITE, 'ERROR ENOMEM']);
    expect(server.store.account(1).memory).toBeLessThanOrEqual(DEFAULT_QUOTA.memory);
    for (const id of ids) guest.ask(XS.XS_TRANSACTION_END, 'F|', id);
    expect(server.store.account(1).memory).toBe(idle);
  });

  test('a transaction looks at a limited number of nodes', () => {
    const { guest, toolstack, begin } = setUp();
    for (let i = 0; i < 2000; i++) toolstack.mkdir(`/local/domain/1/data/${i}`);
    const id = begin(guest);
    let seen = 0;
    while (seen < 2000 && guest.answer(XS.XS_GET_PERMS, `data/${seen}|`, id) !== 'ERROR ENOSPC') seen++;
    expect(seen).toBeLessThanOrEqual(DEFAULT_QUOTA.transactionNodes);
    expect(guest.answer(XS.XS_TRANSACTION_END, 'T|', id)).toBe('ERROR ENOMEM');
  });
});

/**
 * XSA-419: two guests that work together: nodes that one creates below the other's, or gives away, counted for neither, and
 * stayed when their owner went.
 */
describe('guests that work together (XSA-419)', () => {
  test('who creates a node owns it and pays for it, wherever it is; it cannot be given away', () => {
    const { guest, other, server } = setUp({ entries: 20 });
    other.ask(XS.XS_SET_PERMS, 'data|b2|b1|');
    const before = entries(server, 2);
    let made = 0;
    while (guest.answer(XS.XS_MKDIR, `/local/domain/2/data/${made}|`) === OK.MKDIR) made++;
    expect(entries(server)).toBe(20);
    expect(entries(server, 2)).toBe(before);
    expect(guest.answer(XS.XS_SET_PERMS, '/local/domain/2/data/0|b2|')).toBe('ERROR EPERM');
    expect(guest.answer(XS.XS_MKDIR, '/local/domain/2/data/more|')).toBe('ERROR ENOSPC');
  });

  test('what a domain owns goes with it, in another’s directory too, with what others have below it', () => {
    const { guest, other, server, toolstack } = setUp();
    other.ask(XS.XS_SET_PERMS, 'data|b2|b1|');
    guest.ask(XS.XS_MKDIR, '/local/domain/2/data/of1|');
    guest.ask(XS.XS_SET_PERMS, '/local/domain/2/data/of1|b1|b2|');
    other.ask(XS.XS_MKDIR, 'data/of1/of2|');
    const of2 = entries(server, 2);
    server.releaseDomain(1);
    expect(toolstack.list('/local/domain/2/data')).toEqual([]);
    expect(entries(server, 2)).toBe(of2 - 1);
    expect(entries(server)).toBe(0);
  });

  test('round and round does not make the store grow', () => {
    const { server, other } = setUp();
    other.ask(XS.XS_SET_PERMS, 'data|b2|b1|');
    const size = (): number => {
      const client = new WireClient(server, 1);
      for (let i = 0; i < 50; i++) client.ask(XS.XS_MKDIR, `/local/domain/2/data/${i}/deep|`);
      server.releaseDomain(1);
      server.introduceDomain(1);
      other.ask(XS.XS_SET_PERMS, 'data|b2|b1|');
      return server.store.size;
    };
    const first = size();
    for (let round = 0; round < 20; round++) expect(size()).toBe(first);
  });
});

/** XSA-421: nodes that were removed and made again within a transaction were not counted, and the number had no end. */
describe('nodes without end by transactions (XSA-421)', () => {
  test('what a transaction makes counts when it commits, though the directory goes in the same one', () => {
    const { guest, server, begin } = setUp({ entries: 30, transactionNodes: 10_000 });
    for (let round = 0; round < 10; round++) {
      const id = begin(guest);
      guest.ask(XS.XS_RM, 'data/dir|', id);
      for (let i = 0; i < 40; i++) guest.ask(XS.XS_MKDIR, `data/dir/${round}-${i}|`, id);
      guest.ask(XS.XS_TRANSACTION_END, 'T|', id);
      expect(entries(server)).toBeLessThanOrEqual(30);
    }
    expect(guest.answer(XS.XS_RM, 'data/dir|')).toBe(OK.RM);
    expect(entries(server)).toBe(1);
  });

  test('an account is never negative: nodes removed outside while a transaction counts them (XSA-440)', () => {
    const { guest, server, begin, toolstack } = setUp();
    for (let i = 0; i < 5; i++) guest.ask(XS.XS_MKDIR, `data/${i}|`);
    const id = begin(guest);
    for (let i = 0; i < 5; i++) guest.ask(XS.XS_RM, `data/${i}|`, id);
    toolstack.rm('/local/domain/1/data/0');
    expect(guest.answer(XS.XS_TRANSACTION_END, 'T|', id)).toBe('ERROR EAGAIN');
    expect(entries(server)).toBe(5);
    const fresh = begin(guest);
    for (let i = 1; i < 5; i++) guest.ask(XS.XS_RM, `data/${i}|`, fresh);
    expect(guest.answer(XS.XS_TRANSACTION_END, 'T|', fresh)).toBe(OK.END);
    expect(entries(server)).toBe(1);
  });
});
