/*
 * Where this host gets Debian packages from, as apt itself understands its sources: lines for the sources.list of a new
 * system, and the options by which apt reaches the archive (a proxy). Sources of others are left out.
 */
import { existsSync } from 'node:fs';
import { updateIndex } from '../ensure.mjs';
import { fail, run } from '../progress.mjs';

const KEYRING = '/usr/share/keyrings/debian-archive-keyring.gpg';

/** Options of apt that concern the way to the archive; apt-config prints them as it reads them. */
const WAY = /^Acquire::(?:https?(?:::|\s)|Retries|Check-Valid-Until|Check-Date|ForceIPv4|ForceIPv6)/;

/** The lines of indextargets' answer: { uri, release, component, codename }, Debian's own for this architecture. */
export function parseTargets(text) {
  const targets = [];
  for (const line of text.split('\n')) {
    const [origin, architecture, codename, uri, release, component] = line.split('|');
    if (origin === 'Debian' && architecture === 'amd64') targets.push({ codename, uri, release, component });
  }
  return targets;
}

function targets() {
  const format = '$(ORIGIN)|$(ARCHITECTURE)|$(CODENAME)|$(REPO_URI)|$(RELEASE)|$(COMPONENT)';
  const asked = ['indextargets', '--format', format, 'Identifier: Packages'];
  return parseTargets(run('apt-get', asked, { capture: true, allowFailure: true }).stdout ?? '');
}

/** sources.list lines of targets. */
export function sourceLines(targets, keyring) {
  const options = keyring === undefined ? '' : `[signed-by=${keyring}] `;
  return [...new Set(targets.map((t) => `deb ${options}${t.uri} ${t.release} ${t.component}`))];
}

/** The release that targets belong to: updates and security are named after it. */
export function releaseOf(targets) {
  return targets.map((t) => t.codename).find((name) => /^[a-z]+$/.test(name));
}

/** { suite, lines, options }. Fails when apt knows no Debian archive. */
export async function debianSources() {
  let found = targets();
  if (releaseOf(found) === undefined) {
    await updateIndex();
    found = targets();
  }
  const suite = releaseOf(found);
  if (suite === undefined) {
    fail('apt has no package sources of Debian: a Debian image needs them (see sources.list(5)), and a network');
  }
  const dump = run('apt-config', ['dump'], { capture: true, allowFailure: true }).stdout ?? '';
  const options = dump.split('\n').filter((line) => WAY.test(line));
  return { suite, lines: sourceLines(found, existsSync(KEYRING) ? KEYRING : undefined), options };
}
