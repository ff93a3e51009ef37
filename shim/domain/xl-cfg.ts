/**
 * xl configuration files: GUEST.cfg as `xl create` takes it, for a PV guest. Implements xl.cfg(5); the syntax is in
 * xl-syntax.ts, the keys that are not used are in xl-keys.ts.
 *
 * Errors and warnings name the file and the line. A key that would change what the guest is, and is not supported, is an
 * error; a key that only concerns a Xen host, or that nobody knows, is a warning.
 *
 * Quirks: numbers may be in quotes, as xl allows. cmdline= wins over root= and extra=, which are joined with a space.
 * Paths are relative to the current directory, as in xl. A string's backslashes are C's, so that a path of Windows has two
 * for one, or slashes: "C:\new" is a line feed and "ew", which is said rather than looked for. The file may be UTF-16 with a
 * byte order mark, which is what Windows PowerShell's > writes; its Set-Content writes the system's own code page, which is
 * said where it matters, in a path. A bootloader wins over a kernel, which for xl is then a path
 * inside the guest's image; a firmware beside a kernel is an error.
 */
import { TRAP } from '../../abi/trap';
import { UsageError } from '../errors';
import { readInput } from '../xen/builder/image';
import { grubTakes, isPvgrub32, namedBootloader } from './bootloader';
import { parseCpuidOption } from './cpuid-option';
import { type DiskSpec, parseDiskSpec } from './disks/disk-spec';
import {
  checkMemory,
  checkName,
  type EndAction,
  type EndEvent,
  type GuestConfig,
  isVcpuCount,
  MAX_VCPUS,
} from './guest-config';
import { IGNORED_KEYS, REFUSED_KEYS, USED_KEYS } from './xl-keys';
import { parseXlNumber, parseXlSyntax, quoted, type XlSetting, type XlValue } from './xl-syntax';

export interface XlConfig {
  readonly config: GuestConfig;
  /** Complete lines: "guest.cfg:3: ...". */
  readonly warnings: readonly string[];
}

const MAX_FILE_BYTES = 1 << 20;

function describe(value: XlValue): string {
  if (value.kind === 'list') return `a list of ${value.items.length}`;
  return value.kind === 'string' ? quoted(value.text) : value.text.slice(0, 60);
}

/** Is it what a key has when it asks for nothing: [], "", 0? */
function asksNothing(value: XlValue): boolean {
  if (value.kind === 'list') return value.items.length === 0;
  return value.kind === 'number' ? value.value === 0 : value.text.trim() === '';
}

class Reader {
  readonly warnings: string[] = [];
  private readonly settings: ReadonlyMap<string, XlSetting>;

  constructor(
    private readonly file: string,
    settings: readonly XlSetting[],
  ) {
    this.settings = new Map(settings.map((s) => [s.key, s]));
    for (const { key, line, value, overrides } of settings) {
      if (overrides !== undefined) this.warn(line, `${key} was set in line ${overrides} already; this value counts`);
      const refused = REFUSED_KEYS.get(key);
      if (refused !== undefined) {
        if (!asksNothing(value))
          throw this.error(value, `${key} is not supported`, `${key} = ${describe(value)}`, refused);
      } else if (IGNORED_KEYS.has(key)) this.warn(line, `${key} has no effect here`);
      else if (!USED_KEYS.has(key)) this.warn(line, `unknown key ${quoted(key)}`);
    }
  }

  warn(line: number, text: string): void {
    this.warnings.push(`${this.file}:${line}: ${text}`);
  }

  error(value: XlValue, summary: string, found: string, wanted: string): UsageError {
    return new UsageError(summary, { file: `${this.file}:${value.line}`, found, wanted });
  }

  value(key: string): XlValue | undefined {
    return this.settings.get(key)?.value;
  }

  text(key: string): string | undefined {
    const value = this.value(key);
    if (value === undefined) return undefined;
    if (value.kind === 'list') throw this.error(value, `${key} of the wrong kind`, describe(value), 'a string');
    return value.text;
  }

  /** A path that was lost: its bytes are no UTF-8, or, of Windows, an escape sequence has become something else. */
  private checkPath(value: XlValue, path: string | undefined, what: string): void {
    if (path?.includes('\ufffd') === true)
      throw this.error(
        value,
        `characters in the path of ${what} that are not in UTF-8`,
        JSON.stringify(path.slice(0, 80)),
        'a file in UTF-8, or in UTF-16 with a byte order mark',
      );
    // biome-ignore lint/suspicious/noControlCharactersInRegex: they are what is looked for
    if (path === undefined || !/[\x00-\x1f\x7f]/.test(path)) return;
    if (process.platform !== 'win32' && !/^[A-Za-z]:|\\/.test(path)) return;
    const found = JSON.stringify(path.slice(0, 80));
    throw this.error(
      value,
      `a control character in the path of ${what}`,
      found,
      'two backslashes for each one, or slashes',
    );
  }

  /** A path: a word. */
  path(key: string): string | undefined {
    const value = this.value(key);
    const path = this.word(key);
    if (value !== undefined) this.checkPath(value, path, `the ${key}`);
    return path;
  }

  /** A path or name: a string that is not empty. */
  word(key: string): string | undefined {
    const value = this.value(key);
    const text = this.text(key);
    if (value !== undefined && text === '') throw this.error(value, `empty ${key}`, '""', `a value for ${key}`);
    if (value !== undefined && text?.includes('\0')) throw this.error(value, `unusable ${key}`, 'a NUL in it', 'text');
    return text;
  }

  number(key: string): number | undefined {
    const value = this.value(key);
    if (value === undefined) return undefined;
    const number =
      value.kind === 'number' ? value.value : value.kind === 'string' ? parseXlNumber(value.text.trim()) : undefined;
    if (number === undefined) throw this.error(value, `${key} of the wrong kind`, describe(value), 'a number');
    return number;
  }

  where(key: string): string {
    return `${this.file}:${this.value(key)?.line ?? 0}`;
  }

  checked<T>(key: string, found: T | undefined, check: (value: T, where: string) => T): T | undefined {
    return found === undefined ? undefined : check(found, this.where(key));
  }

  type(): void {
    for (const [key, accepted] of [
      ['type', ['pv']],
      ['builder', ['generic', 'linux']],
    ] as const) {
      const value = this.value(key);
      const text = this.text(key);
      if (value !== undefined && !accepted.some((a) => a === text)) {
        throw this.error(value, 'not a PV guest', `${key} = ${describe(value)}`, `${key} = "${accepted[0]}"`);
      }
    }
  }

  vcpus(key: 'vcpus' | 'maxvcpus'): number | undefined {
    const value = this.value(key);
    const number = this.number(key);
    if (value !== undefined && number !== undefined && !isVcpuCount(number)) {
      throw this.error(value, 'unusable number of vCPUs', `${key} = ${describe(value)}`, `1 to ${MAX_VCPUS}`);
    }
    return number;
  }

  cmdline(): string | undefined {
    const [cmdline, root, extra] = [this.text('cmdline'), this.text('root'), this.text('extra')];
    if (cmdline !== undefined) {
      for (const key of ['root', 'extra']) {
        const setting = this.settings.get(key);
        if (setting !== undefined) this.warn(setting.line, `${key} is ignored because there is a cmdline`);
      }
      return cmdline;
    }
    if (root !== undefined) return `root=${root}${extra === undefined ? '' : ` ${extra}`}`;
    return extra;
  }

  /** What boots: the kernel that is named, or GRUB in its place. */
  boot(): Pick<GuestConfig, 'kernel' | 'ramdisk' | 'bootloader'> {
    const [kernel, ramdisk] = [this.path('kernel'), this.path('ramdisk')];
    const firmware = this.pvgrub('firmware', ['pvgrub64']);
    const bootloader = this.pvgrub('bootloader', ['pvgrub', 'pygrub']);
    if (bootloader) {
      for (const key of ['kernel', 'ramdisk']) {
        const setting = this.settings.get(key);
        if (setting !== undefined) this.warn(setting.line, `${key} is ignored because there is a bootloader`);
      }
      return { bootloader: 'pvgrub' };
    }
    if (!firmware) return { kernel, ramdisk };
    const value = this.value('kernel');
    if (value !== undefined) {
      throw this.error(value, 'both kernel and firmware', `kernel = ${describe(value)}`, 'one of them, as in xl');
    }
    return { bootloader: 'pvgrub', ramdisk };
  }

  /** Does a key ask for pvgrub? Empty, it asks for nothing. */
  private pvgrub(key: 'bootloader' | 'firmware', names: readonly string[]): boolean {
    const value = this.value(key);
    const text = this.text(key)?.trim();
    if (value === undefined || text === undefined || text === '') return false;
    const wanted = names.map((name) => `"${name}"`).join(' or ');
    if (isPvgrub32(text)) {
      throw this.error(
        value,
        'a boot loader for 32-bit guests',
        `${key} = ${describe(value)}`,
        `${wanted}: 32-bit PV kernels are not supported`,
      );
    }
    const named = namedBootloader(text);
    if (named === undefined || (key === 'firmware' && text !== 'pvgrub64')) {
      throw this.error(value, `${key} is not supported`, `${key} = ${describe(value)}`, wanted);
    }
    if (named.notice !== undefined) this.warn(value.line, named.notice);
    for (const other of ['cmdline', 'root', 'extra']) {
      const setting = this.settings.get(other);
      const words = this.text(other);
      if (setting !== undefined && words !== undefined && !grubTakes(words)) {
        this.warn(setting.line, `${other} has no effect with a boot loader: the guest's grub.cfg has the command line`);
      }
    }
    return true;
  }

  onEnd(): Partial<Record<EndEvent, EndAction>> {
    const out: Partial<Record<EndEvent, EndAction>> = {};
    for (const event of ['poweroff', 'reboot', 'crash', 'watchdog'] as const) {
      const key = `on_${event}`;
      const value = this.value(key);
      if (value === undefined) continue;
      const text = this.text(key);
      switch (text) {
        case 'destroy':
        case 'restart':
          out[event] = text;
          break;
        case 'rename-restart':
        case 'coredump-restart':
          out[event] = 'restart';
          this.warn(value.line, `${key} = ${quoted(text)} is not supported: the domain is restarted instead`);
          break;
        case 'preserve':
        case 'coredump-destroy':
          out[event] = 'destroy';
          this.warn(value.line, `${key} = ${quoted(text)} is not supported: the domain is destroyed instead`);
          break;
        default:
          throw this.error(
            value,
            `unusable ${key}`,
            describe(value),
            '"destroy", "restart", "rename-restart", "preserve", "coredump-destroy" or "coredump-restart"',
          );
      }
    }
    return out;
  }

  tscMode(): 'default' | 'native' | undefined {
    const value = this.value('tsc_mode');
    const text = this.text('tsc_mode');
    if (value === undefined) return undefined;
    switch (text) {
      case 'default':
      case '0':
        return 'default';
      case 'native':
      case '2':
        return 'native';
      case 'always_emulate':
      case 'native_paravirt':
      case '1':
      case '3':
        throw this.error(value, 'unsupported tsc_mode', describe(value), '"default" or "native": RDTSC runs natively');
      default:
        throw this.error(value, 'unknown tsc_mode', describe(value), '"default" or "native"');
    }
  }

  uuid(): string | undefined {
    const value = this.value('uuid');
    const text = this.text('uuid');
    if (value === undefined || text === undefined) return undefined;
    const digits = text.replaceAll('-', '').toLowerCase();
    if (!/^[0-9a-f]{32}$/.test(digits)) {
      throw this.error(value, 'unusable uuid', describe(value), '32 hexadecimal digits, as uuidgen prints them');
    }
    return digits.replace(/^(.{8})(.{4})(.{4})(.{4})(.{12})$/, '$1-$2-$3-$4-$5');
  }

  /** max_event_channels counts usable ports; port 0 is none. */
  ports(): number | undefined {
    const value = this.value('max_event_channels');
    const number = this.number('max_event_channels');
    if (value === undefined || number === undefined) return undefined;
    const limit = TRAP.TRAP_MAX_PORTS - 1;
    if (number < 8 || number > limit) {
      throw this.error(value, 'unusable max_event_channels', describe(value), `8 to ${limit}`);
    }
    return number + 1;
  }

  disks(): readonly DiskSpec[] | undefined {
    const value = this.value('disk');
    if (value === undefined) return undefined;
    const items = value.kind === 'list' ? value.items : [value];
    return items.map((item) => {
      if (item.kind !== 'string')
        throw this.error(item, 'a disk of the wrong kind', describe(item), 'a string such as "FILE,raw,xvda,w"');
      const { disk, warnings } = parseDiskSpec(item.text, `${this.file}:${item.line}`);
      for (const warning of warnings) this.warn(item.line, warning);
      this.checkPath(item, disk.path, 'a disk');
      return disk;
    });
  }

  cpuid(): GuestConfig['cpuid'] {
    const value = this.value('cpuid');
    const settings = value === undefined ? [] : parseCpuidOption(this.file, value);
    // A domain that stays where it is may rely on its host's TSC: libxl does the same.
    const stays = this.value('nomigrate');
    if (stays !== undefined && this.number('nomigrate') !== 0) {
      settings.push(...parseCpuidOption(this.file, { kind: 'string', text: 'host,invtsc=k', line: stays.line }));
    }
    return settings.length === 0 ? undefined : settings;
  }
}

/** Reads the text of a configuration file. Throws UsageError and nothing else. */
export function parseXlConfig(file: string, text: string): XlConfig {
  const reader = new Reader(file, parseXlSyntax(file, text));
  reader.type();
  const config: GuestConfig = {
    name: reader.checked('name', reader.word('name'), checkName),
    ...reader.boot(),
    cmdline: reader.cmdline(),
    memory: reader.checked('memory', reader.number('memory'), checkMemory),
    maxmem: reader.checked('maxmem', reader.number('maxmem'), checkMemory),
    vcpus: reader.vcpus('vcpus'),
    maxvcpus: reader.vcpus('maxvcpus'),
    uuid: reader.uuid(),
    onEnd: reader.onEnd(),
    maxEventChannels: reader.ports(),
    tscMode: reader.tscMode(),
    cpuid: reader.cpuid(),
    disks: reader.disks(),
  };
  return { config, warnings: reader.warnings };
}

/** A configuration's text: UTF-16 where it begins with that byte order mark, else UTF-8. */
export function decodeConfig(bytes: Buffer): string {
  const [first, second] = bytes;
  if (first === 0xff && second === 0xfe) return bytes.toString('utf16le');
  if (first === 0xfe && second === 0xff)
    return Buffer.from(bytes.subarray(0, bytes.length & ~1))
      .swap16()
      .toString('utf16le');
  return bytes.toString('utf8');
}

/** Reads a configuration file. Throws UsageError. */
export async function readXlConfig(file: string): Promise<XlConfig> {
  const bytes = await readInput(file, 'configuration', MAX_FILE_BYTES);
  return parseXlConfig(file, decodeConfig(bytes));
}
