/**
 * Each call of WinHvPlatform.dll fails in turn: the start is refused with the call and the HRESULT in words, or does without,
 * and nothing is left: the partition is deleted, what was mapped is unmapped, the memory can be released, the process ends.
 * The stand-in (tests/windows/README.md) makes the calls fail and writes down all of them.
 */
import { spawnSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';

const PROGRAM = path.join(__dirname, 'whp-start.js');
const E_OUTOFMEMORY = 0x8007000e;

/** Of what is made while a partition starts; without them it starts all the same. */
const OPTIONAL: readonly RegExp[] = [
  /^WHvSetPartitionProperty \S+ 1010 /, // UnimplementedMsrAction
  /^WHvGetVirtualProcessorCounters /,
  /^WHvAdviseGpaRange /,
];

/** What undoes something: of use before the start and after the end. */
const UNDOING = /^WHv(Delete|Unmap)/;

/** There are some hundred questions about CPUID, all alike. */
const MOST_OF_ONE = 6;

/** What happens once it runs. */
const RUNNING = /^WHv(RunVirtualProcessor|CancelRunVirtualProcessor) /;

interface Call {
  readonly line: string;
  readonly name: string;
  readonly args: readonly string[];
  readonly ok: boolean;
}

interface Started {
  readonly started: boolean;
  readonly message?: string;
  /** Why it ended, once it had started. */
  readonly end?: string;
  /** What the guest has read where there is no RAM. */
  readonly read?: number;
  readonly exits: number;
}

function calls(log: string): Call[] {
  return readFileSync(log, 'utf8')
    .split(/\r?\n/)
    .filter((line) => line !== '')
    .map((line) => {
      const [call = '', result = ''] = line.split(' = ');
      const [name = '', ...args] = call.split(' ');
      return { line, name, args, ok: Number.parseInt(result, 16) === 0 };
    });
}

/** Partitions that were made and not deleted, ranges that were mapped and neither unmapped nor gone with theirs. */
function left(log: readonly Call[]): { partitions: number; ranges: number } {
  let partitions = 0;
  const ranges = new Set<string>();
  for (const { name, args, ok } of log) {
    if (!ok) continue;
    if (name === 'WHvCreatePartition') partitions++;
    else if (name === 'WHvMapGpaRange') ranges.add(`${args[0]} ${args[2]}`);
    else if (name === 'WHvUnmapGpaRange') ranges.delete(`${args[0]} ${args[1]}`);
    else if (name === 'WHvDeletePartition') {
      partitions--;
      for (const range of [...ranges]) if (range.startsWith(`${args[0]} `)) ranges.delete(range);
    }
  }
  return { partitions, ranges: ranges.size };
}

/** Calls about a partition that was deleted: Windows' library takes the handle for the address that it is, and crashes. */
function late(log: readonly Call[]): string[] {
  let deleted: string | undefined;
  return log.flatMap(({ name, args, ok, line }) => {
    // The next one may have the same handle.
    if (name === 'WHvCreatePartition') deleted = undefined;
    if (name === 'WHvDeletePartition' && ok) {
      deleted = args[0];
      return [];
    }
    return deleted !== undefined && args[0] === deleted ? [line] : [];
  });
}

/** `seconds`: what the start of a program may take. */
export function whpFaults(hyperv: boolean, seconds: number): void {
  const folder = mkdtempSync(path.join(tmpdir(), 'whp-faults-'));
  afterAll(() => rmSync(folder, { recursive: true, force: true }));
  let runs = 0;

  function start(
    fail?: string,
    ms = 50,
    ...more: string[]
  ): { result: Started; log: Call[]; status: number | null; stderr: string } {
    const log = path.join(folder, `log-${runs++}.txt`);
    const env = { ...process.env, WHP_STAND_IN_LOG: log, ...(fail === undefined ? {} : { WHP_STAND_IN_FAIL: fail }) };
    const args = [PROGRAM, hyperv ? 'hyperv' : 'plain', String(ms), ...more];
    const { status, stdout, stderr } = spawnSync(process.execPath, args, {
      env,
      encoding: 'utf8',
      timeout: 60_000 + seconds * 1000,
    });
    if (!stdout.startsWith('{')) throw new Error(`${fail}: status ${status}: ${stderr}`);
    return { result: JSON.parse(stdout) as Started, log: calls(log), status, stderr };
  }

  test(
    'each call in turn',
    () => {
      const whole = start();
      expect(whole.result).toEqual({ started: true, exits: 1, end: 'the partition was stopped' });
      expect(left(whole.log)).toEqual({ partitions: 0, ranges: 0 });

      const counts = new Map<string, number>();
      let failed = 0;
      for (const call of whole.log) {
        const n = (counts.get(call.name) ?? 0) + 1;
        counts.set(call.name, n);
        if (RUNNING.test(call.line) || n > MOST_OF_ONE) continue;
        const rule = `${call.name}:${n}=0x${E_OUTOFMEMORY.toString(16)}`;
        const { result, log, status } = start(rule);
        const what = { rule, line: call.line };
        expect({ ...what, status }).toEqual({ ...what, status: 0 });
        // Each rule has come to pass.
        expect(log.filter((one) => one.name === call.name && !one.ok).length).toBe(1);
        const optional = OPTIONAL.some((pattern) => pattern.test(call.line));
        if (!result.started) {
          failed++;
          expect(result.message).toMatch(`${call.name}`);
          expect(result.message).toMatch(/0x8007000e \(E_OUTOFMEMORY\): the host has not enough memory/);
          expect(result.exits).toBe(0);
        }
        if (!UNDOING.test(call.name))
          expect({ ...what, started: result.started }).toEqual({ ...what, started: optional });
        // What cannot be undone is left by the one who refused to.
        const refused = UNDOING.test(call.name) ? 1 : 0;
        expect({ ...what, late: late(log) }).toEqual({ ...what, late: [] });
        const rest = left(log);
        expect(rest.partitions).toBeLessThanOrEqual(refused);
        expect(rest.ranges).toBeLessThanOrEqual(refused);
      }
      expect(failed).toBeGreaterThan(8);
    },
    60_000 + 100_000 * seconds,
  );

  test('memory that the hypervisor cannot get ends the partition, with the address and the reason', () => {
    const { result, log } = start(`WHvAdviseGpaRange=0x${E_OUTOFMEMORY.toString(16)}`, 10_000);
    expect(result.end).toMatch(
      /^the hypervisor cannot get the memory at guest-physical address 0x6000 for virtual processor \d: .*E_OUTOFMEMORY/,
    );
    expect(left(log)).toEqual({ partitions: 0, ranges: 0 });
  });

  test('where there is no RAM the guest gets a page of its own, once, which the hypervisor is asked to find', () => {
    const { result, log } = start(undefined, 1000, 'hole');
    expect(result).toEqual({ started: true, exits: 1, end: 'the partition was stopped', read: 0xffff_ffff });
    const mapped = log.filter(({ name, args }) => name === 'WHvMapGpaRange' && args[2] === 'd0000000');
    expect(mapped.map(({ ok }) => ok)).toEqual([true]);
    expect(left(log)).toEqual({ partitions: 0, ranges: 0 });
  });

  test('a VP whose memory is never found does not try for ever', () => {
    const { result, log } = start('WHvAdviseGpaRange=0x80004001', 20_000);
    expect(result.end).toMatch(/^the hypervisor cannot get the memory at guest-physical address 0x6000 .*E_FAIL/);
    // All of the large page once, by whichever VP came first: what is taken away again must not come back as a whole.
    const asked = log.filter(({ name }) => name === 'WHvAdviseGpaRange').map(({ args }) => args[1]);
    expect(asked.filter((range) => range === '0+200000')).toHaveLength(1);
    expect(new Set(asked)).toEqual(new Set(['0+200000', '6000+1000']));
    expect(left(log)).toEqual({ partitions: 0, ranges: 0 });
  });
}
