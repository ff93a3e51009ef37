/** `xenlighten doctor` without its printing: all checks, in the order in which they are told, and the report. */
import { type Check, type CheckResult, inWords } from './check';
import { ENGINE_CHECKS } from './engine-checks';
import type { DoctorHost } from './host';
import { HOST_CHECKS } from './host-checks';
import type { Identity } from './redact';
import { makeReport } from './report';
import { runSelfTests, SELF_TESTS, type SelfTestResult } from './self-tests';
import { UNVERIFIED } from './unverified';
import { WINDOWS_CHECKS } from './windows-checks';
import { windowsFacts } from './windows-facts';

export const CHECKS: readonly Check[] = [...HOST_CHECKS, ...WINDOWS_CHECKS, ...ENGINE_CHECKS];

/**
 * The report, with what an engine's self-tests say. `force`: also on an engine that is not fit for guests. `save` gets it
 * before each step that this process may not survive, with what is known by then, and in the end.
 */
export async function fullReport(
  host: DoctorHost,
  checks: readonly CheckResult[],
  force: boolean,
  identity?: Identity,
  save: (report: Record<string, unknown>) => Promise<void> = async () => undefined,
): Promise<Record<string, unknown>> {
  const more: Record<string, unknown> = {};
  const report = () => makeReport(host, checks, identity, more);
  if (host.platform === 'win32') {
    more['windows'] = await windowsFacts(host).catch(inWords);
    more['whp'] = 'begun';
    await save(await report());
    try {
      more['whp'] = host.whpFacts();
    } catch (error) {
      more['whp'] = inWords(error);
    }
  }
  more['selfTests'] = 'begun';
  await save(await report());
  const bench = await host.bench(force).catch((error: unknown) => inWords(error));
  const begun = async (results: readonly SelfTestResult[]): Promise<void> => {
    more['selfTests'] = results;
    await save(await report());
  };
  more['selfTests'] =
    typeof bench === 'string' ? `not run: ${bench}` : await runSelfTests(bench, SELF_TESTS, { begun });
  if (host.platform === 'win32')
    more['unverified'] = UNVERIFIED.map(({ id, what, shownBy }) => ({ id, what, shownBy }));
  const whole = await report();
  await save(whole);
  return whole;
}
