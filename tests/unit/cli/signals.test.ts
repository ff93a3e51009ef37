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
async function after(...signals: string[]): Promise<{ asked: unknown; destroyed: unknown; exits: number[] }> {
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
  expect(await after(signal)).toEqual({ asked: signal, destroyed: undefined, exits: [] });
});

test('the second one destroys, whichever it is', async () => {
  expect(await after('SIGHUP', 'SIGINT')).toEqual({ asked: 'SIGHUP', destroyed: 'SIGINT', exits: [] });
  expect(await after('SIGTERM', 'SIGTERM')).toEqual({ asked: 'SIGTERM', destroyed: 'SIGTERM', exits: [] });
});

test('one more leaves at once', async () => {
  expect((await after('SIGINT', 'SIGINT', 'SIGTERM')).exits).toEqual([143]);
});

test('SIGQUIT and Ctrl-] do not ask', async () => {
  expect(await after('SIGQUIT')).toEqual({ asked: undefined, destroyed: 'SIGQUIT', exits: [] });
  expect(await after('Ctrl-]')).toEqual({ asked: undefined, destroyed: 'SIGINT', exits: [] });
  expect((await after('Ctrl-]', 'SIGHUP')).exits).toEqual([129]);
});

test('what comes at once, because somebody passes it on, is one signal', async () => {
  expect(await after('SIGINT', '+SIGINT', '+SIGTERM')).toEqual({ asked: 'SIGINT', destroyed: undefined, exits: [] });
  expect(await after('SIGINT', '+SIGINT', 'SIGINT', '+SIGINT')).toEqual({
    asked: 'SIGINT',
    destroyed: 'SIGINT',
    exits: [],
  });
});
