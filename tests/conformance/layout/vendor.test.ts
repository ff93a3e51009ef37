/**
 * The comparison itself: a wrong declaration, a missing one and a stale allowance must each be noticed.
 */
import { constants, struct } from '../../../abi/layout';
import { compare, fieldPaths, hasProgram, judge } from './vendor';

const vendor = {
  preamble: `
#include <stdint.h>
struct point { uint32_t x; struct { uint16_t low, high; } y; union { uint64_t whole; uint8_t first; } u; };
#define LIMIT 7
enum { COLOUR = 3 };
`,
};

const point = struct('point', 'test', 16, {
  x: { type: 'u32', offset: 0 },
  y_low: { type: 'u16', offset: 4 },
  y_high: { type: 'u16', offset: 6 },
  whole: { type: 'u64', offset: 8 },
});

const available = hasProgram('gcc');
const run = available ? test : test.skip;

run(`equal declarations are found through nesting and unions${available ? '' : ': gcc is not installed'}`, () => {
  const result = compare({ point, c: constants('test', { LIMIT: 7, COLOUR: 3 }) }, vendor);
  expect(result.missing).toEqual([]);
  expect(result.different).toEqual([]);
  expect(result.equal).toHaveLength(1 + 2 * 4 + 2);
});

run('a wrong size, offset, width or value is reported with both sides', () => {
  const wrong = struct('point', 'test', 24, {
    x: { type: 'u64', offset: 0 },
    y_low: { type: 'u16', offset: 6 },
  });
  const result = compare({ wrong, c: constants('test', { LIMIT: 8 }) }, vendor);
  expect(result.different.map((d) => d.item)).toEqual(['struct point', 'sizeof point.x', 'point.y_low', 'LIMIT']);
  expect(result.different.find((d) => d.item === 'LIMIT')).toEqual({ item: 'LIMIT', ours: '0x8', theirs: '0x7' });
  expect(judge(result, {}).unexpected).toContain('LIMIT: ours 0x8, theirs 0x7');
});

run('what the header lacks is missing, not an error', () => {
  const other = struct('circle', 'test', 4, { radius: { type: 'u32', offset: 0 } });
  const result = compare({ other, point, c: constants('test', { ABSENT: 1 }) }, vendor);
  expect(result.missing).toEqual(['struct circle', 'circle.radius', 'sizeof circle.radius', 'ABSENT']);
  expect(judge(result, { 'struct circle': 'ours', ABSENT: 'ours' })).toEqual({ unexpected: [], stale: [] });
  expect(judge(result, { 'struct circle': 'ours', ABSENT: 'ours', LIMIT: 'gone' }).stale).toEqual(['LIMIT']);
});

run('headers that do not compile are an error of their own', () => {
  expect(() => compare({ point }, { preamble: '#include "no/such/header.h"' })).toThrow(/do not compile/);
});

test('field names are split at every underscore', () => {
  expect(fieldPaths('a_b_c')).toEqual(['a_b_c', 'u.a_b_c', 'a.b_c', 'a_b.c', 'a.b.c']);
  expect(fieldPaths('_rsvd')).toEqual(['_rsvd', 'u._rsvd']);
});
