#!/usr/bin/env node
/*
 * npm run oracle:record   runs every case of the test kernel (tests/guest) under real Xen, as a domU, and writes what
 *                         it says to tests/fixtures/oracle/answers.json
 * npm run oracle:check    the same, but compares with the recorded answers (exit status 1 if one differs)
 *
 * Cases that need no domain of their own run in one domain, in link order, and those that need two vCPUs in another;
 * the rest one domain each. The kernel at a
 * low address runs the first group once more: only its differences from the other one are recorded. Cases that look at
 * processor features run once more on a machine that has them all.
 */
import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { build, featureCases, featureMachine, machine, root, runGuests, testKernel } from './lab.mjs';

const file = path.join(root, 'tests/fixtures/oracle/answers.json');
const check = process.argv.includes('--check');
const { xen } = build();
const { kernel, low, cases } = testKernel();

const shared = cases.filter((c) => !c.alone && c.vcpus === 1);
const smp = cases.filter((c) => !c.alone && c.vcpus > 1);
const alone = cases.filter((c) => c.alone);
const guests = [
  { name: '(high)', kernel, cmdline: 'all', seconds: 90 },
  { name: '(low)', kernel: low, cmdline: 'all', seconds: 90 },
  { name: '(smp)', kernel, cmdline: smp.map((c) => c.name).join(' '), vcpus: 2, seconds: 60 },
  ...alone.map((c) => ({ name: c.name, kernel, cmdline: c.name, vcpus: c.vcpus, seconds: 10 })),
];
const verbose = process.argv.includes('--verbose');
const { outcome, results } = await runGuests(guests, { verbose });
const featured = await runGuests([{ name: '(features)', kernel, cmdline: featureCases.join(' '), seconds: 60 }], {
  cpu: featureMachine.cpu,
  verbose,
});

/** name -> the facts after "case NAME:", the last line of a case that prints several. */
function facts(result) {
  const found = new Map();
  for (const line of result.lines) {
    const m = /^case ([^:]+): ?(.*)$/.exec(line);
    if (m) found.set(m[1], m[2].trim());
  }
  return found;
}

const problems = [];
for (const how of [outcome, featured.outcome]) if (how !== 'done') problems.push(`the machine ended with '${how}'`);
const answers = {};
const [high, lower, two, ...rest] = results;
const highFacts = facts(high);
const lowFacts = facts(lower);
for (const result of [high, lower, two])
  if (result.state !== 'poweroff')
    problems.push(`${result.name}: ${result.state}\n  ${result.lines.slice(-2).join('\n  ')}`);
for (const c of shared) {
  const said = highFacts.get(c.name);
  if (said === undefined) problems.push(`${c.name}: no line`);
  answers[c.name] = { state: 'poweroff', facts: said ?? null };
  if (lowFacts.get(c.name) !== said) answers[c.name].low = lowFacts.get(c.name) ?? null;
}
const smpFacts = facts(two);
for (const c of smp) {
  const said = smpFacts.get(c.name);
  if (said === undefined) problems.push(`${c.name}: no line`);
  answers[c.name] = { state: 'poweroff', facts: said ?? null };
}
for (const result of rest) {
  answers[result.name] = { state: result.state, facts: facts(result).get(result.name) ?? null };
  if (['timeout', 'refused', 'lost'].includes(result.state)) problems.push(`${result.name}: ${result.state}`);
}
const features = {};
for (const name of featureCases) {
  const said = facts(featured.results[0]).get(name);
  if (said === undefined) problems.push(`${name}, with all features: no line`);
  features[name] = { state: 'poweroff', facts: said ?? null };
}

if (!check) {
  const made = { source: { xen, machine, featureMachine, how: 'npm run oracle:record' }, cases: answers, features };
  writeFileSync(file, `${JSON.stringify(made, null, 2)}\n`);
  process.stderr.write(`oracle: ${Object.keys(answers).length} cases recorded from Xen ${xen}\n`);
} else {
  const recorded = existsSync(file) ? JSON.parse(readFileSync(file, 'utf8')) : {};
  compare('', recorded.cases ?? {}, answers);
  compare(', with all features', recorded.features ?? {}, features);
  if (problems.length === 0) process.stderr.write(`oracle: ${Object.keys(answers).length} cases as recorded\n`);
}

function compare(where, before, now) {
  for (const name of new Set([...Object.keys(before), ...Object.keys(now)])) {
    const a = before[name];
    const b = now[name];
    if (!a || !b) problems.push(`${name}${where}: ${a ? 'recorded, but no longer a case' : 'not recorded'}`);
    else
      for (const key of ['state', 'facts', 'low'])
        if (a[key] !== b[key]) problems.push(`${name}${where} (${key}):\n  recorded ${a[key]}\n  now      ${b[key]}`);
  }
}

for (const problem of problems) process.stderr.write(`oracle: ${problem}\n`);
process.exitCode = problems.length === 0 ? 0 : 1;
