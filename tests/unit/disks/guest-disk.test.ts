/** The images that a guest has open, over all its lives. */
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import pino from 'pino';
import { parseDiskSpec } from '../../../shim/domain/disks/disk-spec';
import { GuestDisks } from '../../../shim/domain/disks/guest-disk';

const folder = mkdtempSync(join(tmpdir(), 'xenlighten-disks-'));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

test('the end waits for a disk that is being closed because it was detached', async () => {
  const file = join(folder, 'a.img');
  writeFileSync(file, Buffer.alloc(4096));
  const { disk: spec } = parseDiskSpec(`${file},raw,xvda,w`, 'test');
  const disks = await GuestDisks.open([spec], false, pino({ level: 'silent' }));
  const [disk] = disks.list();
  let closed = (): void => undefined;
  const { close } = disk!;
  disk!.close = async () => {
    await new Promise<void>((resolve) => {
      closed = resolve;
    });
    await close.call(disk);
    throw new Error('could not be flushed');
  };
  const removed = expect(disks.remove(disk!)).rejects.toThrow('could not be flushed');
  expect(disks.list()).toEqual([]);
  let ended = false;
  const end = disks.close().then(() => {
    ended = true;
  });
  await new Promise<void>((resolve) => setImmediate(resolve));
  expect(ended).toBe(false);
  closed();
  await removed;
  await end;
});
