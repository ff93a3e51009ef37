'use strict';
/* A process that owns a partition and prints its QEMU's pid; the test kills it. Runs the built program. */
const path = require('node:path');
const { QemuPartition } = require(path.resolve(__dirname, '../../../dist/shim/partition/qemu/qemu-partition.js'));

async function main() {
  const partition = new QemuPartition({ memoryBytes: 256 * 2 ** 20, vpCount: 1, name: process.argv[2] });
  // jmp . at 0x3000, identity-mapped, so that the VP runs for ever.
  const { memory } = partition;
  memory.setU64(0x1000, 0x2003n);
  memory.setU64(0x2000, 0x3003n);
  memory.setU64(0x2018, 0x4003n);
  memory.setU64(0x3000, 0x83n);
  memory.setU64(0x4000 + 511 * 8, 0xffe00083n);
  memory.copyIn(0x6000, Uint8Array.of(0xeb, 0xfe));
  memory.setU64(0x500, 0x1000n);
  memory.setU64(0x508, 0x6000n);
  await partition.start({ doorbell: () => undefined, exit: (exit) => process.exit(exit.reason === 'stopped' ? 0 : 3) });
  // Long enough for QEMU to have opened everything.
  setTimeout(() => process.stdout.write(`${partition.describe().pid}\n`), 300);
}

main();
