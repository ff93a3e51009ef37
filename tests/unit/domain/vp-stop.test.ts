/** Pausing and unpausing: what is waited for, what is refused in which state, and VPs that do not obey. */
import type { ControlError } from '../../../shim/domain/control-protocol';
import { type StopTarget, VpStop } from '../../../shim/domain/vp-stop';

/** VPs that obey when they are told to. */
class Vps implements StopTarget {
  readonly nrVps = 3;
  readonly parked = [false, false, false];
  readonly log: string[] = [];
  work: string | undefined;
  /** Obeys at once, without a doorbell. */
  prompt = false;

  request(stop: boolean): void {
    this.log.push(stop ? 'stop' : 'go');
    if (this.prompt) this.parked.fill(stop);
  }
  isParked(vp: number): boolean {
    return this.parked[vp] === true;
  }
  pending(): string | undefined {
    return this.work;
  }
  quiesce(): void {
    this.log.push('quiesce');
  }
  resume(): void {
    this.log.push('resume');
  }
}

const turn = (): Promise<void> => new Promise((resolve) => setImmediate(resolve));

/** What has become of it by now. */
async function state(promise: Promise<void>): Promise<string> {
  const pending = turn().then(() => 'pending');
  return Promise.race([promise.then(() => 'done').catch((error: ControlError) => error.code), pending]);
}

function setUp(timeoutMs = 60_000): { vps: Vps; stop: VpStop; obey: (vp: number, parked: boolean) => void } {
  const vps = new Vps();
  const stop = new VpStop(vps, timeoutMs);
  return {
    vps,
    stop,
    obey: (vp, parked) => {
      vps.parked[vp] = parked;
      stop.look();
    },
  };
}

test('a pause is over when all VPs are parked and nothing is under way; an unpause when all have left', async () => {
  const { vps, stop, obey } = setUp();
  const pause = stop.pause();
  expect(stop.state).toBe('pausing');
  obey(1, true);
  obey(0, true);
  vps.work = 'a call';
  obey(2, true);
  expect(await state(pause)).toBe('pending');
  expect(vps.log).toEqual(['stop']);
  vps.work = undefined;
  stop.look();
  expect(await state(pause)).toBe('done');
  expect(stop.state).toBe('paused');
  expect(vps.log).toEqual(['stop', 'quiesce']);

  const unpause = stop.unpause();
  expect(stop.state).toBe('unpausing');
  expect(vps.log).toEqual(['stop', 'quiesce', 'resume', 'go']);
  obey(0, false);
  obey(1, false);
  expect(await state(unpause)).toBe('pending');
  obey(2, false);
  expect(await state(unpause)).toBe('done');
  expect(stop.state).toBe('running');
});

test('what is done before anybody waits is done, a thousand times', async () => {
  const { vps, stop } = setUp();
  vps.prompt = true;
  for (let i = 0; i < 1000; i++) {
    await stop.pause();
    expect(stop.state).toBe('paused');
    await stop.unpause();
  }
  expect(vps.log).toHaveLength(4000);
});

test('every other state than the right one is refused, and changes nothing', async () => {
  const { vps, stop, obey } = setUp();
  await expect(stop.unpause()).rejects.toMatchObject({
    code: 'wrong-state',
    message: 'cannot unpause the domain: it is running, wanted one that is paused',
  });
  const pause = stop.pause();
  await expect(stop.pause()).rejects.toMatchObject({ code: 'wrong-state', message: /it is being paused/ });
  await expect(stop.unpause()).rejects.toMatchObject({ code: 'wrong-state', message: /it is being paused/ });
  for (const vp of [0, 1, 2]) obey(vp, true);
  await pause;
  await expect(stop.pause()).rejects.toMatchObject({ code: 'wrong-state', message: /it is paused/ });
  const unpause = stop.unpause();
  await expect(stop.pause()).rejects.toMatchObject({ code: 'wrong-state', message: /it is being unpaused/ });
  await expect(stop.unpause()).rejects.toMatchObject({ code: 'wrong-state' });
  for (const vp of [0, 1, 2]) obey(vp, false);
  await unpause;
  expect(vps.log).toEqual(['stop', 'quiesce', 'resume', 'go']);
});

test('the time that VPs need to leave an earlier stop is part of the time for the next', async () => {
  const { stop, obey } = setUp(400);
  for (const vp of [0, 1, 2]) obey(vp, true);
  const began = performance.now();
  const pause = stop.pause();
  setTimeout(() => {
    for (const vp of [0, 1, 2]) obey(vp, false);
  }, 250);
  await expect(pause).rejects.toMatchObject({ code: 'failed', message: /vCPUs 0, 1, 2 did not stop/ });
  expect(performance.now() - began).toBeLessThan(640);
});

test('a VP that does not stop is named, and the others go on', async () => {
  const { vps, stop, obey } = setUp(20);
  const pause = stop.pause();
  obey(0, true);
  await expect(pause).rejects.toMatchObject({
    code: 'failed',
    message: 'not paused within 0.02 s: vCPUs 1, 2 did not stop',
  });
  expect(vps.log).toEqual(['stop', 'go']);
  expect(stop.state).toBe('running');

  // VP 0 still says that it is parked: it must not be taken for one that has stopped again.
  vps.prompt = false;
  const again = stop.pause();
  obey(1, true);
  obey(2, true);
  await expect(again).rejects.toMatchObject({ code: 'failed', message: /vCPUs 0, 1, 2 did not go on after the last/ });
  expect(vps.log).toEqual(['stop', 'go', 'go']);
  for (const vp of [0, 1, 2]) obey(vp, false);
  const third = stop.pause();
  await turn();
  expect(vps.log).toEqual(['stop', 'go', 'go', 'stop']);
  for (const vp of [0, 1, 2]) obey(vp, true);
  await third;
});

test('work that does not end is named', async () => {
  const { vps, stop, obey } = setUp(20);
  vps.work = 'a call of vCPU 1 is not answered';
  const pause = stop.pause();
  for (const vp of [0, 1, 2]) obey(vp, true);
  await expect(pause).rejects.toThrow('not paused within 0.02 s: a call of vCPU 1 is not answered');
  expect(vps.log).toEqual(['stop', 'go']);
});

test('a VP that does not go on is named; the domain counts as running', async () => {
  const { vps, stop, obey } = setUp(20);
  vps.parked.fill(false);
  vps.prompt = true;
  await stop.pause();
  vps.prompt = false;
  const unpause = stop.unpause();
  obey(0, false);
  obey(2, false);
  await expect(unpause).rejects.toMatchObject({ code: 'failed', message: 'vCPU 1 did not go on within 0.02 s' });
  expect(stop.state).toBe('running');
});

test.each(['pausing', 'paused', 'unpausing'] as const)('the end of a domain that is %s', async (when) => {
  const { vps, stop } = setUp();
  let waiting: Promise<void> | undefined;
  if (when === 'pausing') waiting = stop.pause();
  else {
    vps.prompt = true;
    await stop.pause();
    vps.prompt = false;
    if (when === 'unpausing') waiting = stop.unpause();
  }
  waiting?.catch(() => undefined);
  stop.end();
  if (waiting !== undefined) expect(await state(waiting)).toBe('not-running');
  await expect(stop.pause()).rejects.toMatchObject({ code: 'not-running', message: 'the domain is ending' });
  await expect(stop.unpause()).rejects.toMatchObject({ code: 'not-running' });
  // Nothing is asked of VPs that are being ended.
  expect(vps.log.filter((line) => line === 'go')).toHaveLength(when === 'unpausing' ? 1 : 0);
});
