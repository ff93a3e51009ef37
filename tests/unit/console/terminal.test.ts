/** Raw mode, Ctrl-], and the ways out. */
import { EventEmitter } from 'node:events';
import { PassThrough } from 'node:stream';
import { Terminal, type TerminalProcess } from '../../../shim/xen/console/terminal';

class FakeTty extends PassThrough {
  readonly isTTY = true;
  isRaw = false;
  readonly modes: boolean[] = [];

  setRawMode(raw: boolean): void {
    this.isRaw = raw;
    this.modes.push(raw);
  }
}

class FakeProcess extends EventEmitter implements TerminalProcess {
  readonly pid = 4242;
  readonly kills: [number, string][] = [];

  kill(pid: number, signal: string): void {
    this.kills.push([pid, signal]);
  }
}

function setUp() {
  const stdin = new FakeTty();
  const process = new FakeProcess();
  let left = 0;
  const terminal = new Terminal({
    stdin,
    process,
    onLeave: () => {
      expect(stdin.isRaw).toBe(false);
      left++;
    },
  });
  return { stdin, process, terminal, left: () => left };
}

const turn = () => new Promise((resolve) => setImmediate(resolve));

test('a terminal is made raw and keys are passed on, Ctrl-C too', async () => {
  const { stdin, terminal } = setUp();
  expect(terminal.interactive).toBe(true);
  expect(stdin.isRaw).toBe(true);
  stdin.write('ls\r\x03');
  await turn();
  expect(terminal.input.read().toString()).toBe('ls\r\x03');
  terminal.close();
  expect(stdin.isRaw).toBe(false);
});

test('Ctrl-] leaves: what came before it is passed on, what comes after is not', async () => {
  const { stdin, terminal, left, process } = setUp();
  stdin.write('ab\x1dcd');
  stdin.write('ef');
  await turn();
  expect(left()).toBe(1);
  expect(terminal.input.read().toString()).toBe('ab');
  expect(process.eventNames()).toEqual([]);
  expect(stdin.isPaused()).toBe(true);
  terminal.close();
  expect(stdin.modes).toEqual([true, false]);
});

test('the end of the process restores', () => {
  const { stdin, process } = setUp();
  process.emit('exit');
  expect(stdin.isRaw).toBe(false);
});

test.each(['SIGINT', 'SIGTERM', 'SIGHUP', 'SIGQUIT'])('%s restores and then does what it would have done', (signal) => {
  const { stdin, process } = setUp();
  process.emit(signal);
  expect(stdin.isRaw).toBe(false);
  expect(process.kills).toEqual([[4242, signal]]);
});

test('a signal that somebody else handles is left to them', () => {
  const { stdin, process } = setUp();
  let handled = 0;
  process.on('SIGTERM', () => {
    handled++;
  });
  process.emit('SIGTERM');
  expect(stdin.isRaw).toBe(false);
  expect(process.kills).toEqual([]);
  expect(handled).toBe(1);
});

test('after a stop and SIGCONT it is raw again', () => {
  const { stdin, process, terminal } = setUp();
  stdin.setRawMode(false);
  process.emit('SIGCONT');
  expect(stdin.isRaw).toBe(true);
  terminal.close();
  process.emit('SIGCONT');
  expect(stdin.isRaw).toBe(false);
});

test('a terminal that is gone does not throw', () => {
  const { stdin, terminal } = setUp();
  stdin.setRawMode = () => {
    throw new Error('EIO');
  };
  expect(() => terminal.close()).not.toThrow();
});

test('a pipe is passed on as it is, Ctrl-] included, and its end is the end of input', async () => {
  const stdin = new PassThrough();
  const process = new FakeProcess();
  const terminal = new Terminal({ stdin, process, onLeave: () => expect(false).toBe(true) });
  expect(terminal.interactive).toBe(false);
  expect(process.eventNames()).toEqual([]);
  let text = '';
  let ended = false;
  terminal.input.on('data', (chunk) => {
    text += chunk.toString();
  });
  terminal.input.on('end', () => {
    ended = true;
  });
  stdin.end(`a\x1d${'b'.repeat(100_000)}`);
  for (let i = 0; i < 20; i++) await turn();
  expect(text).toBe(`a\x1d${'b'.repeat(100_000)}`);
  expect(ended).toBe(true);
});
