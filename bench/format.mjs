/* Medians, means, and how numbers and tables look in BENCHMARKS.md. */

export function median(values) {
  const sorted = [...values].sort((a, b) => a - b);
  const middle = sorted.length >> 1;
  if (sorted.length === 0) return undefined;
  return sorted.length % 2 === 1 ? sorted[middle] : (sorted[middle - 1] + sorted[middle]) / 2;
}

export function geometricMean(values) {
  return values.length === 0 ? undefined : Math.exp(values.reduce((sum, v) => sum + Math.log(v), 0) / values.length);
}

/** Metrics that are not operations of the kernel, and are left out of means. */
const NOT_AN_OPERATION = new Set(['alu_loop', 'clock_gettime', 'nanosleep_100us']);
export const isOperation = (name) => !NOT_AN_OPERATION.has(name) && !/hypercall/.test(name);

export function number(v) {
  if (v === undefined) return '-';
  if (v >= 100_000) return `${Math.round(v / 1000)}k`;
  return v >= 100 ? v.toFixed(0) : v >= 10 ? v.toFixed(1) : v.toFixed(2);
}

export function ratio(a, b) {
  return a === undefined || b === undefined || b === 0 ? undefined : a / b;
}

export function table(header, rows) {
  const align = header.map((_, i) => (i === 0 ? '---' : '---:'));
  return [header, align, ...rows].map((cells) => `| ${cells.join(' | ')} |`).join('\n');
}

export const times = (v) => (v === undefined ? '-' : `${v.toFixed(2)}x`);
