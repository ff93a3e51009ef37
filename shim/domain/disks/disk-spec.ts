/**
 * What a virtual disk is configured to be, in xl's words: `disk = [ 'FILE,raw,xvda,w' ]`. Implements
 * xl-disk-configuration(5).
 *
 * Positional: target, format, vdev, access; any of them may be given as key=value instead, and then `target=` comes last
 * and takes the rest of the text, commas included. The old prefixes (file:, phy:, tap:..., vhd:) are understood; behind
 * one of them the format is not positional.
 *
 * Two words are ours: `persistent-grants` offers them to the guest, whose driver copies what it reads and writes then
 * (slower here; for tests of drivers); `sector-size=4096` makes a raw image a disk with such sectors.
 *
 * Quirks: what would change who serves the disk, or how, and is not supported (script=, another backend domain) is an
 * error; what only tunes a Xen host (direct-io-safe, backendtype=, colo-*) is a warning. Formats that we do not have are
 * named with the command that converts them.
 */
import { UsageError } from '../../errors';
import { parseVdev, type Vdev } from './vdev';

export interface DiskSpec {
  /** Path of the image; undefined: an empty CD-ROM drive. */
  readonly path: string | undefined;
  readonly vdev: Vdev;
  /** 'auto' only where the configuration leaves it open (--disk FILE). */
  readonly format: 'raw' | 'vhd' | 'auto';
  readonly readOnly: boolean;
  readonly cdrom: boolean;
  /** Pass discards on; undefined: if the image can. */
  readonly discard: boolean | undefined;
  /** Offer persistent grants. */
  readonly persistentGrants: boolean;
  /** Of the disk's logical sectors; of a VHD always 512. */
  readonly sectorSize: 512 | 4096;
  /** As it was written. */
  readonly text: string;
}

export interface ParsedDisk {
  readonly disk: DiskSpec;
  readonly warnings: readonly string[];
}

const FORMATS: Readonly<Record<string, DiskSpec['format']>> = { raw: 'raw', aio: 'raw', vhd: 'vhd', auto: 'auto' };
const FOREIGN_FORMATS = ['qcow', 'qcow2', 'qed', 'vmdk', 'vhdx'];
const OLD_PREFIXES: Readonly<Record<string, DiskSpec['format'] | undefined>> = {
  file: undefined,
  phy: undefined,
  tap: undefined,
  tap2: undefined,
  tapdisk: undefined,
  ioemu: undefined,
  aio: 'raw',
  raw: 'raw',
  vhd: 'vhd',
};
/** Block scripts of a Xen host. */
const SCRIPT_PREFIXES = ['iscsi', 'nbd', 'enbd', 'drbd', 'md'];
const TUNING = new Set([
  'direct-io-safe',
  'backendtype',
  'colo',
  'colo-host',
  'colo-port',
  'colo-export',
  'trusted',
  'untrusted',
]);

interface Parts {
  target?: string;
  format?: string;
  vdev?: string;
  access?: string;
  cdrom: boolean;
  discard?: boolean;
  persistentGrants: boolean;
  sectorSize: 512 | 4096;
}

/** Parses one disk. `where` is the file and line, or the option. Throws UsageError. */
export function parseDiskSpec(text: string, where: string): ParsedDisk {
  return new Parser(text, where).parse();
}

class Parser {
  private readonly parts: Parts = { cdrom: false, persistentGrants: false, sectorSize: 512 };
  private readonly warnings: string[] = [];
  private oldPrefix = false;

  constructor(
    private readonly text: string,
    private readonly where: string,
  ) {}

  private error(summary: string, found: string, wanted: string): UsageError {
    return new UsageError(summary, { file: this.where, found, wanted });
  }

  parse(): ParsedDisk {
    let rest = this.stripPrefixes(this.text.trim());
    while (rest !== '') {
      const key = /^\s*([a-z][a-z0-9-]*)\s*=\s*/i.exec(rest);
      if (key !== null && key[1] === 'target') {
        this.set('target', rest.slice(key[0].length).trim());
        break;
      }
      const comma = rest.indexOf(',');
      const word = (comma < 0 ? rest : rest.slice(0, comma)).trim();
      rest = comma < 0 ? '' : rest.slice(comma + 1);
      if (key === null) this.word(word);
      else this.keyed(key[1] as string, word.slice(word.indexOf('=') + 1).trim());
    }
    return { disk: this.finish(), warnings: this.warnings };
  }

  private stripPrefixes(text: string): string {
    let rest = text;
    for (;;) {
      const prefix = /^([a-z][a-z0-9]*):(?=[^,]*)/i.exec(rest)?.[1];
      if (prefix === undefined) return rest;
      if (FOREIGN_FORMATS.includes(prefix)) throw this.foreign(prefix);
      if (SCRIPT_PREFIXES.includes(prefix))
        throw this.error('unsupported disk', `${prefix}:`, 'a file or a block device: there are no block scripts here');
      // C:\disks\a.vhd
      if (prefix.length === 1) return rest;
      if (!(prefix in OLD_PREFIXES)) throw this.error('unknown disk', `${prefix}:`, 'a path');
      const format = OLD_PREFIXES[prefix];
      if (format !== undefined) this.parts.format = format;
      this.oldPrefix = true;
      rest = rest.slice(prefix.length + 1);
    }
  }

  private foreign(format: string): UsageError {
    return this.error(
      `no disks of format ${format} yet`,
      JSON.stringify(this.text),
      "a raw image or a VHD ('qemu-img convert -O vpc IMAGE IMAGE.vhd' makes one)",
    );
  }

  private set(name: 'target' | 'format' | 'vdev' | 'access', value: string): void {
    if (this.parts[name] !== undefined) throw this.error(`${name} given twice`, JSON.stringify(this.text), 'it once');
    this.parts[name] = value;
  }

  /** A word without a key: a flag, or the next positional parameter. */
  private word(word: string): void {
    const { parts } = this;
    switch (word) {
      case 'cdrom':
        parts.cdrom = true;
        return;
      case 'persistent-grants':
        parts.persistentGrants = true;
        return;
      case 'discard':
      case 'no-discard':
        parts.discard = word === 'discard';
        return;
      default:
        break;
    }
    if (TUNING.has(word)) {
      this.warnings.push(`${word} has no effect here`);
      return;
    }
    if (parts.target === undefined) parts.target = word;
    else if (!this.oldPrefix && parts.format === undefined) parts.format = word === '' ? 'raw' : word;
    else if (parts.vdev === undefined) this.vdevWord(word);
    else if (parts.access === undefined) parts.access = word;
    else throw this.error('too many words in a disk', JSON.stringify(word), 'target, format, vdev, access');
  }

  /** Old: xvda:cdrom. */
  private vdevWord(word: string): void {
    const [vdev, type] = word.split(':', 2) as [string, string | undefined];
    this.parts.vdev = vdev;
    if (type !== undefined) this.deviceType(type);
  }

  private deviceType(type: string): void {
    if (type === 'cdrom') this.parts.cdrom = true;
    else if (type !== 'disk') throw this.error('unknown devtype', JSON.stringify(type), '"disk" or "cdrom"');
  }

  private keyed(key: string, value: string): void {
    switch (key) {
      case 'format':
      case 'vdev':
      case 'access':
        this.set(key, value);
        break;
      case 'devtype':
        this.deviceType(value);
        break;
      case 'sector-size':
        if (value !== '512' && value !== '4096')
          throw this.error('unusable sector size', JSON.stringify(value), '512 or 4096');
        this.parts.sectorSize = value === '512' ? 512 : 4096;
        break;
      case 'backend':
        if (value !== '0' && value !== 'Domain-0')
          throw this.error('unsupported disk', `backend=${value}`, 'no driver domains: leave it out');
        break;
      case 'script':
        throw this.error(
          'unsupported disk',
          `script=${value}`,
          'a file or a block device: there are no block scripts here',
        );
      default:
        if (TUNING.has(key)) this.warnings.push(`${key} has no effect here`);
        else
          throw this.error(
            'unknown word in a disk',
            JSON.stringify(`${key}=${value}`),
            'target, format, vdev, access, devtype or discard',
          );
    }
  }

  private finish(): DiskSpec {
    const { parts, text } = this;
    const format = FORMATS[parts.format ?? 'raw'];
    if (format === undefined) {
      if (FOREIGN_FORMATS.includes(parts.format as string)) throw this.foreign(parts.format as string);
      throw this.error('unknown disk format', JSON.stringify(parts.format), '"raw" or "vhd"');
    }
    if (parts.vdev === undefined) throw this.error('a disk without vdev', JSON.stringify(text), 'FILE,raw,xvda,w');
    const vdev = parseVdev(parts.vdev);
    if (vdev === undefined)
      throw this.error('unknown vdev', JSON.stringify(parts.vdev), 'a name such as xvda, xvdb1, hda or sda');
    const path = parts.target === undefined || parts.target === '' ? undefined : parts.target;
    if (path?.includes('\0') === true) throw this.error('unusable disk', 'a NUL in its path', 'a path');
    if (path === undefined && !parts.cdrom)
      throw this.error('a disk without a file', JSON.stringify(text), 'FILE,raw,xvda,w');
    if (parts.sectorSize !== 512 && (format === 'vhd' || parts.cdrom))
      throw this.error(
        'unusable sector size',
        `${parts.sectorSize} for a ${parts.cdrom ? 'CD-ROM' : 'VHD'}`,
        'none: it is fixed',
      );
    const { cdrom, discard, persistentGrants, sectorSize } = parts;
    return { path, vdev, format, readOnly: this.readOnly(), cdrom, discard, persistentGrants, sectorSize, text };
  }

  private readOnly(): boolean {
    const { access, cdrom } = this.parts;
    switch (access) {
      case undefined:
      case '':
        return cdrom;
      case 'r':
      case 'ro':
        return true;
      case 'w':
      case 'rw':
        if (cdrom) this.warnings.push('a CD-ROM cannot be written to: it is read-only');
        return cdrom;
      default:
        throw this.error('unknown access to a disk', JSON.stringify(access), '"r" or "w"');
    }
  }
}

/** Two disks may not have the same number. Throws UsageError. */
export function checkDistinct(disks: readonly DiskSpec[], where: string): void {
  const seen = new Map<number, string>();
  for (const { vdev } of disks) {
    const other = seen.get(vdev.id);
    if (other !== undefined)
      throw new UsageError('two disks with one number', {
        file: where,
        found: other === vdev.name ? `${other} twice` : `${other} and ${vdev.name}`,
        wanted: 'another vdev for one of them',
      });
    seen.set(vdev.id, vdev.name);
  }
}
