/* From the lab's rounds to medians and ratios, and from those to the lab's part of BENCHMARKS.md. */
import { geometricMean, isOperation, median, number, ratio, table, times } from './format.mjs';
import { LAB_LABELS, SMP_METRICS } from './scenarios.mjs';

/** Median over those rounds in which it is a number. */
function over(rounds, pick) {
  const values = rounds.map(pick).filter((v) => v !== undefined && Number.isFinite(v));
  return values.length === 0 ? undefined : median(values);
}

/** Exits for one operation, without those of an idling processor's interrupts: what the loop without system calls has. */
function exitsPerOperation(result, name) {
  const m = result?.metrics[name];
  const quiet = result?.metrics.alu_loop;
  if (m?.count === undefined || quiet?.count === undefined || !(m.operations > 0)) return undefined;
  return (m.count - (quiet.count / quiet.ms) * m.ms) / m.operations;
}

/** [{machine: result}, ...] to {machine: {rounds, failed, facts, uptimeAtInit, metrics, ratios, least, exits}}. */
export function summarizeLab(rounds) {
  const summary = {};
  const good = (round, name) => (round[name]?.error === undefined ? round[name] : undefined);
  for (const [name, { base }] of Object.entries(LAB_LABELS)) {
    const results = rounds.map((round) => good(round, name)).filter((r) => r !== undefined);
    if (results.length === 0) continue;
    const names = [...new Set(results.flatMap((r) => Object.keys(r.metrics)))];
    const each = (value) => Object.fromEntries(names.map((m) => [m, value(m)]));
    /** Ratios within a round of `key`: "median" of the batches or the smallest, "min"; by metric, and their mean. */
    const compared = (key) => {
      if (base === undefined) return undefined;
      const ratioIn = (round, m) => ratio(good(round, name)?.metrics[m]?.[key], good(round, base)?.metrics[m]?.[key]);
      const ratios = each((m) => over(rounds, (round) => ratioIn(round, m)));
      const counted = names.filter(isOperation).map((m) => ratios[m]);
      return { ...ratios, mean: geometricMean(counted.filter((v) => v !== undefined)) };
    };
    summary[name] = {
      rounds: results.length,
      failed: rounds.filter((r) => r[name]?.error !== undefined).length,
      facts: results.at(-1).facts,
      uptimeAtInit: over(results, (r) => Number(r.facts.uptime?.split(' ')[0] ?? Number.NaN)),
      metrics: each((m) => over(results, (r) => r.metrics[m]?.median)),
      ratios: compared('median'),
      least: compared('min'),
      exits: each((m) => over(results, (r) => exitsPerOperation(r, m))),
    };
  }
  return summary;
}

/** Below this an operation's exits cannot be told from those of the clock. */
const LEAST_EXITS = 0.05;
const exitsText = (v) => (v === undefined ? '-' : v < LEAST_EXITS ? '0' : number(v));

const HEADER = ['', 'bare', 'ring 1', 'ring 3', 'ring 1 / bare', 'least', 'ring 3 / bare', 'least'];

function operations(s, emulated) {
  const names = Object.keys(s.bare?.metrics ?? s.ring1?.metrics ?? {});
  const machines = ['bare', 'ring1', 'ring3'];
  const rings = ['ring1', 'ring3'];
  const onEmulator = (m) => times(ratio(emulated?.ring1?.metrics[m], emulated?.bare?.metrics[m]));
  const rows = names.map((m) => [
    `\`${m}\``,
    ...machines.map((name) => number(s[name]?.metrics[m])),
    ...rings.flatMap((name) => [times(s[name]?.ratios?.[m]), times(s[name]?.least?.[m])]),
    onEmulator(m),
    ...machines.map((name) => (m === 'alu_loop' ? '-' : exitsText(s[name]?.exits[m]))),
  ]);
  const emulatedMean = geometricMean(
    names
      .filter(isOperation)
      .map((m) => ratio(emulated?.ring1?.metrics[m], emulated?.bare?.metrics[m]))
      .filter((v) => v !== undefined),
  );
  rows.push([
    'geometric mean of the operations',
    ...['', '', ''],
    ...rings.flatMap((name) => [times(s[name]?.ratios?.mean), times(s[name]?.least?.mean)]),
    times(emulatedMean),
    ...['', '', ''],
  ]);
  const header = [...HEADER, 'ring 1 / bare, engine qemu'];
  return table([...header, 'exits: bare', 'ring 1', 'ring 3'], rows);
}

function smp(s) {
  const machines = ['barex2', 'ring1x2', 'ring3x2'];
  const rings = ['ring1x2', 'ring3x2'];
  const rows = SMP_METRICS.map((m) => [
    `\`${m}\``,
    ...machines.map((name) => number(s[name]?.metrics[m])),
    ...rings.flatMap((name) => [times(s[name]?.ratios?.[m]), times(s[name]?.least?.[m])]),
    ...machines.map((name) => (m === 'alu_loop' ? '-' : exitsText(s[name]?.exits[m]))),
  ]);
  rows.push([
    'geometric mean of the operations',
    ...['', '', ''],
    ...rings.flatMap((name) => [times(s[name]?.ratios?.mean), times(s[name]?.least?.mean)]),
    ...['', '', ''],
  ]);
  return table([...HEADER, 'exits: bare', 'ring 1', 'ring 3'], rows);
}

/** The lab's part of BENCHMARKS.md, as lines. `lab`: what lab.json has; `emulated`: the summary of `npm run bench`. */
export function labSection(lab, emulated) {
  const { summary } = lab;
  const one = ['bare', 'ring1', 'ring3'].filter((name) => summary[name] !== undefined);
  const facts = (key) => one.map((name) => `${LAB_LABELS[name].label}: ${summary[name].facts[key] ?? '-'}`).join('; ');
  const failed = Object.entries(summary)
    .filter(([, s]) => s.failed > 0)
    .map(([name, s]) => `${LAB_LABELS[name].label}: ${s.failed} of ${lab.rounds} rounds failed and are left out.`);
  return [
    "## On KVM's Hyper-V emulation, in the lab",
    '',
    'Made by `npm run bench:lab`. Raw results: bench/results/lab.json.',
    '',
    `${lab.date}; ${lab.rounds} interleaved rounds, ${lab.ms} ms for each metric; host: ${lab.host}; load average when it began: ${lab.load}.`,
    `Ours: engine kvm. Bare: QEMU ${lab.qemu} with \`-accel kvm -cpu ${lab.cpu}\`. Linux ${summary.bare?.facts.kernel ?? '-'}.`,
    ...failed,
    '',
    '### Operations, one vCPU, ns',
    '',
    operations(summary, emulated),
    '',
    '### Operations, two vCPUs, ns',
    '',
    smp(summary),
    '',
    '### Method in the lab',
    '',
    '- A round is one session of the lab (CONTRIBUTING.md, "The lab"): a Linux under QEMU\'s emulator, L1, whose KVM runs the',
    '  machines, one after the other; each round begins with another one. Values are medians over the rounds; a ratio is the',
    '  median of the ratios within each round, because the speed of the host differs more between rounds.',
    '  "Least" is the same ratio of the smallest batches instead of the medians: less that others on the host disturb.',
    '- Same kernel file, initramfs, benchmark and memory in all of them, `quiet`; the bare kernel in the same QEMU binary as',
    '  runs L1, brought into L1, with page-table isolation off, its console on a serial port, no other device, no Hyper-V',
    "  interface; KVM's own paravirtual features (clock, EOI) are on, as on any KVM. Its BIOS is qboot, see bench/lab-qemu.mjs.",
    '- No machine has XSAVE or AVX. HLT does not leave the guest: the kvm engine does that in the lab, and QEMU with',
    "  `-overcommit cpu-pm=on`, which also keeps MWAIT and PAUSE from leaving. Both machines' memory may have 2 MB pages.",
    "- Exits: KVM's own count during the metric by the number of operations, less what `alu_loop` has in the same time (the",
    "  clock's interrupts, ours and L1's). Includes first touches of memory. Below 0.05 it says 0.",
    '',
    '### Caveats in the lab',
    '',
    '- Everything is emulated, the hypervisor too. An exit costs 40 to 60 us there where hardware needs 1 us, which is 3 times',
    '  as much in comparison with other code; a page that is touched first costs 100 us. Each exit and each entry throws all',
    '  translations of the emulator away. An operation with exits looks worse there than on hardware.',
    '- Interrupts of L1 and of the guests (250 a second each) are exits, too.',
    '- With two vCPUs, what wakes another process (`context_switch`, `pipe_64k`, forks) has two speeds, 0.1 to 0.3 ms for a',
    '  `context_switch` and 2 to 3 ms: the scheduler keeps both processes on one vCPU, or has to wake the other one, which',
    '  means waking a halted processor of L1. QEMU tells the bare kernel that the two share a package; with one socket for',
    '  each (`-smp 2,sockets=2`) the bare kernel took 2 to 3 ms as well, as ours do. The mean of that table has this in it.',
    '- The 33 exits of `fork_exec_wait` are the same in all machines: presumably CPUID, which a C library begins with.',
    '- Boots are not compared: the bare kernel unpacks itself in the emulation, and probes devices that we do not have.',
    `- Page-table isolation: ${facts('meltdown')}.`,
    `- Spectre v2: ${facts('spectre_v2')}.`,
    `- Clock: ${facts('clocksource')}.`,
    '',
  ];
}
