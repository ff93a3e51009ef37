/** The channel state machine: the ordinary life, the crossings, the errors of guests, and all short sequences of events. */
import { type ChannelAction, type ChannelEvent, ChannelState } from '../../../shim/hyperv/vmbus/channel-state';

type Event = ChannelEvent<string>;

function brief(action: ChannelAction<string>): string {
  switch (action.action) {
    case 'open-device':
      return `open-device ${action.request}`;
    case 'open-result':
      return `result ${action.request} ${action.ok ? 'ok' : 'no'}`;
    case 'protocol-error':
      return 'error';
    default:
      return action.action;
  }
}

/** Feeds events, given as words, and returns what each led to. */
function run(state: ChannelState<string>, ...words: string[]): string[] {
  return words.map((word) => state.step(eventOf(word)).map(brief).join(', '));
}

function eventOf(word: string): Event {
  const [event, detail] = word.split(' ');
  switch (event) {
    case 'open':
      return { event: 'open', request: detail ?? 'A' };
    case 'opened':
      return { event: 'device-opened', ok: true };
    case 'failed':
      return { event: 'device-opened', ok: false };
    case 'closed':
      return { event: 'device-closed' };
    default:
      return { event } as Event;
  }
}

function after(...words: string[]): ChannelState<string> {
  const state = new ChannelState<string>();
  run(state, ...words);
  return state;
}

test('offer, open, close, open again, revoke, release', () => {
  const state = new ChannelState<string>();
  expect(run(state, 'offer', 'open A', 'opened')).toEqual(['send-offer', 'open-device A', 'result A ok']);
  expect(state.use).toBe('open');
  expect(run(state, 'close', 'closed')).toEqual(['close-device', '']);
  expect(run(state, 'open B', 'failed')).toEqual(['open-device B', 'result B no']);
  expect(run(state, 'open C', 'opened')).toEqual(['open-device C', 'result C ok']);
  expect(run(state, 'revoke')).toEqual(['send-rescind, close-device']);
  // The guest closes what the revocation has closed already, and that is in order.
  expect(run(state, 'close', 'closed', 'release')).toEqual(['', '', 'release-relid, gone']);
});

test('close, and open before the device is done: ClosingReopen', () => {
  const state = after('offer', 'open', 'opened', 'close');
  expect(run(state, 'open B')).toEqual(['']);
  expect(state.use).toBe('closing-reopen');
  expect(run(state, 'open C')).toEqual(['error, result C no']);
  expect(run(state, 'closed', 'opened')).toEqual(['open-device B', 'result B ok']);
});

test('a reopening that is closed again, or revoked, is answered', () => {
  expect(run(after('offer', 'open', 'opened', 'close', 'open B'), 'close', 'closed')).toEqual([
    'error, result B no',
    '',
  ]);
  expect(run(after('offer', 'open', 'opened', 'close', 'open B'), 'revoke', 'closed', 'release')).toEqual([
    'send-rescind, result B no',
    '',
    'release-relid, gone',
  ]);
});

test('CLOSECHANNEL while opening: the device is closed as soon as it has opened', () => {
  const state = after('offer', 'open A');
  expect(run(state, 'close', 'opened', 'closed')).toEqual(['error', 'result A no, close-device', '']);
  expect(run(after('offer', 'open A', 'close'), 'open B', 'opened', 'closed', 'opened')).toEqual([
    '',
    'result A no, close-device',
    'open-device B',
    'result B ok',
  ]);
  expect(run(after('offer', 'open A', 'close', 'open B'), 'failed')).toEqual(['result A no, open-device B']);
});

test('RELID_RELEASED of an open channel is ignored, of a closed one accepted', () => {
  const state = after('offer', 'open', 'opened');
  expect(run(state, 'release')).toEqual(['error']);
  expect(state.use).toBe('open');
  expect(run(state, 'close', 'release', 'closed')).toEqual(['close-device', '', 'release-relid']);
  expect(state.offer).toBe('none');
  expect(run(state, 'release', 'close')).toEqual(['error', 'error']);
  expect(run(state, 'offer')).toEqual(['send-offer']);
});

test('rescind with an open channel: the relid is free when the guest and the device are done', () => {
  expect(run(after('offer', 'open', 'opened', 'revoke'), 'release', 'closed')).toEqual(['', 'release-relid, gone']);
  expect(run(after('offer', 'open', 'revoke'), 'opened', 'release', 'closed')).toEqual([
    'result A no, close-device',
    '',
    'release-relid, gone',
  ]);
});

test('OPENCHANNEL that crosses the rescind is refused without reproach', () => {
  expect(run(after('offer', 'revoke'), 'open A')).toEqual(['result A no']);
});

test('a device that is back before the guest has let go is offered afterwards', () => {
  const state = after('offer', 'open', 'opened', 'revoke');
  expect(run(state, 'reoffer', 'closed', 'release')).toEqual(['', '', 'release-relid, send-offer']);
  expect(run(state, 'open B')).toEqual(['open-device B']);
  expect(run(after('offer', 'revoke', 'reoffer', 'revoke'), 'release')).toEqual(['release-relid, gone']);
});

test('disconnection: everything is closed, nobody is answered', () => {
  expect(run(after('offer', 'open', 'opened'), 'disconnect', 'closed', 'offer')).toEqual([
    'close-device',
    'release-relid',
    'send-offer',
  ]);
  expect(run(after('offer', 'open'), 'disconnect', 'opened', 'closed')).toEqual(['', 'close-device', 'release-relid']);
  expect(run(after('offer', 'open', 'opened', 'close', 'open B'), 'disconnect', 'closed')).toEqual([
    '',
    'release-relid',
  ]);
  expect(run(after('offer', 'revoke'), 'disconnect')).toEqual(['release-relid, gone']);
  // A device that is back waits for the next connection, even if the guest had already let go.
  const reoffered = after('offer', 'open', 'opened', 'revoke', 'reoffer', 'release');
  expect(run(reoffered, 'disconnect', 'closed', 'offer')).toEqual(['', 'release-relid', 'send-offer']);
});

test('every sequence of events keeps the promises', () => {
  const guest = ['open', 'close', 'release', 'disconnect', 'offer', 'revoke', 'reoffer', 'opened', 'failed', 'closed'];
  let sequences = 0;
  const walk = (words: readonly string[], depth: number): void => {
    const must = (promise: boolean): void => {
      if (!promise) throw new Error(`broken by ${words.join(', ')}`);
    };
    // What is true is worked out from the actions alone.
    const state = new ChannelState<string>();
    let device: 'closed' | 'opening' | 'open' | 'closing' = 'closed';
    let held = false;
    let gone = false;
    const unanswered = new Set<string>();
    let n = 0;
    for (const word of words) {
      const request = `r${n++}`;
      if (word === 'opened' || word === 'failed') device = word === 'opened' ? 'open' : 'closed';
      if (word === 'closed') device = 'closed';
      if (word === 'open' && state.offer !== 'none') unanswered.add(request);
      if (word === 'disconnect') unanswered.clear();
      // A guest that has let go of the relid waits for nothing any more.
      if (word === 'release' && (state.offer === 'revoked' || state.offer === 'reoffered')) unanswered.clear();
      for (const action of state.step(eventOf(word === 'open' ? `open ${request}` : word))) {
        switch (action.action) {
          case 'open-device':
            must(device === 'closed');
            must(held && !gone);
            device = 'opening';
            break;
          case 'close-device':
            must(device === 'open');
            device = 'closing';
            break;
          case 'send-offer':
            must(!(held || gone));
            held = true;
            break;
          case 'send-rescind':
            must(held);
            break;
          case 'open-result':
            if (action.ok) must(device === 'open');
            unanswered.delete(action.request);
            break;
          case 'release-relid':
            must(held);
            must(device === 'closed');
            held = false;
            break;
          case 'gone':
            must(!(held || gone));
            must(device === 'closed');
            gone = true;
            break;
        }
      }
    }
    // At rest, every opening that the guest still waits for has its answer.
    if (device === 'closed' || device === 'open') {
      if (held && state.use !== 'opening' && state.use !== 'closing') must(unanswered.size === 0);
    }
    sequences++;
    if (depth === 0) return;
    for (const word of guest) {
      if ((word === 'opened' || word === 'failed') && device !== 'opening') continue;
      if (word === 'closed' && device !== 'closing') continue;
      walk([...words, word], depth - 1);
    }
  };
  walk(['offer'], 6);
  expect(sequences).toBeGreaterThan(100_000);
});
