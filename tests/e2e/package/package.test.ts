/**
 * The package that `npm pack` makes: installed into an empty folder without compiler and Python, its commands run there.
 * Under Wine: `npm run test:windows -- package`.
 */
import { spawnSync } from 'node:child_process';
import {
  accessSync,
  constants,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { packageRoot } from '../../../shim/partition/native-files';

const MINUTES = 60_000;
const TOOLS = ['node', 'npm', 'npx', 'sh', 'env'];
/** What would be needed to compile. */
const COMPILERS = ['gcc', 'cc', 'g++', 'make', 'python3', 'node-gyp'];

const work = mkdtempSync(path.join(tmpdir(), 'xenlighten-package-'));
const bin = path.join(work, 'bin');
const app = path.join(work, 'app');
afterAll(() => rmSync(work, { recursive: true, force: true }));

function find(program: string): string | undefined {
  for (const folder of (process.env['PATH'] ?? '').split(path.delimiter)) {
    const file = path.join(folder, program);
    try {
      accessSync(file, constants.X_OK);
      return file;
    } catch {
      // The next one.
    }
  }
  return undefined;
}

function run(command: readonly string[], options: { cwd: string; env?: NodeJS.ProcessEnv }) {
  const [program = '', ...args] = command;
  return spawnSync(program, args, { encoding: 'utf8', timeout: 3 * MINUTES, maxBuffer: 1 << 26, ...options });
}

const npm = find('npm');
const absent = process.platform !== 'linux' || process.arch !== 'x64' ? 'x86-64 Linux host' : npm ? undefined : 'npm';

if (absent !== undefined) {
  test.skip(`the package: there is no ${absent} here`, () => undefined);
} else {
  describe('the package', () => {
    /** As a user's, with nothing to compile with. */
    const environment = (): NodeJS.ProcessEnv => {
      const { HOME, npm_config_cache, npm_config_registry, XDG_CACHE_HOME } = process.env;
      const registry = run([npm ?? 'npm', 'config', 'get', 'registry'], { cwd: packageRoot() }).stdout.trim();
      return {
        PATH: bin,
        HOME,
        XDG_CACHE_HOME,
        npm_config_cache,
        npm_config_registry: npm_config_registry ?? registry,
      };
    };
    const cli = (...args: string[]) =>
      run([path.join(bin, 'npx'), 'xenlighten', ...args], { cwd: app, env: environment() });

    beforeAll(() => {
      for (const folder of [bin, app]) mkdirSync(folder, { recursive: true });
      for (const tool of TOOLS) {
        const file = find(tool);
        if (file !== undefined) symlinkSync(file, path.join(bin, tool));
      }
    });

    test(
      'installs into an empty folder without a compiler',
      () => {
        const before = readFileSync(path.join(packageRoot(), 'package.json'), 'utf8');
        const packed = run([npm ?? 'npm', 'pack', '--pack-destination', work], { cwd: packageRoot() });
        if (packed.status !== 0) throw new Error(packed.stderr);
        expect(readFileSync(path.join(packageRoot(), 'package.json'), 'utf8')).toBe(before);
        const tarball = packed.stdout.trim().split('\n').at(-1) ?? '';
        writeFileSync(path.join(app, 'package.json'), '{"name":"app","version":"1.0.0","private":true}\n');
        const install = [path.join(bin, 'npm'), 'install', path.join(work, tarball), '--no-audit', '--no-fund'];
        const { status, stdout, stderr } = run(install, { cwd: app, env: environment() });
        if (status !== 0) throw new Error(`${stdout}${stderr}`);
        const seen = COMPILERS.filter(
          (name) => run(['/bin/sh', '-c', `command -v ${name}`], { cwd: app, env: { PATH: bin } }).status === 0,
        );
        expect(seen).toEqual([]);
        // What is written for a project alone is not in it.
        const manifest = readFileSync(path.join(app, 'node_modules', 'xenlighten', 'package.json'), 'utf8');
        expect(manifest).not.toMatch(/overrides|file:/);
      },
      4 * MINUTES,
    );

    test(
      'inspect says what a kernel is',
      () => {
        const kernel = path.join(packageRoot(), 'tests', 'fixtures', 'builder', 'tiny.gzip');
        const { status, stdout, stderr } = cli('inspect', kernel);
        expect({ status, stderr: stderr.replace(/^npm .*\n/gm, '') }).toEqual({ status: 0, stderr: '' });
        expect(stdout).toMatch(/boots: yes/);
      },
      MINUTES,
    );

    test(
      'image makes, describes and checks a disk',
      () => {
        expect(cli('image', 'create', 'd.vhd', '--size', '64M').status).toBe(0);
        expect(cli('image', 'info', 'd.vhd').stdout).toMatch(/format: +vhd, dynamic/);
        expect(cli('image', 'check', 'd.vhd').status).toBe(0);
      },
      MINUTES,
    );

    test(
      'doctor finds the addon and the trap module',
      () => {
        const { status, stdout } = cli('doctor');
        expect(stdout).toMatch(/^ok +Native addon/m);
        expect(stdout).toMatch(/^ok +Trap module/m);
        // No QEMU is in that PATH: whether an engine is left is the host's business.
        expect([0, 2]).toContain(status);
      },
      MINUTES,
    );
  });
}
