'use strict';
/* Suites: unit is fast and needs no other program; conformance compiles against vendors' headers; e2e and fuzz run QEMU. */
const base = {
  rootDir: __dirname,
  testEnvironment: 'node',
  // TypeScript's node16 resolution wants import() to name the compiled file; the tests run the sources.
  moduleNameMapper: { '^(\\.{1,2}/.+)\\.js$': '$1' },
  transform: { '^.+\\.[jt]s$': '@swc/jest' },
  modulePathIgnorePatterns: ['<rootDir>/dist', '<rootDir>/build'],
};

module.exports = {
  maxWorkers: 2,
  testTimeout: 120_000,
  projects: ['unit', 'conformance', 'e2e', 'fuzz'].map((name) => ({
    ...base,
    displayName: name,
    testMatch: [`<rootDir>/tests/${name}/**/*.test.ts`],
  })),
};
