/**
 * Random sequences of requests from domain 0 and two guests, with transactions, watches and permissions, against the
 * model: every answer and every event must be the same, in the same order.
 */
import * as fc from 'fast-check';
import { XS } from '../../../abi/xen/xenstore';
import { XenstoreServer } from '../../../shim/xen/xenstore/server';
import { Model } from './model';
import { WireClient } from './support';

const QUOTA = { entries: 14, entrySize: 90, watches: 3, transactions: 2, transactionNodes: 9, permsPerNode: 3 };
/** Set XENLIGHTEN_RUNS to search longer than a test run should take. */
const LIMIT = process.env['XENLIGHTEN_RUNS'] === undefined ? 2500 : 300_000;
const DOMAINS = [0, 1, 2];
const PATHS = [
  '/',
  '/tool',
  '/shared',
  '/shared/s',
  '/shared/s/t',
  '/local/domain/1',
  '/local/domain/1/ro',
  '/local/domain/1/data',
  '/local/domain/1/data/a',
  '/local/domain/1/data/a/b',
  '/local/domain/1/secret/x',
  '/local/domain/2/data',
  '/local/domain/2/data/x',
  '/local/domain/2/data/x/y/z',
  '/local/domain/12/data',
  'data',
  'data/a',
  'data/q/r/s',
  'nothing/here',
];
const PERMS = [
  ['n0', 'r1'],
  ['n1'],
  ['r1'],
  ['b2', 'r1'],
  ['n1', 'r2'],
  ['n1', 'w2', 'r0'],
  ['n2', 'b1'],
  ['n0', 'b1', 'b2'],
  ['n1', 'r2', 'r0', 'w2'],
];
const TOKENS = ['t', 'u'];
const TYPES: Record<string, number> = {
  read: XS.XS_READ,
  directory: XS.XS_DIRECTORY,
  getPerms: XS.XS_GET_PERMS,
  write: XS.XS_WRITE,
  mkdir: XS.XS_MKDIR,
  rm: XS.XS_RM,
  setPerms: XS.XS_SET_PERMS,
  watch: XS.XS_WATCH,
  unwatch: XS.XS_UNWATCH,
  reset: XS.XS_RESET_WATCHES,
  start: XS.XS_TRANSACTION_START,
  commit: XS.XS_TRANSACTION_END,
  abort: XS.XS_TRANSACTION_END,
};

interface Step {
  domid: number;
  op: string;
  path: string;
  value: string;
  perms: string[];
  token: string;
  /** 0: none; 1, 2, ..: which of the client's open transactions; too large: none, or (9) an id that does not exist. */
  slot: number;
}

const step: fc.Arbitrary<Step> = fc.record({
  domid: fc.constantFrom(...DOMAINS, 1),
  op: fc.oneof(
    { weight: 4, arbitrary: fc.constantFrom('write', 'write', 'mkdir', 'rm', 'read', 'directory') },
    { weight: 2, arbitrary: fc.constantFrom('start', 'commit', 'commit', 'watch', 'setPerms') },
    { weight: 1, arbitrary: fc.constantFrom('abort', 'unwatch', 'getPerms', 'read') },
    { weight: 1, arbitrary: fc.constantFrom('reset', 'read', 'write') },
  ),
  path: fc.constantFrom(...PATHS),
  value: fc.constantFrom('', '1', 'value', 'x'.repeat(50), 'y'.repeat(60)),
  perms: fc.constantFrom(...PERMS),
  token: fc.constantFrom(...TOKENS),
  slot: fc.constantFrom(0, 0, 1, 1, 1, 2, 3, 9),
});

function requestOf(s: Step): { args: string[]; payload: string } {
  switch (s.op) {
    case 'write':
      return { args: [s.path, s.value], payload: `${s.path}|${s.value}` };
    case 'setPerms':
      return { args: [s.path, ...s.perms], payload: `${[s.path, ...s.perms].join('|')}|` };
    case 'watch':
    case 'unwatch':
      return { args: [s.path, s.token], payload: `${s.path}|${s.token}|` };
    case 'start':
    case 'reset':
      return { args: [], payload: '|' };
    case 'commit':
      return { args: [], payload: 'T|' };
    case 'abort':
      return { args: [], payload: 'F|' };
    default:
      return { args: [s.path], payload: `${s.path}|` };
  }
}

class Both {
  readonly server = new XenstoreServer({ quota: QUOTA });
  readonly model = new Model(QUOTA);
  readonly wires = new Map<number, WireClient>();

  constructor() {
    for (const domid of DOMAINS) {
      this.wires.set(domid, new WireClient(this.server, domid));
      this.model.addClient(domid);
    }
    this.model.ask(0, 'mkdir', ['/tool/xenstored']);
    const base = { domid: 0, value: '', token: 't', slot: 0 };
    for (const [path, perms] of [
      ['/local/domain/1', ['n0', 'r1']],
      ['/local/domain/1/ro', ['r0']],
      ['/local/domain/1/secret', ['n0']],
      ['/local/domain/1/data', ['n1']],
      ['/local/domain/2', ['n0', 'r2']],
      ['/local/domain/2/data', ['n2', 'r1']],
      ['/shared', ['n1', 'b2']],
    ] as const) {
      this.run({ ...base, op: 'mkdir', path, perms: [] });
      this.run({ ...base, op: 'setPerms', path, perms: [...perms] });
    }
  }

  run(s: Step): void {
    const open = this.model.openTransactions(s.domid);
    const txId = s.slot === 9 ? 4000 : s.slot === 0 ? 0 : (open[s.slot - 1] ?? 0);
    const { args, payload } = requestOf(s);
    const expected = this.model.ask(s.domid, s.op, args, txId);
    const wire = this.wires.get(s.domid)!;
    const got = wire.ask(TYPES[s.op]!, payload, txId);
    const events = got.filter((text) => text.startsWith('EVENT'));
    const answers = got.filter((text) => !text.startsWith('EVENT'));
    expect(answers).toHaveLength(1);
    let answer = answers[0]!;
    if (!answer.startsWith('ERROR')) {
      answer = answer.slice(answer.indexOf(' ') + 1);
      if (s.op === 'directory') answer = answer.split('|').filter(Boolean).sort().join('|');
      else if (s.op === 'getPerms' || answer === 'OK|') answer = answer.slice(0, -1);
    }
    expect(answer).toBe(expected);
    for (const domid of DOMAINS) {
      const now = domid === s.domid ? events : this.wires.get(domid)!.received();
      // The same event twice in a row, before the client looked, comes once.
      expect(now).toEqual([...new Set(this.model.takeEvents(domid))]);
    }
  }

  /** What can be said of every store at any time. */
  checkInvariants(): void {
    const { store } = this.server;
    const owned = new Map<number, number>();
    let seen = 0;
    const walk = (path: string): void => {
      const node = store.get(path)!;
      expect(node).toBeDefined();
      seen++;
      const owner = node.perms[0]!.domid;
      owned.set(owner, (owned.get(owner) ?? 0) + 1);
      expect(node.childBytes).toBe(node.children.reduce((sum, child) => sum + child.length + 1, 0));
      expect(new Set(node.children).size).toBe(node.children.length);
      for (const child of node.children) walk(path === '/' ? `/${child}` : `${path}/${child}`);
    };
    walk('/');
    expect(seen).toBe(store.size);
    for (const domid of DOMAINS) expect(store.account(domid).entries).toBe(owned.get(domid) ?? 0);
  }
}

test('answers and events are those of the model', () => {
  fc.assert(
    fc.property(fc.array(step, { minLength: 20, maxLength: 120 }), (steps) => {
      const both = new Both();
      for (const s of steps) both.run(s);
      both.checkInvariants();
    }),
    {
      numRuns: Number(process.env['XENLIGHTEN_RUNS'] ?? 120),
      interruptAfterTimeLimit: LIMIT,
      markInterruptAsFailure: false,
    },
  );
});

test('every domain gives back what it held when it goes', () => {
  fc.assert(
    fc.property(fc.array(step, { minLength: 10, maxLength: 80 }), (steps) => {
      const both = new Both();
      for (const s of steps) both.run(s);
      const { server } = both;
      for (const domid of [1, 2]) {
        both.wires.get(domid)!.connection.close();
        server.introduceDomain(domid);
        server.releaseDomain(domid);
        expect(server.store.account(domid)).toEqual({ entries: 0, watches: 0, memory: 0 });
        expect(server.store.pathsConcerning(domid)).toEqual({ owned: [], named: [] });
      }
      both.checkInvariants();
    }),
    { numRuns: 60, interruptAfterTimeLimit: 2000, markInterruptAsFailure: false },
  );
});
