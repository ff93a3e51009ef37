/** How far something is that takes a while, on stderr: a line that changes on a terminal, a line now and then in a pipe. */
export class Progress {
  private readonly began = performance.now();
  private last = 0;
  private shown = false;

  constructor(
    private readonly what: string,
    private readonly out: NodeJS.WritableStream & { readonly isTTY?: boolean } = process.stderr,
    /** Before the first line, in ms: what is quick needs none. */
    private readonly patience = 2000,
  ) {}

  /** `done` of `total`, in any unit. */
  update(done: number, total: number): void {
    const now = performance.now();
    const terminal = this.out.isTTY === true;
    if (now - this.began < this.patience || now - this.last < (terminal ? 200 : 5000)) return;
    this.last = now;
    this.shown = true;
    const percent = total === 0 ? 100 : Math.floor((done / total) * 100);
    this.out.write(terminal ? `\r${this.what}: ${percent} %  ` : `${this.what}: ${percent} %\n`);
  }

  /** The line is taken away again. */
  end(): void {
    if (this.shown && this.out.isTTY === true) this.out.write(`\r${' '.repeat(this.what.length + 10)}\r`);
  }
}
