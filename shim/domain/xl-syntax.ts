/**
 * The syntax of xl configuration files: KEY=VALUE, one to a line or separated by semicolons. Implements the section
 * SYNTAX of xl.cfg(5); what the keys mean is xl-cfg.ts's business.
 *
 * Values are strings in ' or ", numbers (decimal, 0x hexadecimal, octal with a leading 0) and lists, which may nest, span
 * lines and end in a comma. '#' starts a comment. `KEY += VALUE` appends to what the key had, text to text and list to
 * list.
 *
 * Quirks: a string does not span lines; backslash escapes in it are C's. Every value keeps its line for later errors.
 * A key that is given twice has its last value, as in xl, and the earlier line in `overrides`.
 */
import { UsageError } from '../errors';

export type XlValue =
  | { readonly kind: 'string'; readonly line: number; readonly text: string }
  /** `text` is as written, for messages. */
  | { readonly kind: 'number'; readonly line: number; readonly text: string; readonly value: number }
  | { readonly kind: 'list'; readonly line: number; readonly items: readonly XlValue[] };

export interface XlSetting {
  readonly key: string;
  /** Line of the key, from 1. */
  readonly line: number;
  readonly value: XlValue;
  /** Line of an earlier setting of the same key that this one replaced. */
  readonly overrides?: number;
}

/** Lists in lists deeper than this have no use in any key. */
const MAX_DEPTH = 16;

type Token =
  | { readonly kind: 'name' | 'punctuation' | 'end'; readonly line: number; readonly text: string }
  | Extract<XlValue, { kind: 'string' | 'number' }>;

const SIMPLE_ESCAPES: Readonly<Record<string, string>> = {
  a: '\x07',
  b: '\b',
  f: '\f',
  n: '\n',
  r: '\r',
  t: '\t',
  v: '\v',
  '\\': '\\',
  '"': '"',
  "'": "'",
  '?': '?',
};

/** Source text in a message: printable, quoted, short. */
export function quoted(text: string): string {
  const clean = text.replaceAll(/[^\x20-\x7e]/g, '?');
  return `"${clean.length > 60 ? `${clean.slice(0, 57)}...` : clean}"`;
}

class Lexer {
  private at = 0;
  private line = 1;

  constructor(
    private readonly file: string,
    private readonly text: string,
  ) {}

  error(line: number, summary: string, found: string, wanted: string): UsageError {
    return new UsageError(summary, { file: `${this.file}:${line}`, found, wanted });
  }

  /** The next token; the end of a line is the punctuation '\n'. */
  next(): Token {
    const { text } = this;
    for (;;) {
      const c = text[this.at];
      if (c === undefined) return { kind: 'end', line: this.line, text: 'the end of the file' };
      if (c === ' ' || c === '\t' || c === '\r' || c === '\f' || c === '\uFEFF') this.at++;
      else if (c === '#') {
        while (this.at < text.length && text[this.at] !== '\n') this.at++;
      } else break;
    }
    const { line, at } = this;
    const c = text[at] as string;
    if (c === '\n') {
      this.at++;
      this.line++;
      return { kind: 'punctuation', line, text: '\n' };
    }
    if (c === '+' && text[at + 1] === '=') {
      this.at += 2;
      return { kind: 'punctuation', line, text: '+=' };
    }
    if ('=;,[]'.includes(c)) {
      this.at++;
      return { kind: 'punctuation', line, text: c };
    }
    if (c === '"' || c === "'") return this.string(c);
    const word = /^[+-]?[A-Za-z0-9_.-]+/.exec(text.slice(at, at + 256))?.[0];
    if (word === undefined) {
      throw this.error(line, 'malformed line', quoted(c), 'KEY = VALUE');
    }
    this.at += word.length;
    if (/^[A-Za-z_]\w*$/.test(word)) return { kind: 'name', line, text: word };
    return { kind: 'number', line, text: word, value: this.number(word, line) };
  }

  private number(word: string, line: number): number {
    const value = parseXlNumber(word);
    if (value === undefined) {
      throw this.error(line, 'malformed value', quoted(word), 'a number, a string in quotes, or a list in brackets');
    }
    return value;
  }

  private string(quote: string): Token {
    const { text, line } = this;
    let out = '';
    for (let at = this.at + 1; at < text.length && text[at] !== '\n'; at++) {
      const c = text[at] as string;
      if (c === quote) {
        this.at = at + 1;
        return { kind: 'string', line, text: out };
      }
      if (c !== '\\') {
        out += c;
        continue;
      }
      const [sequence, value] = this.escape(at);
      out += value;
      at += sequence.length - 1;
    }
    throw this.error(
      line,
      'unfinished string',
      quoted(text.slice(this.at, this.at + 40).split('\n')[0] ?? ''),
      `a closing ${quote}`,
    );
  }

  /** The escape sequence at `at` and what it stands for. */
  private escape(at: number): [string, string] {
    const found = /^\\(?:x[0-9a-fA-F]{1,2}|[0-7]{1,3}|[^\n])/.exec(this.text.slice(at, at + 4))?.[0];
    const rest = found?.slice(1) ?? '';
    const code = rest[0] === 'x' && rest.length > 1 ? Number.parseInt(rest.slice(1), 16) : Number.parseInt(rest, 8);
    if (found !== undefined && /^(?:x.|[0-7])/.test(rest)) return [found, String.fromCharCode(code & 0xff)];
    const value = SIMPLE_ESCAPES[rest];
    if (found === undefined || value === undefined) {
      throw this.error(
        this.line,
        'unknown escape in a string',
        quoted(found ?? '\\'),
        '\\\\ for a backslash, or / in a path',
      );
    }
    return [found, value];
  }
}

/** A number as xl reads it (C's strtol with base 0), or undefined. */
export function parseXlNumber(text: string): number | undefined {
  const match = /^([+-]?)(?:0[xX]([0-9a-fA-F]+)|0([0-7]*)|([1-9][0-9]*))$/.exec(text);
  if (match === null) return undefined;
  const [, sign, hex, octal, decimal] = match;
  const digits = hex !== undefined ? `0x${hex}` : octal !== undefined ? `0o${octal || '0'}` : (decimal ?? '0');
  const value = Number(BigInt(digits));
  if (!Number.isSafeInteger(value)) return undefined;
  return sign === '-' ? -value : value;
}

class Parser {
  private readonly lexer: Lexer;
  private token: Token;

  constructor(file: string, text: string) {
    this.lexer = new Lexer(file, text);
    this.token = this.lexer.next();
  }

  settings(): XlSetting[] {
    const byKey = new Map<string, XlSetting>();
    while (!this.atEnd()) {
      if (this.isSeparator()) {
        this.advance();
        continue;
      }
      const setting = this.setting(byKey);
      // Insertion order is file order, with a replaced key at its last place.
      byKey.delete(setting.key);
      byKey.set(setting.key, setting);
      if (!this.atEnd() && !this.isSeparator()) this.unexpected('the end of the line or ";"');
    }
    return [...byKey.values()];
  }

  private setting(before: ReadonlyMap<string, XlSetting>): XlSetting {
    const { line } = this.token;
    if (this.token.kind !== 'name') this.unexpected('KEY = VALUE');
    const key = this.token.text as string;
    this.advance();
    const append = this.is('+=');
    if (!append && !this.is('=')) this.unexpected(`"=" after ${key}`);
    this.advance();
    const value = this.value(0);
    const earlier = before.get(key);
    if (earlier === undefined) return { key, line, value };
    if (!append) return { key, line, value, overrides: earlier.line };
    return { key, line, value: this.append(key, earlier.value, value) };
  }

  private append(key: string, first: XlValue, second: XlValue): XlValue {
    const { line } = second;
    if (first.kind === 'list' && second.kind === 'list') {
      return { kind: 'list', line, items: [...first.items, ...second.items] };
    }
    if (first.kind === 'string' && second.kind === 'string') {
      return { kind: 'string', line, text: first.text + second.text };
    }
    throw this.lexer.error(
      line,
      `${key} += of another kind`,
      `a ${second.kind}`,
      `a ${first.kind}, as in line ${first.line}`,
    );
  }

  private value(depth: number): XlValue {
    const { token } = this;
    if (token.kind === 'string' || token.kind === 'number') {
      this.advance();
      return token;
    }
    if (!this.is('[')) this.unexpected('a number, a string in quotes, or a list in brackets');
    if (depth >= MAX_DEPTH) {
      throw this.lexer.error(token.line, 'lists too deep', `${depth + 1} levels`, `at most ${MAX_DEPTH}`);
    }
    this.advance();
    const items: XlValue[] = [];
    for (;;) {
      this.skipNewlines();
      if (this.is(']')) break;
      items.push(this.value(depth + 1));
      this.skipNewlines();
      if (this.is(']')) break;
      if (!this.is(',')) this.unexpected(`"," or "]" in the list that starts in line ${token.line}`);
      this.advance();
    }
    this.advance();
    return { kind: 'list', line: token.line, items };
  }

  private advance(): void {
    this.token = this.lexer.next();
  }
  private is(text: string): boolean {
    return this.token.kind === 'punctuation' && this.token.text === text;
  }
  private atEnd(): boolean {
    return this.token.kind === 'end';
  }
  private isSeparator(): boolean {
    return this.is('\n') || this.is(';');
  }
  private skipNewlines(): void {
    while (this.is('\n')) this.advance();
  }
  private unexpected(wanted: string): never {
    const { token } = this;
    const found =
      token.kind === 'end'
        ? token.text
        : token.text === '\n'
          ? 'the end of the line'
          : `${token.kind === 'string' ? 'the string ' : ''}${quoted(token.text)}`;
    throw this.lexer.error(token.line, 'malformed line', found, wanted);
  }
}

/** Parses the text of a configuration file into its settings, in file order. Throws UsageError. */
export function parseXlSyntax(file: string, text: string): XlSetting[] {
  return new Parser(file, text).settings();
}
