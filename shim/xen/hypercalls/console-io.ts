/**
 * console_io: the hypervisor's debug console. Implements row 18 of xen-pv-abi section 6.
 *
 * Quirk: a release build of Xen refuses a domU's writes (EPERM); here they are accepted and go to the domain's console,
 * because this is how small kernels and early Linux print. Everything else is refused as there.
 */
import { CONSOLEIO } from '../../../abi/xen/console-io';
import { XEN_ERRNO as E } from '../../../abi/xen/errno';
import type { XenDomain } from '../xen-domain';
import { arg32, arg64, type Handler, type HypercallCall, nextTurn } from './call';

/** Bytes copied at once, and in one turn of the event loop. */
const CHUNK = 4096;
const TURN = 256 * 1024;

function write(d: XenDomain, c: HypercallCall, from: number, to: number): void {
  for (let done = from; done < to; done += CHUNK) {
    d.host.onConsoleWrite(c.guest.copyFrom(arg64(c, 2) + BigInt(done), Math.min(CHUNK, to - done)));
  }
}

async function writeLong(d: XenDomain, c: HypercallCall, count: number): Promise<number> {
  for (let done = 0; done < count; done += TURN) {
    write(d, c, done, Math.min(done + TURN, count));
    await nextTurn(d);
  }
  return 0;
}

export const consoleIo: Handler = (d, c) => {
  const count = arg32(c, 1);
  if (arg32(c, 0) !== CONSOLEIO.CONSOLEIO_write) return -E.XEN_EPERM;
  if (count > TURN) return writeLong(d, c, count);
  write(d, c, 0, count);
  return 0;
};
