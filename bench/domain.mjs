#!/usr/bin/env node
/*
 * One domain, driven through class Domain, for what `xenlighten run` does not offer: QEMU's -icount, and the trap
 * module's counters as JSON at the end. Same options otherwise.
 *
 *   node bench/domain.mjs --kernel F --ramdisk F --memory MB --guest-ring R --cmdline S [--icount O] [--stats FILE]
 */
import { writeFileSync } from 'node:fs';
import { createRequire } from 'node:module';

const require = createRequire(import.meta.url);
const { Domain } = require('../dist/shim/domain/domain.js');
const { collectStats } = require('../dist/shim/translate/stats.js');
const { TrapVp } = require('../dist/abi/trap');

const option = {};
const words = process.argv.slice(2);
while (words.length > 1) option[words.shift().replace(/^--/, '')] = words.shift();

const domain = await Domain.create({
  name: 'bench',
  kernel: option.kernel,
  ramdisk: option.ramdisk,
  cmdline: option.cmdline ?? '',
  memory: Number(option.memory ?? 256),
  guestRing: option['guest-ring'] === undefined ? 'auto' : Number(option['guest-ring']),
  icount: option.icount,
});
domain.console.attachOutput(process.stdout);
const snapshot = () =>
  collectStats({
    name: 'bench',
    engine: 'qemu',
    guestRing: domain.guestRing,
    uptimeMs: Date.now() - domain.startedAt,
    vps: [domain.partition.memory.copyOut(domain.layout.vpsGpa, TrapVp.size)],
  });
domain.onBeforeEnd = () => {
  if (option.stats !== undefined) writeFileSync(option.stats, `${JSON.stringify(snapshot(), undefined, 1)}\n`);
};
for (const signal of ['SIGTERM', 'SIGINT']) process.on(signal, () => void domain.destroy());
await domain.start();
const end = await domain.ended;
if (end.kind !== 'poweroff' && end.kind !== 'destroyed') {
  process.stderr.write(`bench: the domain ended: ${end.kind} ${end.message ?? end.crash?.text ?? ''}\n`);
}
process.exitCode = end.kind === 'poweroff' ? 0 : 3;
