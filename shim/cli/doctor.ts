/** `xenlighten doctor`: can guests run on this host, and if not, what would have to be done? */
import { writeFile } from 'node:fs/promises';
import { CHECKS, fullReport } from '../doctor';
import { formatResults, isHealthy, runChecks } from '../doctor/check';
import { realHost } from '../doctor/host';
import { EXIT } from '../domain/exit-status';
import { UsageError } from '../errors';
import type { Arguments, CommandDecl } from './arguments';
import { print } from './output';

export const declaration: CommandDecl = {
  name: 'doctor',
  usage: '[FILE]',
  summary: [
    'Checks whether guests can run on this host, and says what to do where they cannot.',
    'With --report it writes what it found to FILE (default xenlighten-report.json), for the authors of xenlighten: versions,',
    'capabilities, results, and those of short self-tests on the engine of this process. Names of users and hosts, and paths with them, are replaced; have a look before you send it.',
    '',
    'Exit status: 0 guests can run here; 1 wrong usage; 2 something that every guest needs does not work, such as an engine.',
  ].join('\n'),
  positionals: { min: 0, max: 1 },
  options: {
    report: { help: 'write a report to FILE' },
    force: { help: 'run the self-tests of --report even on an engine that is not fit for guests' },
    json: { help: 'print the results as JSON' },
  },
};

const DEFAULT_REPORT = 'xenlighten-report.json';

export async function run(args: Arguments): Promise<number> {
  const [file] = args.positionals;
  const wantsReport = args.flag('report');
  if (file !== undefined && !wantsReport)
    throw new UsageError('wrong arguments', { found: JSON.stringify(file), wanted: 'a file only behind --report' });
  const host = realHost();
  const results = await runChecks(CHECKS, host);
  const healthy = isHealthy(results);
  if (args.flag('json')) await print(JSON.stringify({ healthy, checks: results }, undefined, 2));
  else {
    const verdict = healthy ? 'Guests can run here.' : 'Guests cannot run here yet: see what is marked as a problem.';
    await print(`${formatResults(results)}\n\n${verdict}`);
  }
  if (wantsReport) {
    const target = file ?? DEFAULT_REPORT;
    const save = async (report: Record<string, unknown>): Promise<void> => {
      try {
        await writeFile(target, `${JSON.stringify(report, undefined, 2)}\n`);
      } catch (error) {
        const { code, message } = error as NodeJS.ErrnoException;
        throw new UsageError('cannot write', {
          file: target,
          found: code ?? message,
          wanted: 'a file that can be written',
        });
      }
    };
    await fullReport(host, results, args.flag('force'), undefined, save);
    // stdout may be JSON.
    process.stderr.write(`xenlighten: the report is in ${target}\n`);
  }
  return healthy ? EXIT.OK : EXIT.FAILURE;
}
