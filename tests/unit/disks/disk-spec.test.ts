/** Disks in xl's words, against xl-disk-configuration(5). */
import { checkDistinct, type DiskSpec, parseDiskSpec } from '../../../shim/domain/disks/disk-spec';
import { UsageError } from '../../../shim/errors';

const parse = (text: string) => parseDiskSpec(text, 'guest.cfg:3');
const parsed = (text: string) => {
  const { path, vdev, format, readOnly, cdrom, discard } = parse(text).disk;
  return { path, vdev: vdev.name, format, readOnly, cdrom, discard };
};
const disk = (over: Partial<ReturnType<typeof parsed>> = {}) => ({
  path: '/a.img',
  vdev: 'xvda',
  format: 'raw',
  readOnly: false,
  cdrom: false,
  discard: undefined,
  ...over,
});

test.each<[string, Partial<ReturnType<typeof parsed>>]>([
  ['/a.img,raw,xvda,w', {}],
  ['/a.img,raw,xvda,rw', {}],
  ['/a.img,raw,xvda', {}],
  ['/a.img,,xvda', {}],
  [' /a.img , raw , xvda , w ', {}],
  ['/a.vhd,vhd,xvda,w', { path: '/a.vhd', format: 'vhd' }],
  ['/a.img,raw,xvda,r', { readOnly: true }],
  ['/a.img,raw,xvda,ro', { readOnly: true }],
  ['/a.iso,raw,hdc,cdrom', { path: '/a.iso', vdev: 'hdc', cdrom: true, readOnly: true }],
  ['/a.iso,,hdc,devtype=cdrom', { path: '/a.iso', vdev: 'hdc', cdrom: true, readOnly: true }],
  [',,hdc,cdrom', { path: undefined, vdev: 'hdc', cdrom: true, readOnly: true }],
  ['vdev=xvda,access=rw,target=/a.img', {}],
  [
    'format=vhd, vdev=xvda, access=r, target=/with,a comma=.vhd',
    { path: '/with,a comma=.vhd', format: 'vhd', readOnly: true },
  ],
  ['/a.img,raw,xvda,discard', { discard: true }],
  ['/a.img,raw,xvda,w,no-discard', { discard: false }],
  ['/a.img,vdev=xvda', {}],
  // Old forms: behind a prefix, the format is no positional parameter.
  ['file:/a.img,xvda,w', {}],
  ['phy:/dev/vg/a,xvda,w', { path: '/dev/vg/a' }],
  ['phy:/dev/vg/a,xvda1,r', { path: '/dev/vg/a', vdev: 'xvda1', readOnly: true }],
  ['tap:aio:/a.img,xvda,w', {}],
  ['tap2:vhd:/a.vhd,xvda,w', { path: '/a.vhd', format: 'vhd' }],
  ['file:/a.iso,hdc:cdrom,r', { path: '/a.iso', vdev: 'hdc', cdrom: true, readOnly: true }],
  ['/a.img,raw,d0p1,w', { vdev: 'd0p1' }],
  ['C:\\disks\\a.img,raw,xvda,w', { path: 'C:\\disks\\a.img' }],
  ['d:/disks/a b.vhd,vhd,xvda,w', { path: 'd:/disks/a b.vhd', format: 'vhd' }],
  ['file:C:\\disks\\a.img,xvda,w', { path: 'C:\\disks\\a.img', format: 'raw' }],
  ['vhd:c:\\disks\\a.vhd,xvda,w', { path: 'c:\\disks\\a.vhd', format: 'vhd' }],
  ['\\\\server\\share\\a.vhd,vhd,xvda,w', { path: '\\\\server\\share\\a.vhd', format: 'vhd' }],
  ['phy:\\\\.\\PhysicalDrive1,xvdb,w', { path: '\\\\.\\PhysicalDrive1', vdev: 'xvdb' }],
  ['format=vhd, vdev=xvda, target=C:\\a,b\\c.vhd', { path: 'C:\\a,b\\c.vhd', format: 'vhd' }],
])('%s', (text, over) => {
  expect(parsed(text)).toEqual(disk(over));
});

test('words of our own', () => {
  expect(parse('/a.img,raw,xvda,w').disk).toMatchObject({ persistentGrants: false, sectorSize: 512 });
  const { disk: ours } = parse('/a.img,raw,xvda,w,persistent-grants,sector-size=4096');
  expect(ours).toMatchObject({ persistentGrants: true, sectorSize: 4096 });
  expect(() => parse('/a.img,raw,xvda,w,sector-size=1024')).toThrow(
    'unusable sector size: found "1024", wanted 512 or 4096',
  );
  expect(() => parse('/a.vhd,vhd,xvda,w,sector-size=4096')).toThrow('found 4096 for a VHD');
});

test('what only tunes a Xen host is a warning', () => {
  const { warnings } = parse('/a.img,raw,xvda,w,direct-io-safe,backendtype=phy');
  expect(warnings).toEqual(['direct-io-safe has no effect here', 'backendtype has no effect here']);
  expect(parse('/a.iso,raw,hdc,w,cdrom').warnings).toEqual(['a CD-ROM cannot be written to: it is read-only']);
});

test.each([
  ['', 'guest.cfg:3: a disk without vdev: found "", wanted FILE,raw,xvda,w'],
  ['/a.img', 'guest.cfg:3: a disk without vdev: found "/a.img", wanted FILE,raw,xvda,w'],
  [',raw,xvda,w', 'guest.cfg:3: a disk without a file: found ",raw,xvda,w", wanted FILE,raw,xvda,w'],
  ['/a.img,raw,vda', 'guest.cfg:3: unknown vdev: found "vda", wanted a name such as xvda, xvdb1, hda or sda'],
  ['/a.img,raww,xvda', 'guest.cfg:3: unknown disk format: found "raww", wanted "raw" or "vhd"'],
  ['/a.img,raw,xvda,q', 'guest.cfg:3: unknown access to a disk: found "q", wanted "r" or "w"'],
  ['/a.img,raw,xvda,w,x', 'guest.cfg:3: too many words in a disk: found "x", wanted target, format, vdev, access'],
  ['/a.img,raw,xvda,format=vhd', 'guest.cfg:3: format given twice: found "/a.img,raw,xvda,format=vhd", wanted it once'],
  [
    '/a.img,raw,xvda,colour=red',
    'guest.cfg:3: unknown word in a disk: found "colour=red", wanted target, format, vdev, access, devtype or discard',
  ],
  ['/a.img,raw,xvda,devtype=tape', 'guest.cfg:3: unknown devtype: found "tape", wanted "disk" or "cdrom"'],
  [
    '/a.img,raw,xvda,backend=3',
    'guest.cfg:3: unsupported disk: found backend=3, wanted no driver domains: leave it out',
  ],
  [
    '/a.img,raw,xvda,script=block-x',
    'guest.cfg:3: unsupported disk: found script=block-x, wanted a file or a block device: there are no block scripts here',
  ],
  [
    'iscsi:iqn.x,xvda,w',
    'guest.cfg:3: unsupported disk: found iscsi:, wanted a file or a block device: there are no block scripts here',
  ],
  ['http://x/a.img,raw,xvda,w', 'guest.cfg:3: unknown disk: found http:, wanted a path'],
])('%s is refused', (text, message) => {
  expect(() => parse(text)).toThrow(new UsageError('', { found: '', wanted: '' }).constructor as typeof UsageError);
  expect(() => parse(text)).toThrow(message);
});

test.each(['/a.qcow2,qcow2,xvda,w', 'qcow2:/a.qcow2,xvda,w', 'tap:qcow:/a.qcow,xvda,w', '/a.img,vmdk,xvda'])(
  '%s: the command that converts it is named',
  (text) => {
    expect(() => parse(text)).toThrow(
      "wanted a raw image or a VHD ('qemu-img convert -O vpc IMAGE IMAGE.vhd' makes one)",
    );
  },
);

test('a number may not be given twice, under whatever name', () => {
  const disks = (...texts: string[]): DiskSpec[] => texts.map((text) => parse(text).disk);
  expect(() => checkDistinct(disks('/a,raw,xvda,w', '/b,raw,xvdb,w'), 'guest.cfg')).not.toThrow();
  expect(() => checkDistinct(disks('/a,raw,xvda,w', '/b,raw,xvda,w'), 'guest.cfg')).toThrow('found xvda twice');
  expect(() => checkDistinct(disks('/a,raw,xvda,w', '/b,raw,d0,w'), 'guest.cfg')).toThrow('found xvda and d0');
});
