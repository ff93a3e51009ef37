/* The command line of `npm run lab:hyperv`. */
import { statSync } from 'node:fs';
import path from 'node:path';

export const USAGE = `usage: npm run lab:hyperv -- [OPTION...] [--] COMMAND [ARGUMENT...]

Runs COMMAND in a nested Linux where /dev/kvm works and offers Hyper-V's interface. This checkout is /project there and
the working directory; what is written to it is lost, unless --write is given.

  --timeout SECONDS    end COMMAND after that time (default 300; 0: never)
  --smp N              processors (default 2)
  --mem MB             memory (default 2048)
  --cwd PATH           working directory (default /project)
  --env NAME=VALUE     set a variable for COMMAND; may be repeated
  --write              let COMMAND change the checkout
  --share DIRECTORY    make a directory of this machine available as /share, writable
  --kernel-log FILE    keep the nested kernel's messages
  --no-snapshot        boot instead of resuming a snapshot
  --cpu FEATURES       change the processor, as in +avx2,-xsave
  --one-thread         emulate all processors with one thread: slower; safe for tracing with several
  --hang-after SECONDS give up on a nested Linux that has shown no sign of life for that time (default 30)
  --verbose            say what is done when

Exit status: COMMAND's own (128 + N when signal N ended it); 124 when it took too long; 125 when the lab failed;
126 or 127 when COMMAND could not be run.
`;

export class UsageError extends Error {}

function number(option, text, least, most) {
  const value = Number(text);
  if (/^\d+$/.test(text) && value >= least && value <= most) return value;
  throw new UsageError(`${option} ${text}: a whole number from ${least} to ${most} is wanted`);
}

function directory(option, text) {
  // npm changes to the checkout's root before it starts us.
  const found = path.resolve(process.env.INIT_CWD ?? '.', text);
  try {
    if (statSync(found).isDirectory()) return found;
  } catch {
    throw new UsageError(`${option} ${text}: there is no such directory`);
  }
  throw new UsageError(`${option} ${text}: this is no directory`);
}

const TAKERS = {
  '--timeout': (options, text) => {
    options.timeout = number('--timeout', text, 0, 86_400) || undefined;
  },
  '--hang-after': (options, text) => {
    options.hangAfter = number('--hang-after', text, 3, 3600);
  },
  '--smp': (options, text) => {
    options.smp = number('--smp', text, 1, 16);
  },
  '--mem': (options, text) => {
    options.mem = number('--mem', text, 512, 65_536);
  },
  '--cwd': (options, text) => {
    if (!text.startsWith('/'))
      throw new UsageError(`--cwd ${text}: a path in the lab is wanted, such as /project/tests`);
    options.directory = text;
  },
  '--env': (options, text) => {
    const [, name, value] = /^([^=]+)=(.*)$/s.exec(text) ?? [];
    if (name === undefined) throw new UsageError(`--env ${text}: NAME=VALUE is wanted`);
    options.env[name] = value;
  },
  '--share': (options, text) => {
    options.share = directory('--share', text);
  },
  '--kernel-log': (options, text) => {
    options.kernelLog = path.resolve(process.env.INIT_CWD ?? '.', text);
  },
  '--cpu': (options, text) => {
    if (!/^[+-][\w.-]+(,[+-][\w.-]+)*$/.test(text))
      throw new UsageError(`--cpu ${text}: such as +avx2,-xsave is wanted`);
    options.cpu = text;
  },
};

const FLAGS = {
  '--write': (options) => {
    options.projectWritable = true;
  },
  '--no-snapshot': (options) => {
    options.useSnapshot = false;
  },
  '--one-thread': (options) => {
    options.threads = 'single';
  },
  '--verbose': (options) => {
    options.verbose = true;
  },
};

/** Throws UsageError; `help` is set when that was asked for. */
export function parseOptions(args) {
  const options = {
    command: [],
    directory: '/project',
    env: {},
    timeout: 300,
    hangAfter: 30,
    smp: 2,
    mem: 2048,
    cpu: '',
    threads: 'multi',
    projectWritable: false,
    useSnapshot: true,
    verbose: false,
  };
  const rest = [...args];
  while (rest[0]?.startsWith('-')) {
    const word = rest.shift();
    if (word === '--') break;
    if (word === '--help' || word === '-h') return { ...options, help: true };
    const [option, attached] = word.includes('=')
      ? [word.slice(0, word.indexOf('=')), word.slice(word.indexOf('=') + 1)]
      : [word];
    if (Object.hasOwn(FLAGS, option) && attached === undefined) {
      FLAGS[option](options);
    } else if (Object.hasOwn(TAKERS, option)) {
      const value = attached ?? rest.shift();
      if (value === undefined) throw new UsageError(`${option} needs a value`);
      TAKERS[option](options, value);
    } else {
      throw new UsageError(`there is no option ${word}`);
    }
  }
  options.command = rest;
  if (rest.length === 0) throw new UsageError('no COMMAND was given');
  const bad = [...rest, options.directory, ...Object.entries(options.env).flat()].find((text) => text.includes('\0'));
  if (bad !== undefined) throw new UsageError('arguments cannot contain NUL characters');
  return options;
}
