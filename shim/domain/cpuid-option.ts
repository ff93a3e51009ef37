/**
 * The cpuid= option of xl configuration files, in both of its forms: libxl's "host,NAME=V,..." and xend's list of
 * "LEAF[,SUBLEAF]:REG=BITS,...". Implements the section "cpuid" of xl.cfg(5).
 *
 * What a setting does here: '0' hides a feature, and what needs it; 'x' leaves it to the policy; 'k' and 's' show what
 * the host has, which the policy does by itself except for features that are shown on request; '1' wants it, and the
 * guest is not started on a processor without it. A bit that the policy hides cannot be had, and family, model and
 * other numbers cannot be chosen: asking for that is an error, because the guest would not get what its configuration
 * says.
 */
import { UsageError } from '../errors';
import { dependents } from '../xen/cpuid-dependencies';
import { ANY_SUBLEAF, CPUID_POLICY, type CpuidBit, type CpuidRegister, type CpuidRow } from '../xen/cpuid-policy';
import { nearest } from './nearest';
import { parseXlNumber, quoted, type XlValue } from './xl-syntax';

/** What the configuration says of one bit that is not left to the policy. */
export interface CpuidSetting {
  readonly leaf: number;
  /** ANY_SUBLEAF: whatever ECX holds. */
  readonly subleaf: number;
  readonly reg: CpuidRegister;
  readonly bit: number;
  readonly setting: '0' | '1' | 'k' | 's';
  /** As the configuration names it, for messages. */
  readonly name: string;
  /** File and line. */
  readonly where: string;
}

/** Keys of the libxl form that take a number. */
const NUMBER_KEYS = new Set(
  'apicidsize brandid clflush family localapicid maxleaf maxhvleaf model nc proccount procpkg stepping'.split(' '),
);
/** Names in xl that the policy's differ from by more than case and punctuation. */
const ALIASES: Readonly<Record<string, string>> = {
  aes: 'aesni',
  altmovcr8: 'cr8legacy',
  cat: 'pqe',
  clfsh: 'clflush',
  cmpxchg16: 'cx16',
  cmpxchg8: 'cx8',
  cmt: 'pqm',
  cntxid: 'cnxtid',
  cqm: 'pqm',
  ibrsb: 'ibrsibpb',
  invtsc: 'itsc',
  lahfsahf: 'lahflm',
  nodeid: 'nodeidmsr',
  nscb: 'nullselectorclearsbase',
  pni: 'sse3',
  sysenter: 'sep',
  tm: 'tm1',
};
const VALUES = '0 (hidden), x (by policy), k or s (as the host has it) or 1 (must be there)';

const simple = (name: string): string => name.toLowerCase().replaceAll(/[^a-z0-9]/g, '');

interface Feature {
  readonly row: CpuidRow;
  readonly bit: number;
  readonly name: string;
}

const bitsOf = (row: CpuidRow): CpuidBit[] => [...row.visible, ...row.optional, ...row.computed, ...row.hidden];

let features: ReadonlyMap<string, readonly Feature[]> | undefined;

function featuresByName(): ReadonlyMap<string, readonly Feature[]> {
  if (features !== undefined) return features;
  const map = new Map<string, Feature[]>();
  for (const row of CPUID_POLICY) {
    for (const { name, bit } of bitsOf(row)) {
      const key = simple(name);
      const known = map.get(key);
      if (known === undefined) map.set(key, [{ row, bit, name }]);
      else known.push({ row, bit, name });
    }
  }
  features = map;
  return map;
}

const place = (row: CpuidRow, bit: number) => ({ leaf: row.leaf, subleaf: row.subleaf, reg: row.reg, bit });

/** Judges one bit's setting: undefined when it changes nothing. Throws for what cannot be had. */
function judge(
  where: string,
  name: string,
  setting: string,
  row: CpuidRow | undefined,
  bit: number,
): CpuidSetting | undefined {
  const fail = (found: string, wanted: string): never => {
    throw new UsageError('unsupported CPUID setting', { file: where, found, wanted });
  };
  if (setting === 'x') return undefined;
  if (setting !== '0' && setting !== '1' && setting !== 'k' && setting !== 's') {
    return fail(`${name}=${quoted(setting)}`, `${name} set to ${VALUES}`);
  }
  const computed = row?.computed.find((b) => b.bit === bit);
  if (computed !== undefined) return fail(`${name}=${setting}`, `no ${name}: it shows ${computed.reason}`);
  const passes = row !== undefined && (((row.andMask | row.orBits) >>> bit) & 1) === 1;
  const optional = row?.optional.some((b) => b.bit === bit) ?? false;
  if (setting === '0')
    return row === undefined || !(passes || optional) ? undefined : { ...place(row, bit), setting, name, where };
  if (row !== undefined && (passes || optional)) {
    if (row.doc !== undefined && setting === '1') {
      return fail(`${name}=1`, `${name} set to 0 or x: it is part of a number of the processor's own`);
    }
    return { ...place(row, bit), setting, name, where };
  }
  const reason = row?.hidden.find((b) => b.bit === bit)?.reason ?? 'the policy has no such feature';
  return fail(`${name}=${setting}`, `${name} set to 0 or x: it is hidden (${reason})`);
}

function libxlForm(where: string, text: string): CpuidSetting[] {
  const [first, ...settings] = text.split(',').map((part) => part.trim());
  if (first !== 'host') {
    throw new UsageError('malformed cpuid', { file: where, found: quoted(text), wanted: '"host,NAME=VALUE,..."' });
  }
  const out: CpuidSetting[] = [];
  for (const setting of settings) {
    if (setting === '') continue;
    const match = /^([A-Za-z0-9_.-]+)=(.*)$/.exec(setting);
    if (match === null) {
      throw new UsageError('malformed cpuid', { file: where, found: quoted(setting), wanted: 'NAME=VALUE' });
    }
    const [, name, value] = match as unknown as [string, string, string];
    if (NUMBER_KEYS.has(name)) {
      throw new UsageError('unsupported CPUID setting', {
        file: where,
        found: quoted(setting),
        wanted: `no ${name}: it is the processor's own`,
      });
    }
    const key = simple(name);
    const found = featuresByName().get(ALIASES[key] ?? key);
    if (found === undefined) {
      const near = nearest(key, [...featuresByName().keys(), ...Object.keys(ALIASES)]);
      const named =
        near === undefined
          ? undefined
          : featuresByName()
              .get(ALIASES[near] ?? near)?.[0]
              ?.name.toLowerCase();
      throw new UsageError('unknown feature in cpuid', {
        file: where,
        found: quoted(name),
        wanted: `${named === undefined ? 'a name' : `${quoted(named)}, or another name`} of docs/cpuid-policy.md`,
      });
    }
    for (const { row, bit } of found) {
      const judged = judge(where, name, value, row, bit);
      if (judged !== undefined) out.push(judged);
    }
  }
  return out;
}

function xendEntry(where: string, text: string): CpuidSetting[] {
  const malformed = (found: string, wanted: string): UsageError =>
    new UsageError('malformed cpuid', { file: where, found, wanted });
  const match = /^\s*([^,:]+)(?:,([^,:]+))?:(.*)$/.exec(text);
  if (match === null) throw malformed(quoted(text), '"LEAF[,SUBLEAF]:REG=BITS,..."');
  const number = (part: string): number => {
    const value = parseXlNumber(part.trim());
    if (value === undefined || value < 0 || value > 0xffff_ffff) throw malformed(quoted(part), 'a leaf number');
    return value;
  };
  const leaf = number(match[1] as string);
  const subleaf = match[2] === undefined ? undefined : number(match[2]);
  const out: CpuidSetting[] = [];
  for (const part of (match[3] as string).split(',')) {
    const setting = /^\s*(eax|ebx|ecx|edx)\s*=\s*(\S*)\s*$/.exec(part);
    if (setting === null) throw malformed(quoted(part.trim()), 'eax=BITS, ebx=BITS, ecx=BITS or edx=BITS');
    const reg = setting[1] as CpuidRegister;
    const bits = setting[2] as string;
    if (bits.length !== 32) throw malformed(`${bits.length} bits for ${reg}`, '32 of them, bit 31 first');
    const row = CPUID_POLICY.find(
      (r) => r.leaf === leaf && r.reg === reg && (r.subleaf === ANY_SUBLEAF || r.subleaf === (subleaf ?? 0)),
    );
    for (let bit = 0; bit < 32; bit++) {
      const known = row === undefined ? undefined : bitsOf(row).find((b) => b.bit === bit)?.name;
      const what = `leaf 0x${leaf.toString(16)} ${reg} bit ${bit}${known === undefined ? '' : ` (${known})`}`;
      const judged = judge(where, what, bits[31 - bit] as string, row, bit);
      if (judged !== undefined) out.push(judged);
    }
  }
  return out;
}

/** The value of cpuid= as settings. `file` is the configuration file. Throws UsageError naming the line. */
export function parseCpuidOption(file: string, value: XlValue): CpuidSetting[] {
  const where = `${file}:${value.line}`;
  if (value.kind === 'string') return libxlForm(where, value.text);
  if (value.kind === 'list') {
    return value.items.flatMap((item) => {
      if (item.kind === 'string') return xendEntry(`${file}:${item.line}`, item.text);
      throw new UsageError('malformed cpuid', {
        file: `${file}:${item.line}`,
        found: item.kind === 'list' ? 'a list' : quoted(item.text),
        wanted: 'strings "LEAF:REG=BITS" in the list',
      });
    });
  }
  throw new UsageError('malformed cpuid', { file: where, found: quoted(value.text), wanted: 'a string or a list' });
}

const isAbout = (s: CpuidSetting, row: CpuidRow): boolean =>
  s.leaf === row.leaf && s.subleaf === row.subleaf && s.reg === row.reg;

/**
 * The policy's rows as the settings change them: features that are off go, with all that need them; features that are
 * shown on request come. UsageError when one is wanted that needs another which is off.
 */
export function applyCpuidSettings(rows: readonly CpuidRow[], settings: readonly CpuidSetting[]): CpuidRow[] {
  const gone = new Set<string>();
  for (const s of settings) {
    if (s.setting !== '0') continue;
    const name = rows.find((row) => isAbout(s, row))?.visible.find((b) => b.bit === s.bit)?.name;
    if (name !== undefined) for (const other of dependents(name)) gone.add(other);
  }
  const changed = rows.map((row) => {
    let hide = 0;
    let show = 0;
    for (const s of settings) {
      if (!isAbout(s, row)) continue;
      if (s.setting === '0') hide |= 1 << s.bit;
      else if (row.optional.some((b) => b.bit === s.bit)) show |= 1 << s.bit;
    }
    for (const b of [...row.visible, ...row.optional]) if (gone.has(b.name)) hide |= 1 << b.bit;
    if (hide === 0 && show === 0) return row;
    return { ...row, andMask: ((row.andMask | show) & ~hide) >>> 0, orBits: (row.orBits & ~hide) >>> 0 };
  });
  for (const s of settings) {
    const row = changed.find((r) => isAbout(s, r));
    if (s.setting === '1' && row !== undefined && !(((row.andMask | row.orBits) >>> s.bit) & 1)) {
      throw new UsageError('contradiction in cpuid', {
        file: s.where,
        found: `${s.name}=1 beside 0 for a feature that it needs`,
        wanted: 'both or neither',
      });
    }
  }
  return changed;
}

/** Settings that hide features of the policy, by name; what depends on them goes with them. */
export function hideByName(rows: readonly CpuidRow[], names: readonly string[], why: string): CpuidSetting[] {
  return names.flatMap((name) =>
    rows.flatMap(({ leaf, subleaf, reg, visible }) =>
      visible
        .filter((b) => b.name === name)
        .map(({ bit }) => ({ leaf, subleaf, reg, bit, setting: '0' as const, name, where: why })),
    ),
  );
}

/** Settings that want a feature which the processor does not have. `hardware` gives a register of the processor. */
export function missingFeatures(
  rows: readonly CpuidRow[],
  settings: readonly CpuidSetting[],
  hardware: (row: CpuidRow) => number,
): CpuidSetting[] {
  return settings.filter((s) => {
    if (s.setting !== '1') return false;
    const row = rows.find((r) => isAbout(s, r));
    return row === undefined || !((((hardware(row) & row.andMask) | row.orBits) >>> s.bit) & 1);
  });
}
