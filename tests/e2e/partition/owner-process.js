'use strict';
/*
 * A process, or a worker thread of it, that owns a partition and ends while VPs run. Runs the built program. The argument
 * is an Owner (./owner.ts) as JSON; prints the pid of the engine's process, if there is one.
 */
const path = require('node:path');
const { readdirSync, readFileSync } = require('node:fs');
const { isMainThread, parentPort, Worker, workerData } = require('node:worker_threads');

const owner = isMainThread ? JSON.parse(process.argv[2]) : workerData;

const CODE = {
  spin: [0xeb, 0xfe], // jmp .
  halt: [0xf4, 0xeb, 0xfd], // hlt; jmp
  ring: [0xba, 0x80, 0x05, 0, 0, 0xee, 0x66, 0xba, 0xf8, 0x03, 0xee, 0xeb, 0xf4], // out to the call port, to the serial port
};

async function run() {
  const module = require(path.resolve(__dirname, '../../../dist/shim/partition', owner.module));
  const { options, vpCount } = owner;
  const partition = new module[owner.className]({ ...options, memoryBytes: 64 * 2 ** 20, vpCount });
  const { memory } = partition;
  // Page tables: the first 2 MiB, and the reset ROM's page below 4 GiB.
  memory.setU64(0x1000, 0x2003n);
  memory.setU64(0x2000, 0x3003n);
  memory.setU64(0x2018, 0x4003n);
  memory.setU64(0x3000, 0x83n);
  memory.setU64(0x4000 + 511 * 8, 0xffe00083n);
  memory.copyIn(0x6000, Uint8Array.from(CODE[owner.code]));
  memory.setU64(0x500, 0x1000n);
  memory.setU64(0x508, 0x6000n);
  await partition.start({ doorbell: () => undefined, exit: () => undefined });
  // Long enough for QEMU to have opened everything.
  await new Promise((resolve) => setTimeout(resolve, 300));
  return partition.describe().pid;
}

function end(ending) {
  if (ending === 'exit') process.exit(7);
  if (ending === 'throw')
    setImmediate(() => {
      throw new Error('on purpose');
    });
  if (ending === 'reject') Promise.reject(new Error('on purpose'));
}

async function main() {
  if (!isMainThread) {
    parentPort.postMessage(await run());
    if (owner.ending === 'worker-exit') process.exit(5);
    return;
  }
  if (!owner.ending.startsWith('worker-')) {
    const pid = await run();
    process.stdout.write(`${pid ?? 'no process'}\n`, () => end(owner.ending));
    return;
  }
  // Those that run VPs have names, on Linux; elsewhere nobody can count them from here.
  const linux = process.platform === 'linux';
  const ours = (id) => readFileSync(`/proc/self/task/${id}/comm`, 'utf8').startsWith('xl-');
  const threads = () => (linux ? readdirSync('/proc/self/task').filter(ours).length : undefined);
  const worker = new Worker(__filename, { workerData: owner });
  worker.on('error', (error) => {
    throw error;
  });
  const exited = new Promise((resolve) => worker.once('exit', resolve));
  const pid = await new Promise((resolve) => worker.once('message', resolve));
  process.stdout.write(`${pid ?? 'no process'}\n`);
  const expected = pid === undefined ? owner.vpCount + 1 : 0;
  if (owner.ending === 'worker-terminate') {
    if (linux && threads() !== expected) throw new Error(`${threads()} threads run VPs: ${expected} should`);
    worker.terminate();
  }
  const status = await exited;
  if (linux && threads() !== 0) throw new Error(`${threads()} threads of VPs have outlived the worker`);
  process.exit(owner.ending === 'worker-exit' ? status : 6);
}

main();
