/**
 * Runs a decompressor that has no asynchronous form in a worker thread, so that a second of work does not hold up the
 * event loop.
 *
 * The worker's program is a few lines of plain JavaScript given as text: it needs no file of its own beside the
 * compiled output, and Emscripten's habit of installing process-wide exception handlers stays inside it.
 */
import { Worker } from 'node:worker_threads';
import { CodecError } from './limits';

interface Reply {
  readonly output?: Uint8Array;
  readonly error?: string;
}

/**
 * Evaluates `program`, the body of an async function of (library, input, size) that returns a Uint8Array, in a worker.
 * `library` is the module `moduleName`. `input` is copied, the result is handed over. Rejects with CodecError if the program throws.
 */
export function decompressInWorker(
  moduleName: string,
  program: string,
  input: Uint8Array,
  size: number,
): Promise<Buffer> {
  const source = `'use strict';
const { parentPort, workerData } = require('node:worker_threads');
const { pathToFileURL } = require('node:url');
const run = async (library, input, size) => { ${program} };
const load = async (path) => (path.endsWith('.mjs') ? import(pathToFileURL(path).href) : require(path));
load(workerData.path).then((library) => run(library, workerData.input, workerData.size)).then(
  (output) => parentPort.postMessage({ output }, output.byteLength === output.buffer.byteLength ? [output.buffer] : []),
  (error) => parentPort.postMessage({ error: String((error && error.message) || error) }),
);`;
  return new Promise((resolve, reject) => {
    const worker = new Worker(source, {
      eval: true,
      workerData: { path: require.resolve(moduleName), input: new Uint8Array(input), size },
    });
    let settled = false;
    worker.once('message', (reply: Reply) => {
      settled = true;
      void worker.terminate();
      if (reply.output === undefined) reject(new CodecError('corrupt', reply.error ?? 'a failure without a message'));
      else resolve(Buffer.from(reply.output.buffer, reply.output.byteOffset, reply.output.byteLength));
    });
    worker.once('error', (error) => {
      settled = true;
      reject(new CodecError('corrupt', error.message));
    });
    worker.once('exit', (code) => {
      if (!settled) reject(new CodecError('corrupt', `the decompressor ended with status ${code}`));
    });
  });
}
