/**
 * Bounds on what one kernel image may cost, and the errors that all decompressors share.
 *
 * An image is a file that the user chose, but a damaged or hostile one must end in an error, not in a full memory: the
 * output size is known beforehand in every format that Linux uses (its last four bytes say it), so each decompressor
 * gets it and stops where it is exceeded.
 */
import { UsageError } from '../../../errors';

/** The largest kernel accepted, compressed or not, in bytes. Debian's is 66 MB; allyesconfig ones reach 400 MB. */
export const MAX_KERNEL_BYTES = 512 * 1024 * 1024;

/** Working memory granted to a decompressor for its dictionary, in bytes; kernels are built with at most 128 MiB. */
export const MAX_DICTIONARY_BYTES = 160 * 1024 * 1024;

/** Decompresses `input` to exactly `size` bytes; rejects with CodecError. */
export type Decompressor = (input: Buffer, size: number) => Promise<Buffer>;

/** What went wrong inside a stream; the caller, who knows the file, turns it into a UsageError. */
export class CodecError extends Error {
  override readonly name = 'CodecError';
  constructor(
    readonly kind: 'truncated' | 'corrupt' | 'size',
    message: string,
  ) {
    super(message);
  }
}

/** The error for output that does not have the announced size. */
export function sizeError(got: number | string, size: number): CodecError {
  return new CodecError('size', `${got} bytes of output where its trailer announces ${size}`);
}

/** A CodecError as the user sees it. `what` names the stream ("xz payload"). */
export function asUsageError(error: unknown, file: string, what: string): UsageError {
  const message = error instanceof Error ? error.message : String(error);
  const kind = error instanceof CodecError ? error.kind : 'corrupt';
  return kind === 'truncated'
    ? new UsageError(`truncated ${what}`, { file, found: message, wanted: 'a complete file' }, { cause: error })
    : new UsageError(`corrupt ${what}`, { file, found: message, wanted: 'an undamaged file' }, { cause: error });
}
