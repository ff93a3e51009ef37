/** The report: nothing in it says who or where. */
import { CHECKS } from '../../../shim/doctor';
import { runChecks } from '../../../shim/doctor/check';
import { type Identity, redactor } from '../../../shim/doctor/redact';
import { makeReport } from '../../../shim/doctor/report';
import { linuxHost, windowsHost } from './fake-host';

const JANE: Identity = {
  env: {
    USERPROFILE: 'C:\\Users\\Jane',
    LOCALAPPDATA: 'C:\\Users\\Jane\\AppData\\Local',
    TEMP: 'C:\\Users\\JANEDO~1\\AppData\\Local\\Temp',
    USERNAME: 'Jane',
    COMPUTERNAME: 'ACCOUNTING3',
    USERDOMAIN: 'CONTOSO',
    USERDNSDOMAIN: 'contoso.example',
    LOGONSERVER: '\\\\DC7',
  },
  userName: 'Jane',
  homeDirectory: 'C:\\Users\\Jane',
  hostName: 'ACCOUNTING3',
  currentDirectory: 'D:\\projects\\secret',
};

test.each([
  ['C:\\Users\\Jane\\AppData\\Local\\xenlighten\\cache', '<LOCALAPPDATA>\\xenlighten\\cache'],
  ['c:/users/jane/x', '<USERPROFILE>/x'],
  ['C:\\\\Users\\\\Jane\\\\x', '<USERPROFILE>\\\\x'],
  ['C:\\Users\\JANEDO~1\\AppData\\Local\\Temp\\a', '<TEMP>\\a'],
  ['C:\\Users\\Janet\\x', 'C:\\Users\\<USER>\\x'],
  ['/home/bob/x', '/home/<USER>/x'],
  ['cannot load D:\\Users\\Mary Ann Roe\\x.node: no', 'cannot load D:\\Users\\<USER>\\x.node: no'],
  ['C:\\Users\\roe is not C:\\Windows', 'C:\\Users\\<USER> is not C:\\Windows'],
  ['contoso\\jane on accounting3.contoso.example (DC7)', '<DOMAIN>\\<USER> on <HOST>.<DOMAIN> (<HOST>)'],
  ['D:\\projects\\secret\\guest.cfg', '<current directory>\\guest.cfg'],
  ['janes are not jane', 'janes are not <USER>'],
  ['S-1-5-21-12-34-56-1001', '<SID>'],
  ['a virtual machine', 'a virtual machine'],
])('%s', (text, wanted) => {
  expect(redactor(JANE)(text)).toBe(wanted);
});

test('names that everybody has stay, and an empty one replaces nothing', () => {
  const root: Identity = {
    env: {},
    userName: 'root',
    homeDirectory: '/root',
    hostName: '',
    currentDirectory: '/',
  };
  expect(redactor(root)('root was here: /root/x and /')).toBe('root was here: <HOME>/x and /');
});

test('a report of Windows', async () => {
  const host = windowsHost({
    useAddon: () => {
      throw new Error('cannot load C:\\Users\\Jane\\x.node, said ACCOUNTING3');
    },
  });
  const report = await makeReport(host, await runChecks(CHECKS, host), JANE);
  expect(report).toMatchObject({
    format: 'xenlighten-doctor',
    formatVersion: 1,
    healthy: false,
    host: { platform: 'win32', release: '10.0.20348', vendor: 'AuthenticAMD', node: '20.20.2' },
  });
  expect(JSON.stringify(report)).not.toMatch(/jane|accounting3|contoso/i);
  expect(JSON.stringify(report)).toMatch(/cannot load <USERPROFILE>\\\\x\.node, said <HOST>/);
});

test('a report of Linux names the vendor, and variables of xenlighten only', async () => {
  const host = linuxHost({
    env: { XENLIGHTEN_LOG: 'debug', SECRET: 'x' },
    read: async (file) => {
      if (file === '/proc/cpuinfo') return 'processor\t: 0\nvendor_id\t: GenuineIntel\n';
      throw new Error('ENOENT');
    },
  });
  const report = await makeReport(host, [], JANE);
  expect(report).toMatchObject({
    host: { vendor: 'GenuineIntel' },
    variables: { XENLIGHTEN_LOG: 'debug' },
    healthy: true,
  });
  expect(JSON.stringify(report)).not.toMatch(/SECRET/);
});
