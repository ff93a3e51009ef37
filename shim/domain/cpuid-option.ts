/**
 * The cpuid= option of xl configuration files, in both of its forms: libxl's "host,NAME=V,..." and xend's list of
 * "LEAF[,SUBLEAF]:REG=BITS,...". Implements the section "cpuid" of xl.cfg(5).
 *
 * What a setting can do here is hide a feature ('0') or leave it to the policy ('x'). 'k' and 's' ask for the host's own
 * value, which the policy gives for every feature that it shows at all. A bit cannot be forced to 1, and family, model
 * and other numbers cannot be chosen: asking for that is an error, because the guest would not get what its
 * configuration says.
 */
import { UsageError } from '../errors';
import { ANY_SUBLEAF, CPUID_POLICY, type CpuidRegister, type CpuidRow } from '../xen/cpuid-policy';
import { parseXlNumber, quoted, type XlValue } from './xl-syntax';

/** Bits that a guest does not see although the policy would show them. */
export interface CpuidHide {
  readonly leaf: number;
  /** ANY_SUBLEAF: whatever ECX holds. */
  readonly subleaf: number;
  readonly reg: CpuidRegister;
  /** Unsigned 32-bit. */
  readonly mask: number;
}

/** Keys of the libxl form that take a number. */
const NUMBER_KEYS = new Set(
  'apicidsize brandid clflush family localapicid maxleaf maxhvleaf model nc proccount procpkg stepping'.split(' '),
);
/** Names in xl that the policy's differ from by more than case and punctuation. */
const ALIASES: Readonly<Record<string, string>> = {
  clfsh: 'clflush',
  pni: 'sse3',
  cmpxchg16: 'cx16',
  cmpxchg8: 'cx8',
  aes: 'aesni',
  lahfsahf: 'lahflm',
  nodeid: 'nodeidmsr',
  tm: 'tm1',
};

const simple = (name: string): string => name.toLowerCase().replaceAll(/[^a-z0-9]/g, '');

interface Feature {
  readonly row: CpuidRow;
  readonly bit: number;
}

let features: ReadonlyMap<string, readonly Feature[]> | undefined;

function featuresByName(): ReadonlyMap<string, readonly Feature[]> {
  if (features !== undefined) return features;
  const map = new Map<string, Feature[]>();
  for (const row of CPUID_POLICY) {
    for (const { name, bit } of [...row.visible, ...row.hidden]) {
      const key = simple(name);
      const known = map.get(key);
      if (known === undefined) map.set(key, [{ row, bit }]);
      else known.push({ row, bit });
    }
  }
  features = map;
  return map;
}

/** Judges one bit's setting: true to hide it, false to leave it. Throws for what cannot be had. */
function hides(where: string, what: string, setting: string, shown: boolean, forced: boolean): boolean {
  const fail = (found: string): never => {
    throw new UsageError('unsupported CPUID setting', {
      file: where,
      found,
      wanted: `${what} set to 0 (hidden) or x (by policy)`,
    });
  };
  switch (setting) {
    case '0':
      return true;
    case 'x':
      return false;
    case 'k':
    case 's':
      return shown ? false : fail(`${what}=${setting}, but the policy hides it`);
    case '1':
      return forced ? false : fail(`${what}=1: a feature cannot be forced on`);
    default:
      return fail(`${what}=${quoted(setting)}`);
  }
}

function libxlForm(where: string, text: string): CpuidHide[] {
  const [first, ...settings] = text.split(',').map((part) => part.trim());
  if (first !== 'host') {
    throw new UsageError('malformed cpuid', { file: where, found: quoted(text), wanted: '"host,NAME=VALUE,..."' });
  }
  const out: CpuidHide[] = [];
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
      throw new UsageError('unknown CPUID feature', {
        file: where,
        found: quoted(name),
        wanted: 'a feature name as in docs/cpuid.md, such as sse3',
      });
    }
    for (const { row, bit } of found) {
      const shown = ((row.andMask >>> bit) & 1) === 1;
      if (hides(where, name, value, shown, ((row.orBits >>> bit) & 1) === 1)) {
        out.push({ leaf: row.leaf, subleaf: row.subleaf, reg: row.reg, mask: (1 << bit) >>> 0 });
      }
    }
  }
  return out;
}

function xendEntry(where: string, text: string): CpuidHide[] {
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
  const out: CpuidHide[] = [];
  for (const part of (match[3] as string).split(',')) {
    const setting = /^\s*(eax|ebx|ecx|edx)\s*=\s*(\S*)\s*$/.exec(part);
    if (setting === null) throw malformed(quoted(part.trim()), 'eax=BITS, ebx=BITS, ecx=BITS or edx=BITS');
    const reg = setting[1] as CpuidRegister;
    const bits = setting[2] as string;
    if (bits.length !== 32) throw malformed(`${bits.length} bits for ${reg}`, '32 of them, bit 31 first');
    const row = CPUID_POLICY.find(
      (r) => r.leaf === leaf && r.reg === reg && (r.subleaf === ANY_SUBLEAF || r.subleaf === (subleaf ?? 0)),
    );
    let mask = 0;
    for (let bit = 0; bit < 32; bit++) {
      const what = `leaf 0x${leaf.toString(16)} ${reg} bit ${bit}`;
      const shown = row !== undefined && ((row.andMask >>> bit) & 1) === 1;
      const forced = row !== undefined && ((row.orBits >>> bit) & 1) === 1;
      if (hides(where, what, bits[31 - bit] as string, shown, forced)) mask = (mask | (1 << bit)) >>> 0;
    }
    if (mask !== 0 && row !== undefined) out.push({ leaf, subleaf: row.subleaf, reg, mask });
  }
  return out;
}

/** The value of cpuid= as features to hide. `file` is the configuration file. Throws UsageError naming the line. */
export function parseCpuidOption(file: string, value: XlValue): CpuidHide[] {
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

/** The policy's rows with features hidden. */
export function hideFeatures(rows: readonly CpuidRow[], hidden: readonly CpuidHide[]): CpuidRow[] {
  return rows.map((row) => {
    let mask = 0;
    for (const h of hidden) if (h.leaf === row.leaf && h.subleaf === row.subleaf && h.reg === row.reg) mask |= h.mask;
    return mask === 0 ? row : { ...row, andMask: (row.andMask & ~mask) >>> 0, orBits: (row.orBits & ~mask) >>> 0 };
  });
}
