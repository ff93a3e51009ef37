/**
 * `xenlighten doctor --report`: everything that whoever mends xenlighten would ask first, in one object that can be sent
 * as a file. Numbers and versions as they are; who and where is taken out (redact.ts).
 */
import { readFileSync } from 'node:fs';
import { packageRoot } from '../partition/native-files';
import { type CheckResult, isHealthy } from './check';
import type { DoctorHost } from './host';
import { type Identity, realIdentity, redactor, redactValue } from './redact';

export const REPORT_VERSION = 1;

/** Environment variables of xenlighten's own. */
function ownVariables(env: NodeJS.ProcessEnv): Record<string, string> {
  return Object.fromEntries(
    Object.entries(env).filter((entry): entry is [string, string] => entry[0].startsWith('XENLIGHTEN_')),
  );
}

async function vendor(host: DoctorHost): Promise<string> {
  const cpuinfo = host.platform === 'linux' ? await host.read('/proc/cpuinfo').catch(() => '') : '';
  const named = /^vendor_id\s*:\s*(\S+)/m.exec(cpuinfo)?.[1];
  if (named !== undefined) return named;
  // Windows has it behind family and model.
  return /,\s*(\S+)\s*$/.exec(host.env['PROCESSOR_IDENTIFIER'] ?? '')?.[1] ?? 'unknown';
}

export async function makeReport(
  host: DoctorHost,
  checks: readonly CheckResult[],
  identity: Identity = realIdentity(),
  more: Readonly<Record<string, unknown>> = {},
): Promise<Record<string, unknown>> {
  const { version } = JSON.parse(readFileSync(`${packageRoot()}/package.json`, 'utf8')) as { version: string };
  const report = {
    format: 'xenlighten-doctor',
    formatVersion: REPORT_VERSION,
    xenlighten: version,
    host: {
      platform: host.platform,
      arch: host.arch,
      system: host.systemName,
      release: host.release,
      node: host.nodeVersion,
      processor: host.processor,
      processorCount: host.processorCount,
      vendor: await vendor(host),
      totalMemoryBytes: host.totalMemory,
      freeMemoryBytes: host.freeMemory,
    },
    variables: ownVariables(host.env),
    healthy: isHealthy(checks),
    checks,
    ...more,
  };
  return redactValue(report, redactor(identity)) as Record<string, unknown>;
}
