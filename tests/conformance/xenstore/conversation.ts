/**
 * Requests to compare stores by: one part that goes through the corners of every request, one part at random. Left out
 * is what makes xenstored 4.17 itself misbehave: RESET_WATCHES (a failed assertion ends the daemon) and requests that
 * it answers with whatever error an earlier one left behind.
 */
import { XS } from '../../../abi/xen/xenstore';

/** '|' stands for NUL in the payload. */
export interface Request {
  readonly domid: number;
  readonly type: number;
  readonly txId: number;
  readonly payload: string;
}

export const DOMAINS = [0, 1, 2] as const;

/** A small generator with a fixed seed, so that a conversation can be had again. */
function randomOf(seed: number): (n: number) => number {
  let state = seed >>> 0;
  return (n) => {
    state = (state + 0x6d2b79f5) >>> 0;
    let t = Math.imul(state ^ (state >>> 15), state | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return ((t ^ (t >>> 14)) >>> 0) % n;
  };
}

const ask = (domid: number, type: number, payload: string, txId = 0): Request => ({ domid, type, txId, payload });

export function setUp(): Request[] {
  const out: Request[] = [];
  for (const d of [1, 2]) {
    const home = `/local/domain/${d}`;
    for (const [name, perms] of [
      ['', `n0|r${d}`],
      ['/data', `n${d}`],
      ['/secret', 'n0'],
      ['/ro', 'r0'],
    ]) {
      out.push(ask(0, XS.XS_MKDIR, `${home}${name}|`), ask(0, XS.XS_SET_PERMS, `${home}${name}|${perms}|`));
    }
    out.push(ask(0, XS.XS_WRITE, `${home}/ro|hello`));
  }
  out.push(ask(0, XS.XS_MKDIR, '/shared|'), ask(0, XS.XS_SET_PERMS, '/shared|n1|b2|'));
  return out;
}

/** What a guest may try, most of it wrong in one way. */
const CORNERS: readonly (readonly [number, readonly string[]])[] = [
  [XS.XS_READ, ['ro|', 'secret|', 'zz|', 'secret/zz|', '/|', '/nono|', '|', 'data/|', 'da ta|']],
  [XS.XS_WRITE, ['zz|a', 'data/a/b|v', 'ro|v', 'data', '|x', '@foo|x', `data/v|${'x'.repeat(2015)}`]],
  [XS.XS_WRITE, [`data/v|${'x'.repeat(2016)}`, `data/w|${'x'.repeat(4000)}`]],
  [XS.XS_GET_PERMS, ['data/a/b|', 'secret|', 'data|']],
  [XS.XS_DIRECTORY, ['/|', 'data|', 'ro|', '/tool|']],
  [XS.XS_WATCH, ['data|t|', 'data|t|', '/local/domain/1/data|t|', '/|r|', 'secret|s|', '@releaseDomain|t|', '@foo|t|']],
  [XS.XS_WATCH, ['@|t|', 'a//b|t|', 'data|', 'data|x|more']],
  [XS.XS_UNWATCH, ['@foo|t|', 'a//b|t|', 'data|', '/local/domain/1/data|x|', 'data|x|']],
  [XS.XS_RM, ['data/a|', 'ro|', 'secret/q|', '/local/domain/1|', '/|', 'data/none|', 'data/none/none|']],
  [XS.XS_MKDIR, ['data/d/e|', 'data/d|', 'ro|', 'new|', '/tool/x|']],
  [XS.XS_SET_PERMS, ['data|n1|r2|', 'data|n2|', 'ro|n0|', 'data|n1|r2|r3|r0|r2|r3|', 'data|n1|r2|r3|r0|r2|']],
  [XS.XS_SET_PERMS, ['data|n1|r55|', 'data|x1|', 'data|n1|r2x|', 'data|', 'data|n1||', 'data']],
  [XS.XS_CONTROL, ['check|']],
  [XS.XS_INTRODUCE, ['2|1|12|']],
  [XS.XS_RELEASE, ['2|']],
  [XS.XS_RESUME, ['2|']],
  [XS.XS_SET_TARGET, ['1|2|']],
  [XS.XS_IS_DOMAIN_INTRODUCED, ['1|', '0|']],
  [XS.XS_GET_DOMAIN_PATH, ['1|', '99|', '32752|', 'zz|', '', '1']],
  [XS.XS_TRANSACTION_END, ['T', 'X|', 'T|', 'F|']],
  [XS.XS_WATCH_EVENT, ['a|b|']],
  [XS.XS_ERROR, ['EINVAL|']],
  [20, ['|']],
  [XS.XS_TYPE_COUNT, ['|']],
  [0xffff_ffff, ['|']],
  [
    XS.XS_READ,
    [`data/${'x'.repeat(2043)}|`, `data/${'x'.repeat(2044)}|`, `/${'x'.repeat(2047)}|`, `/${'x'.repeat(2048)}|`],
  ],
];

export function corners(): Request[] {
  const out: Request[] = [];
  for (const [type, payloads] of CORNERS) for (const payload of payloads) out.push(ask(1, type, payload));
  for (const domid of [0, 1]) {
    for (const [type, payload] of [
      [XS.XS_WATCH, 'data|zz|'],
      [XS.XS_UNWATCH, 'data|zz|'],
      [XS.XS_GET_DOMAIN_PATH, '1|'],
      [XS.XS_IS_DOMAIN_INTRODUCED, '1|'],
      [XS.XS_CONTROL, '1|'],
      [XS.XS_TRANSACTION_START, '|'],
      [XS.XS_TRANSACTION_END, 'F|'],
      [XS.XS_DIRECTORY, 'data|'],
      [99, 'F|'],
    ] as const) {
      out.push(ask(domid, type, payload, 77));
    }
  }
  for (let i = 0; i < 13; i++) out.push(ask(1, XS.XS_TRANSACTION_START, i === 0 ? '' : '|'));
  for (let id = 1; id <= 12; id++) out.push(ask(1, XS.XS_TRANSACTION_END, 'F|', id));
  for (let i = 0; i < 131; i++) out.push(ask(1, XS.XS_WATCH, `data|w${i}|`));
  for (let i = 0; i < 131; i++) out.push(ask(1, XS.XS_UNWATCH, `data|w${i}|`));
  for (const [type, payloads] of [
    [XS.XS_IS_DOMAIN_INTRODUCED, ['0|', '1|', '9|']],
    [XS.XS_GET_DOMAIN_PATH, ['5|']],
    [XS.XS_RM, ['/|']],
    [XS.XS_SET_PERMS, ['/shared|n1|b2|', '@releaseDomain|n0|r1|']],
    [XS.XS_GET_PERMS, ['/shared|', '/|']],
    [XS.XS_RELEASE, ['77|']],
    [XS.XS_RESUME, ['77|']],
    [XS.XS_SET_TARGET, ['77|1|']],
    [XS.XS_WRITE, ['rel/x|1']],
    [XS.XS_READ, ['/local/domain/0/rel/x|']],
  ] as const) {
    for (const payload of payloads) out.push(ask(0, type, payload));
  }
  return out;
}

const HOME1 = '/local/domain/1';
const HOME2 = '/local/domain/2';
const PATHS = ['/', '/tool', '/shared', '/shared/s', '/shared/s/t', HOME1, `${HOME1}/ro`, `${HOME1}/data`]
  .concat([`${HOME1}/data/a`, `${HOME1}/data/a/b`, `${HOME1}/secret/x`, `${HOME2}/data`, `${HOME2}/data/x`])
  .concat([`${HOME2}/data/x/y/z`, '/local/domain/12/data', 'data', 'data/a', 'data/q/r/s', 'nothing/here']);
const PERMS = ['n0|r1', 'n1', 'r1', 'b2|r1', 'n1|r2', 'n1|w2|r0', 'n2|b1', 'n0|b1|b2', 'n1|r2|r0|w2'];
const repeat = (times: number, types: number[]) => Array.from({ length: times }, () => types).flat();
const TYPES = [
  ...repeat(4, [XS.XS_WRITE, XS.XS_WRITE, XS.XS_MKDIR, XS.XS_RM, XS.XS_READ, XS.XS_DIRECTORY]),
  ...repeat(5, [XS.XS_TRANSACTION_START, XS.XS_TRANSACTION_END, XS.XS_TRANSACTION_END, XS.XS_WATCH, XS.XS_SET_PERMS]),
  ...repeat(2, [XS.XS_TRANSACTION_END, XS.XS_UNWATCH, XS.XS_GET_PERMS, XS.XS_READ]),
];

/** Requests at random. `openOf` says which transactions a domain has open when a request is made up. */
export class RandomRequests {
  private readonly random: (n: number) => number;

  constructor(
    seed: number,
    private readonly openOf: (domid: number) => readonly number[],
  ) {
    this.random = randomOf(seed);
  }

  next(): Request {
    const domid = this.pick([0, 1, 1, 2]);
    const type = this.pick(TYPES);
    const path = this.pick(PATHS);
    const slot = this.pick([0, 0, 1, 1, 1, 2, 3, 9]);
    const txId = slot === 9 ? 4000 : slot === 0 ? 0 : (this.openOf(domid)[slot - 1] ?? 0);
    return { domid, type, txId, payload: this.payload(type, path) };
  }

  private payload(type: number, path: string): string {
    switch (type) {
      case XS.XS_WRITE:
        return `${path}|${this.pick(['', '1', 'value', 'x'.repeat(50)])}`;
      case XS.XS_SET_PERMS:
        return `${path}|${this.pick(PERMS)}|`;
      case XS.XS_WATCH:
      case XS.XS_UNWATCH:
        return `${path}|${this.pick(['t', 'u'])}|`;
      case XS.XS_TRANSACTION_START:
        return '|';
      case XS.XS_TRANSACTION_END:
        return this.pick(['T|', 'T|', 'F|']);
      default:
        return `${path}|`;
    }
  }

  private pick<T>(list: readonly T[]): T {
    return list[this.random(list.length)]!;
  }
}
