/* Where the processors of a machine that hangs are, in words: their instruction pointers, with the kernel's names. */
import { createRequire } from 'node:module';

const require = createRequire(import.meta.url);

const PATIENCE_MS = 10_000;

/** A line for each processor; a line that says why when QEMU does not tell. */
export async function whereProcessorsAre(machine, vmlinux) {
  const { kernelSymbols } = require('../../../dist/shim/xen/builder/symbols.js');
  try {
    const registers = await patiently(
      machine.qmp.execute('human-monitor-command', { 'command-line': 'info registers -a' }),
    );
    const table = await kernelSymbols(vmlinux).load();
    return [...registers.matchAll(/RIP=([0-9a-f]+) RFL=([0-9a-f]+).*?CPL=(\d).*?HLT=(\d)/gs)]
      .map(([, rip, flags, cpl, halted], cpu) => {
        const named = table?.lookup(BigInt(`0x${rip}`));
        const where = named === undefined ? `0x${rip}` : `${named.name}+0x${named.offset.toString(16)}`;
        const interrupts = (Number.parseInt(flags, 16) & 0x200) !== 0 ? 'on' : 'off';
        return `CPU ${cpu} is at ${where}, ring ${cpl}, interrupts ${interrupts}${halted === '1' ? ', halted' : ''}`;
      })
      .join('\n');
  } catch (error) {
    return `QEMU does not tell where its processors are: ${error.message}`;
  }
}

function patiently(promise) {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(() => reject(new Error(`no answer in ${PATIENCE_MS / 1000} s`)), PATIENCE_MS);
    promise.then(resolve, reject).finally(() => clearTimeout(timer));
  });
}
