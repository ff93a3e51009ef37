/** ./kvm.test.ts in the lab, where KVM has its Hyper-V emulation (CONTRIBUTING.md, "The lab"). */
import { spawn } from 'node:child_process';
import { existsSync, mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { packageRoot } from '../../../shim/partition/native-files';
import { buildGuest } from './guest/image';

const LAB = path.join(packageRoot(), 'scripts', 'lab-hyperv.mjs');
/** Seconds; a machine that does other things as well needs several times what a quiet one does. */
const TIMEOUT = 1500;

interface JestResult {
  readonly numPassedTests: number;
  readonly testResults: readonly {
    readonly message: string;
    readonly assertionResults: readonly {
      readonly fullName: string;
      readonly status: string;
      readonly failureMessages: readonly string[];
    }[];
  }[];
}

function lacks(): string | undefined {
  if (process.platform !== 'linux' || process.arch !== 'x64') return 'an x86-64 Linux host';
  const places = [...(process.env.PATH ?? '').split(path.delimiter), '/usr/sbin', '/sbin'];
  return ['qemu-system-x86_64', 'busybox', 'mkfs.ext4', 'gcc', 'apt-get'].find(
    (program) => !places.some((place) => existsSync(path.join(place, program))),
  );
}

const lacking = process.env.XENLIGHTEN_LAB === undefined ? lacks() : 'a machine outside the lab';
const inLab = lacking === undefined ? test : test.skip;

inLab(
  `the kvm engine in the lab: contract, ends, hostile guests${lacking === undefined ? '' : `: needs ${lacking}`}`,
  async () => {
    buildGuest();
    const share = mkdtempSync(path.join(tmpdir(), 'xenlighten-kvm-lab-'));
    try {
      const child = spawn(
        process.execPath,
        [
          ...[LAB, '--timeout', `${TIMEOUT}`, '--share', share, '--', 'node', 'node_modules/jest/bin/jest.js'],
          ...['-i', '--json', '--outputFile', '/share/result.json', '--testTimeout', '300000'],
          'tests/e2e/partition/kvm.test.ts',
        ],
        { stdio: ['ignore', 'ignore', 'pipe'] },
      );
      let stderr = '';
      child.stderr.on('data', (chunk: Buffer) => (stderr += chunk.toString('latin1')));
      const status = await new Promise<number | null>((resolve) => child.once('close', resolve));
      const file = path.join(share, 'result.json');
      if (!existsSync(file)) throw new Error(`the lab ended with ${status}: ${stderr.slice(-4000)}`);
      const result = JSON.parse(readFileSync(file, 'utf8')) as JestResult;
      const tests = result.testResults.flatMap((suite) => suite.assertionResults);
      process.stderr.write(stderr.replaceAll(/^(?!kvm ).*\n/gm, ''));
      expect(
        tests.filter(({ status }) => status === 'failed').map((t) => `${t.fullName}: ${t.failureMessages.join('\n')}`),
      ).toEqual([]);
      expect(result.testResults.map(({ message }) => message)).toEqual(['']);
      expect(tests.filter(({ status }) => status !== 'passed').map(({ fullName }) => fullName)).toEqual([]);
      expect(tests[0]?.fullName).toMatch(/^kvm with Hyper-V emulation /);
      expect(status).toBe(0);
    } finally {
      rmSync(share, { recursive: true });
    }
  },
  (TIMEOUT + 120) * 1000,
);
