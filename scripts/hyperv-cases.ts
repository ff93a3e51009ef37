/**
 * Runs cases of the trap module's test build (tests/hyperv) on an engine and prints a line of JSON for each.
 *
 *     node dist/scripts/hyperv-cases.js [--engine qemu|kvm] [--force] [--scale N] [--timeout S] CASE@VPS...
 *
 * It needs nothing but what the build made, so that it runs in the lab as it is. tests/e2e/hyperv compares the facts.
 */
import { CaseMachine, type CaseResult } from './lib/hyperv/machine';

interface Options {
  engine: 'qemu' | 'kvm';
  force: boolean;
  scale: number;
  timeout: number;
  cases: { name: string; vps: number }[];
}

function options(args: readonly string[]): Options {
  const result: Options = { engine: 'qemu', force: false, scale: 20, timeout: 60, cases: [] };
  for (let i = 0; i < args.length; i++) {
    const word = args[i] as string;
    if (word === '--engine') result.engine = args[++i] === 'kvm' ? 'kvm' : 'qemu';
    else if (word === '--force') result.force = true;
    else if (word === '--scale') result.scale = Number(args[++i]);
    else if (word === '--timeout') result.timeout = Number(args[++i]);
    else {
      const [name = '', vps] = word.split('@');
      result.cases.push({ name, vps: Number(vps ?? 2) });
    }
  }
  return result;
}

async function main(): Promise<void> {
  const { engine, force, scale, timeout, cases } = options(process.argv.slice(2));
  const print = (result: CaseResult): void => void process.stdout.write(`${JSON.stringify(result)}\n`);
  let machine: CaseMachine | undefined;
  let vps = 0;
  for (const wanted of cases) {
    if (machine !== undefined && (vps !== wanted.vps || !machine.usable)) {
      await machine.end();
      machine = undefined;
    }
    if (machine === undefined) {
      machine = await CaseMachine.start(engine, wanted.vps, force);
      ({ vps } = wanted);
    }
    print(await machine.run(wanted.name, scale, timeout * 1000));
  }
  await machine?.end();
}

main().catch((error: unknown) => {
  process.stderr.write(`${(error as Error).stack ?? String(error)}\n`);
  process.exitCode = 1;
});
