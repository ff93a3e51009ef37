/**
 * Errors that the person who started xenlighten can put right: a wrong file, a wrong value, too little memory.
 *
 * Every one of them says which file (or option) it is about, what was found there and what was wanted instead, and
 * makes the process exit with status 1. Anything else that is thrown is a failure of the host, the engine or ours.
 */

export interface UsageErrorDetail {
  /** The file, option or key that the error is about. */
  readonly file?: string;
  /** The thing found, in words ("an ELF image for ARM64"). */
  readonly found: string;
  /** The thing wanted, in words ("an x86-64 kernel"). */
  readonly wanted: string;
}

/** Thrown for wrong input; `message` is complete, on one line, and needs no stack trace beside it. */
export class UsageError extends Error {
  override readonly name = 'UsageError';
  /** The process's exit status. */
  readonly exitStatus = 1;
  readonly file: string | undefined;
  readonly found: string;
  readonly wanted: string;

  /** `summary` is what is wrong, in a few words ("not a kernel image"). */
  constructor(
    readonly summary: string,
    detail: UsageErrorDetail,
    options?: ErrorOptions,
  ) {
    const where = detail.file === undefined ? '' : `${detail.file}: `;
    super(`${where}${summary}: found ${detail.found}, wanted ${detail.wanted}`, options);
    this.file = detail.file;
    this.found = detail.found;
    this.wanted = detail.wanted;
  }
}
