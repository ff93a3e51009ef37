/** npm's install script: when it compiles, with a build script that only says that it was called. */
import { spawnSync } from 'node:child_process';
import { copyFileSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { nativeFile, packageRoot } from '../../../shim/partition/native-files';

let folder: string;
beforeEach(() => {
  folder = mkdtempSync(path.join(tmpdir(), 'xenlighten-install-'));
  mkdirSync(path.join(folder, 'scripts'));
  copyFileSync(path.join(packageRoot(), 'scripts', 'install.mjs'), path.join(folder, 'scripts', 'install.mjs'));
  writeFileSync(path.join(folder, 'scripts', 'build.mjs'), "console.log('built', process.argv.at(-1));\n");
});
afterEach(() => rmSync(folder, { recursive: true, force: true }));

function install(): { stdout: string; stderr: string } {
  const { status, stdout, stderr } = spawnSync(process.execPath, [path.join(folder, 'scripts', 'install.mjs')], {
    encoding: 'utf8',
  });
  if (status !== 0) throw new Error(stderr);
  return { stdout: stdout.trim(), stderr };
}

function ship(): string {
  const place = path.join(folder, 'prebuilds', `${process.platform}-${process.arch}`);
  mkdirSync(place, { recursive: true });
  return path.join(place, 'xenlighten_host.node');
}

test('a prebuild that loads is enough', () => {
  copyFileSync(nativeFile('Release', 'xenlighten_host.node'), ship());
  expect(install()).toEqual({ stdout: '', stderr: '' });
});

test('one that does not load is none', () => {
  writeFileSync(ship(), 'made for another C library');
  const { stdout, stderr } = install();
  expect(stdout).toBe('built --native');
  expect(stderr).toMatch(/^xenlighten: the prebuild cannot be used: /);
});

test('without a prebuild, and in a checkout, it is compiled', () => {
  expect(install().stdout).toBe('built --native');
  copyFileSync(nativeFile('Release', 'xenlighten_host.node'), ship());
  writeFileSync(path.join(folder, 'tsconfig.json'), '{}');
  expect(install()).toEqual({ stdout: 'built --native', stderr: '' });
});
