/** `xenlighten doctor` without its printing: all checks, in the order in which they are told, and the report. */
import { type Check, type CheckResult, inWords } from './check';
import { ENGINE_CHECKS } from './engine-checks';
import type { DoctorHost } from './host';
import { HOST_CHECKS } from './host-checks';
import type { Identity } from './redact';
import { makeReport } from './report';
import { runSelfTests } from './self-tests';
import { UNVERIFIED } from './unverified';
import { WINDOWS_CHECKS } from './windows-checks';

export const CHECKS: readonly Check[] = [...HOST_CHECKS, ...WINDOWS_CHECKS, ...ENGINE_CHECKS];

/** The report, with what an engine's self-tests say. `force`: also on an engine that is not fit for guests. */
export async function fullReport(
  host: DoctorHost,
  checks: readonly CheckResult[],
  force: boolean,
  identity?: Identity,
): Promise<Record<string, unknown>> {
  const more: Record<string, unknown> = {};
  if (host.platform === 'win32') {
    try {
      more['whp'] = host.whpFacts();
    } catch (error) {
      more['whp'] = inWords(error);
    }
  }
  const bench = await host.bench(force).catch((error: unknown) => inWords(error));
  more['selfTests'] = typeof bench === 'string' ? `not run: ${bench}` : await runSelfTests(bench);
  if (host.platform === 'win32')
    more['unverified'] = UNVERIFIED.map(({ id, what, shownBy }) => ({ id, what, shownBy }));
  return makeReport(host, checks, identity, more);
}
