/**
 * The Linux bzImage: finding the compressed kernel in it. Implements Linux's Documentation/arch/x86/boot.rst
 * (xen-pv-abi section 1.1).
 *
 * Quirks: a setup_sects of 0 means 4. payload_offset counts from the start of the protected-mode part. Debian's signed
 * images carry a PE signature behind everything else, so a file may be longer than its parts.
 */
import { struct } from '../../../abi/layout';
import { UsageError } from '../../errors';
import { viewOf } from './elf';

const SPEC = 'Linux Documentation/arch/x86/boot.rst: the real-mode kernel header';

/** As far as the fields used here. */
export const SetupHeader = struct('setup_header', SPEC, 0x264, {
  setup_sects: { type: 'u8', offset: 0x1f1 },
  boot_flag: { type: 'u16', offset: 0x1fe },
  header: { type: 'u32', offset: 0x202, doc: '"HdrS"' },
  version: { type: 'u16', offset: 0x206, doc: 'major << 8 | minor' },
  kernel_version: { type: 'u16', offset: 0x20e, doc: 'offset of a string, less 0x200' },
  payload_offset: { type: 'u32', offset: 0x248 },
  payload_length: { type: 'u32', offset: 0x24c },
});

const HDRS = 0x53726448;
const SECTOR = 512;
/** The first protocol that says where the payload is. */
const MIN_PROTOCOL = 0x0208;
const protocol = (v: number): string => `${v >> 8}.${String(v & 0xff).padStart(2, '0')}`;

export interface BzImage {
  /** Boot protocol, "2.15". */
  readonly protocol: string;
  /** What the image says of itself ("6.1.0-50-amd64 (debian-kernel@...) ..."), '' if nothing. */
  readonly version: string;
  readonly payload: Buffer;
}

export function isBzImage(bytes: Buffer): boolean {
  return bytes.length >= 0x206 && SetupHeader.get.header(viewOf(bytes), 0) === HDRS;
}

/** Finds the payload. Throws UsageError for an old boot protocol and for a file shorter than its header says. */
export function parseBzImage(file: string, bytes: Buffer): BzImage {
  if (bytes.length < SetupHeader.size) {
    throw new UsageError('truncated bzImage', {
      file,
      found: `${bytes.length} bytes`,
      wanted: `at least the ${SetupHeader.size} bytes of its header`,
    });
  }
  const view = viewOf(bytes);
  const h = SetupHeader.get;
  const version = h.version(view, 0);
  if (version < MIN_PROTOCOL) {
    throw new UsageError('a bzImage too old to unpack', {
      file,
      found: `boot protocol ${protocol(version)}`,
      wanted: `${protocol(MIN_PROTOCOL)} or later (Linux 2.6.25), or the kernel's vmlinux`,
    });
  }
  const start = ((h.setup_sects(view, 0) || 4) + 1) * SECTOR + h.payload_offset(view, 0);
  const length = h.payload_length(view, 0);
  if (length === 0) {
    throw new UsageError('a bzImage without a kernel', { file, found: 'a payload of 0 bytes', wanted: 'a payload' });
  }
  if (start + length > bytes.length) {
    throw new UsageError('truncated payload', {
      file,
      found: `a file of ${bytes.length} bytes`,
      wanted: `${start + length}: its header places ${length} bytes of payload at ${start}`,
    });
  }
  return {
    protocol: protocol(version),
    version: versionString(bytes, h.kernel_version(view, 0)),
    payload: bytes.subarray(start, start + length),
  };
}

function versionString(bytes: Buffer, offset: number): string {
  if (offset === 0) return '';
  const start = offset + 0x200;
  const text = bytes.subarray(start, start + 200);
  const end = text.indexOf(0);
  return text.toString('latin1', 0, end < 0 ? text.length : end).replace(/[^\x20-\x7e]/g, '?');
}
