/** A whole Debian as a guest: its image from the cache, a copy of that to write to, and a login on its console. */
import { execFileSync } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { packageRoot } from '../../../shim/partition/native-files';
import { uniqueName, Xenlighten } from './xenlighten';

export interface DebianImage {
  readonly image: string;
  readonly kernel: string;
  readonly ramdisk: string;
  readonly user: string;
  readonly password: string;
}

const SBIN = { ...process.env, PATH: `${process.env['PATH']}:/usr/sbin:/sbin` };

/** Is there such a program, in the places of an administrator too? */
export function hasProgram(name: string): boolean {
  try {
    execFileSync('sh', ['-c', `command -v ${name}`], { stdio: 'ignore', env: SBIN });
    return true;
  } catch {
    return false;
  }
}

/** Why there can be no Debian image here, or undefined. */
export function debianImageProblem(): string | undefined {
  if (process.platform !== 'linux') return 'not Linux';
  const missing = ['mmdebstrap', 'mke2fs', 'e2fsck'].filter((name) => !hasProgram(name));
  return missing.length === 0 ? undefined : `not installed here: ${missing.join(', ')}`;
}

/** The image; made if it is not in the cache, which takes minutes. */
export function debianImage(): DebianImage {
  const printed = execFileSync(process.execPath, ['scripts/debian-image.mjs'], {
    cwd: packageRoot(),
    encoding: 'utf8',
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  return JSON.parse(printed) as DebianImage;
}

/** A copy of an image that a guest may write to; sparse, in a directory of its own. */
export function workingCopy(image: string): { readonly file: string; remove(): void } {
  const directory = mkdtempSync(path.join(tmpdir(), 'xenlighten-debian-'));
  const file = path.join(directory, 'root.img');
  execFileSync('cp', ['--sparse=always', '--reflink=auto', image, file]);
  return { file, remove: () => rmSync(directory, { recursive: true, force: true }) };
}

/** What e2fsck says of a file system in an image that nobody uses: its exit status, 0 if all is well. */
export function fsck(file: string): { readonly status: number; readonly text: string } {
  try {
    return { status: 0, text: execFileSync('e2fsck', ['-fn', file], { encoding: 'utf8', env: SBIN, stdio: 'pipe' }) };
  } catch (error) {
    const { status, stdout } = error as { status: number | null; stdout: string };
    return { status: status ?? -1, text: stdout };
  }
}

/** A guest with someone at its console. */
export class DebianGuest {
  readonly name = uniqueName();
  readonly run: Xenlighten;
  private counter = 0;
  /** How much of the console has been dealt with. */
  private seen = 0;

  constructor(
    private readonly debian: DebianImage,
    args: readonly string[],
  ) {
    this.run = new Xenlighten(['run', '--name', this.name, '--memory', '512', ...args]);
  }

  /** Waits for text that was printed since the last time. */
  private async next(wanted: RegExp, ms: number): Promise<{ match: RegExpExecArray; before: string }> {
    const from = this.seen;
    const match = await this.run.says(wanted, ms, from);
    this.seen = from + match.index + match[0].length;
    return { match, before: this.run.stdout.slice(from, from + match.index) };
  }

  /** Waits for the login prompt, and logs in. */
  async login(ms = 120_000): Promise<void> {
    await this.next(/login: /, ms);
    this.run.type(`${this.debian.user}\n`);
    await this.next(/Password: /, 30_000);
    this.run.type(`${this.debian.password}\n`);
    await this.next(/root@debian:~# /, 60_000);
  }

  /** Runs a command in the guest's shell. Returns its exit status and what it printed. */
  async command(text: string, ms = 60_000): Promise<{ readonly status: number; readonly output: string }> {
    const n = ++this.counter;
    // The terminal echoes what is typed: the sum tells the answer from that.
    this.run.type(`${text}; echo "end$((${n}+0))=$?"\n`);
    const { match, before } = await this.next(new RegExp(`end${n}=(\\d+)\\r?\\n`), ms);
    const output = before
      // biome-ignore lint/suspicious/noControlCharactersInRegex: the shell's switches of paste mode
      .replaceAll(/\x1b\[\?2004[hl]/g, '')
      .replaceAll('\r', '');
    await this.next(/root@debian:~# /, ms);
    return { status: Number(match[1]), output: output.slice(output.indexOf('\n') + 1) };
  }

  type(text: string): void {
    this.run.type(text);
  }
}
