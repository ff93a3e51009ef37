/** Pages of the partition that belong to the shim: memory that a VSP's request can name and that is not the guest's. */
export class ScratchPages {
  private readonly free: number[] = [];
  /** How many there are. */
  readonly blocks: number;

  /** `gpa` and `count`: where they lie; handed out in blocks of `block` pages. */
  constructor(
    gpa: number,
    count: number,
    readonly block: number,
  ) {
    for (let at = count - (count % block) - block; at >= 0; at -= block) this.free.push(gpa + at * 4096);
    this.blocks = this.free.length;
  }

  /** Guest-physical address of a block, undefined if all are taken. */
  take(): number | undefined {
    return this.free.pop();
  }

  give(gpa: number): void {
    this.free.push(gpa);
  }
}
