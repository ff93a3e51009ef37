/**
 * What `xenlighten doctor` is made of: checks, each a name, the systems that it is for, and a question to the host that is
 * answered in words. Running them never throws: a check that fails itself is an outcome too.
 */
import type { DoctorHost } from './host';

/**
 * ok: as it should be. note: nothing is wrong, but good to know. warning: works, with a disadvantage. problem: something
 * that every guest needs does not work. unknown: could not be found out.
 */
export const STATUSES = ['ok', 'note', 'warning', 'problem', 'unknown'] as const;
export type Status = (typeof STATUSES)[number];

export interface Outcome {
  readonly status: Status;
  /** What was found, in a line. */
  readonly found: string;
  /** What to do about it, or what follows; a line each. */
  readonly advice?: readonly string[];
}

export interface Check {
  /** For programs that read the report: stable. */
  readonly id: string;
  /** For people. */
  readonly title: string;
  /** Values of process.platform; absent: all. */
  readonly platforms?: readonly string[];
  run(host: DoctorHost): Outcome | Promise<Outcome>;
}

export interface CheckResult extends Outcome {
  readonly id: string;
  readonly title: string;
}

export const ok = (found: string, ...advice: string[]): Outcome => outcome('ok', found, advice);
export const note = (found: string, ...advice: string[]): Outcome => outcome('note', found, advice);
export const warning = (found: string, ...advice: string[]): Outcome => outcome('warning', found, advice);
export const problem = (found: string, ...advice: string[]): Outcome => outcome('problem', found, advice);
export const unknown = (found: string, ...advice: string[]): Outcome => outcome('unknown', found, advice);

function outcome(status: Status, found: string, advice: readonly string[]): Outcome {
  return advice.length === 0 ? { status, found } : { status, found, advice };
}

/** An error in one line. */
export function inWords(error: unknown): string {
  const text = error instanceof Error ? error.message : String(error);
  return text.trim().replaceAll(/\s*\n\s*/g, '; ') || 'an error without words';
}

/** Runs the checks that are for this host, in order. */
export async function runChecks(checks: readonly Check[], host: DoctorHost): Promise<CheckResult[]> {
  const results: CheckResult[] = [];
  for (const { id, title, platforms, run } of checks) {
    if (platforms?.includes(host.platform) === false) continue;
    let found: Outcome;
    try {
      found = await run(host);
    } catch (error) {
      found = unknown(`the check itself failed: ${inWords(error)}`);
    }
    results.push({ id, title, ...found });
  }
  return results;
}

/** Can guests run here? */
export function isHealthy(results: readonly CheckResult[]): boolean {
  return !results.some(({ status }) => status === 'problem');
}

const WIDTH = Math.max(...STATUSES.map((s) => s.length));

/** A line for each, with what to do below it. */
export function formatResults(results: readonly CheckResult[]): string {
  const titles = Math.max(...results.map((r) => r.title.length));
  const indent = ' '.repeat(WIDTH + titles + 4);
  return results
    .flatMap(({ status, title, found, advice = [] }) => [
      `${status.padEnd(WIDTH)}  ${title.padEnd(titles)}  ${found}`,
      ...advice.map((line) => `${indent}${line}`),
    ])
    .join('\n');
}
