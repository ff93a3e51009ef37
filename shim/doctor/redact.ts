/**
 * Takes out of a report who and where: user name, host and domain names, and the paths that hold them.
 *
 * Quirks: names are replaced as whole words, in any case of letters, so that a user called "al" does not become part of
 * "virtual"; a name that everybody has (root, Administrator) is none. Longer texts go first, so that a path is replaced as
 * a path. What a person has put into other names (of guests, of files) is not known here.
 */
import os from 'node:os';

/** Accounts that say nothing about anybody. */
const COMMON = new Set(['root', 'administrator', 'system', 'user', 'admin', 'localhost', 'workgroup']);

/** Environment variables, and what replaces their values. */
const PLACES = [
  'USERPROFILE',
  'HOME',
  'LOCALAPPDATA',
  'APPDATA',
  'XDG_RUNTIME_DIR',
  'XDG_CACHE_HOME',
  'TMPDIR',
  'TEMP',
  'TMP',
];
const NAMES: Readonly<Record<string, string>> = {
  USERNAME: 'USER',
  USER: 'USER',
  LOGNAME: 'USER',
  COMPUTERNAME: 'HOST',
  HOSTNAME: 'HOST',
  LOGONSERVER: 'HOST',
  USERDOMAIN: 'DOMAIN',
  USERDNSDOMAIN: 'DOMAIN',
};

export interface Identity {
  readonly env: NodeJS.ProcessEnv;
  readonly userName: string;
  readonly homeDirectory: string;
  readonly hostName: string;
  readonly currentDirectory: string;
}

export function realIdentity(): Identity {
  let user = { username: '', homedir: os.homedir() };
  try {
    user = os.userInfo();
  } catch {
    // A user without an entry in the user database.
  }
  return {
    env: process.env,
    userName: user.username,
    homeDirectory: user.homedir,
    hostName: os.hostname(),
    currentDirectory: process.cwd(),
  };
}

const escaped = (text: string): string => text.replaceAll(/[.*+?^${}()|[\]\\]/g, '\\$&');

/** Makes a function that redacts a text. */
export function redactor(identity: Identity): (text: string) => string {
  const { env } = identity;
  const places = new Map<string, string>();
  const place = (path: string | undefined, name: string): void => {
    const trimmed = path?.replace(/[\\/]+$/, '') ?? '';
    if (trimmed.length > 3 && !places.has(trimmed)) places.set(trimmed, name);
  };
  for (const name of PLACES) place(env[name], `<${name}>`);
  place(identity.homeDirectory, '<HOME>');
  place(identity.currentDirectory, '<current directory>');
  const names = new Map<string, string>();
  const name = (text: string | undefined, kind: string): void => {
    for (const part of [text, text?.split('.')[0]]) {
      const trimmed = part?.replace(/^\\+/, '').trim() ?? '';
      if (trimmed !== '' && !COMMON.has(trimmed.toLowerCase()) && !names.has(trimmed)) names.set(trimmed, `<${kind}>`);
    }
  };
  for (const [variable, kind] of Object.entries(NAMES)) name(env[variable], kind);
  name(identity.userName, 'USER');
  name(identity.hostName, 'HOST');
  const longestFirst = (map: Map<string, string>): [string, string][] =>
    [...map].sort(([a], [b]) => b.length - a.length);
  const rules: [RegExp, string][] = [
    // Either kind of slash, wherever Windows takes both; and what follows must not be the rest of a longer name.
    ...longestFirst(places).map(([text, by]): [RegExp, string] => [
      new RegExp(`${escaped(text).replaceAll(/\\\\|\//g, '[\\\\/]+')}(?![\\p{L}\\p{N}_-])`, 'giu'),
      by,
    ]),
    ...longestFirst(names).map(([text, by]): [RegExp, string] => [
      new RegExp(`(?<![\\p{L}\\p{N}])${escaped(text)}(?![\\p{L}\\p{N}])`, 'giu'),
      by,
    ]),
    // Homes of others, and what a short name of a folder (C:\Users\JOHNDO~1) looks like.
    // Names of folders may have blanks: where something follows they go to its slash, else to the next blank.
    [/([\\/](?:Users|home)[\\/]+)(?!<)(?:[^\\/:,;"'\r\n]+(?=[\\/])|[^\\/\s"']+)/giu, '$1<USER>'],
    [/S-1-5-21(?:-\d+)+/g, '<SID>'],
  ];
  return (text) => rules.reduce((all, [pattern, by]) => all.replaceAll(pattern, by), text);
}

/** All texts in a value, names of fields apart. */
export function redactValue(value: unknown, redact: (text: string) => string): unknown {
  if (typeof value === 'string') return redact(value);
  if (Array.isArray(value)) return value.map((v) => redactValue(v, redact));
  if (typeof value !== 'object' || value === null) return value;
  return Object.fromEntries(Object.entries(value).map(([k, v]) => [k, redactValue(v, redact)]));
}
