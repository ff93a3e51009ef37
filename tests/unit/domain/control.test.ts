/** The control socket: both ends, the directory, names, leftovers, and hostile bytes. */
import { spawn } from 'node:child_process';
import {
  chmodSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { connect, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { basename, join, resolve } from 'node:path';
import fc from 'fast-check';
import { VIEWER_LIMIT } from '../../../shim/domain/console-stream';
import { ControlClient, listDomains } from '../../../shim/domain/control-client';
import { address, controlDirectory, pipeAddress, socketPath } from '../../../shim/domain/control-directory';
import { ControlError, MAX_REQUEST } from '../../../shim/domain/control-protocol';
import { ControlSocket, type ControlTarget } from '../../../shim/domain/control-socket';
import { BlockDeviceError, type BlockInfo } from '../../../shim/domain/disks/block-devices';
import type { DiskSpec } from '../../../shim/domain/disks/disk-spec';
import type { DomainInfo } from '../../../shim/domain/domain-info';
import { UsageError } from '../../../shim/errors';
import { collectStats } from '../../../shim/translate/stats';
import type { ConsoleViewer } from '../../../shim/xen/console/console';

const info = (name: string): DomainInfo => ({
  name,
  domid: 1,
  uuid: '00000000-0000-0000-0000-000000000001',
  pid: 1,
  memoryMiB: 128,
  vcpus: 1,
  state: 'blocked',
  cpuSeconds: 1.5,
  uptimeMs: 10,
  engine: 'qemu',
  guestRing: 1,
  kernel: 'k',
  tracing: false,
});

/** A guest's console: what it says goes to whoever watches. */
class FakeConsole {
  readonly viewers = new Set<ConsoleViewer>();
  typed = '';
  said = '';
  readonly history = { bytes: (): Uint8Array => Buffer.from(this.said) };
  addViewer(viewer: ConsoleViewer): void {
    this.viewers.add(viewer);
  }
  removeViewer(viewer: ConsoleViewer): void {
    this.viewers.delete(viewer);
  }
  type(bytes: Uint8Array): boolean {
    this.typed += Buffer.from(bytes).toString();
    return true;
  }
  say(text: string): void {
    this.said += text;
    for (const viewer of this.viewers) viewer.show(Buffer.from(text));
  }
}

const BLOCK: BlockInfo = {
  id: 51712,
  vdev: 'xvda',
  state: 4,
  eventChannel: 9,
  ringRef: 8,
  backPath: '/local/domain/0/backend/vbd/1/51712',
  file: '/a.img',
  format: 'raw',
  readOnly: false,
};

class FakeDomain implements ControlTarget {
  destroyed = 0;
  tracing: string | undefined;
  readonly asked: unknown[][] = [];
  outcome: Promise<'acknowledged' | 'ended'> = Promise.resolve('acknowledged');
  end!: (kind: 'poweroff' | 'reboot' | 'destroyed') => void;
  readonly ended = new Promise<{ kind: 'poweroff' | 'reboot' | 'destroyed' }>((resolve) => {
    this.end = (kind) => resolve({ kind });
  });
  readonly guest = {
    paused: false,
    requestShutdown: (...params: unknown[]): Promise<'acknowledged' | 'ended'> => {
      this.asked.push(['shutdown', ...params]);
      return this.outcome;
    },
    setMemory: (mib: number) => void this.asked.push(['memory', mib]),
    setMaxMemory: (mib: number) => void this.asked.push(['maximum', mib]),
    setVcpus: (count: number) => void this.asked.push(['vcpus', count]),
    sysrq: (key: string) => void this.asked.push(['sysrq', key]),
  };
  readonly console = new FakeConsole();
  readonly blocks = { list: (): readonly BlockInfo[] => [BLOCK] };
  /** What attachDisk and detachDisk reject with. */
  refusal: Error | undefined;
  attachDisk(spec: DiskSpec): Promise<void> {
    this.asked.push(['attach', spec.path, spec.vdev.name, spec.readOnly]);
    return this.refusal === undefined ? Promise.resolve() : Promise.reject(this.refusal);
  }
  detachDisk(device: string, force: boolean): Promise<void> {
    this.asked.push(['detach', device, force]);
    return this.refusal === undefined ? Promise.resolve() : Promise.reject(this.refusal);
  }
  constructor(readonly name: string) {}
  info(): DomainInfo {
    return info(this.name);
  }
  stats(): ReturnType<ControlTarget['stats']> {
    return collectStats({
      name: this.name,
      engine: 'qemu',
      guestRing: 1,
      uptimeMs: 1,
      vps: [],
      hypervExecutedBy: 'trap module',
      exits: undefined,
    });
  }
  destroy(): Promise<void> {
    this.destroyed++;
    return Promise.resolve();
  }
  pauses: string[] = [];
  pause(): Promise<void> {
    if (this.pauses.at(-1) === 'pause') {
      return Promise.reject(new ControlError('wrong-state', 'cannot pause the domain: it is paused'));
    }
    this.pauses.push('pause');
    return Promise.resolve();
  }
  unpause(): Promise<void> {
    this.pauses.push('unpause');
    return Promise.resolve();
  }
  startTrace(file: string): Promise<void> {
    if (this.tracing !== undefined) return Promise.reject(new Error('tracing already'));
    this.tracing = file;
    return Promise.resolve();
  }
  stopTrace(): ReturnType<ControlTarget['stopTrace']> {
    const file = this.tracing;
    this.tracing = undefined;
    return Promise.resolve(file === undefined ? undefined : { file, records: 3, lost: 0 });
  }
}

/** What a domain's socket, or the file that names its pipe, is called. */
const fileOf = (name: string): string => basename(socketPath('', name));
/** What access modes and paths of sockets say, Windows has otherwise or not at all. */
const onPosix = process.platform === 'win32' ? test.skip : test;

let directory: string;
const open: ControlSocket[] = [];

beforeEach(() => {
  directory = mkdtempSync(join(tmpdir(), 'xenlighten-control-'));
});
afterEach(async () => {
  for (const socket of open.splice(0)) await socket.close();
  rmSync(directory, { recursive: true });
});

async function serve(
  name: string,
  domain = new FakeDomain(name),
): Promise<{ socket: ControlSocket; domain: FakeDomain }> {
  const socket = await ControlSocket.open(name, { directory });
  open.push(socket);
  socket.control(domain);
  return { socket, domain };
}

/** Sends bytes and collects answers until `count` lines have come or the other end closes. */
async function raw(
  path: string,
  bytes: readonly (string | Uint8Array)[],
  count = 1,
): Promise<Record<string, unknown>[]> {
  const to = await address(path);
  return new Promise((resolve, reject) => {
    const socket: Socket = connect(to);
    let text = '';
    const done = (): void => {
      socket.destroy();
      resolve(
        text
          .split('\n')
          .filter((line) => line !== '')
          .map((line) => JSON.parse(line) as Record<string, unknown>),
      );
    };
    socket.on('data', (chunk) => {
      text += chunk.toString();
      if (text.split('\n').length > count) done();
    });
    socket.on('end', done);
    socket.on('error', (error: NodeJS.ErrnoException) =>
      error.code === 'EPIPE' || error.code === 'ECONNRESET' ? undefined : reject(error),
    );
    socket.on('connect', () => {
      for (const b of bytes) socket.write(b);
    });
  });
}

function replace(path: string, make: () => void): void {
  rmSync(path, { recursive: true });
  make();
}

describe('the directory', () => {
  onPosix('is the session’s, or one in /tmp for each user', () => {
    expect(controlDirectory({ XDG_RUNTIME_DIR: '/run/user/7' })).toBe('/run/user/7/xenlighten');
    expect(controlDirectory({ XDG_RUNTIME_DIR: 'relative' })).toBe(`/tmp/xenlighten-${process.getuid?.()}`);
    expect(controlDirectory({})).toBe(`/tmp/xenlighten-${process.getuid?.()}`);
  });

  onPosix('is made for the user alone, and so is the socket', async () => {
    directory = join(directory, 'new');
    const { socket } = await serve('one');
    expect(statSync(directory).mode & 0o777).toBe(0o700);
    expect(statSync(socket.path).mode & 0o777).toBe(0o600);
    directory = join(directory, '..');
  });

  onPosix.each([
    ['that others may enter', (d: string) => chmodSync(d, 0o755), /mode 0755, wanted 0700/],
    ['that is a link', (d: string) => replace(d, () => symlinkSync('/tmp', d)), /not a directory/],
    ['that is a file', (d: string) => replace(d, () => writeFileSync(d, '')), /not a directory/],
  ])('one %s is refused by both ends', async (_what, spoil, message) => {
    const spoilt = join(directory, 'd');
    mkdirSync(spoilt, { mode: 0o700 });
    spoil(spoilt);
    await expect(ControlSocket.open('one', { directory: spoilt })).rejects.toThrow(message);
    await expect(listDomains({ directory: spoilt })).rejects.toThrow(message);
  });

  test('that does not exist has no domains', async () => {
    expect(await listDomains({ directory: join(directory, 'none') })).toEqual([]);
  });

  onPosix('a path that no socket can have is said so', () => {
    expect(() => socketPath(`/${'d'.repeat(100)}`, 'name')).toThrow(/longer than/);
  });
});

describe('names', () => {
  test('nothing is left after the end', async () => {
    const { socket } = await serve('one');
    expect(readdirSync(directory)).toEqual([fileOf('one')]);
    await socket.close();
    await socket.close();
    expect(readdirSync(directory)).toEqual([]);
  });

  test('a name can be had once', async () => {
    await serve('one');
    await expect(ControlSocket.open('one', { directory })).rejects.toThrow(UsageError);
    await expect(ControlSocket.open('one', { directory })).rejects.toThrow(/the name is taken/);
    const other = await ControlSocket.open('one', { directory, unique: true });
    open.push(other);
    expect(other.name).toBe('one-2');
    expect(readdirSync(directory).sort()).toEqual([fileOf('one-2'), fileOf('one')]);
  });

  test('of many who want it at once, one gets it', async () => {
    const results = await Promise.allSettled(
      Array.from({ length: 12 }, () => ControlSocket.open('one', { directory })),
    );
    const got = results.flatMap((r) => (r.status === 'fulfilled' ? [r.value] : []));
    open.push(...got);
    expect(got).toHaveLength(1);
    expect(readdirSync(directory)).toEqual([fileOf('one')]);
  });

  test('that are no file names work', async () => {
    const name = '../a b/é';
    await serve(name);
    expect((await listDomains({ directory })).map((d) => d.name)).toEqual([name]);
  });

  /** A process that listens and is killed: its socket stays, or the file that names its pipe. */
  async function killed(path: string): Promise<void> {
    const script = `const [, path, pipe] = process.argv;
      require('net').createServer().listen(pipe ?? path, () => {
        if (pipe) require('fs').writeFileSync(path, pipe);
        console.log('up');
      });`;
    const pipes = process.platform === 'win32' ? [pipeAddress('dead')] : [];
    const child = spawn(process.execPath, ['-e', script, path, ...pipes], { stdio: ['ignore', 'pipe', 'inherit'] });
    await new Promise((resolve) => child.stdout.once('data', resolve));
    child.kill('SIGKILL');
    await new Promise((resolve) => child.once('exit', resolve));
    expect(existsSync(path)).toBe(true);
  }

  test('of killed processes are removed by list and by connect, and can be had again', async () => {
    const path = socketPath(directory, 'dead');
    await serve('alive');
    await killed(path);
    expect((await listDomains({ directory })).map((d) => d.name)).toEqual(['alive']);
    expect(existsSync(path)).toBe(false);

    await killed(path);
    await expect(ControlClient.connect('dead', { directory })).rejects.toThrow(
      /no such domain: found running domains alive/,
    );
    expect(existsSync(path)).toBe(false);

    await killed(path);
    const again = await Promise.allSettled(Array.from({ length: 6 }, () => ControlSocket.open('dead', { directory })));
    const got = again.flatMap((r) => (r.status === 'fulfilled' ? [r.value] : []));
    open.push(...got);
    expect(got).toHaveLength(1);
    got[0]?.control(new FakeDomain('dead'));
    expect((await listDomains({ directory })).map((d) => d.info?.name)).toEqual(['alive', 'dead']);
  });

  test('what was left between two steps is removed', async () => {
    const dead = spawn(process.execPath, ['-e', '']);
    await new Promise((resolve) => dead.once('exit', resolve));
    writeFileSync(join(directory, `.${dead.pid}-0`), '');
    writeFileSync(join(directory, `.${process.pid}-99999`), '');
    await serve('one');
    expect(readdirSync(directory).sort()).toEqual([`.${process.pid}-99999`, fileOf('one')]);
  });
});

describe('requests', () => {
  test('info, stats, traces, destroy', async () => {
    const { domain } = await serve('one');
    const client = await ControlClient.connect('one', { directory });
    const [a, b] = await Promise.all([client.request('info'), client.request('stats')]);
    expect(a).toEqual(info('one'));
    expect(b).toMatchObject({ version: 1, name: 'one' });
    await client.request('trace-start', { file: '/tmp/x.json' });
    expect(domain.tracing).toBe('/tmp/x.json');
    await expect(client.request('trace-start', { file: '/tmp/y.json' })).rejects.toMatchObject({
      code: 'failed',
      message: 'one: tracing already',
    });
    await expect(client.request('trace-start', { file: 'relative' })).rejects.toMatchObject({ code: 'bad-params' });
    expect(await client.request('trace-stop')).toEqual({ file: '/tmp/x.json', records: 3, lost: 0 });
    await expect(client.request('trace-stop')).rejects.toMatchObject({ code: 'failed' });
    expect(await client.request('destroy')).toEqual({});
    await new Promise((resolve) => setImmediate(resolve));
    expect(domain.destroyed).toBe(1);
    client.close();
  });

  test('pause and unpause; the wrong state is an error of its own', async () => {
    const { domain } = await serve('one');
    const client = await ControlClient.connect('one', { directory });
    expect(await client.request('pause')).toEqual({});
    await expect(client.request('pause')).rejects.toMatchObject({
      code: 'wrong-state',
      message: 'one: cannot pause the domain: it is paused',
    });
    expect(await client.request('unpause')).toEqual({});
    expect(domain.pauses).toEqual(['pause', 'unpause']);
    client.close();
  });

  test('answers come in order, also to many requests in one piece and to one in many pieces', async () => {
    const { socket } = await serve('one');
    const line = (id: number): string => `${JSON.stringify({ version: 1, id, method: 'info' })}\n`;
    const together = Array.from({ length: 50 }, (_, i) => line(i)).join('');
    expect((await raw(socket.path, [together], 50)).map((a) => a['id'])).toEqual(
      Array.from({ length: 50 }, (_, i) => i),
    );
    expect(
      await raw(
        socket.path,
        [...Buffer.from(line(3))].map((b) => Uint8Array.of(b)),
      ),
    ).toMatchObject([{ id: 3, result: { name: 'one' } }]);
  });

  test.each([
    ['no JSON', 'hello', null, 'bad-request'],
    ['an empty line', '', null, 'bad-request'],
    ['no object', '[1]', null, 'bad-request'],
    ['no version', '{"id":1,"method":"info"}', 1, 'unsupported-version'],
    ['another version', '{"version":2,"id":"a","method":"info"}', 'a', 'unsupported-version'],
    ['no id', '{"version":1,"method":"info"}', null, 'bad-request'],
    ['an id that is none', '{"version":1,"id":{},"method":"info"}', null, 'bad-request'],
    ['no method', '{"version":1,"id":1}', 1, 'bad-request'],
    ['an unknown method', '{"version":1,"id":1,"method":"fly"}', 1, 'unknown-method'],
    ['a method of objects', '{"version":1,"id":1,"method":"constructor"}', 1, 'unknown-method'],
    ['params that are none', '{"version":1,"id":1,"method":"info","params":[]}', 1, 'bad-params'],
  ])('%s: an error, and the connection goes on', async (_what, line, id, code) => {
    const { socket } = await serve('one');
    const good = '{"version":1,"id":99,"method":"info"}\n';
    expect(await raw(socket.path, [`${line}\n${good}`], 2)).toMatchObject([
      { version: 1, id, error: { code, message: expect.any(String) as string } },
      { version: 1, id: 99, result: { name: 'one' } },
    ]);
  });

  test('too long a request ends the connection with an error', async () => {
    const { socket } = await serve('one');
    expect(await raw(socket.path, ['x'.repeat(MAX_REQUEST + 10)])).toMatchObject([
      { id: null, error: { code: 'too-large' } },
    ]);
    // One byte less than the limit is a request.
    const padded = `${JSON.stringify({ version: 1, id: 1, method: 'info' }).slice(0, -1)},"pad":""}`;
    const longest = padded.replace('"pad":""', `"pad":"${'p'.repeat(MAX_REQUEST - 1 - padded.length)}"`);
    expect(await raw(socket.path, [`${longest}\n`])).toMatchObject([{ id: 1, result: {} }]);
  });

  test('while there is no domain, an error says so; the end of the domain ends connections', async () => {
    const socket = await ControlSocket.open('one', { directory });
    open.push(socket);
    const client = await ControlClient.connect('one', { directory });
    await expect(client.request('info')).rejects.toMatchObject({ code: 'not-running' });
    await socket.close();
    await client.ended;
    await expect(client.request('info')).rejects.toMatchObject({ code: 'closed' });
  });

  test('a domain that does not answer is listed without facts', async () => {
    const { domain } = await serve('one');
    domain.info = () => new Promise(() => undefined) as never;
    expect(await listDomains({ directory, timeoutMs: 50 })).toEqual([{ name: 'one', info: undefined }]);
    const client = await ControlClient.connect('one', { directory, timeoutMs: 20 });
    await expect(client.request('info')).rejects.toThrow(ControlError);
    client.close();
  });

  // Wine's pipes take everything; POSIX's sockets stand for those that do not.
  onPosix('a client that does not read does not make the server keep its answers', async () => {
    const { socket } = await serve('one');
    const client = connect(await address(socket.path));
    client.on('error', () => undefined);
    client.pause();
    const line = '{"version":1,"id":1,"method":"stats"}\n'.repeat(1000);
    let waited = 0;
    for (let i = 0; i < 200; i++) if (!client.write(line)) waited++;
    await new Promise((resolve) => setTimeout(resolve, 100));
    // The server has stopped reading: what is not sent waits on the client's side.
    expect(client.writableLength).toBeGreaterThan(1_000_000);
    expect(waited).toBeGreaterThan(0);
    expect((await listDomains({ directory }))[0]?.info?.name).toBe('one');
    client.destroy();
  });

  test('any bytes: answers are lines of JSON, and the domain is served on', async () => {
    const { socket, domain } = await serve('one');
    const pieces = fc.oneof(
      fc.uint8Array({ maxLength: 300 }),
      fc.constant(Buffer.from('\n')),
      fc.constant(Buffer.from('{"version":1,"id":1,"method":"info"}\n')),
      fc.json().map((j) => Buffer.from(`${j}\n`)),
      fc
        .record({
          version: fc.constantFrom(0, 1, '1', null),
          id: fc.jsonValue(),
          method: fc.oneof(
            fc.constantFrom('info', 'stats', 'trace-stop', 'shutdown', 'mem-set', 'vcpu-set', 'sysrq'),
            fc.string(),
          ),
          params: fc.jsonValue(),
        })
        .map((r) => Buffer.from(`${JSON.stringify(r)}\n`)),
    );
    await fc.assert(
      fc.asyncProperty(fc.array(pieces, { maxLength: 12 }), async (parts) => {
        const end = '\n{"version":1,"id":"the end","method":"info"}\n';
        const to = await address(socket.path);
        const answers = await new Promise<string>((resolve, reject) => {
          const client = connect(to, () => {
            for (const p of parts) client.write(p);
            client.write(end);
          });
          let text = '';
          client.on('data', (chunk) => {
            text += chunk.toString();
            if (/"id":"the end"[^\n]*\n$/.test(text)) {
              client.destroy();
              resolve(text);
            }
          });
          client.on('error', reject);
        });
        for (const line of answers.trimEnd().split('\n')) {
          const answer = JSON.parse(line) as Record<string, unknown>;
          expect(answer['version']).toBe(1);
          expect('result' in answer).toBe(!('error' in answer));
        }
      }),
      { numRuns: 150 },
    );
    expect(domain.destroyed).toBe(0);
  });
});

describe('requests to the guest', () => {
  test('shutdown: acknowledged, waited for, refused', async () => {
    const { domain } = await serve('one');
    const client = await ControlClient.connect('one', { directory });
    expect(await client.request('shutdown', { kind: 'poweroff' })).toEqual({});
    expect(await client.request('shutdown', { kind: 'reboot', timeoutMs: 5 })).toEqual({});
    expect(domain.asked).toEqual([
      ['shutdown', 'poweroff', 60_000],
      ['shutdown', 'reboot', 5],
    ]);
    const waits = client.request('shutdown', { kind: 'halt', wait: true });
    let answered = false;
    void waits.then(() => {
      answered = true;
    });
    expect(await listDomains({ directory })).toHaveLength(1);
    expect(answered).toBe(false);
    domain.end('poweroff');
    expect(await waits).toEqual({ end: 'poweroff' });
    domain.outcome = Promise.resolve('ended');
    expect(await client.request('shutdown', { kind: 'poweroff' })).toEqual({ end: 'poweroff' });

    domain.outcome = Promise.reject(new ControlError('not-listening', 'it does not listen'));
    await expect(client.request('shutdown', { kind: 'poweroff' })).rejects.toMatchObject({
      code: 'not-listening',
      message: 'one: it does not listen',
    });
    domain.guest.paused = true;
    await expect(client.request('shutdown', { kind: 'poweroff' })).rejects.toMatchObject({
      code: 'wrong-state',
      message: 'one: cannot shut the domain down: it is paused, wanted one that is running',
    });
    client.close();
  });

  test('memory, processors, keys', async () => {
    const { domain } = await serve('one');
    const client = await ControlClient.connect('one', { directory });
    expect(await client.request('mem-set', { mib: 128 })).toEqual({});
    expect(await client.request('mem-max', { mib: 256 })).toEqual({});
    expect(await client.request('vcpu-set', { vcpus: 2 })).toEqual({});
    expect(await client.request('sysrq', { key: 'h' })).toEqual({});
    expect(domain.asked).toEqual([
      ['memory', 128],
      ['maximum', 256],
      ['vcpus', 2],
      ['sysrq', 'h'],
    ]);
    client.close();
  });

  test.each([
    ['shutdown', '{}', 'kind: wanted poweroff, reboot, halt'],
    ['shutdown', '{"kind":"constructor"}', 'kind: wanted poweroff, reboot, halt'],
    ['shutdown', '{"kind":"halt","wait":1}', 'wait: wanted true or false'],
    ['shutdown', '{"kind":"halt","timeoutMs":"1"}', 'timeoutMs: wanted a number from 0 to 2147483647'],
    ['shutdown', '{"kind":"halt","timeoutMs":-1}', 'timeoutMs: wanted a number from 0 to 2147483647'],
    ['console', '{"history":1}', 'history: wanted true or false'],
  ])('%s %s is an error of its parameters', async (method, params, message) => {
    const { socket } = await serve('one');
    const line = `{"version":1,"id":1,"method":"${method}","params":${params}}\n`;
    expect(await raw(socket.path, [line])).toMatchObject([{ id: 1, error: { code: 'bad-params', message } }]);
  });

  test('disks: attached relative to the client’s directory, detached, listed; refusals have codes of their own', async () => {
    const { domain } = await serve('disks');
    const client = await ControlClient.connect('disks', { directory });
    const attach = (disk: string, dir = '/home/a') => client.request('block-attach', { disk, directory: dir });
    const refused = async (request: Promise<unknown>) => {
      const { code, message } = (await request.catch((error: unknown) => error)) as ControlError;
      return [code, message];
    };
    expect(await attach('b.img,raw,xvdb,r')).toEqual({});
    expect(await attach('/c.img,raw,xvdc,w')).toEqual({});
    expect(await client.request('block-detach', { device: 'xvdb' })).toEqual({});
    expect(await client.request('block-detach', { device: '51744', force: true })).toEqual({});
    expect(domain.asked).toEqual([
      ['attach', resolve('/home/a/b.img'), 'xvdb', true],
      ['attach', resolve('/c.img'), 'xvdc', false],
      ['detach', 'xvdb', false],
      ['detach', '51744', true],
    ]);
    expect(await client.request('block-list')).toEqual([BLOCK]);
    expect(await refused(attach('b.img,raw,vdb,r'))).toEqual(['bad-params', expect.stringContaining('unknown vdev')]);
    expect(await refused(attach('b.img,raw,xvdb,r', 'here'))).toEqual([
      'bad-params',
      expect.stringContaining('absolute'),
    ]);
    domain.refusal = new UsageError('in use', { file: '/b.img', found: 'a lock', wanted: 'none' });
    expect(await refused(attach('b.img,raw,xvdb,r'))).toEqual([
      'bad-params',
      expect.stringContaining('/b.img: in use'),
    ]);
    domain.refusal = new BlockDeviceError('xvdb is attached already');
    expect(await refused(attach('b.img,raw,xvdb,r'))).toEqual(['wrong-state', 'disks: xvdb is attached already']);
    domain.refusal = new BlockDeviceError('it may be mounted', true);
    expect(await refused(client.request('block-detach', { device: 'xvdb' }))).toEqual([
      'not-acknowledged',
      'disks: it may be mounted',
    ]);
    client.close();
  });

  test('whoever waits for the end is told before the connection ends', async () => {
    const { socket, domain } = await serve('one');
    const client = await ControlClient.connect('one', { directory });
    const waits = client.request('shutdown', { kind: 'poweroff', wait: true });
    await listDomains({ directory });
    domain.end('poweroff');
    await socket.close();
    expect(await waits).toEqual({ end: 'poweroff' });
    await client.ended;
  });
});

describe('consoles', () => {
  async function openConsole(
    history?: boolean,
  ): Promise<{ stream: Socket; seen: () => string; closed: () => boolean }> {
    const client = await ControlClient.connect('one', { directory });
    const stream = await client.openConsole(history);
    let text = '';
    let closed = false;
    stream.on('data', (chunk: Buffer) => {
      text += chunk.toString();
    });
    stream.on('close', () => {
      closed = true;
    });
    stream.resume();
    return { stream, seen: () => text, closed: () => closed };
  }
  const until = async (done: () => boolean): Promise<void> => {
    for (let i = 0; i < 500 && !done(); i++) await new Promise((resolve) => setTimeout(resolve, 2));
    expect(done()).toBe(true);
  };

  test('what was said, then what is said, to all; what any of them types goes to the guest', async () => {
    const { domain } = await serve('one');
    domain.console.say('before\n');
    const first = await openConsole();
    const second = await openConsole(false);
    domain.console.say('{"after":1}\n');
    await until(() => first.seen() === 'before\n{"after":1}\n' && second.seen() === '{"after":1}\n');
    first.stream.write('one ');
    await until(() => domain.console.typed === 'one ');
    second.stream.write('{"version":1,"id":1,"method":"destroy"}\n');
    await until(() => domain.console.typed.endsWith('}\n'));
    expect(domain.destroyed).toBe(0);
    first.stream.destroy();
    await until(() => domain.console.viewers.size === 1);
    domain.console.say('more');
    await until(() => second.seen().endsWith('more'));
    second.stream.destroy();
    await until(() => domain.console.viewers.size === 0);
  });

  test('what is sent behind the request is typed, whether it came with it or not', async () => {
    const { socket, domain } = await serve('one');
    const client = connect(await address(socket.path));
    client.write('{"version":1,"id":1,"method":"console"}\ntogether ');
    await until(() => domain.console.typed === 'together ');
    client.write('later');
    await until(() => domain.console.typed === 'together later');
    client.destroy();
  });

  test('a viewer that does not read costs a bounded amount of memory, and is told what it missed', async () => {
    const { domain } = await serve('one');
    const client = await ControlClient.connect('one', { directory });
    const stream = await client.openConsole();
    const other = await openConsole();
    const line = `${'x'.repeat(65_535)}\n`;
    let said = 0;
    for (let i = 0; i < 64; i++) {
      domain.console.say(line);
      said += line.length;
      await new Promise((resolve) => setImmediate(resolve));
    }
    domain.console.say('the end');
    await until(() => other.seen().endsWith('the end'));
    expect(other.seen()).toHaveLength(said + 7);
    let text = '';
    stream.on('data', (chunk: Buffer) => {
      text += chunk.toString();
    });
    stream.resume();
    await until(() => /left out\]/.test(text));
    const [, missed] = /\r\n\[xenlighten: (\d+) bytes of output left out\]\r\n/.exec(text) ?? [];
    expect(Number(missed)).toBeGreaterThan(said - VIEWER_LIMIT - 2 ** 20);
    expect(text.replace(/\r\n\[.*\]\r\n/, '').length + Number(missed)).toBe(said + 7);
    domain.console.say(' again');
    await until(() => text.endsWith(' again'));
    stream.destroy();
    other.stream.destroy();
  });

  test('a console outlives a domain that starts again, and what is typed between two lives waits', async () => {
    const { socket, domain } = await serve('one');
    const viewer = await openConsole();
    domain.console.say('first life\n');
    socket.control(undefined);
    expect(domain.console.viewers.size).toBe(0);
    viewer.stream.write('typed early');
    await new Promise((resolve) => setTimeout(resolve, 20));
    const next = new FakeDomain('one');
    socket.control(next);
    next.console.say('second life\n');
    await until(() => viewer.seen() === 'first life\nsecond life\n');
    await until(() => next.console.typed === 'typed early');
    expect(domain.console.typed).toBe('');
    next.console.say('last words');
    await socket.close();
    await until(viewer.closed);
    expect(viewer.seen()).toBe('first life\nsecond life\nlast words');
  });

  test('there is none while there is no domain', async () => {
    const socket = await ControlSocket.open('one', { directory });
    open.push(socket);
    const client = await ControlClient.connect('one', { directory });
    await expect(client.openConsole()).rejects.toMatchObject({ code: 'not-running' });
    // Still a connection for requests.
    socket.control(new FakeDomain('one'));
    expect(await client.request('info')).toEqual(info('one'));
    client.close();
  });
});
