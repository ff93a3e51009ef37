/**
 * Runs Xen's own xenstored (Debian's xen-utils-4.17) without Xen and talks to it as domain 0 and as guests over their
 * rings. xen-stand-in.c explains how. Only for tests.
 */
import { type ChildProcess, execFileSync, spawn } from 'node:child_process';
import * as fs from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { XENSTORE, XenstoreDomainInterface, XS } from '../../../abi/xen/xenstore';
import type { RingPage } from '../../../shim/xen/ring-page';
import { RingConsumer, RingProducer } from '../../../shim/xen/ring-page';
import { encodeMessage, encodeText, MessageParser, type XsMessage } from '../../../shim/xen/xenstore/wire';

const DAEMON = '/usr/lib/xen-4.17/bin/xenstored';
const HEADER = '/usr/include/xenctrl.h';
/** A request id that no step uses: its answer says that everything before it has arrived. */
const SYNC_ID = 0xdead;
const { fields } = XenstoreDomainInterface;
const { XENSTORE_RING_SIZE } = XENSTORE;

/** Why the daemon cannot be run here; undefined if it can. */
export function whyNot(): string | undefined {
  if (!fs.existsSync(DAEMON)) return `${DAEMON} is missing (apt install xen-utils-4.17)`;
  if (!fs.existsSync(HEADER)) return `${HEADER} is missing (apt install libxen-dev)`;
  return undefined;
}

/** A page that is a file, mapped by the daemon. */
class FilePage implements RingPage {
  private readonly fd: number;

  constructor(path: string) {
    fs.writeFileSync(path, new Uint8Array(4096));
    this.fd = fs.openSync(path, 'r+');
  }

  getU32(offset: number): number {
    return new DataView(this.copyOut(offset, 4).buffer).getUint32(0, true);
  }

  setU32(offset: number, value: number): void {
    const bytes = new Uint8Array(4);
    new DataView(bytes.buffer).setUint32(0, value, true);
    this.copyIn(offset, bytes);
  }

  copyOut(offset: number, length: number): Uint8Array {
    const bytes = new Uint8Array(length);
    fs.readSync(this.fd, bytes, 0, length, offset);
    return bytes;
  }

  copyIn(offset: number, bytes: Uint8Array): void {
    fs.writeSync(this.fd, bytes, 0, bytes.length, offset);
  }

  close(): void {
    fs.closeSync(this.fd);
  }
}

const turn = () => new Promise((resolve) => setImmediate(resolve));

/** The guest's end of one ring. */
class RingClient {
  private readonly requests: RingProducer;
  private readonly responses: RingConsumer;
  private readonly parser = new MessageParser();
  private received: XsMessage[] = [];

  constructor(
    page: RingPage,
    private readonly kick: () => void,
  ) {
    const ring = (data: number, prod: number, cons: number) => ({ data, size: XENSTORE_RING_SIZE, prod, cons });
    this.requests = new RingProducer(page, ring(fields.req.offset, fields.req_prod.offset, fields.req_cons.offset));
    this.responses = new RingConsumer(page, ring(fields.rsp.offset, fields.rsp_prod.offset, fields.rsp_cons.offset));
  }

  async send(message: XsMessage): Promise<void> {
    for (let bytes = encodeMessage(message); bytes.length > 0; ) {
      const n = this.requests.produce(bytes);
      bytes = bytes.slice(n);
      this.kick();
      if (bytes.length > 0) {
        this.pump();
        await turn();
      }
    }
  }

  /** Everything that came up to now, the effects of all requests that the daemon had before this one included. */
  async sync(): Promise<XsMessage[]> {
    await this.send({ type: XS.XS_GET_DOMAIN_PATH, reqId: SYNC_ID, txId: 0, payload: encodeText('0\0') });
    const deadline = Date.now() + 5000;
    for (;;) {
      this.pump();
      const at = this.received.findIndex((message) => message.reqId === SYNC_ID);
      if (at >= 0) {
        const before = this.received.slice(0, at);
        this.received = this.received.slice(at + 1);
        return before;
      }
      if (Date.now() > deadline) throw new Error('xenstored does not answer');
      await turn();
    }
  }

  private pump(): void {
    const bytes = this.responses.consume(XENSTORE_RING_SIZE);
    if (bytes.length === 0) return;
    this.parser.push(bytes, (message) => this.received.push(message));
    this.kick();
  }
}

export class Xenstored {
  readonly clients = new Map<number, RingClient>();
  private readonly pages: FilePage[] = [];

  private constructor(
    private readonly dir: string,
    private readonly child: ChildProcess,
    private readonly events: number,
  ) {}

  /** Starts the daemon with domain 0 and the given guests introduced. */
  static async start(guests: readonly number[]): Promise<Xenstored> {
    const dir = fs.mkdtempSync(join(tmpdir(), 'xenlighten-xenstored-'));
    const library = join(dir, 'stand-in.so');
    const source = join(__dirname, 'xen-stand-in.c');
    execFileSync('cc', ['-shared', '-fPIC', '-O1', '-Wall', '-Wextra', '-Werror', '-o', library, source, '-ldl']);
    execFileSync('mkfifo', [join(dir, 'ev-in'), join(dir, 'ev-out')]);
    fs.writeFileSync(join(dir, 'xsd_port'), '1');
    const events = fs.openSync(join(dir, 'ev-in'), fs.constants.O_RDWR | fs.constants.O_NONBLOCK);
    const pages = [0, ...guests].map((domid) => new FilePage(join(dir, `ring-${domid}`)));
    const env = {
      PATH: process.env['PATH'],
      LD_PRELOAD: library,
      XENLIGHTEN_STAND_IN: dir,
      XENSTORED_RUNDIR: dir,
      XENSTORED_ROOTDIR: dir,
      XENSTORED_PATH: join(dir, 'socket'),
    };
    const child = spawn(DAEMON, ['-N', '-F', join(dir, 'pid')], { env, stdio: 'ignore' });
    const daemon = new Xenstored(dir, child, events);
    daemon.pages.push(...pages);
    for (const [i, domid] of [0, ...guests].entries()) {
      const port = domid === 0 ? 1 : 10 + domid;
      const word = new Uint8Array(Uint32Array.of(port).buffer);
      daemon.clients.set(domid, new RingClient(pages[i]!, () => fs.writeSync(events, word)));
    }
    const dom0 = daemon.clients.get(0)!;
    await dom0.sync();
    for (const domid of guests) {
      const payload = encodeText(`${domid}\0${1}\0${10 + domid}\0`);
      await dom0.send({ type: XS.XS_INTRODUCE, reqId: 1, txId: 0, payload });
      await dom0.sync();
    }
    return daemon;
  }

  async stop(): Promise<void> {
    const ended = new Promise((resolve) => this.child.once('exit', resolve));
    if (this.child.exitCode === null) {
      this.child.kill('SIGKILL');
      await ended;
    }
    for (const page of this.pages) page.close();
    fs.closeSync(this.events);
    fs.rmSync(this.dir, { recursive: true, force: true });
  }
}
