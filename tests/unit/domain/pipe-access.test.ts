/** Access lists of control pipes; on Windows (under Wine as well) those of a real pipe. */
import { randomBytes } from 'node:crypto';
import { connect, createServer } from 'node:net';
import { letsOthersIn, narrowed, narrowPipeAccess, setPipeAccess } from '../../../shim/domain/pipe-access';

const onWindows = process.platform === 'win32' ? test : test.skip;

/** What Windows gives a pipe. */
const DEFAULT = 'D:(A;;FA;;;SY)(A;;FA;;;BA)(A;;FA;;;S-1-5-21-1-2-3-1001)(A;;FR;;;WD)(A;;FR;;;AN)';

test.each([
  [DEFAULT, 'D:(A;;FA;;;SY)(A;;FA;;;BA)(A;;FA;;;S-1-5-21-1-2-3-1001)'],
  ['D:P(A;;FA;;;BA)(A;;0x12019f;;;S-1-1-0)(A;;FR;;;S-1-5-7)', 'D:P(A;;FA;;;BA)'],
  // What denies stays, and whom an administrator let in by name.
  ['D:AI(D;;FA;;;AN)(A;;FA;;;SY)(A;;FR;;;S-1-1-01)', 'D:AI(D;;FA;;;AN)(A;;FA;;;SY)(A;;FR;;;S-1-1-01)'],
  ['', 'D:(A;;FA;;;SY)(A;;FA;;;BA)(A;;FA;;;OW)'],
  ['D:NO_ACCESS_CONTROL', 'D:(A;;FA;;;SY)(A;;FA;;;BA)(A;;FA;;;OW)'],
  // Nobody would be left; a condition; nothing of the kind.
  ['D:(A;;FA;;;WD)', undefined],
  ['D:(XA;;FA;;;SY;(WIN://a == "(b)"))', undefined],
  ['O:BAG:BA', undefined],
])('%s', (before, after) => {
  expect(narrowed(before)).toBe(after);
  expect(letsOthersIn(before)).toBe(after !== before);
  if (after !== undefined) expect(letsOthersIn(after)).toBe(false);
});

onWindows('a pipe has no entry for others when it has been narrowed, and its owner can connect', async () => {
  const pipe = `\\\\.\\pipe\\xenlighten-test-${randomBytes(8).toString('hex')}`;
  const server = createServer((socket) => void socket.on('error', () => undefined).end('hello'));
  await new Promise<void>((resolve) => void server.listen(pipe, resolve));
  try {
    const list = 'D:(A;;FA;;;SY)(A;;FA;;;BA)';
    expect(setPipeAccess(pipe, `${list}(A;;FA;;;OW)(A;;FR;;;WD)(A;;FR;;;AN)`)).toContain(';;;WD)');
    const wanted = `${list}(A;;FA;;;OW)`;
    expect(narrowPipeAccess(pipe)).toBe(wanted);
    expect(narrowPipeAccess(pipe)).toBe(wanted);
    for (let i = 0; i < 10; i++) {
      const said = await new Promise<string>((resolve, reject) => {
        const socket = connect(pipe);
        socket.on('error', reject);
        socket.on('data', (data) => {
          resolve(data.toString());
          socket.destroy();
        });
      });
      expect(said).toBe('hello');
    }
    // Instances that were made since have it as well.
    expect(narrowPipeAccess(pipe)).toBe(wanted);
    expect(() => setPipeAccess(pipe, 'D:(nonsense)')).toThrow(/does not understand/);
    expect(() => narrowPipeAccess(`${pipe}-no`)).toThrow(/cannot be opened/);
  } finally {
    await new Promise((resolve) => server.close(resolve));
  }
});
