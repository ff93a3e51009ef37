/** Names and numbers of virtual disks, against xen-vbd-interface(7). */
import { parseVdev, xvdName } from '../../../shim/domain/disks/vdev';

test.each([
  ['xvda', 0xca00],
  ['xvda1', 0xca01],
  ['xvda15', 0xca0f],
  ['xvdb', 0xca10],
  ['xvdp', 0xcaf0],
  ['xvdp15', 0xcaff],
  // Beyond 16 disks or 16 partitions: the extended numbers.
  ['xvdq', 0x1000_1000],
  ['xvda16', 0x1000_0010],
  ['xvdz255', 0x1000_19ff],
  ['xvdaa', 0x1000_1a00],
  ['hda', 0x300],
  ['hda1', 0x301],
  ['hdb', 0x340],
  ['hdc', 0x1600],
  ['hdd63', 0x167f],
  ['sda', 0x800],
  ['sdp15', 0x8ff],
  ['d0', 0xca00],
  ['d0p1', 0xca01],
  ['d16', 0x1000_1000],
])('%s is 0x%s', (name, id) => {
  expect(parseVdev(name)).toEqual({ name, id });
});

test.each([
  '',
  'xvd',
  'xvda0',
  'xvda01',
  'xvda256',
  'hde',
  'hda64',
  'sdq',
  'sda16',
  'vda',
  'XVDA',
  'xvda1p2',
  'd',
  '/dev/xvda',
  'd1048576',
  'xvdzzzzz',
])('%j is no virtual disk', (name) => {
  expect(parseVdev(name)).toBeUndefined();
});

test('names are numbered like letters in a spreadsheet', () => {
  expect([0, 1, 25, 26, 27, 701, 702].map(xvdName)).toEqual([
    'xvda',
    'xvdb',
    'xvdz',
    'xvdaa',
    'xvdab',
    'xvdzz',
    'xvdaaa',
  ]);
  for (let disk = 0; disk < 1000; disk++) expect(parseVdev(xvdName(disk))).toBeDefined();
});
