/* From the rounds' results to medians, and from those to BENCHMARKS.md. */
import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { geometricMean, isOperation, median, number, ratio, table, times } from './format.mjs';
import { ioSection } from './io-report.mjs';
import { labSection } from './lab-report.mjs';
import { LABELS } from './scenarios.mjs';

/** [{scenario: result}, ...] to {scenario: {metrics, boot..., facts, rounds}}, medians over the rounds. */
export function summarize(rounds) {
  const summary = {};
  for (const name of Object.keys(LABELS)) {
    const results = rounds.map((r) => r[name]).filter((r) => r !== undefined && r.error === undefined);
    if (results.length === 0) continue;
    const over = (pick) => {
      const values = results.map(pick).filter((v) => v !== undefined && Number.isFinite(v));
      return values.length === 0 ? undefined : median(values);
    };
    const metrics = {};
    for (const metric of new Set(results.flatMap((r) => Object.keys(r.metrics)))) {
      metrics[metric] = over((r) => r.metrics[metric]?.median);
    }
    const from = name === 'domu' || name === 'unpacked' ? 'dom0-create' : undefined;
    const since = (r, i) => {
      if (r.marks.user === undefined || (from !== undefined && r.marks[from] === undefined)) return undefined;
      return r.marks.user[i] - (from === undefined ? 0 : r.marks[from][i]);
    };
    summary[name] = {
      rounds: results.length,
      failed: rounds.filter((r) => r[name]?.error !== undefined).length,
      toUserSeconds: over((r) => since(r, 0)),
      toUserCpuSeconds: over((r) => since(r, 1)),
      uptimeAtInit: over((r) => Number(r.facts.uptime?.split(' ')[0] ?? Number.NaN)),
      idlePercent: over((r) => r.idle?.percent),
      ownMemoryMiB: name.startsWith('ring') ? over((r) => r.idle?.ownMemoryMiB) : undefined,
      facts: results.at(-1).facts,
      metrics,
    };
  }
  return summary;
}

/** The tables of one summary: operations, with ratios. */
function operations(s) {
  const names = Object.keys(s.ring1?.metrics ?? s.ring3?.metrics ?? s.bare?.metrics ?? {}).filter(
    (m) => !/hypercall/.test(m),
  );
  const of = (scenario, m) => s[scenario]?.metrics[m];
  const rows = names.map((m) => [
    `\`${m}\``,
    ...['bare', 'ring1', 'ring3', 'dom0', 'domu'].map((scenario) => number(of(scenario, m))),
    times(ratio(of('ring1', m), of('bare', m))),
    times(ratio(of('domu', m), of('ring1', m))),
    times(ratio(of('domu', m), of('ring3', m))),
  ]);
  const mean = (a, b) =>
    times(
      geometricMean(
        names
          .filter(isOperation)
          .map((m) => ratio(of(a, m), of(b, m)))
          .filter((v) => v !== undefined),
      ),
    );
  rows.push([
    'geometric mean of the operations',
    '',
    '',
    '',
    '',
    '',
    mean('ring1', 'bare'),
    mean('domu', 'ring1'),
    mean('domu', 'ring3'),
  ]);
  return table(
    ['', 'bare', 'ring 1', 'ring 3', 'Xen dom0', 'Xen domU', 'ring 1 / bare', 'domU / ring 1', 'domU / ring 3'],
    rows,
  );
}

function bootTable(s) {
  const rows = Object.keys(LABELS)
    .filter((name) => s[name] !== undefined)
    .map((name) => [
      LABELS[name],
      number(s[name].toUserSeconds),
      number(s[name].toUserCpuSeconds),
      number(s[name].uptimeAtInit),
      times(ratio(s[name].uptimeAtInit, s.bare?.uptimeAtInit)),
      s[name].idlePercent === undefined ? '-' : s[name].idlePercent.toFixed(2),
      number(s[name].ownMemoryMiB),
    ]);
  return table(
    [
      '',
      'to first user-space line, s',
      'CPU s till then',
      'guest uptime at /init, s',
      'of bare',
      'idle, % of a core',
      "shim's memory, MiB",
    ],
    rows,
  );
}

function coldTable(s) {
  const rows = ['ring1', 'ring3', 'dom0', 'domu']
    .filter((name) => s[name]?.metrics.cold_hypercall_read !== undefined)
    .map((name) => {
      const m = s[name].metrics;
      return [
        LABELS[name],
        number(m.cold_hypercall_read / 1000),
        number(m.hot_hypercall_read / 1000),
        number((m.cold_hypercall_read - m.hot_hypercall_read) / 1000),
        number(m.cold_hypercall_read_p99 / 1000),
      ];
    });
  return table(['', 'read with a cold call, us', 'with a hot one, us', 'difference, us', '99th percentile, us'], rows);
}

/** Named in the target of ring 1, beside getppid. */
const NAMED = [
  ...['context_switch', 'page_fault', 'fork_exit_wait', 'fork_exec_wait', 'mmap_touch_munmap_16', 'mprotect'],
  ...['signal_self', 'pipe_64k'],
];

/** What was to be reached, what was, and whether: Xen is the faster of dom0 and domU each time. */
function targets(s) {
  const xen = (pick) => {
    const values = [s.dom0, s.domu].filter(Boolean).map(pick).filter(Number.isFinite);
    return values.length === 0 ? undefined : Math.min(...values);
  };
  const against = (ring, m) =>
    ratio(
      xen((x) => x.metrics[m]),
      s[ring]?.metrics[m],
    );
  const names = Object.keys(s.ring1?.metrics ?? {}).filter(isOperation);
  const all = (ring) => names.map((m) => [m, against(ring, m)]).filter(([, v]) => v !== undefined);
  const least = (list) => list.reduce((a, b) => (b[1] < a[1] ? b : a), ['-', Number.POSITIVE_INFINITY]);
  const mean = (ring) => geometricMean(all(ring).map(([, v]) => v));
  const rows = [];
  const row = (what, value, show, met) => {
    if (value !== undefined && Number.isFinite(value)) rows.push([what, show(value), met(value) ? 'yes' : 'no']);
  };
  const atMost = (limit) => (v) => v <= limit;
  const atLeast = (limit) => (v) => v >= limit;
  const boot = s.ring1?.toUserSeconds;
  row('to user space: Xen dom0 / ring 1, at least 3', ratio(s.dom0?.toUserSeconds, boot), times, atLeast(3));
  row('to user space: xl create / ring 1, at least 3', ratio(s.domu?.toUserSeconds, boot), times, atLeast(3));
  for (const ring of ['ring1', 'ring3']) {
    const up = ratio(s[ring]?.uptimeAtInit, s.bare?.uptimeAtInit);
    row(`uptime at /init: ${LABELS[ring]} / bare, at most 1.35`, up, times, atMost(1.35));
  }
  const getppid = ratio(s.ring1?.metrics.getppid, s.bare?.metrics.getppid);
  row('getppid: ring 1 / bare, at most 2.5', getppid, times, atMost(2.5));
  row('getppid: Xen / ring 1, at least 8', against('ring1', 'getppid'), times, atLeast(8));
  const [slow, worst] = least(all('ring1').filter(([m]) => NAMED.includes(m)));
  row(`Xen / ring 1, the least of ${NAMED.length} (\`${slow}\`), at least 1.5`, worst, times, atLeast(1.5));
  row('Xen / ring 1, geometric mean, at least 3', mean('ring1'), times, atLeast(3));
  const [slow3, worst3] = least(all('ring3'));
  row(`Xen / ring 3, the least (\`${slow3}\`), at least 0.95`, worst3, times, atLeast(0.95));
  row('Xen / ring 3, geometric mean, above 1', mean('ring3'), times, (v) => v > 1);
  row('idle, % of a core, below 1', s.ring1?.idlePercent, number, (v) => v < 1);
  row("the shim's memory, MiB, below 150", s.ring1?.ownMemoryMiB, number, (v) => v < 150);
  const m = s.ring1?.metrics;
  const cold = m?.cold_hypercall_read === undefined ? undefined : (m.cold_hypercall_read - m.hot_hypercall_read) / 1000;
  row('a cold hypercall, us, below 100', cold, number, (v) => v < 100);
  return table(['target', 'measured', 'met'], rows);
}

/**
 * Writes BENCHMARKS.md from the results that are in bench/results of that directory: latest.json of `npm run bench`, io.json
 * of `npm run bench:io`, lab.json of `npm run bench:lab`. Each command remakes its own file, and what the other found stays, with its date. Returns the text.
 */
export function writePage(directory) {
  const read = (name) => {
    const file = path.join(directory, 'bench', 'results', name);
    if (!existsSync(file)) return undefined;
    const results = JSON.parse(readFileSync(file, 'utf8'));
    return { ...results, rounds: results.rounds.length };
  };
  const [emulated, io, lab] = [read('latest.json'), read('io.json'), read('lab.json')];
  const lines = [
    '# Benchmarks',
    '',
    'Made by `npm run bench` and, its last parts, by `npm run bench:io` and `npm run bench:lab`; do not edit. Raw results: bench/results.',
    '',
    ...(emulated === undefined ? [] : section(emulated, emulated.summary, emulated.instructions)),
    ...(io === undefined ? [] : ioSection(io)),
    ...(lab === undefined ? [] : labSection(lab, emulated?.summary)),
  ];
  const text = lines.join('\n');
  writeFileSync(path.join(directory, 'BENCHMARKS.md'), text);
  return text;
}

/** The part of `npm run bench`, as lines. `run`: {date, rounds, host, qemu, kernel, xen, cli, load}. */
export function section(run, summary, instructions) {
  const facts = (key) =>
    Object.keys(LABELS)
      .filter((name) => summary[name] !== undefined)
      .map((name) => `${LABELS[name]}: ${summary[name].facts[key] ?? '-'}`)
      .join('; ');
  const failed = Object.keys(LABELS)
    .filter((name) => summary[name]?.failed > 0)
    .map((name) => `${LABELS[name]}: ${summary[name].failed} of ${run.rounds} rounds failed and are left out.`);
  const instructionPart =
    instructions === undefined || Object.keys(instructions).length === 0
      ? []
      : [
          '## Operations, guest instructions',
          '',
          'One run each under `-icount shift=0`, where guest time counts instructions. Independent of the host and its load,',
          'but blind to what an instruction costs: a CR3 load is one here, and 2 us in time. `nanosleep_100us` is omitted:',
          'there is nothing to count while a guest sleeps.',
          '',
          operations(withoutSleep(instructions)),
          '',
        ];
  return [
    `${run.date}; ${run.rounds} interleaved rounds, medians; host: ${run.host}; load average when it began: ${run.load}.`,
    `${run.qemu}, \`-cpu ${run.cpu}\`, one CPU; Linux ${run.kernel}; Xen ${run.xen}; guests of ${run.memory} MiB.`,
    ...failed,
    '',
    '## Boot, idle, memory',
    '',
    bootTable(summary),
    '',
    '## Targets',
    '',
    '"Xen" is the faster of dom0 and domU, each time.',
    '',
    targets(summary),
    '',
    '## Operations, ns',
    '',
    operations(summary),
    '',
    '## Cold hypercalls',
    '',
    coldTable(summary),
    '',
    ...instructionPart,
    '## Method',
    '',
    '- Every machine boots the same kernel file and the same initramfs, whose only program is bench/guest/bench.c: init of',
    '  the guest and benchmark in one. Same QEMU, same CPU model, same guest memory, command line `quiet`. The machines of',
    '  a round run one after the other, and each round begins with another one.',
    '- "To first user-space line": from spawning `xenlighten run` (for a domU: from `xl create` in a dom0 that is up; for',
    '  the others: from spawning QEMU) until the line that process 1 prints first has arrived at the host.',
    '- An operation is repeated in batches of at least 2 ms; the median of the batches is the value of a run. The',
    '  geometric mean leaves out what is not work of the kernel (`alu_loop`, the vDSO clock, sleeping).',
    "- Idle: CPU time of every process of the machine over 10 s in which the guest sleeps. Memory: what the shim's process",
    "  holds besides shared memory, which is the guest's RAM.",
    '- A cold hypercall: a read of /sys/hypervisor/properties/pagesize, which is one hypercall that xenlighten answers in',
    '  the shim; a hot one: /sys/hypervisor/version/major. Under real Xen both are hot.',
    '',
    '## Caveats',
    '',
    '- All of it is emulation: QEMU translates ring 0 and ring 3 alike, a page walk is software, and a CR3 load throws',
    '  translations away. Ratios on hardware differ.',
    '- The kernel file is compressed. The bare kernel, Xen (for dom0) and xl (for a domU) unpack it at every boot, under',
    '  emulation; xenlighten unpacks it once, natively, and keeps the result in a cache, which was filled before. "Kernel',
    '  unpacked for xl" is the time of a domU without that difference.',
    '- A domU and our guests find no ACPI, PCI or legacy devices; the bare kernel and dom0 probe them at boot.',
    "- The machines beside ours run with one possible CPU, where QEMU turns locked instructions into plain ones; ours can't,",
    '  because the shim shares its memory.',
    `- Page-table isolation: ${facts('meltdown')}.`,
    `- Spectre v2: ${facts('spectre_v2')}.`,
    `- Clock: ${facts('clocksource')}.`,
    ...(run.cli ? [] : ['- `xenlighten run` was not built: its place took bench/domain.mjs, which does the same.']),
    '',
  ];
}

function withoutSleep(summary) {
  return Object.fromEntries(
    Object.entries(summary).map(([name, s]) => {
      const { nanosleep_100us: _, ...metrics } = s.metrics;
      return [name, { ...s, metrics }];
    }),
  );
}
