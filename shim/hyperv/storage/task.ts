/**
 * What a SCSI device (ScsiLun) and the storage VSP say to each other: one command, its data buffer in guest memory, and how
 * it ended. Implements SAM-5's "Execute Command" as far as one initiator needs it.
 */

/** Which way the initiator's buffer is used: `data_in` of the SRB. */
export type DataDirection = 'write' | 'read' | 'none';

/** The three numbers of sense data that say why a command was not done. `code` is ASC * 256 + ASCQ (abi/scsi/sense). */
export interface Sense {
  readonly key: number;
  readonly code: number;
}

/**
 * A command under way. A device ends it by calling one of the ending functions (good, reply, check, badBuffer) exactly once;
 * later calls do nothing.
 */
export interface ScsiTask {
  /** A private copy: 16 bytes, those beyond `cdbLength` are whatever was there. Not to be read after the task has ended. */
  readonly cdb: Buffer;
  /** At most 16. */
  readonly cdbLength: number;
  readonly direction: DataDirection;
  /** Bytes of the initiator's buffer, at most the VSP's largest transfer. 0 without one. */
  readonly dataLength: number;

  /**
   * The first `length` bytes of the initiator's buffer: guest memory itself, in as few pieces as there are gaps. The guest
   * may change it at any time. It stays mapped until the task has ended. Undefined if `length` is more than `dataLength`, or
   * a page of it is not RAM.
   */
  pieces(length: number): Uint8Array[] | undefined;
  /** A private copy of the first `length` bytes of what the initiator sends; undefined as with pieces(), or unless 'write'. */
  received(length: number): Buffer | undefined;

  /** Done; `moved` bytes went through the buffer. */
  good(moved: number): void;
  /** Done; `data`, cut to `allocationLength` and to the initiator's buffer, is copied there. */
  reply(data: Uint8Array, allocationLength: number): void;
  /** CHECK CONDITION with sense data. */
  check(sense: Sense): void;
  /**
   * The command does not fit its buffer: a wrong direction, a page that is not RAM, or, if `needed` bytes are given and are
   * more than there are, an overrun. Nothing was done.
   */
  badBuffer(needed?: number): void;
}

/** A logical unit. */
export interface ScsiLun {
  /** Begins a command. Must not throw, and must not block. */
  execute(task: ScsiTask): void;
}
