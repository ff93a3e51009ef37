/** The command line's logger: pino on stderr, for people (pino-pretty) on a terminal, as JSON lines elsewhere. */
import { isatty } from 'node:tty';
import type { Logger } from 'pino';
import type { PrettyOptions, PrettyStream } from 'pino-pretty';
import { UsageError } from '../errors';

const STDERR = 2;
export const LOG_LEVELS = ['trace', 'debug', 'info', 'warn', 'error', 'fatal', 'silent'] as const;
const DEFAULT_LEVEL = 'warn';

/** A logger at the given level, else at that of XENLIGHTEN_LOG, else for warnings. Throws UsageError. */
export function createLogger(asked: string | undefined, env: NodeJS.ProcessEnv = process.env): Logger {
  const level = asked ?? (env['XENLIGHTEN_LOG'] || DEFAULT_LEVEL);
  if (!LOG_LEVELS.some((known) => known === level)) {
    throw new UsageError('unknown log level', {
      file: asked === undefined ? 'XENLIGHTEN_LOG' : '--log-level',
      found: JSON.stringify(level),
      wanted: LOG_LEVELS.join(', '),
    });
  }
  const { pino } = require('pino') as typeof import('pino');
  // Synchronous: the last lines before an exit must not be lost.
  const stream = isatty(STDERR)
    ? prettyStream({
        destination: STDERR,
        sync: true,
        colorize: true,
        ignore: 'pid,hostname',
        translateTime: 'HH:MM:ss.l',
      })
    : pino.destination({ dest: STDERR, sync: true });
  return pino({ level, base: null }, stream);
}

/** Loaded only where it is used: it takes longer to load than everything else of a command. */
function prettyStream(options: PrettyOptions): PrettyStream {
  const { build } = require('pino-pretty') as typeof import('pino-pretty');
  return build(options);
}
