/* From the disk benchmark's rounds to medians and ratios, and from those to its part of BENCHMARKS.md. */
import { geometricMean, median, number, ratio, table, times } from './format.mjs';
import { DISK_MIB, IO_LABELS } from './io-scenarios.mjs';

/** Machines that ours are compared with. */
const OTHERS = ['xen', 'bare'];
/** The least that is wanted of ours by Xen's speed. */
const WANTED = 3;
/** What has no other use than to say what an fsync costs where there is nothing to write. */
const NOT_COMPARED = new Set(['flush']);

const isLatency = (name) => /fsync|flush/.test(name);
const isLarge = (name) => name.includes('_128k_');
const isAlone = (name) => !name.endsWith('_qd32');

/** Values of one metric, from what machine.mjs found: operations a second, and times of one operation in us. */
function values({ operations, rate, best, p50, p99, guestUs, hostCpuSeconds }) {
  if (!(operations > 0)) return {};
  return {
    perSecond: rate,
    best,
    mean: 1e6 / rate,
    p50: p50 / 1000,
    p99: p99 / 1000,
    guestCpu: guestUs / operations,
    hostCpu: (hostCpuSeconds * 1e6) / operations,
  };
}

function over(list) {
  const numbers = list.filter((v) => v !== undefined && Number.isFinite(v));
  return numbers.length === 0 ? undefined : median(numbers);
}

/**
 * [{machine: result}, ...] to {machine: {rounds, failed, facts, metrics, ratios}}. Ratios, {other: {metric: v}}, are of
 * speeds, in favour of the machine where above 1: the median of those within each round. `undisturbed` has the same of the
 * best slices, of which each machine's best round counts.
 */
export function summarizeIo(rounds) {
  const summary = {};
  const good = (round, name) => (round[name]?.error === undefined ? round[name] : undefined);
  for (const name of Object.keys(IO_LABELS)) {
    const results = rounds.map((round) => good(round, name)).filter((r) => r !== undefined);
    if (results.length === 0) continue;
    const names = [...new Set(results.flatMap((r) => Object.keys(r.metrics)))];
    const each = (value) => Object.fromEntries(names.map((m) => [m, value(m)]));
    const bestOf = (machine, m) => {
      const all = rounds.map((round) => good(round, machine)?.metrics[m]?.best).filter((v) => v !== undefined);
      return all.length === 0 ? undefined : Math.max(...all);
    };
    const perSecond = (result, m) =>
      result?.metrics[m] === undefined ? undefined : values(result.metrics[m]).perSecond;
    const keys = ['perSecond', 'best', 'mean', 'p50', 'p99', 'guestCpu', 'hostCpu'];
    summary[name] = {
      rounds: results.length,
      failed: rounds.filter((r) => r[name]?.error !== undefined).length,
      facts: results.at(-1).facts,
      metrics: each((m) =>
        Object.fromEntries(
          keys.map((key) => [
            key,
            over(results.map((r) => (r.metrics[m] === undefined ? undefined : values(r.metrics[m])[key]))),
          ]),
        ),
      ),
      ratios: name.startsWith('ring')
        ? Object.fromEntries(
            OTHERS.map((other) => [
              other,
              each((m) =>
                over(rounds.map((round) => ratio(perSecond(good(round, name), m), perSecond(good(round, other), m)))),
              ),
            ]),
          )
        : undefined,
      undisturbed: name.startsWith('ring')
        ? Object.fromEntries(OTHERS.map((other) => [other, each((m) => ratio(bestOf(name, m), bestOf(other, m)))]))
        : undefined,
    };
  }
  return summary;
}

const namesOf = (summary) => Object.keys(Object.values(summary)[0]?.metrics ?? {});
const machinesOf = (summary) => Object.keys(IO_LABELS).filter((name) => summary[name] !== undefined);
const oursOf = (summary) => machinesOf(summary).filter((name) => name.startsWith('ring'));
const othersOf = (summary) => OTHERS.filter((name) => summary[name] !== undefined);

/** A speed as it is usually given: operations a second, MB/s where they are large, us where one waits for one. */
function speed(name, m) {
  if (m?.perSecond === undefined) return '-';
  if (isLatency(name)) return `${number(m.mean)} us`;
  return isLarge(name) ? `${number((m.perSecond * 128 * 1024) / 1e6)} MB/s` : number(m.perSecond);
}

function speeds(s) {
  const [ours, others] = [oursOf(s), othersOf(s)];
  const pairs = ours.flatMap((name) => others.map((other) => [name, other]));
  const rows = namesOf(s).map((m) => [
    `\`${m}\``,
    ...machinesOf(s).map((name) => speed(m, s[name].metrics[m])),
    ...pairs.flatMap(([name, other]) => [times(s[name].ratios[other][m]), times(s[name].undisturbed[other][m])]),
  ]);
  const mean = (ratios) =>
    geometricMean(
      Object.entries(ratios)
        .filter(([m, v]) => v !== undefined && !NOT_COMPARED.has(m))
        .map(([, v]) => v),
    );
  rows.push([
    'geometric mean',
    ...machinesOf(s).map(() => ''),
    ...pairs.flatMap(([name, other]) => [times(mean(s[name].ratios[other])), times(mean(s[name].undisturbed[other]))]),
  ]);
  const header = ['', ...machinesOf(s).map((name) => IO_LABELS[name])];
  return table(
    [...header, ...pairs.flatMap(([name, other]) => [`${IO_LABELS[name]} / ${IO_LABELS[other]}`, 'best'])],
    rows,
  );
}

function latencies(s) {
  const rows = namesOf(s)
    .filter(isAlone)
    .map((m) => [
      `\`${m}\``,
      ...machinesOf(s).flatMap((name) => [number(s[name].metrics[m]?.p50), number(s[name].metrics[m]?.p99)]),
    ]);
  return table(['', ...machinesOf(s).flatMap((name) => [`${IO_LABELS[name]}, median`, '99th percentile'])], rows);
}

function processorTime(s) {
  const rows = namesOf(s).map((m) => [
    `\`${m}\``,
    ...machinesOf(s).map((name) => number(s[name].metrics[m]?.hostCpu)),
    ...machinesOf(s).map((name) => number(s[name].metrics[m]?.guestCpu)),
  ]);
  const header = machinesOf(s).flatMap((name) => `host: ${IO_LABELS[name]}`);
  return table(['', ...header, ...machinesOf(s).map((name) => `guest: ${IO_LABELS[name]}`)], rows);
}

function targets(s) {
  const rows = [];
  for (const name of oursOf(s)) {
    if (s.xen === undefined) continue;
    const compared = Object.entries(s[name].ratios.xen).filter(([m, v]) => v !== undefined && !NOT_COMPARED.has(m));
    if (compared.length === 0) continue;
    const [slow, worst] = compared.reduce((a, b) => (b[1] < a[1] ? b : a));
    const met = compared.filter(([, v]) => v >= WANTED).length;
    rows.push([
      `${IO_LABELS[name]} / Xen domU, the least of ${compared.length} (\`${slow}\`), at least ${WANTED}`,
      times(worst),
      worst >= WANTED ? 'yes' : 'no',
    ]);
    const all = compared.length;
    rows.push([`of ${all} metrics, with at least ${WANTED}`, `${met}`, met === all ? 'yes' : 'no']);
    const least = Math.min(...compared.map(([m]) => s[name].undisturbed.xen[m]));
    const metBest = compared.filter(([m]) => s[name].undisturbed.xen[m] >= WANTED).length;
    rows.push([`the same of the best slices: the least`, times(least), least >= WANTED ? 'yes' : 'no']);
    rows.push([`the same of the best slices: how many of ${all}`, `${metBest}`, metBest === all ? 'yes' : 'no']);
    if (s.bare !== undefined) {
      const barely = compared.filter(
        ([m]) => ratio(s.bare.metrics[m]?.perSecond, s.xen.metrics[m]?.perSecond) >= WANTED,
      ).length;
      rows.push([`for comparison: bare / Xen domU, how many of ${all} with at least ${WANTED}`, `${barely}`, '']);
    }
  }
  return rows.length === 0 ? [] : ['### Targets', '', table(['target', 'measured', 'met'], rows), ''];
}

/** The disks' part of BENCHMARKS.md, as lines. `io`: what io.json has, with the number of rounds. */
export function ioSection(io) {
  const { summary } = io;
  const facts = (key) =>
    machinesOf(summary)
      .map((name) => `${IO_LABELS[name]}: ${summary[name].facts[key] ?? '-'}`)
      .join('; ');
  const failed = machinesOf(summary)
    .filter((name) => summary[name].failed > 0)
    .map((name) => `${IO_LABELS[name]}: ${summary[name].failed} of ${io.rounds} rounds failed and are left out.`);
  return [
    '## Disks',
    '',
    'Made by `npm run bench:io`. Raw results: bench/results/io.json.',
    '',
    `${io.date}; ${io.rounds} interleaved rounds, medians, ${io.ms} ms for each metric; host: ${io.host}; load average when it began: ${io.load}.`,
    `${io.qemu}, \`-cpu ${io.cpu}\`, one CPU; Linux ${io.kernel}; Xen ${io.xen}; guests of ${io.memory} MiB; disks of ${io.diskMiB} MiB.`,
    ...failed,
    '',
    ...targets(summary),
    '### Speed',
    '',
    'Operations a second, MB/s (10^6 bytes) or time of one operation; above 1x: ours is the faster one. "Best": the same of',
    'the best tenth of slices, in the best round of each machine: less that others on the host disturb.',
    '',
    speeds(summary),
    '',
    '### Time of one operation, us',
    '',
    latencies(summary),
    '',
    '### CPU time for one operation, us',
    '',
    'Host: all processes of the machine, from the outside. Guest: what is not idle in the guest, as its kernel counts it.',
    '',
    processorTime(summary),
    '',
    '### Method for disks',
    '',
    '- Every machine boots the same kernel file and the same initramfs, whose only program is bench/guest/iobench.c. Same',
    '  QEMU, same CPU model, same guest memory. Ours and the domU have xvda and blkfront with what its back end offers, the',
    "  bare kernel has virtio-blk; none has an I/O scheduler of its own choice, all have the kernel's.",
    "- No disk is measured: the image is a file without a name on the host's tmpfs for ours (raw) and for the bare kernel",
    "  (QEMU's raw driver, `cache=writeback`), and a loop device on a file on dom0's tmpfs for the domU.",
    `- ${DISK_MIB} MiB are written once, then each metric runs. O_DIRECT, except for \`cached_write_4k_fsync\`. \`qd1\`: a pread or`,
    '  pwrite after the other; `qd32`: 32 requests of Linux AIO. Each read is checked, and in the end the whole disk.',
    '- Sequential 4 KiB requests with depth 32 are merged by the block layer before any driver sees them.',
    '- A metric of a run is the median over slices of 40 ms; the ratio is the median of the ratios within each round.',
    '- The TSC is read, not the clock, which costs 15 us in a domU of Xen 4.17: more than some of these operations.',
    '- Before a metric the guest sleeps for 100 ms, in which the host reads its counters: idle time is in "host", 100 ms of it.',
    '',
    '### Caveats for disks',
    '',
    "- The domU's back end runs in dom0, in the same emulated CPU as the guest; ours and QEMU's run on the host, natively, on",
    '  another core if there is one. That is the difference that is measured here; on hardware there is none.',
    '- What the host can do without waiting, ours does on its event loop (shim/image/at-once.ts). On a tmpfs that is every',
    '  read and write up to 128 KiB; on ext4 it is reads of what is cached, and writes go through the thread pool, as',
    "  all of QEMU's requests do.",
    '- Events that follow one another within 250 us are looked out for by the shim instead of slept through (`--poll`), where the',
    '  host has a processor for it, as here. "Host" has the time for it.',
    '- Many small requests at random places are bound by what the guest itself executes for each, on any back end: compare with',
    '  the bare kernel. There the medians of two runs differ by 3 % or so, on which side of 3x they lie included.',
    `- Write cache: ${facts('write_cache')}.`,
    `- Largest request, KiB: ${facts('max_sectors_kb')}. Scheduler: ${facts('scheduler')}.`,
    `- Clock: ${facts('clocksource')}.`,
    '',
  ];
}
