#!/usr/bin/env node
/**
 * The xenlighten command. Each command is one file beside this one that exports its declaration and a run function;
 * loading them only when they are asked for keeps `--help` fast.
 */
import { closeSync } from 'node:fs';
import { isatty } from 'node:tty';
import { EXIT } from '../domain/exit-status';
import { UsageError } from '../errors';
import { packageRoot } from '../partition/native-files';
import { type Arguments, type CommandDecl, commandHelp, parseArguments } from './arguments';
import { complain, print } from './output';

interface Command {
  readonly declaration: CommandDecl;
  /** The exit status. UsageError becomes 1, everything else that is thrown 2. */
  run(args: Arguments): Promise<number>;
}

const COMMANDS: Readonly<Record<string, { readonly summary: string; readonly load: () => Promise<Command> }>> = {
  run: { summary: 'boot a Xen PV guest', load: () => import('./run.js') },
  list: { summary: 'list running guests', load: () => import('./list.js') },
  stats: {
    summary: 'show what a running guest asked for and what it was translated to',
    load: () => import('./stats.js'),
  },
  pause: { summary: 'stop a running guest, and its clock, until it is unpaused', load: () => import('./pause.js') },
  unpause: { summary: 'let a paused guest go on', load: () => import('./unpause.js') },
  shutdown: { summary: 'ask a running guest to power off', load: () => import('./shutdown.js') },
  reboot: { summary: 'ask a running guest to start again', load: () => import('./reboot.js') },
  destroy: { summary: 'end a running guest at once', load: () => import('./destroy.js') },
  console: { summary: "connect to a running guest's console", load: () => import('./console.js') },
  'mem-set': { summary: 'set the memory that a running guest is to have', load: () => import('./mem-set.js') },
  'mem-max': { summary: 'set the memory that a running guest may have', load: () => import('./mem-max.js') },
  'vcpu-set': { summary: 'set how many virtual processors it is to use', load: () => import('./vcpu-set.js') },
  'block-attach': { summary: 'give a running guest another disk', load: () => import('./block-attach.js') },
  'block-detach': { summary: 'take a disk away from a running guest', load: () => import('./block-detach.js') },
  'block-list': { summary: "list a running guest's disks", load: () => import('./block-list.js') },
  sysrq: { summary: 'send a magic SysRq key to a running guest', load: () => import('./sysrq.js') },
  inspect: { summary: 'say what a kernel file is and whether it boots', load: () => import('./inspect.js') },
  image: { summary: 'make, convert, describe and check disk images', load: () => import('./image.js') },
  doctor: {
    summary: 'check whether guests can run on this host, and say what to do',
    load: () => import('./doctor.js'),
  },
};

function help(): string {
  const width = Math.max(...Object.keys(COMMANDS).map((name) => name.length));
  return [
    'xenlighten: runs unmodified Xen PV guests as guests of the Microsoft hypervisor',
    '',
    'Usage: xenlighten COMMAND [ARGUMENTS]',
    '',
    ...Object.entries(COMMANDS).map(([name, { summary }]) => `  ${name.padEnd(width)}  ${summary}`),
    '',
    "'xenlighten COMMAND --help' explains a command. '--version' prints the version.",
    '',
    'Exit status: 0 success (the guest powered off), 1 wrong usage, configuration or files, 2 the host or the engine',
    'failed, 3 the guest crashed, 4 a timeout ran out, or the guest did not answer in time.',
  ].join('\n');
}

function version(): string {
  const { version: number } = require(`${packageRoot()}/package.json`) as { version: string };
  return `xenlighten ${number}`;
}

async function main(argv: readonly string[]): Promise<number> {
  const [name, ...rest] = argv;
  if (name === undefined) {
    process.stderr.write(`${help()}\n`);
    return EXIT.USAGE;
  }
  if (name === '--help' || name === '-h' || name === 'help') {
    await print(help());
    return EXIT.OK;
  }
  if (name === '--version' || name === '-V') {
    await print(version());
    return EXIT.OK;
  }
  const entry = Object.hasOwn(COMMANDS, name) ? COMMANDS[name] : undefined;
  if (entry === undefined) {
    throw new UsageError('unknown command', {
      found: JSON.stringify(name),
      wanted: Object.keys(COMMANDS).join(' or '),
    });
  }
  const command = await entry.load();
  if (rest.includes('--help') || rest.includes('-h')) {
    await print(commandHelp(command.declaration));
    return EXIT.OK;
  }
  return command.run(parseArguments(command.declaration, rest));
}

const terminals = [0, 1, 2].filter((fd) => isatty(fd));

/** Node.js puts the settings of its terminals back when it exits, and aborts if one has gone away meanwhile (SIGHUP). */
function dropLostTerminals(): void {
  for (const fd of terminals) if (!isatty(fd)) closeSync(fd);
}

main(process.argv.slice(2))
  .catch((error: unknown) => {
    if (error instanceof UsageError) {
      complain(error.message);
      return error.exitStatus;
    }
    const { message, stack } = error instanceof Error ? error : { message: String(error), stack: undefined };
    complain(message);
    if (process.env['XENLIGHTEN_LOG'] === 'debug' && stack !== undefined) process.stderr.write(`${stack}\n`);
    return EXIT.FAILURE;
  })
  .then((status) => {
    // Not when the event loop runs dry: stdin may keep it alive.
    dropLostTerminals();
    process.exit(status);
  });
