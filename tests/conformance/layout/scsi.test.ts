/**
 * abi/scsi against what Linux declares of the T10 standards: <scsi/scsi_proto.h> of Debian's linux-headers-*-common, and
 * <linux/cdrom.h> of linux-libc-dev.
 *
 * Quirk: Linux reads most SCSI data byte by byte and declares no structs for it; those are listed with that reason, and are
 * covered by the bytes written out in tests/unit/storage.
 */
import { existsSync, readdirSync } from 'node:fs';
import { join } from 'node:path';
import * as scsi from '../../../abi/scsi';
import { type Comparison, compare, hasProgram, judge, namesIn, type Vendor } from './vendor';

const CDROM = '/usr/include/linux/cdrom.h';
const PROTO = 'include/scsi/scsi_proto.h';

const headers = existsSync('/usr/src')
  ? readdirSync('/usr/src')
      .filter((d) => /^linux-headers-.*-common$/.test(d))
      .map((d) => join('/usr/src', d))
      .filter((d) => existsSync(join(d, PROTO)))
  : [];

const BYTES = 'Linux reads and writes these bytes by number';
const NUMBER = 'Linux writes the number where it is used';
const UNUSED = 'Linux does not use it';

function all(names: readonly string[], reason: string): Record<string, string> {
  return Object.fromEntries(names.map((n) => [n, reason]));
}

const STRUCTS_IN_LINUX = ['disc_information', 'feature_header', 'mode_page_header', 'scsi_lun'];

/** Constants of groups that Linux has in part. */
const IN_LINUX = new Set([
  ...['TYPE_DISK', 'TYPE_ROM'],
  ...['SCSI_VERSION_DESCRIPTOR_SAM5', 'SCSI_VERSION_DESCRIPTOR_SPC4', 'SCSI_VERSION_DESCRIPTOR_SBC3'],
  ...['GPMODE_WCACHING_PAGE', 'GPMODE_CAPABILITIES_PAGE', 'GPMODE_ALL_PAGES'],
  ...['CD_FRAMESIZE', 'CD_MSF_OFFSET', 'CD_FRAMES', 'CD_SECS', 'CDROM_LEADOUT'],
]);

const structs = Object.values(scsi).flatMap((v) =>
  typeof v === 'object' && 'kind' in v && v.kind === 'struct' && !STRUCTS_IN_LINUX.includes(v.name) ? [v.name] : [],
);

const ALLOWED: Readonly<Record<string, string>> = {
  ...all(
    structs.map((name) => `struct ${name}`),
    BYTES,
  ),
  'struct disc_information': 'the C compiler pads it to a multiple of 4',
  ...all(['disc_information.status', 'disc_information.validity'], 'bit-fields in Linux'),
  ...all(['sizeof disc_information.status', 'sizeof disc_information.validity'], 'bit-fields in Linux'),
  ...all(
    [
      scsi.CDB_FLAGS,
      scsi.ASC,
      scsi.INQUIRY_VALUES,
      scsi.VPD_PAGE,
      scsi.VPD_DESIGNATOR,
      scsi.VPD_VALUES,
      scsi.MODE,
      scsi.BLOCK,
      scsi.MMC,
      scsi.SENSE_RESPONSE,
    ]
      .flatMap(namesIn)
      .filter((n) => !IN_LINUX.has(n)),
    NUMBER,
  ),
  SCSI_VERSION_DESCRIPTOR_MMC6: UNUSED,
};

const absent =
  headers.length === 0
    ? 'linux-headers-*-common'
    : !existsSync(CDROM)
      ? 'linux-libc-dev'
      : !hasProgram('gcc')
        ? 'gcc'
        : undefined;

if (absent !== undefined) {
  test.skip(`abi/scsi against Linux's headers: package ${absent} is not installed`, () => {});
} else {
  describe.each(headers)('abi/scsi against %s', (dir) => {
    let result: Comparison;

    beforeAll(() => {
      const vendor: Vendor = {
        preamble: `#include <linux/types.h>\n#include "${join(dir, PROTO)}"\n#include "${CDROM}"`,
        tags: { disc_information: 'disc_information' },
      };
      result = compare(scsi, vendor);
    });

    test('everything that Linux declares has the same layout and value', () => {
      expect(judge(result, ALLOWED)).toEqual({ unexpected: [], stale: [] });
    });

    test('the comparison covered operation codes, status, sense keys and structs', () => {
      for (const group of [scsi.SCSI_OPCODE, scsi.SAM_STAT, scsi.SENSE_KEY, scsi.SCSI_SERVICE_ACTION])
        expect(result.equal).toEqual(expect.arrayContaining(namesIn(group)));
      expect(result.equal).toEqual(
        expect.arrayContaining([
          ...IN_LINUX,
          'struct mode_page_header',
          'mode_page_header.desc_length',
          'struct scsi_lun',
        ]),
      );
    });
  });
}
