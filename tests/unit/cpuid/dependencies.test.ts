import { dependencyNames, dependents } from '../../../shim/xen/cpuid-dependencies';
import { CPUID_POLICY } from '../../../shim/xen/cpuid-policy';

test('every name is one of a feature that can be shown', () => {
  const names = new Set(CPUID_POLICY.flatMap((row) => [...row.visible, ...row.optional].map((b) => b.name)));
  expect(dependencyNames().filter((name) => !names.has(name))).toEqual([]);
});

test('every AVX-512 feature needs AVX512F, and every YMM feature AVX', () => {
  const avx512 = CPUID_POLICY.flatMap((row) => [...row.visible, ...row.optional].map((b) => b.name)).filter((name) =>
    name.startsWith('AVX512'),
  );
  const needF = dependents('AVX512F');
  expect(avx512.filter((name) => name !== 'AVX512F' && !needF.has(name))).toEqual([]);
  const needAvx = dependents('AVX');
  expect(['AVX2', 'FMA', 'F16C', 'VAES', 'XSTATE_AVX', 'AVX512VL', 'XSTATE_OPMASK'].every((n) => needAvx.has(n))).toBe(
    true,
  );
  expect([...needAvx].every((name) => dependents('XSAVE').has(name))).toBe(true);
});

test('what nothing needs has no dependents, and nothing needs itself', () => {
  expect([...dependents('RDRAND')]).toEqual([]);
  for (const name of dependencyNames()) expect(dependents(name).has(name)).toBe(false);
});
