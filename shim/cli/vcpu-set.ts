/** `xenlighten vcpu-set NAME N`: tells a guest how many of its virtual processors to use, as `xl vcpu-set` does. */
import { MAX_VCPUS } from '../domain/guest-config';
import { UsageError } from '../errors';
import type { Arguments, CommandDecl } from './arguments';
import { ask } from './ask';

export const declaration: CommandDecl = {
  name: 'vcpu-set',
  usage: 'NAME N',
  summary: [
    'Gives a running guest N of its virtual processors, or takes them away: 1 to maxvcpus of its configuration. Linux takes',
    'those offline that go; those that come it only makes present, and udev, or you in the guest, brings them online. Exit',
    'status 1: there is no such guest, or it does not have so many.',
  ].join('\n'),
  positionals: { min: 2, max: 2 },
  options: {},
};

export function run(args: Arguments): Promise<number> {
  const [name = '', text = ''] = args.positionals;
  const vcpus = /^\d{1,5}$/.test(text) ? Number(text) : Number.NaN;
  if (!(vcpus >= 1 && vcpus <= MAX_VCPUS)) {
    throw new UsageError('unusable number of vCPUs', { found: JSON.stringify(text), wanted: `1 to ${MAX_VCPUS}` });
  }
  return ask(name, (client) => client.request('vcpu-set', { vcpus }));
}
