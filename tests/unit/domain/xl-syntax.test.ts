/** The syntax of xl configuration files. */
import fc from 'fast-check';
import { parseXlNumber, parseXlSyntax, type XlValue } from '../../../shim/domain/xl-syntax';
import { UsageError } from '../../../shim/errors';

/** Settings as plain values. */
function plain(text: string): Record<string, unknown> {
  const value = (v: XlValue): unknown =>
    v.kind === 'list' ? v.items.map(value) : v.kind === 'number' ? v.value : v.text;
  return Object.fromEntries(parseXlSyntax('g.cfg', text).map((s) => [s.key, value(s.value)]));
}

function failure(text: string): string {
  try {
    parseXlSyntax('g.cfg', text);
  } catch (error) {
    if (error instanceof UsageError) return error.message;
    throw error;
  }
  throw new Error('no error');
}

test.each<[string, string, Record<string, unknown>]>([
  ['strings in both quotes', `a="x y"\nb='it is "so"'`, { a: 'x y', b: 'it is "so"' }],
  ['numbers', 'a=12\nb=0x1F\nc=010\nd=-3\ne=0', { a: 12, b: 31, c: 8, d: -3, e: 0 }],
  ['semicolons', 'a=1; b = 2 ;; c="3"', { a: 1, b: 2, c: '3' }],
  ['comments', '# one\na=1 # two\n#three\nb="#no comment"#but this is', { a: 1, b: '#no comment' }],
  ['lists over lines with a comma at the end', 'a=[ 1,\n "b", # c\n [ 2, [] ],\n]', { a: [1, 'b', [2, []]] }],
  ['escapes', String.raw`a="\"\\\n\x41\101\'\t"`, { a: '"\\\nAA\'\t' }],
  ['carriage returns and a byte order mark', '\uFEFFa=1\r\nb=2\r\n', { a: 1, b: 2 }],
  ['the last value of a key', 'a=1\na=2', { a: 2 }],
  ['+= on lists and strings', 'a=[1]\na+=[2]\nb="x"\nb += "y"\nc += [3]', { a: [1, 2], b: 'xy', c: [3] }],
  ['nothing', '\n\n # x\n;', {}],
])('%s', (_name, text, wanted) => expect(plain(text)).toEqual(wanted));

test.each<[string, string, RegExp]>([
  ['a line without a value', 'a=1\nb', /^g\.cfg:2: malformed line: found the end of the file, wanted "=" after b/],
  [
    'a bare word',
    'kernel = vmlinuz',
    /^g\.cfg:1: malformed line: found "vmlinuz", wanted a number, a string in quotes/,
  ],
  ['an unfinished string', '\na="x\nb=1', /^g\.cfg:2: unfinished string: found ""x", wanted a closing "/],
  [
    'an unfinished list',
    'a=[1,\n2',
    /^g\.cfg:2: malformed line: found the end of the file, wanted "," or "\]" .*line 1/,
  ],
  ['two settings in one line', 'a=1 b=2', /^g\.cfg:1: malformed line: found "b", wanted the end of the line or ";"/],
  ['a stray character', 'a=1\n%', /^g\.cfg:2: malformed line: found "%"/],
  ['a number that is none', 'a=09', /^g\.cfg:1: malformed value: found "09"/],
  ['a number that is too large', 'a=99999999999999999999', /malformed value/],
  ['an unknown escape', String.raw`a="\q"`, /^g\.cfg:1: unknown escape in a string: found "\\q"/],
  [
    '+= of another kind',
    'a=1\na+=[2]',
    /^g\.cfg:2: a \+= of another kind: found a list, wanted a number, as in line 1/,
  ],
  ['lists too deep', `a=${'['.repeat(40)}`, /^g\.cfg:1: lists too deep/],
])('%s is an error with its line', (_name, text, wanted) => expect(failure(text)).toMatch(wanted));

test('lines are kept through strings, comments and lists', () => {
  const [, second] = parseXlSyntax('g.cfg', 'a = [ 1,\n\n2 ]\n# c\nb = "x"');
  expect(second).toMatchObject({ key: 'b', line: 5, value: { line: 5 } });
});

test('a key that is given twice tells of the earlier line', () => {
  expect(parseXlSyntax('g.cfg', 'a=1\nb=2\na=3')).toMatchObject([{ key: 'b' }, { key: 'a', line: 3, overrides: 1 }]);
});

test('numbers read as C does with base 0', () => {
  fc.assert(
    fc.property(fc.integer({ min: 0, max: 2 ** 40 }), (n) => {
      expect(parseXlNumber(String(n))).toBe(n);
      expect(parseXlNumber(`0x${n.toString(16)}`)).toBe(n);
      expect(parseXlNumber(`0${n.toString(8)}`)).toBe(n);
      expect(parseXlNumber(`-${n}`)).toBe(-n);
    }),
  );
});

describe('properties', () => {
  const value: fc.Arbitrary<unknown> = fc.letrec((tie) => ({
    value: fc.oneof({ maxDepth: 4 }, fc.string(), fc.maxSafeInteger(), fc.array(tie('value'), { maxLength: 4 })),
  })).value;
  const key = fc.stringMatching(/^[a-z_][a-z0-9_]{0,10}$/);

  function written(v: unknown): string {
    if (Array.isArray(v)) return `[${v.map(written).join(' ,\n')}${v.length > 0 ? ',' : ''}]`;
    if (typeof v === 'number') return `${v}`;
    const text = String(v).replaceAll('\\', '\\\\').replaceAll('"', '\\"').replaceAll('\n', '\\n');
    return `"${text}"`;
  }

  test('what is written is read', () => {
    fc.assert(
      fc.property(fc.uniqueArray(fc.tuple(key, value), { selector: ([k]) => k }), (settings) => {
        const text = settings.map(([k, v]) => `${k} = ${written(v)} # c`).join('\n');
        expect(plain(text)).toEqual(Object.fromEntries(settings));
      }),
    );
  });

  test('no text makes it throw anything but UsageError', () => {
    const pieces = fc.array(
      fc.oneof(
        fc.constantFrom('=', '+=', '[', ']', ',', ';', '\n', '"', "'", '\\', '#', 'a', '0x', '1', ' '),
        fc.string(),
      ),
      { maxLength: 40 },
    );
    fc.assert(
      fc.property(pieces, (parts) => {
        try {
          parseXlSyntax('g.cfg', parts.join(''));
        } catch (error) {
          expect(error).toBeInstanceOf(UsageError);
          expect((error as Error).message).toMatch(/^g\.cfg:\d+: [^\n]*: found [^\n]*, wanted [^\n]*$/);
        }
      }),
      { numRuns: 1000 },
    );
  });
});
