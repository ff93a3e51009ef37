/** Lines of the commands for people: results on stdout, everything else on stderr. */

/** Writes text and waits until it has left the process: stdout may be a pipe that is slow or gone. */
export function print(text: string): Promise<void> {
  return new Promise((resolve) => {
    process.stdout.write(text.endsWith('\n') ? text : `${text}\n`, () => resolve());
  });
}

/** A line on stderr, with the program's name. */
export function complain(text: string): void {
  process.stderr.write(`xenlighten: ${text}\n`);
}
