/**
 * `npm run docs`: writes the pages of docs/ that are made from tables in the code. `--check` only compares.
 *
 *   docs/translation-table.md   shim/translate/table.ts and hyperv-operations.ts
 *   docs/hypercalls.md          abi/xen/hypercalls.ts
 *   docs/cpuid-policy.md        shim/xen/cpuid-policy.ts
 *   docs/exit-budget.md         shim/translate/exit-budget.ts
 *   docs/hyperv-tests.md        tests/fixtures/hyperv
 *   docs/windows-unverified.md  shim/doctor/unverified.ts
 *
 * The pages are committed; a unit test fails when they are not what this makes of the tables.
 */
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { type ErrorDecl, HYPERCALL_LIST, type Hypercall, type Privilege, type Subop } from '../abi/xen/hypercalls';
import { CHECKS } from '../shim/doctor';
import { SELF_TESTS } from '../shim/doctor/self-tests';
import { UNVERIFIED } from '../shim/doctor/unverified';
import { packageRoot } from '../shim/partition/native-files';
import { BLKIF_OPERATIONS } from '../shim/translate/device-table';
import { EXIT_BUDGET, NOISE } from '../shim/translate/exit-budget';
import { HYPERV_OPERATIONS } from '../shim/translate/hyperv-operations';
import { type Exactness, IMPLICIT_OPERATIONS, type Translation, tableRows, type Where } from '../shim/translate/table';
import { toMarkdown as cpuidPolicy } from '../shim/xen/cpuid-policy';

const WHERE: Readonly<Record<Where, string>> = {
  trap: 'in the trap module; no exit from the partition',
  hypervisor: 'in the trap module, by a facility of the hypervisor; no exit to the shim',
  shim: 'in the shim, by a synchronous call',
  signal: 'by a signal to the shim, or inside the trap module; the guest does not wait',
  boot: 'set once, before the guest starts',
};

const EXACT: Readonly<Record<Exactness, string>> = {
  exact: 'the Hyper-V operation has the semantics of the Xen operation',
  near: 'it differs, as the note says',
  partial: 'it covers some of it',
  emulated: 'Hyper-V has no equivalent; the semantics are all ours',
  refused: 'an unprivileged domain gets an error, as under Xen: the note has it',
};

const PRIVILEGE: Readonly<Record<Privilege, string>> = {
  any: '',
  hardware: 'domains with devices',
  control: 'the control domain',
  hvm: 'guests that are not paravirtualized',
  nobody: 'nobody',
};

function cell(text: string): string {
  return text.replaceAll('|', '\\|').replaceAll('\n', ' ') || '–';
}

function table(header: readonly string[], rows: readonly (readonly string[])[]): string[] {
  const line = (cells: readonly string[]): string => `| ${cells.join(' | ')} |`;
  return [line(header), line(header.map(() => '---')), ...rows.map((row) => line(row.map(cell)))];
}

function generated(from: string): string {
  return `Generated from ${from} by \`npm run docs\`; do not edit.`;
}

function hyperv(t: Translation): string {
  return t.hv.map((h) => HYPERV_OPERATIONS[h].name).join(', ');
}

function translationTable(): string {
  const count = (key: 'where' | 'exact', value: string): string =>
    String(tableRows().filter((r) => r[key] === value).length);
  return [
    '# What every Xen operation becomes on Hyper-V',
    '',
    generated('shim/translate/table.ts'),
    '',
    'Where an operation is executed:',
    '',
    ...table(
      ['where', 'operations', 'meaning'],
      (Object.keys(WHERE) as Where[]).map((w) => [w, count('where', w), WHERE[w]]),
    ),
    '',
    'How exact its translation is:',
    '',
    ...table(
      ['exactness', 'operations', 'meaning'],
      (Object.keys(EXACT) as Exactness[]).map((e) => [e, count('exact', e), EXACT[e]]),
    ),
    '',
    '## Hypercalls',
    '',
    ...table(
      ['Xen operation', 'number', 'Hyper-V equivalent', 'where', 'exactness', 'note'],
      tableRows().map((r) => [
        `\`${r.name}\``,
        r.subop === undefined ? String(r.nr) : `${r.nr}.${r.subop}`,
        hyperv(r),
        r.where,
        r.exact,
        r.note,
      ]),
    ),
    '',
    '## What is not a hypercall',
    '',
    ...table(
      ['Xen operation', 'Hyper-V equivalent', 'where', 'exactness', 'note'],
      IMPLICIT_OPERATIONS.map(({ name, translation: t }) => [name, hyperv(t), t.where, t.exact, t.note]),
    ),
    '',
    '## Requests of devices',
    '',
    'What a guest asks of a device goes through a ring and a doorbell, and from there to the VSP as packets of a VMBus',
    'channel. Each is counted (`xenlighten stats`).',
    '',
    ...table(
      ['Xen request', 'Hyper-V equivalent', 'exactness', 'note'],
      Object.values(BLKIF_OPERATIONS).map((o) => [o.name, o.hyperv, o.exact, o.note]),
    ),
    '',
    '## Hyper-V operations',
    '',
    'The trap module reaches them through one table of functions (`hv_ops`), so that an engine without the Microsoft',
    'hypervisor can put something else in their place: the soft Hyper-V.',
    '',
    ...table(
      ['operation', 'invoked by', 'soft Hyper-V'],
      Object.values(HYPERV_OPERATIONS).map((o) => [o.name, o.by, o.soft]),
    ),
    '',
  ].join('\n');
}

function errors(list: readonly ErrorDecl[]): string[] {
  return list.map((e) => `- \`-${e.errno}\`: ${e.cause}`);
}

function subopRow(h: Hypercall, s: Subop): string[] {
  const t = tableRows().find((r) => r.nr === h.number && r.subop === s.number);
  const statuses = s.statuses === undefined || s.statuses.length === 0 ? [] : [`status: ${s.statuses.join(', ')}`];
  const failures = [...s.errors.map((e) => `\`-${e.errno}\` ${e.cause}`), ...statuses];
  return [
    String(s.number),
    `\`${s.name}\``,
    t?.where ?? '',
    s.returns ?? '0',
    failures.join('; '),
    PRIVILEGE[s.privilege],
  ];
}

function hypercallSection(h: Hypercall): string[] {
  const own = tableRows().find((r) => r.nr === h.number && r.subop === undefined);
  const args = h.args.map((a) => a.name).join(', ');
  const facts = [
    ...(own === undefined ? [] : [`Answered: ${own.where} (${WHERE[own.where]}).`]),
    ...(PRIVILEGE[h.privilege] === '' ? [] : [`For ${PRIVILEGE[h.privilege]}.`]),
    ...(h.returns === undefined ? [] : [`Returns ${h.returns}.`]),
  ];
  return [
    `## ${h.number} ${h.name}(${args})`,
    '',
    ...(facts.length === 0 ? [] : [facts.join(' '), '']),
    ...(h.errors.length === 0 ? [] : [...errors(h.errors), '']),
    ...(h.subops.length === 0
      ? []
      : [
          ...table(
            ['op', 'name', 'answered', 'returns', 'errors', 'for'],
            h.subops.map((s) => subopRow(h, s)),
          ),
          '',
        ]),
  ];
}

function hypercalls(): string {
  return [
    '# Hypercalls',
    '',
    generated('abi/xen/hypercalls.ts and shim/translate/table.ts'),
    '',
    'What an unprivileged PV domain gets, which is what Xen 4.17 answers it. Numbers that are not listed, and numbers',
    'from 64 on, answer `-ENOSYS`, and so do unknown sub-operations. Errors of a hypercall hold for its sub-operations.',
    `Where each is answered is explained in [translation-table.md](translation-table.md).`,
    '',
    ...HYPERCALL_LIST.flatMap(hypercallSection),
  ].join('\n');
}

function exitBudget(): string {
  const exits = (n: number): string => (n <= NOISE ? '0' : n.toFixed(1));
  return [
    '# Exit budget',
    '',
    generated('shim/translate/exit-budget.ts'),
    '',
    'How often an operation of a guest may take its virtual processor out of guest execution: to the hypervisor, and on to',
    "xenlighten's process. `node scripts/exit-budget.mjs` measures it on an engine that counts exits (kvm), by the",
    "hypervisor's own counters; tests/e2e/lab holds it against this table on KVM's Hyper-V emulation. Interrupts of the",
    'host and first touches of memory are not counted. 0 means less than one in fifty.',
    '',
    ...table(
      ['operation', 'what it is', 'exits to the hypervisor, at most', 'to the process, at most'],
      EXIT_BUDGET.map((row) => [
        `\`${row.operation}\``,
        row.doc,
        exits(row.budget.hypervisor),
        exits(row.budget.toProcess),
      ]),
    ),
    '',
    '`xenlighten stats` shows the exits of a running guest by reason.',
  ].join('\n');
}

interface HypervCase {
  readonly name: string;
  readonly about: string;
  readonly qemu: readonly number[];
  readonly kvm: readonly number[];
}

interface HypervDifference {
  readonly engine: string;
  readonly case: string;
  readonly key: string;
  readonly accept: string;
  readonly reason: string;
}

function hypervTests(): string {
  const read = (name: string): unknown =>
    JSON.parse(readFileSync(join(packageRoot(), 'tests', 'fixtures', 'hyperv', name), 'utf8'));
  const { cases } = read('cases.json') as { cases: readonly HypervCase[] };
  const { accepted } = read('differences.json') as { accepted: readonly HypervDifference[] };
  const vps = (list: readonly number[]): string => (list.length === 0 ? 'skipped' : list.join(', '));
  return [
    '# Tests of the hypervisor below',
    '',
    generated('tests/fixtures/hyperv'),
    '',
    "Cases of the trap module's test build (tests/hyperv): ring 0 of a partition, without a guest. They run on the soft",
    "Hyper-V (engine qemu) and, in the lab, on KVM's Hyper-V emulation, with the same expectations, which are the TLFS's.",
    'The numbers are those of VPs that a case runs with. A case that is skipped on the soft Hyper-V is about what only a',
    'real Hyper-V interface has: its MSRs, hypercalls and pages.',
    '',
    ...table(
      ['case', 'what must hold', 'soft', 'KVM'],
      cases.map((c) => [`\`${c.name}\``, c.about, vps(c.qemu), vps(c.kvm)]),
    ),
    '',
    '## Where an engine differs from the TLFS',
    '',
    'Each of these differences is seen by the tests; one that is not, or any other, fails them.',
    '',
    ...table(
      ['engine', 'case', 'fact', 'it says', 'why'],
      accepted.map((a) => [a.engine, `\`${a.case}\``, a.key.replaceAll('|', ', '), a.accept, a.reason]),
    ),
  ].join('\n');
}

function unverified(): string {
  return [
    '# Windows: what has only been seen on stand-ins',
    '',
    generated('shim/doctor/unverified.ts'),
    '',
    'No real Windows has run xenlighten yet. For each row: what is meant to hold there, where it has been seen instead, and what',
    'would show it. `xenlighten doctor --report` ([windows.md](windows.md#7-send-a-report)) has the results of all checks and',
    'self-tests that are named here.',
    '',
    ...table(
      ['', 'what', 'seen on', 'shown by', 'by hand'],
      UNVERIFIED.map((u) => [u.id, u.what, u.seen, u.shownBy.map((id) => `\`${id}\``).join(', '), u.byHand ?? '']),
    ),
    '',
    'Self-tests:',
    '',
    ...table(
      ['self-test', 'what must hold', 'needs'],
      SELF_TESTS.map((t) => [`\`${t.id}\``, t.title, t.hyperv === true ? 'the Hyper-V interface' : '']),
    ),
    '',
    'Checks:',
    '',
    ...table(
      ['check', 'in the list as', 'on'],
      CHECKS.map((c) => [`\`${c.id}\``, c.title, c.platforms?.join(', ') ?? 'all']),
    ),
  ].join('\n');
}

/** Path below the repository's root, and contents. */
export function documents(): ReadonlyMap<string, string> {
  const end = (text: string): string => `${text.trimEnd()}\n`;
  return new Map([
    ['docs/translation-table.md', end(translationTable())],
    ['docs/hypercalls.md', end(hypercalls())],
    ['docs/cpuid-policy.md', end(cpuidPolicy())],
    ['docs/exit-budget.md', end(exitBudget())],
    ['docs/hyperv-tests.md', end(hypervTests())],
    ['docs/windows-unverified.md', end(unverified())],
  ]);
}

/** The pages that are not what the tables say. */
export function staleDocuments(root = packageRoot()): string[] {
  return [...documents()].flatMap(([file, text]) => {
    try {
      return readFileSync(join(root, file), 'utf8') === text ? [] : [file];
    } catch {
      return [file];
    }
  });
}

function main(): number {
  const root = packageRoot();
  const stale = staleDocuments(root);
  if (process.argv.includes('--check')) {
    for (const file of stale) process.stderr.write(`${file} is stale: run 'npm run docs'\n`);
    return stale.length === 0 ? 0 : 1;
  }
  mkdirSync(join(root, 'docs'), { recursive: true });
  for (const file of stale) {
    writeFileSync(join(root, file), documents().get(file) ?? '');
    process.stdout.write(`${file}\n`);
  }
  return 0;
}

if (require.main === module) process.exitCode = main();
