/**
 * What xenlighten uses of the T10 standards: SPC (primary commands), SBC (block devices), MMC (CD and DVD drives), SAM
 * (status). Names are Linux's where Linux declares the thing, else the standard's.
 *
 * Quirk: SCSI is big-endian, abi/layout is not. So every number of more than one byte is declared as bytes; its accessors
 * are Buffer's read and write functions at `offsetOf(field)`.
 */
export * from './block';
export * from './cdb';
export * from './inquiry';
export * from './mmc';
export * from './mode';
export * from './opcodes';
export * from './sense';
