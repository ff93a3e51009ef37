#!/usr/bin/env node
/*
 * node tests/oracle/compare.mjs [--ring 1|3] [--low] FILE
 *
 * Compares what the test kernel said (its console, in FILE) with real Xen's recorded answers, fact by fact, minus the
 * accepted differences. Prints each difference; exit status 1 if there is one. Keys repeat within a line ("is", "st"),
 * so facts are compared by position.
 */
import { readFileSync } from 'node:fs';
import path from 'node:path';
import { fileURLToPath } from 'node:url';

const fixtures = path.resolve(path.dirname(fileURLToPath(import.meta.url)), '../fixtures/oracle');

export function load() {
  const read = (name) => JSON.parse(readFileSync(path.join(fixtures, name), 'utf8'));
  return { answers: read('answers.json').cases, accepted: read('differences.json').accepted };
}

/** Facts of each case in a console's text: name -> [[key, value], ...], the last line of a case counts. */
export function parse(text) {
  const said = new Map();
  for (const line of text.replaceAll('\r', '').split('\n')) {
    const m = /^case ([^:]+): ?(.*)$/.exec(line);
    if (m) said.set(m[1], facts(m[2]));
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
 * Compares one case. `said` is its facts or undefined when it printed nothing. Returns
 * [{case, key, recorded, now, reason?}]; those with a reason are accepted.
 */
export function compareCase(name, said, { answers, accepted }, { ring = 3, low = false } = {}) {
  const answer = answers[name];
  const recorded = facts((low && answer?.low) || answer?.facts || '');
  const found = [];
  const note = (key, was, now) => {
    const entry = accepted.find(
      (a) =>
        whole(a.case, name) &&
        whole(a.key, key) &&
        (!a.rings || a.rings.includes(ring)) &&
        (!a.accept || whole(a.accept, now)),
    );
    found.push({ case: name, key, recorded: was, now, ...(entry ? { reason: entry.reason } : {}) });
  };
  if (!said) note('(line)', 'a line', 'nothing');
  else
    for (let i = 0; i < Math.max(said.length, recorded.length); i++) {
      const [key, was] = recorded[i] ?? ['(none)', ''];
      const [nowKey, now] = said[i] ?? ['(none)', ''];
      if (key !== nowKey) {
        note(key, `${key}=${was}`, `${nowKey}=${now}`);
        break; // what follows is out of step
      }
      if (was !== now) note(key, was, now);
    }
  return found;
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const words = process.argv.slice(2);
  const options = { ring: 3, low: false };
  while (words[0]?.startsWith('--')) {
    const word = words.shift();
    if (word === '--ring') options.ring = Number(words.shift());
    else if (word === '--low') options.low = true;
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
