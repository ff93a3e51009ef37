/**
 * Control by pipes, as on Windows: the directory has files that say where each domain listens. Here, sockets in another
 * directory play the pipes.
 */
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import net, { createServer, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { ControlClient, listDomains } from '../../../shim/domain/control-client';
import {
  address,
  controlDirectory,
  isServed,
  pipeAddress,
  pipeFile,
  socketPath,
} from '../../../shim/domain/control-directory';
import { ControlSocket, type ControlTarget } from '../../../shim/domain/control-socket';

let directory: string;
let pipes: string;
const open: ControlSocket[] = [];

beforeEach(() => {
  directory = mkdtempSync(join(tmpdir(), 'xenlighten-control-'));
  pipes = mkdtempSync(join(tmpdir(), 'xenlighten-pipes-'));
});
afterEach(async () => {
  for (const socket of open.splice(0)) await socket.close();
  rmSync(directory, { recursive: true });
  rmSync(pipes, { recursive: true });
});

let count = 0;
const pipe = process.platform === 'win32' ? pipeAddress : (name: string): string => join(pipes, `${name}-${count++}`);

async function serve(name: string, unique = false): Promise<ControlSocket> {
  const socket = await ControlSocket.open(name, { directory, pipe, unique });
  open.push(socket);
  const target = { console: { history: { bytes: () => Buffer.alloc(0) } }, info: () => ({ name: socket.name }) };
  socket.control(target as unknown as ControlTarget);
  return socket;
}

const names = async (): Promise<string[]> => (await listDomains({ directory })).map((d) => d.name);

test('places and names on Windows', () => {
  expect(controlDirectory({ LOCALAPPDATA: 'D:\\Local' }, 'win32')).toBe('D:\\Local\\xenlighten\\control');
  expect(controlDirectory({ LOCALAPPDATA: 'relative' }, 'win32')).toMatch(/AppData\\Local\\xenlighten\\control$/);
  // Linux's variable means nothing there.
  expect(controlDirectory({ XDG_RUNTIME_DIR: '/run/user/7' }, 'win32')).toMatch(/AppData\\Local\\xenlighten\\control$/);
  expect(pipeAddress('web:1', 'Jane Doe\\x')).toMatch(/^\\\\\.\\pipe\\xenlighten-Jane_Doe_x-web_1-[0-9a-f]{24}$/);
  expect(pipeAddress('a', 'b')).not.toBe(pipeAddress('a', 'b'));
  expect(pipeAddress('n'.repeat(300), 'u'.repeat(300)).length).toBeLessThan(256);
});

test('a domain is found, asked and listed; nothing is left after its end', async () => {
  const socket = await serve('web');
  expect(statSync(socket.path).isFile()).toBe(true);
  if (process.platform !== 'win32') expect(statSync(socket.path).mode & 0o777).toBe(0o600);
  expect(readFileSync(socket.path, 'utf8')).toBe(`${await address(socket.path)}\n${process.pid}\n`);
  expect(readdirSync(directory)).toHaveLength(1);
  const client = await ControlClient.connect('web', { directory });
  expect(await client.request('info')).toEqual({ name: 'web' });
  client.close();
  expect(await names()).toEqual(['web']);
  await socket.close();
  expect(readdirSync(directory)).toEqual([]);
  await expect(ControlClient.connect('web', { directory })).rejects.toThrow(/no such domain/);
});

test('a name can be had once, by whoever comes first', async () => {
  await serve('web');
  await expect(serve('web')).rejects.toThrow(/the name is taken/);
  expect((await serve('web', true)).name).toBe('web-2');
  expect(await names()).toEqual(['web', 'web-2']);
  const many = await Promise.allSettled(Array.from({ length: 8 }, () => serve('many')));
  expect(many.filter((m) => m.status === 'fulfilled')).toHaveLength(1);
});

test('what killed processes left, or somebody damaged, is removed and can be had again', async () => {
  for (const left of [pipe('gone'), '', 'x'.repeat(5000)]) {
    writeFileSync(socketPath(directory, 'dead'), left);
    expect(await names()).toEqual([]);
    expect(existsSync(socketPath(directory, 'dead'))).toBe(false);
    writeFileSync(socketPath(directory, 'dead'), left);
    await (await serve('dead')).close();
  }
});

test('a pipe of a process that lives is asked for a while, one of a dead process is not', async () => {
  // No process has this number.
  writeFileSync(socketPath(directory, 'dead'), pipeFile(pipe('gone'), 2 ** 31 - 2));
  let began = performance.now();
  expect(await names()).toEqual([]);
  expect(performance.now() - began).toBeLessThan(1500);
  const late = pipe('late');
  writeFileSync(socketPath(directory, 'late'), pipeFile(late));
  const server = createServer();
  setTimeout(() => server.listen(late), 300);
  began = performance.now();
  expect(await isServed(socketPath(directory, 'late'))).toBe(true);
  expect(performance.now() - began).toBeGreaterThan(200);
  await new Promise((resolve) => server.close(resolve));
  writeFileSync(socketPath(directory, 'late'), pipeFile(pipe('gone')));
  expect(await isServed(socketPath(directory, 'late'))).toBe(false);
});

test('a pipe that may be read only, as Windows connects who may not write, is said to be one; the domain is listed', async () => {
  await serve('web');
  const spy = jest.spyOn(net.Socket.prototype, 'connect').mockImplementation(function (this: Socket) {
    Object.defineProperty(this, 'writable', { value: false });
    setImmediate(() => this.emit('connect'));
    return this;
  });
  try {
    await expect(ControlClient.connect('web', { directory })).rejects.toThrow(
      /^web: its pipe takes no requests from here: the domain was started in an elevated window/,
    );
    expect(await listDomains({ directory })).toEqual([{ name: 'web', info: undefined }]);
  } finally {
    spy.mockRestore();
  }
});

test('what was killed while it removed something does not keep others from it', async () => {
  writeFileSync(socketPath(directory, 'dead'), pipeFile(pipe('gone'), 2 ** 31 - 2));
  writeFileSync(join(directory, '.lock'), String(2 ** 31 - 2));
  const began = performance.now();
  expect(await names()).toEqual([]);
  expect(performance.now() - began).toBeLessThan(1500);
  expect(readdirSync(directory)).toEqual([]);
});
