/**
 * Arguments of a command, declared as data: parsed with node:util's parseArgs, and the text of --help made from the same
 * declaration.
 */
import { type ParseArgsConfig, parseArgs } from 'node:util';
import { UsageError } from '../errors';

export interface OptionDecl {
  /** Placeholder in the help text; an option without one is a flag. */
  readonly value?: string;
  /** May be given more than once. */
  readonly multiple?: boolean;
  /** One letter, for flags that xl has as letters. */
  readonly short?: string;
  readonly help: string;
}

export interface CommandDecl {
  readonly name: string;
  /** Positional arguments, as the help shows them: '[GUEST.cfg]'. */
  readonly usage: string;
  readonly summary: string;
  readonly positionals: { readonly min: number; readonly max: number };
  readonly options: Readonly<Record<string, OptionDecl>>;
}

export interface Arguments {
  readonly positionals: readonly string[];
  /** The value of an option, the last one if it was given more than once. */
  text(name: string): string | undefined;
  /** All values of an option, in order. */
  all(name: string): readonly string[];
  flag(name: string): boolean;
}

const wantedHelp = (command: CommandDecl): string => `options as 'xenlighten ${command.name} --help' lists them`;

/** Parses the arguments behind a command's name. Throws UsageError. */
export function parseArguments(command: CommandDecl, argv: readonly string[]): Arguments {
  const options: NonNullable<ParseArgsConfig['options']> = {};
  for (const [name, decl] of Object.entries(command.options)) {
    options[name] = {
      type: decl.value === undefined ? 'boolean' : 'string',
      multiple: decl.multiple === true,
      ...(decl.short === undefined ? {} : { short: decl.short }),
    };
  }
  let parsed: { values: Record<string, unknown>; positionals: string[] };
  try {
    parsed = parseArgs({ args: [...argv], options, strict: true, allowPositionals: true });
  } catch (error) {
    // Node's own sentence, without its hint about '--' and positional arguments.
    const found = (error as Error).message.split('. ')[0] ?? 'unknown arguments';
    throw new UsageError('wrong arguments', { found, wanted: wantedHelp(command) });
  }
  const { positionals, values } = parsed;
  if (positionals.length < command.positionals.min || positionals.length > command.positionals.max) {
    throw new UsageError('wrong arguments', {
      found: positionals.length === 0 ? 'none' : positionals.map((p) => JSON.stringify(p)).join(' '),
      wanted: `xenlighten ${command.name} ${command.usage}`,
    });
  }
  return {
    positionals,
    text: (name) => (typeof values[name] === 'string' ? (values[name] as string) : undefined),
    all: (name) => (Array.isArray(values[name]) ? (values[name] as string[]) : []),
    flag: (name) => values[name] === true,
  };
}

/** A whole number in an option. Throws UsageError. */
export function numberOption(name: string, text: string, min: number, max: number): number {
  const value = /^\d{1,15}$/.test(text) ? Number(text) : Number.NaN;
  if (Number.isNaN(value) || value < min || value > max) {
    throw new UsageError('unusable value', {
      file: `--${name}`,
      found: JSON.stringify(text),
      wanted: `a whole number from ${min} to ${max}`,
    });
  }
  return value;
}

/** One of a few words in an option. Throws UsageError. */
export function choiceOption<const T extends string>(name: string, text: string, choices: readonly T[]): T {
  const found = choices.find((c) => c === text);
  if (found === undefined) {
    throw new UsageError('unusable value', {
      file: `--${name}`,
      found: JSON.stringify(text),
      wanted: choices.join(', '),
    });
  }
  return found;
}

/** The text of `xenlighten COMMAND --help`. */
export function commandHelp(command: CommandDecl): string {
  const flags = Object.entries(command.options).map(([name, decl]) => ({
    left: `${decl.short === undefined ? '' : `-${decl.short}, `}--${name}${decl.value === undefined ? '' : ` ${decl.value}`}`,
    help: decl.help,
  }));
  const width = Math.max(0, ...flags.map((f) => f.left.length));
  const lines = [`Usage: xenlighten ${command.name} ${command.usage} [OPTIONS]`, '', command.summary];
  if (flags.length > 0) lines.push('', ...flags.map((f) => `  ${f.left.padEnd(width)}  ${f.help}`));
  return lines.join('\n');
}
