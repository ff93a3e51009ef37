/**
 * A guest that takes its grants away while the disk works on them, again and again: FUZZ_REVOCATIONS of them (default 30,000;
 * `npm run test:fuzz` with --cases). What was granted when the request was taken is used, and only that; what is revoked stays
 * revoked; nothing is held afterwards.
 */
import { setImmediate as turn } from 'node:timers/promises';
import { BLKIF_OP as OP } from '../../abi/xen/blkif';
import { GTF } from '../../abi/xen/grant-table';
import { ScsiDisk } from '../../shim/hyperv/storage/scsi-disk';
import { StorageVsp } from '../../shim/hyperv/storage/storvsp';
import { BlkifQueue, REQUESTS_PER_TURN } from '../../shim/translate/blkif/queue';
import { Storvsc } from '../../shim/translate/blkif/storvsc';
import { SharedRing } from '../../shim/xen/shared-ring';
import { Front } from '../unit/blkif/front';
import { GRANTS, PAGE, setUp } from '../unit/hypercalls/fixture';
import { LateDisk, READ_BYTE } from './blkif/late-disk';
import { Random } from './random';

const wanted = Number(process.env['FUZZ_CASES'] ?? 30_000);
const seed = Number(process.env['FUZZ_SEED'] ?? 1);
const REFS = 64;
const FIRST_REF = 8;
const SEGMENTS = 11;

test('grants that are revoked during I/O, again and again', async () => {
  const random = new Random(seed);
  const problems: string[] = [];
  const f = setUp();
  const disk = new LateDisk({
    random,
    problem: (text) => problems.push(text),
    size: 1 << 20,
    sectorSize: 512,
    readOnly: false,
    canDiscard: false,
    failures: 50,
  });
  disk.atOnce = true;
  const vsp = new StorageVsp({
    instanceId: '00000000-0000-0000-0000-000000000000',
    luns: [{ target: 0, lun: 0, device: new ScsiDisk(disk, { serial: 'xvda' }) }],
  });
  const storvsc = await Storvsc.open(vsp, f.memory, 2200 * PAGE);
  disk.atOnce = false;
  const front = new Front(f, [40, 41, 42, 43]);
  const queue = new BlkifQueue({
    ring: new SharedRing({ memory: f.memory, pages: front.pages.map((p) => p * PAGE), entrySize: 112 }),
    memory: f.memory,
    grants: f.d.grants,
    target: storvsc,
    notify: () => undefined,
    onBroken: () => problems.push('broken'),
    onIdle: () => undefined,
  });
  const entry = (ref: number) => GRANTS * PAGE + ref * 8;
  let revoked = 0;
  let requests = 0;
  let id = 0n;
  const started = performance.now();
  while (revoked < wanted && problems.length === 0) {
    // Pages 120 to 183 are granted; 200 to 263 will be named afterwards by entries that are in use.
    for (let i = 0; i < REFS; i++) {
      f.memory.fill((120 + i) * PAGE, PAGE, 0xa5);
      if (!f.d.grants.isActive(FIRST_REF + i)) front.writeGrant(FIRST_REF + i, 120 + i, GTF.GTF_permit_access);
    }
    const used = new Set<number>();
    for (let r = 0; r < 40; r++, requests++) {
      const segments = Array.from({ length: SEGMENTS }, () => {
        const gref = FIRST_REF + random.below(REFS);
        used.add(gref);
        return { gref, first: 0, last: 7 };
      });
      front.request(random.oneIn(2) ? OP.BLKIF_OP_READ : OP.BLKIF_OP_WRITE, id++, BigInt(random.below(1900)), segments);
    }
    front.push();
    queue.service();
    for (let taken = REQUESTS_PER_TURN; taken < 40; taken += REQUESTS_PER_TURN) await turn();
    // As guests do, with 16 bits, and as they should not: the frame too.
    for (const ref of used) {
      if (!f.d.grants.isActive(ref)) problems.push(`grant ${ref} is not held`);
      f.memory.setU16(entry(ref), 0);
      if (random.oneIn(4)) f.memory.setU32(entry(ref) + 4, 200 + ref);
      revoked++;
    }
    while (queue.pending > 0) {
      disk.finish(1 + random.below(40));
      // In between, requests for what is not granted any more.
      if (random.oneIn(8)) {
        const ref = [...used].find((gref) => !f.d.grants.isActive(gref));
        if (ref !== undefined) front.request(OP.BLKIF_OP_READ, id++, 0n, [{ gref: ref, first: 0, last: 7 }]);
        front.push();
        queue.service();
      }
      await turn();
    }
    queue.service();
    await turn();
    front.take();
    for (const ref of used) {
      if (f.d.grants.isActive(ref)) problems.push(`grant ${ref} is held`);
      if (f.memory.getU16(entry(ref)) !== 0) problems.push(`grant ${ref} has come back`);
    }
  }
  const ms = performance.now() - started;
  process.stderr.write(
    `fuzz: ${revoked} grants revoked during ${requests} requests, ${(ms / 1000).toFixed(1)} s, ${disk.requests} of the disk\n`,
  );
  await queue.close();
  await storvsc.close();
  for (let frame = 200; frame < 280; frame++)
    if (f.memory.copyOut(frame * PAGE, PAGE).some((byte) => byte !== 0)) problems.push(`frame ${frame} was written`);
  expect(problems).toEqual([]);
  expect(f.memory.copyOut(120 * PAGE, REFS * PAGE).includes(READ_BYTE)).toBe(true);
  const { pins } = f.memory as unknown as { pins: number };
  expect(pins).toBe(0);
}, 600_000);
