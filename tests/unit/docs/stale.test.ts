/** The committed pages of docs/ are what the tables in the code make. */
import { documents, staleDocuments } from '../../../scripts/gen-docs';

test('no page is stale', () => {
  expect(documents().size).toBe(5);
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
