/*
 * Snapshots of L1 after its boot, waiting for a request: resuming one takes a second where booting takes ten.
 *
 * Quirks: the machine runs on while it is saved (a machine that was stopped first would be stopped after resuming,
 * too), which is harmless because L1 only waits. Nothing of 9p may be mounted then.
 */
import { createHash } from 'node:crypto';
import { existsSync, readdirSync, renameSync, rmSync, statSync, utimesSync } from 'node:fs';
import path from 'node:path';
import { withLock } from '../lock.mjs';
import { fail, timed } from '../progress.mjs';
import { awaitReady, Conversation } from './conversation.mjs';
import { Machine, machineIdentity } from './machine.mjs';
import { discard, temporaryName } from './temporary.mjs';

/** Snapshots of other sizes of L1 that are kept beside the one in use. */
const KEPT = 3;

function fileFor(image, options) {
  const { qemu } = options;
  const { size, mtimeMs } = statSync(qemu);
  const key = createHash('sha256')
    .update(`${machineIdentity(options)}\n${qemu} ${size} ${mtimeMs}`)
    .digest('hex');
  return path.join(image, `snapshot-${options.smp}-${options.mem}-${key.slice(0, 8)}`);
}

/** The file to resume for a machine like this, made if it is not there. */
export async function labSnapshot(image, options) {
  const file = fileFor(image, options);
  if (!existsSync(file)) {
    await timed('booting the lab, for a snapshot of it', () =>
      withLock(path.join(image, '.lock'), async () => {
        if (existsSync(file)) return;
        await make(image, options, file);
        prune(image, file);
      }),
    );
  }
  const now = new Date();
  utimesSync(file, now, now);
  return file;
}

function prune(image, keep) {
  const others = readdirSync(image)
    .filter((name) => /^snapshot-/.test(name) && path.join(image, name) !== keep)
    .map((name) => ({ file: path.join(image, name), time: statSync(path.join(image, name)).mtimeMs }))
    .sort((a, b) => b.time - a.time);
  for (const { file } of others.slice(KEPT)) rmSync(file, { force: true });
}

async function make(image, options, file) {
  const temporary = temporaryName(`${file}.new`);
  const machine = new Machine(image, { ...options, shares: {}, env: { XL_LAB_SNAPSHOT: temporary } });
  const conversation = new Conversation(machine);
  try {
    await awaitReady(conversation);
    await save(machine);
    renameSync(temporary, file);
  } finally {
    await machine.kill();
    discard(temporary);
  }
}

async function save(machine) {
  const { qmp } = machine;
  await qmp.execute('migrate-set-parameters', { 'max-bandwidth': 2 ** 40 });
  // The shell takes the name from its environment: no quoting.
  await qmp.execute('migrate', { uri: 'exec:cat > "$XL_LAB_SNAPSHOT"' });
  for (;;) {
    const { status, 'error-desc': why } = await qmp.execute('query-migrate');
    if (status === 'completed') return;
    if (status === 'failed' || status === 'cancelled') {
      fail(`QEMU cannot save the lab's state: ${why ?? status}\n${machine.complaint.trim()}`);
    }
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
}
