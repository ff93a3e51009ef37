/**
 * The command line's logger: pino on stderr, for people (pino-pretty) on a terminal, as JSON lines elsewhere; and in a file
 * besides, as JSON lines with their time, if there is to be one.
 *
 * Quirks: a file that cannot be written any more (a full disk) is no reason to end a guest: the lines are on stderr still.
 * A console of Windows understands neither colours nor UTF-8 from a file descriptor's bytes; Node.js' stream switches its VT
 * processing on, and writes text (at once, too).
 */
import { closeSync, openSync } from 'node:fs';
import { isatty } from 'node:tty';
import type { Logger } from 'pino';
import type { PrettyOptions, PrettyStream } from 'pino-pretty';
import { UsageError } from '../errors';

const STDERR = 2;
export const LOG_LEVELS = ['trace', 'debug', 'info', 'warn', 'error', 'fatal', 'silent'] as const;
const DEFAULT_LEVEL = 'warn';

export interface LogOptions {
  /** Appended to. */
  readonly file?: string | undefined;
  readonly env?: NodeJS.ProcessEnv;
  /** For tests. */
  readonly platform?: string;
}

/** A file's stream; whatever is wrong with it now is the user's to mend. Throws UsageError. */
function fileStream(file: string, pino: typeof import('pino').pino): { write(line: string): void } {
  let fd: number;
  try {
    fd = openSync(file, 'a', 0o600);
  } catch (error) {
    const { code, message } = error as NodeJS.ErrnoException;
    const found = `${JSON.stringify(file)}: ${code ?? message}`;
    throw new UsageError('cannot write', { file: '--log-file', found, wanted: 'a file that can be written' });
  }
  const stream = pino.destination({ dest: fd, sync: true });
  let failed = false;
  stream.on('error', (error: Error) => {
    if (failed) return;
    failed = true;
    process.stderr.write(`xenlighten: --log-file: ${file} cannot be written any more: ${error.message}\n`);
    try {
      closeSync(fd);
    } catch {
      // It is closed already.
    }
  });
  return {
    write: (line) => {
      if (!failed) stream.write(line);
    },
  };
}

/** A logger at the given level, else at that of XENLIGHTEN_LOG, else for warnings. Throws UsageError. */
export function createLogger(
  asked: string | undefined,
  { file, env = process.env, platform = process.platform }: LogOptions = {},
): Logger {
  const level = LOG_LEVELS.find((known) => known === (asked ?? (env['XENLIGHTEN_LOG'] || DEFAULT_LEVEL)));
  if (level === undefined) {
    throw new UsageError('unknown log level', {
      file: asked === undefined ? 'XENLIGHTEN_LOG' : '--log-level',
      found: JSON.stringify(asked ?? env['XENLIGHTEN_LOG']),
      wanted: LOG_LEVELS.join(', '),
    });
  }
  const { pino } = require('pino') as typeof import('pino');
  // Synchronous: the last lines before an exit must not be lost.
  const stream = isatty(STDERR)
    ? prettyStream({
        destination: platform === 'win32' ? process.stderr : STDERR,
        sync: true,
        colorize: true,
        ignore: 'pid,hostname',
        translateTime: 'HH:MM:ss.l',
      })
    : pino.destination({ dest: STDERR, sync: true });
  if (file === undefined) return pino({ level, base: null }, stream);
  // 'silent' is about stderr and the file alike: then nothing is written at all.
  const each = level === 'silent' ? 'fatal' : level;
  const streams = [
    { level: each, stream },
    { level: each, stream: fileStream(file, pino) },
  ] as const;
  return pino({ level, base: null }, pino.multistream([...streams]));
}

/** Loaded only where it is used: it takes longer to load than everything else of a command. */
function prettyStream(options: PrettyOptions): PrettyStream {
  const { build } = require('pino-pretty') as typeof import('pino-pretty');
  return build(options);
}
