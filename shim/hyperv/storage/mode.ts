/**
 * MODE SENSE(6) and (10): the same pages behind two headers. Implements SPC-4 6.11, 6.12 and 7.5.
 *
 * Nothing can be changed (there is no MODE SELECT), so the changeable values are zeros, and saved values are refused.
 */
import {
  CachingPage,
  CapabilitiesPage,
  ControlPage,
  MODE,
  ModeHeader6,
  ModeHeader10,
  ModePageHeader,
  ModeSense6Cdb,
  ModeSense10Cdb,
} from '../../../abi/scsi';
import { SENSE } from './sense';
import type { ScsiTask } from './task';

function modePage(code: number, size: number): Buffer {
  const data = Buffer.alloc(size);
  data[ModePageHeader.offsetOf('page_code')] = code;
  data[ModePageHeader.offsetOf('page_length')] = size - ModePageHeader.size;
  return data;
}

/** A write cache that a flush empties. */
export function cachingPage(): Buffer {
  const data = modePage(MODE.GPMODE_WCACHING_PAGE, CachingPage.size);
  data[CachingPage.offsetOf('flags')] = MODE.CACHING_WCE;
  return data;
}

/** Commands are done in any order; sense data has the fixed format. */
export function controlPage(): Buffer {
  const data = modePage(MODE.MODE_CONTROL_PAGE, ControlPage.size);
  data[ControlPage.offsetOf('flags3')] = MODE.CONTROL_UNRESTRICTED_REORDERING;
  return data;
}

/** What a drive for CDs and DVDs can do: read, lock its tray, eject. Speeds are those of a 32-fold CD drive. */
export function capabilitiesPage(): Buffer {
  const data = modePage(MODE.GPMODE_CAPABILITIES_PAGE, CapabilitiesPage.size);
  const at = CapabilitiesPage.offsetOf;
  data[at('read')] = MODE.CAPABILITIES_READ_CD_R | MODE.CAPABILITIES_READ_CD_RW | MODE.CAPABILITIES_READ_DVD_ROM;
  data[at('play')] = MODE.CAPABILITIES_MULTI_SESSION;
  data[at('mechanism')] = MODE.CAPABILITIES_LOCK | MODE.CAPABILITIES_EJECT | MODE.CAPABILITIES_TRAY;
  data.writeUInt16BE(32 * 176, at('maximum_speed'));
  data.writeUInt16BE(2048, at('buffer_size'));
  data.writeUInt16BE(32 * 176, at('current_speed'));
  return data;
}

/** Answers MODE SENSE from `pages`, in ascending order of their codes. */
export function modeSense(task: ScsiTask, long: boolean, pages: readonly Buffer[], deviceSpecific: number): void {
  const { cdb } = task;
  const layout = long ? ModeSense10Cdb : ModeSense6Cdb;
  const pageCode = cdb[layout.offsetOf('page_code')];
  const subpage = cdb[layout.offsetOf('subpage_code')];
  const control = pageCode & MODE.MODE_PC_MASK;
  const code = pageCode & MODE.MODE_PAGE_MASK;
  const all = code === MODE.GPMODE_ALL_PAGES;
  const wanted = pages.filter((p) => all || p[0] === code);
  const subpageKnown = subpage === 0 || (all && subpage === MODE.MODE_ALL_SUBPAGES);
  if (wanted.length === 0 || !subpageKnown) {
    task.check(SENSE.invalidField);
    return;
  }
  if (control === MODE.MODE_PC_SAVED) {
    task.check(SENSE.savingNotSupported);
    return;
  }
  const header = Buffer.alloc(long ? ModeHeader10.size : ModeHeader6.size);
  const data = Buffer.concat([header, ...wanted]);
  if (control === MODE.MODE_PC_CHANGEABLE) {
    let at = header.length;
    for (const p of wanted) {
      data.fill(0, at + ModePageHeader.size, at + p.length);
      at += p.length;
    }
  }
  if (long) {
    data.writeUInt16BE(data.length - 2, ModeHeader10.offsetOf('mode_data_length'));
    data[ModeHeader10.offsetOf('reserved1')] = deviceSpecific;
    task.reply(data, cdb.readUInt16BE(ModeSense10Cdb.offsetOf('allocation_length')));
  } else {
    data[ModeHeader6.offsetOf('mode_data_length')] = data.length - 1;
    data[ModeHeader6.offsetOf('device_specific')] = deviceSpecific;
    task.reply(data, cdb[ModeSense6Cdb.offsetOf('allocation_length')]);
  }
}
