/**
 * Our xenstore beside Xen's own daemon: the same requests to both, every answer and event compared, order included.
 *
 * Skipped, with the reason, where Debian's xen-utils-4.17 or libxen-dev is missing. XENLIGHTEN_RECORD=1 writes what
 * the daemon said to tests/fixtures/xenstore, for the unit test that replays it everywhere. XENLIGHTEN_SEED chooses
 * another conversation.
 */
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { XS } from '../../../abi/xen/xenstore';
import { XenstoreServer } from '../../../shim/xen/xenstore/server';
import { decodeText, encodeText, type XsMessage } from '../../../shim/xen/xenstore/wire';
import { WireClient } from '../../unit/xenstore/support';
import { corners, DOMAINS, RandomRequests, type Request, setUp } from './conversation';
import { whyNot, Xenstored } from './xenstored';

const SEED = Number(process.env['XENLIGHTEN_SEED'] ?? 16);
const RECORDED = 900;
const FIXTURE = join(__dirname, '../../fixtures/xenstore/xenstored-4.17.json');

type Heard = [type: number, txId: number, payload: string];
type Step = [domid: number, type: number, txId: number, payload: string, heard: Record<string, Heard[]>];

const shown = (messages: readonly XsMessage[]): Heard[] =>
  messages.map((m) => [m.type, m.txId, decodeText(m.payload).replaceAll('\0', '|')]);

async function askDaemon(daemon: Xenstored, request: Request): Promise<Record<string, Heard[]>> {
  const payload = encodeText(request.payload.replaceAll('|', '\0'));
  const { domid, type, txId } = request;
  await daemon.clients.get(domid)!.send({ type, reqId: 7, txId, payload });
  const heard: Record<string, Heard[]> = {};
  // The asker first: once its request has been served, the others' events are on their way.
  for (const other of [domid, ...DOMAINS.filter((d) => d !== domid)]) {
    const messages = await daemon.clients.get(other)!.sync();
    if (messages.length > 0) heard[other] = shown(messages);
  }
  return heard;
}

function askOurs(clients: ReadonlyMap<number, WireClient>, request: Request): Record<string, Heard[]> {
  clients.get(request.domid)!.send(request.type, request.payload, request.txId);
  const heard: Record<string, Heard[]> = {};
  for (const [domid, client] of clients) {
    const messages = client.messages();
    if (messages.length > 0) heard[domid] = shown(messages);
  }
  return heard;
}

const reason = whyNot();
if (reason !== undefined) process.stderr.write(`xenstored conformance skipped: ${reason}\n`);

(reason === undefined ? test : test.skip)('answers and events are those of xenstored 4.17', async () => {
  const daemon = await Xenstored.start([1, 2]);
  const steps: Step[] = [];
  try {
    const server = new XenstoreServer({ introduce: () => undefined });
    const clients = new Map(DOMAINS.map((domid) => [domid, new WireClient(server, domid)]));
    for (const domid of [1, 2]) server.introduceDomain(domid);
    const open = new Map<number, number[]>(DOMAINS.map((domid) => [domid, []]));
    const random = new RandomRequests(SEED, (domid) => open.get(domid)!);
    const fixed = [...setUp(), ...corners()];
    for (let i = 0; i < fixed.length + RECORDED; i++) {
      const request = fixed[i] ?? random.next();
      const { domid, type, txId, payload } = request;
      const real = await askDaemon(daemon, request);
      steps.push([domid, type, txId, payload, real]);
      const answer = real[domid]?.find(([t]) => t !== XS.XS_WATCH_EVENT);
      if (type === XS.XS_TRANSACTION_START && answer?.[0] === type)
        open.get(domid)!.push(Number(answer[2].slice(0, -1)));
      if (type === XS.XS_TRANSACTION_END)
        open.set(
          domid,
          open.get(domid)!.filter((id) => id !== txId),
        );
      const ours = askOurs(clients, request);
      expect({ seed: SEED, step: i, request, heard: ours }).toEqual({ seed: SEED, step: i, request, heard: real });
    }
  } finally {
    await daemon.stop();
    if (process.env['XENLIGHTEN_RECORD'] !== undefined) {
      writeFileSync(FIXTURE, `[\n${steps.map((step) => JSON.stringify(step)).join(',\n')}\n]\n`);
    }
  }
});
