/** The log: levels, and the file beside stderr. */
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createLogger } from '../../../shim/cli/log';
import { UsageError } from '../../../shim/errors';

let folder: string;
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'xenlighten-log-'));
});
afterEach(() => {
  try {
    rmSync(folder, { recursive: true });
  } catch (error) {
    // A log is open as long as its process lives, and Windows removes no open file.
    if (process.platform !== 'win32') throw error;
  }
});
const onPosix = process.platform === 'win32' ? test.skip : test;

const lines = (file: string): Record<string, unknown>[] =>
  readFileSync(file, 'utf8')
    .split('\n')
    .filter((line) => line !== '')
    .map((line) => JSON.parse(line) as Record<string, unknown>);

test('a level that nobody knows: from the option, from the variable', () => {
  expect(() => createLogger('loud')).toThrow(/^--log-level: unknown log level: found "loud", wanted trace, /);
  expect(() => createLogger(undefined, { env: { XENLIGHTEN_LOG: 'loud' } })).toThrow(/^XENLIGHTEN_LOG: /);
  expect(createLogger(undefined, { env: {} }).level).toBe('warn');
  expect(createLogger('info', { env: { XENLIGHTEN_LOG: 'debug' } }).level).toBe('info');
});

test('lines go to the file at the level, and behind what was there', () => {
  const file = join(folder, 'guest.log');
  const log = createLogger('fatal', { file });
  log.fatal({ domain: 'web' }, 'first');
  log.error('below the level');
  createLogger('fatal', { file }).fatal('second');
  expect(lines(file)).toMatchObject([{ level: 60, domain: 'web', msg: 'first' }, { msg: 'second' }]);
  expect(typeof lines(file)[0]?.['time']).toBe('number');
});

test('a silent log writes nothing', () => {
  const file = join(folder, 'guest.log');
  createLogger('silent', { file }).fatal('x');
  expect(lines(file)).toEqual([]);
});

test('a file that cannot be written is a wrong option', () => {
  expect(() => createLogger('info', { file: join(folder, 'no', 'guest.log') })).toThrow(UsageError);
});

onPosix('a folder is no file to write', () => {
  expect(() => createLogger('info', { file: folder })).toThrow(
    /^--log-file: cannot write: found ".*": EISDIR, wanted a file/,
  );
});

test.each([
  ['linux', 2],
  ['win32', process.stderr],
])('on a terminal of %s lines are coloured, by what can show colours there', (platform, destination) => {
  const build = jest.fn((_options: object) => ({ write: () => undefined }));
  jest.isolateModules(() => {
    jest.doMock('node:tty', () => ({ isatty: () => true }));
    jest.doMock('pino-pretty', () => ({ build }));
    (require('../../../shim/cli/log') as typeof import('../../../shim/cli/log')).createLogger('info', { platform });
  });
  expect(build).toHaveBeenCalledTimes(1);
  expect(build.mock.calls[0]).toEqual([expect.objectContaining({ destination, sync: true })]);
});

const onLinux = process.platform === 'linux' ? test : test.skip;

onLinux('a disk that is full ends the file, and nothing else; it is said once', () => {
  const said = jest.spyOn(process.stderr, 'write').mockReturnValue(true);
  try {
    const log = createLogger('fatal', { file: '/dev/full' });
    log.fatal('one');
    log.fatal('two');
    const told = said.mock.calls.map(([text]) => String(text)).filter((text) => text.includes('--log-file'));
    expect(told).toEqual([
      expect.stringMatching(/^xenlighten: --log-file: \/dev\/full cannot be written any more: ENOSPC/),
    ]);
  } finally {
    said.mockRestore();
  }
});
