/** Signals to `xenlighten run`: the first one asks, the second one destroys, the third one leaves. */
import { EventEmitter } from 'node:events';
import { interruptions } from '../../../shim/cli/signals';

class FakeProcess extends EventEmitter {
  readonly exits: number[] = [];
  exit(status: number): void {
    this.exits.push(status);
  }
}

/** Signals that come a second after each other, or at once ('+SIGINT'). */
async function signalled(...signals: string[]): Promise<{ asked: unknown; destroyed: unknown; exits: number[] }> {
  const fake = new FakeProcess();
  let now = 0;
  const stop = interruptions(fake, () => now);
  let asked: unknown;
  let destroyed: unknown;
  void stop.shutdown.then((signal) => {
    asked = signal;
  });
  void stop.stop.then((signal) => {
    destroyed = signal;
  });
  for (const signal of signals) {
    now += signal.startsWith('+') ? 100 : 1000;
    if (signal === 'Ctrl-]') stop.destroy('SIGINT');
    else fake.emit(signal.replace('+', ''));
  }
  await new Promise((resolve) => setImmediate(resolve));
  stop.close();
  expect(fake.eventNames()).toEqual([]);
  return { asked, destroyed, exits: fake.exits };
}

test.each(['SIGINT', 'SIGTERM', 'SIGHUP'])('%s asks', async (signal) => {
  expect(await signalled(signal)).toEqual({ asked: signal, destroyed: undefined, exits: [] });
});

test('the second one destroys, whichever it is', async () => {
  expect(await signalled('SIGHUP', 'SIGINT')).toEqual({ asked: 'SIGHUP', destroyed: 'SIGINT', exits: [] });
  expect(await signalled('SIGTERM', 'SIGTERM')).toEqual({ asked: 'SIGTERM', destroyed: 'SIGTERM', exits: [] });
});

test('one more leaves at once', async () => {
  expect((await signalled('SIGINT', 'SIGINT', 'SIGTERM')).exits).toEqual([143]);
});

test('SIGQUIT and Ctrl-] do not ask', async () => {
  expect(await signalled('SIGQUIT')).toEqual({ asked: undefined, destroyed: 'SIGQUIT', exits: [] });
  expect(await signalled('Ctrl-]')).toEqual({ asked: undefined, destroyed: 'SIGINT', exits: [] });
  expect((await signalled('Ctrl-]', 'SIGHUP')).exits).toEqual([129]);
});

test('what comes at once, because somebody passes it on, is one signal', async () => {
  expect(await signalled('SIGINT', '+SIGINT', '+SIGTERM')).toEqual({
    asked: 'SIGINT',
    destroyed: undefined,
    exits: [],
  });
  expect(await signalled('SIGINT', '+SIGINT', 'SIGINT', '+SIGINT')).toEqual({
    asked: 'SIGINT',
    destroyed: 'SIGINT',
    exits: [],
  });
});

describe('on Windows', () => {
  test('Ctrl-Break destroys at once', async () => {
    expect(await signalled('SIGBREAK')).toEqual({ asked: undefined, destroyed: 'SIGBREAK', exits: [] });
    expect((await signalled('SIGBREAK', 'SIGINT')).exits).toEqual([130]);
  });

  test.each(['win32', 'linux'])(
    'a console that closes (%s): the guest is asked, and has 3 s on Windows',
    async (platform) => {
      jest.useFakeTimers();
      try {
        const fake = Object.assign(new FakeProcess(), { platform });
        const stop = interruptions(fake, () => 0);
        const got: string[] = [];
        void stop.shutdown.then((signal) => got.push(`asked by ${signal}`));
        void stop.stop.then((signal) => got.push(`destroyed by ${signal}`));
        fake.emit('SIGHUP');
        await jest.advanceTimersByTimeAsync(2900);
        expect(got).toEqual(['asked by SIGHUP']);
        await jest.advanceTimersByTimeAsync(200);
        expect(got).toEqual(platform === 'win32' ? ['asked by SIGHUP', 'destroyed by SIGHUP'] : ['asked by SIGHUP']);
        stop.close();
        expect(jest.getTimerCount()).toBe(0);
      } finally {
        jest.useRealTimers();
      }
    },
  );
});
