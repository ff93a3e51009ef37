/** A shared ring page (ring-page.ts) in a domain's memory. */
import { type DomainMemory, PAGE_SIZE } from './domain-memory';
import type { RingPage } from './ring-page';

export class GuestRingPage implements RingPage {
  /** `gpa`: guest-physical address of the page. */
  constructor(
    private readonly memory: DomainMemory,
    private readonly gpa: number,
  ) {
    if (!memory.isRam(gpa, PAGE_SIZE)) throw new RangeError(`ring page at 0x${gpa.toString(16)}: not RAM`);
  }

  getU32(offset: number): number {
    return this.memory.load32(this.gpa + offset);
  }
  setU32(offset: number, value: number): void {
    this.memory.store32(this.gpa + offset, value >>> 0);
  }
  copyOut(offset: number, length: number): Uint8Array {
    return this.memory.copyOut(this.gpa + offset, length);
  }
  copyIn(offset: number, bytes: Uint8Array): void {
    this.memory.copyIn(this.gpa + offset, bytes);
  }
}
