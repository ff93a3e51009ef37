/** The committed pages of docs/ are what the tables in the code make. */
import { documents, staleDocuments } from '../../../scripts/gen-docs';
import { CHECKS } from '../../../shim/doctor';
import { SELF_TESTS } from '../../../shim/doctor/self-tests';
import { UNVERIFIED } from '../../../shim/doctor/unverified';

test('no page is stale', () => {
  expect(documents().size).toBe(6);
  // `npm run docs` writes them.
  expect(staleDocuments()).toEqual([]);
});

test('tables are whole: every row has as many cells as its header', () => {
  for (const [file, text] of documents()) {
    let cells = 0;
    for (const line of text.split('\n')) {
      const n = line.startsWith('|') ? line.replaceAll('\\|', '').split('|').length : 0;
      if (n > 0 && cells > 0) expect([file, line, n]).toEqual([file, line, cells]);
      cells = n;
    }
  }
});

test('what would show something on Windows exists', () => {
  const known = new Set([...CHECKS.map((c) => c.id), ...SELF_TESTS.map((t) => t.id)]);
  for (const { id, shownBy, byHand } of UNVERIFIED) {
    expect([id, shownBy.filter((s) => !known.has(s))]).toEqual([id, []]);
    expect([id, shownBy.length > 0 || byHand !== undefined]).toEqual([id, true]);
  }
  expect(new Set(UNVERIFIED.map((u) => u.id)).size).toBe(UNVERIFIED.length);
});
