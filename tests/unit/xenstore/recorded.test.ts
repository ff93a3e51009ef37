/**
 * What xenstored 4.17 answered: a recorded conversation of domain 0 and two guests with Debian's daemon, over a socket
 * and two rings, replayed against ours. Answers, events and their order must be the same byte for byte.
 *
 * A step is [domid, type, transaction, payload, {domid: [[type, transaction, payload], ...]}], NUL shown as '|'. The
 * first part goes through the corners of each request, the second is random. tests/conformance/xenstore records anew.
 */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { XenstoreServer } from '../../../shim/xen/xenstore/server';
import { decodeText } from '../../../shim/xen/xenstore/wire';
import { WireClient } from './support';

type Heard = [type: number, txId: number, payload: string];
type Step = [domid: number, type: number, txId: number, payload: string, heard: Record<string, Heard[]>];

const steps = JSON.parse(
  readFileSync(join(__dirname, '../../fixtures/xenstore/xenstored-4.17.json'), 'utf8'),
) as Step[];

test('answers and events are those of xenstored 4.17', () => {
  const server = new XenstoreServer({ introduce: () => undefined });
  const clients = new Map([0, 1, 2].map((domid) => [domid, new WireClient(server, domid)]));
  for (const domid of [1, 2]) server.introduceDomain(domid);
  for (const [index, [domid, type, txId, payload, expected]] of steps.entries()) {
    clients.get(domid)!.send(type, payload, txId);
    const heard: Record<string, Heard[]> = {};
    for (const [other, client] of clients) {
      const messages = client.messages();
      if (messages.length > 0) {
        heard[other] = messages.map((m) => [m.type, m.txId, decodeText(m.payload).replaceAll('\0', '|')]);
      }
    }
    expect({ index, request: [domid, type, txId, payload], heard }).toEqual({
      index,
      request: [domid, type, txId, payload],
      heard: expected,
    });
  }
  expect(steps.length).toBeGreaterThan(1000);
});
