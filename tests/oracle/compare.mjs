#!/usr/bin/env node
/*
 * node tests/oracle/compare.mjs [--ring 1|3] [--cold] [--low] [--features] FILE
 * node tests/oracle/compare.mjs --json RUNS
 *
 * Compares what the test kernel said (its console, in FILE) with real Xen's recorded answers, fact by fact, minus the
 * accepted differences. Prints each difference; exit status 1 if there is one. Keys repeat within a line ("is", "st"),
 * so facts are compared by position.
 *
 * With --json, RUNS is a file with [{ring, cold, low, features?, state?, wanted: [case], text}], and what is printed is JSON:
 * {differences: [{run, case, key, recorded, now, entry?}], accepted: [...]}; `entry` is the number of the accepted
 * difference that allows it. A run of one case is compared in how it ended (key "(state)") too.
 */
import { readFileSync } from 'node:fs';
import path from 'node:path';
import { fileURLToPath } from 'node:url';

const fixtures = path.resolve(path.dirname(fileURLToPath(import.meta.url)), '../fixtures/oracle');

export function load() {
  const read = (name) => JSON.parse(readFileSync(path.join(fixtures, name), 'utf8'));
  const { cases, features } = read('answers.json');
  return { answers: cases, features, accepted: read('differences.json').accepted };
}

/** Facts of each case in a console's text: name -> [[key, value], ...], the last line of a case counts. */
export function parse(text) {
  const said = new Map();
  for (const line of text.replaceAll('\r', '').split('\n')) {
    // Not only at the start of a line: what a case writes by console_io comes before it.
    const m = /case ([a-z0-9-]+):(?: (.*))?$/.exec(line);
    if (m) said.set(m[1], facts(m[2] ?? ''));
  }
  return said;
}

function facts(line) {
  return line
    .trim()
    .split(' ')
    .filter((word) => word !== '')
    .map((word) => {
      const at = word.indexOf('=');
      return at < 0 ? [word, ''] : [word.slice(0, at), word.slice(at + 1)];
    });
}

const whole = (pattern, text) => pattern === '*' || new RegExp(`^(?:${pattern})$`).test(text);

/**
 * Compares one case. `said` is its facts or undefined when it printed nothing, `state` how the domain ended, if that
 * counts. Returns [{case, key, recorded, now, entry?, reason?}]; those with an entry, which is its number in the list,
 * are accepted.
 */
export function compareCase(name, said, known, { ring = 3, cold = false, low = false, features = false, state } = {}) {
  const { accepted } = known;
  const answer = (features ? known.features : known.answers)[name];
  const recorded = facts((low && answer?.low) || answer?.facts || '');
  const found = [];
  const note = (key, was, now) => {
    const entry = accepted.findIndex(
      (a) =>
        whole(a.case, name) &&
        whole(a.key, key) &&
        (!a.rings || a.rings.includes(ring)) &&
        (a.cold === undefined || a.cold === cold) &&
        (!a.accept || whole(a.accept, now)),
    );
    found.push({
      case: name,
      key,
      recorded: was,
      now,
      ...(entry < 0 ? {} : { entry, reason: accepted[entry].reason }),
    });
  };
  if (state !== undefined && state !== answer?.state) note('(state)', answer?.state ?? 'nothing', state);
  if (!said) note('(line)', 'a line', 'nothing');
  else
    for (const [was, now] of pairs(recorded, said))
      if (was?.[1] !== now?.[1]) note((was ?? now)[0], was ? was[1] : 'no such fact', now ? now[1] : 'no such fact');
  return found;
}

/** How many facts may be missing or new in one place before the rest of a line counts as out of step. */
const STEPS = 12;

/** Facts of two lines side by side, by position; where the keys differ, with as few as possible left alone. */
function* pairs(a, b) {
  for (let i = 0, j = 0; i < a.length || j < b.length; ) {
    let skip = 0;
    let mine = 0;
    search: for (; skip <= STEPS; skip++)
      for (mine = 0; mine <= skip; mine++) {
        const x = a[i + mine];
        const y = b[j + skip - mine];
        if (x && y && x[0] === y[0]) break search;
      }
    if (skip > STEPS) [mine, skip] = [a.length - i, a.length - i + b.length - j];
    for (const end = i + mine; i < end; i++) if (a[i]) yield [a[i], undefined];
    for (const end = j + skip - mine; j < end; j++) if (b[j]) yield [undefined, b[j]];
    if (i < a.length && j < b.length) yield [a[i++], b[j++]];
  }
}

/** Compares whole runs; a case that is wanted and not recorded, or that said nothing, is a difference. */
export function compareRuns(runs) {
  const known = load();
  const differences = runs.flatMap((run, number) => {
    const said = parse(run.text);
    return run.wanted.flatMap((name) =>
      compareCase(name, said.get(name), known, run).map((difference) => ({ run: number, ...difference })),
    );
  });
  return {
    differences,
    accepted: known.accepted,
    recorded: Object.keys(known.answers),
    featured: Object.keys(known.features),
  };
}

if (process.argv[1] === fileURLToPath(import.meta.url) && process.argv[2] === '--json') {
  process.stdout.write(JSON.stringify(compareRuns(JSON.parse(readFileSync(process.argv[3], 'utf8')))));
} else if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const words = process.argv.slice(2);
  const options = { ring: 3, cold: false, low: false, features: false };
  while (words[0]?.startsWith('--')) {
    const word = words.shift();
    if (word === '--ring') options.ring = Number(words.shift());
    else if (word === '--low') options.low = true;
    else if (word === '--features') options.features = true;
    else if (word === '--cold') options.cold = true;
  }
  const known = load();
  const said = parse(readFileSync(words[0], 'utf8'));
  let bad = 0;
  let fine = 0;
  for (const name of said.keys()) {
    const open = compareCase(name, said.get(name), known, options).filter((difference) => !difference.reason);
    for (const d of open) process.stdout.write(`${d.case} ${d.key}: Xen ${d.recorded}, here ${d.now}\n`);
    if (open.length) bad++;
    else fine++;
  }
  process.stdout.write(`${said.size} cases, ${fine} as Xen, ${bad} otherwise\n`);
  process.exitCode = bad ? 1 : 0;
}
