/**
 * What `shutdown` and `reboot` have in common: named guests, or all, are asked through control/shutdown; -w waits for
 * their end. They print what xl prints, with names for numbers.
 */
import { SHUTDOWN } from '../../abi/xen/sched';
import { listDomains } from '../domain/control-client';
import type { ControlMethods } from '../domain/control-protocol';
import { EXIT } from '../domain/exit-status';
import { ACKNOWLEDGE_MS, type ShutdownKind } from '../domain/guest-control';
import { UsageError } from '../errors';
import { type Arguments, type CommandDecl, numberOption } from './arguments';
import { ask } from './ask';
import { print } from './output';

/** Beyond the time that the domain waits for the guest. */
const MARGIN_MS = 10_000;

export const orderlyOptions: CommandDecl['options'] = {
  all: { short: 'a', help: 'all your running guests' },
  wait: { short: 'w', help: 'wait until the guest has ended' },
  fallback: { short: 'F', help: 'as in xl; changes nothing, because its ACPI event is none that PV guests know' },
  timeout: {
    value: 'SECONDS',
    help: `how long the guest has to acknowledge the request (default ${ACKNOWLEDGE_MS / 1000})`,
  },
};

type End = NonNullable<ControlMethods['shutdown']['result']['end']>;

const REASONS: Readonly<Partial<Record<End, number>>> = {
  poweroff: SHUTDOWN.SHUTDOWN_poweroff,
  reboot: SHUTDOWN.SHUTDOWN_reboot,
  suspend: SHUTDOWN.SHUTDOWN_suspend,
  crash: SHUTDOWN.SHUTDOWN_crash,
  watchdog: SHUTDOWN.SHUTDOWN_watchdog,
  'soft-reset': SHUTDOWN.SHUTDOWN_soft_reset,
};

async function one(name: string, kind: ShutdownKind, wait: boolean, timeoutMs: number): Promise<number> {
  return ask(
    name,
    async (client) => {
      process.stderr.write(`${kind === 'reboot' ? 'Rebooting' : 'Shutting down'} domain ${name}\n`);
      const { end } = await client.request('shutdown', { kind, wait, timeoutMs });
      if (!wait || end === undefined) return;
      const reason = REASONS[end];
      await print(
        reason === undefined
          ? `Domain ${name} has been destroyed`
          : `Domain ${name} has been shut down, reason code ${reason}`,
      );
    },
    wait ? 0 : timeoutMs + MARGIN_MS,
  );
}

/** The exit status of the first guest that has one, else 0. */
export async function orderly(args: Arguments, kind: ShutdownKind): Promise<number> {
  const [name] = args.positionals;
  const all = args.flag('all');
  if (all === (name !== undefined)) {
    throw new UsageError('wrong arguments', {
      found: all ? 'a name and --all' : 'no name',
      wanted: 'the name of a running guest, or --all',
    });
  }
  const timeout = args.text('timeout');
  const timeoutMs = timeout === undefined ? ACKNOWLEDGE_MS : numberOption('timeout', timeout, 1, 86_400) * 1000;
  const names = name === undefined ? (await listDomains()).map((d) => d.name) : [name];
  const results = await Promise.all(names.map((n) => one(n, kind, args.flag('wait'), timeoutMs)));
  return results.find((status) => status !== EXIT.OK) ?? EXIT.OK;
}
