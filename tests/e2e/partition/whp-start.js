'use strict';
/*
 * whp-start.js hyperv|plain [MS [hole]]: starts a partition of the whp engine, stops it after so long if that went well,
 * and prints what happened as JSON. With `hole` its VPs read and write where there is no RAM, and leave what they have read
 * in RAM. Runs the built program; the stand-in's environment says which call fails.
 */
const path = require('node:path');

const { WhpPartition } = require(path.resolve(__dirname, '../../../dist/shim/partition/whp/whp-partition.js'));
const { MIB, HLT } = { MIB: 2 ** 20, HLT: [0xf4, 0xeb, 0xfd] };
/* mov $0x200000, %ebx; mov (%rbx), %eax; mov %eax, 4(%rbx); mov %eax, 0x7000 */
const TOUCH = [0xbb, 0, 0, 0x20, 0, 0x8b, 3, 0x89, 0x43, 4, 0x89, 4, 0x25, 0, 0x70, 0, 0];
const HOLE = 0xd000_0000n;

async function main() {
  const partition = new WhpPartition({ memoryBytes: 16 * MIB, vpCount: 2, hyperv: process.argv[2] === 'hyperv' });
  const { memory } = partition;
  // Page tables of the first 2 MiB, and of the hole behind them; hlt; jmp.
  memory.setU64(0x1000, 0x2003n);
  memory.setU64(0x2000, 0x3003n);
  memory.setU64(0x3000, 0x83n);
  memory.setU64(0x3008, HOLE | 0x83n);
  memory.copyIn(0x6000, Uint8Array.from(process.argv[4] === 'hole' ? [...TOUCH, ...HLT] : HLT));
  memory.setU64(0x500, 0x1000n);
  memory.setU64(0x508, 0x6000n);
  let exits = 0;
  let end;
  let ended = () => undefined;
  const over = new Promise((resolve) => {
    ended = resolve;
  });
  const onExit = (exit) => {
    exits++;
    end = exit.message;
    ended();
  };
  let result;
  try {
    await partition.start({ doorbell: () => undefined, exit: onExit }, (host, hypervisor) => [...host, ...hypervisor]);
    // Until it ends, or so long.
    const timer = setTimeout(ended, Number(process.argv[3] ?? 50));
    await over;
    clearTimeout(timer);
    partition.exits();
    await partition.stop();
    result = { started: true, end, ...(process.argv[4] === 'hole' ? { read: memory.getU32(0x7000) } : {}) };
  } catch (error) {
    result = { started: false, name: error.name, message: error.message };
  }
  // Nothing may hold the memory any longer.
  await memory.release();
  process.stdout.write(`${JSON.stringify({ ...result, exits })}\n`);
}

main();
