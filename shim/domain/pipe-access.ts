/**
 * Who may connect to a control pipe of Windows: nobody but whom its access list gives all of it.
 *
 * Windows makes pipes that everybody, over the network too, may connect to for reading, and Node.js can only widen that.
 * So the entries of Everyone and of anonymous users are taken out of the list once the pipe is there; what is left is what
 * Windows gave its owner, LocalSystem and administrators. Implements Windows' security descriptors, in their text form
 * (learn.microsoft.com, "Security Descriptor String Format"), by calls of advapi32.dll and kernel32.dll through ffi-napi.
 *
 * Quirks: between the making of the pipe and this call, others could connect to a name that they cannot guess. To change the
 * list a handle is needed, which is had by connecting: the server sees a client that says nothing and goes. Entries of
 * NETWORK are not added to keep remote clients out: who came by ssh or PowerShell remoting would be one. ffi-napi must not
 * return pointers; strings are copied by lstrcpynW.
 */
import path from 'node:path';

const SE_KERNEL_OBJECT = 6;
const DACL_SECURITY_INFORMATION = 4;
const SDDL_REVISION_1 = 1;
const READ_CONTROL = 0x20000;
const WRITE_DAC = 0x40000;
const OPEN_EXISTING = 3;
/** UTF-16 units; a pipe's list has four entries. */
const MOST_SDDL = 8192;

/** Everyone and anonymous users, in both ways to write them. */
const OTHERS: ReadonlySet<string> = new Set(['WD', 'S-1-1-0', 'AN', 'S-1-5-7']);

/** What Windows gives a pipe by default, without the others: LocalSystem, administrators, the owner. */
const OWNERS = 'D:(A;;FA;;;SY)(A;;FA;;;BA)(A;;FA;;;OW)';

/** Does an access list let others in? */
export function letsOthersIn(sddl: string): boolean {
  return narrowed(sddl) !== sddl;
}

/** An access list without the entries that let everybody in; undefined if it is none that is understood. */
export function narrowed(sddl: string): string | undefined {
  // No list at all, which lets everybody do everything; Wine's pipes are so.
  if (sddl === '' || sddl === 'D:NO_ACCESS_CONTROL') return OWNERS;
  const parts = /^D:([A-Z]*)((?:\([^()]*\))*)$/.exec(sddl);
  if (parts === null) return undefined;
  const entries = (parts[2]?.match(/\([^()]*\)/g) ?? []).filter((entry) => {
    const fields = entry.slice(1, -1).split(';');
    // Type, flags, rights, two GUIDs, whom. Only what allows is taken away.
    return !(fields[0] === 'A' && OTHERS.has(fields[5] ?? ''));
  });
  // Without entries nobody may do anything, us included.
  return entries.length === 0 ? undefined : `D:${parts[1]}${entries.join('')}`;
}

type Foreign = Record<string, (...args: (number | Buffer)[]) => number>;

const KERNEL32: Readonly<Record<string, readonly [string, readonly string[]]>> = {
  CreateFileW: ['int64', ['pointer', 'uint32', 'uint32', 'uint64', 'uint32', 'uint32', 'uint64']],
  CloseHandle: ['int32', ['int64']],
  LocalFree: ['uint64', ['uint64']],
  lstrcpynW: ['uint64', ['pointer', 'uint64', 'int32']],
};
const ADVAPI32: Readonly<Record<string, readonly [string, readonly string[]]>> = {
  GetSecurityInfo: ['uint32', ['int64', 'uint32', 'uint32', 'uint64', 'uint64', 'uint64', 'uint64', 'pointer']],
  ConvertSecurityDescriptorToStringSecurityDescriptorW: ['int32', ['uint64', 'uint32', 'uint32', 'pointer', 'pointer']],
  ConvertStringSecurityDescriptorToSecurityDescriptorW: ['int32', ['pointer', 'uint32', 'pointer', 'pointer']],
  SetKernelObjectSecurity: ['int32', ['int64', 'uint32', 'uint64']],
};

let loaded: Foreign | undefined;

function windows(): Foreign {
  if (loaded !== undefined) return loaded;
  const ffi = require('ffi-napi') as typeof import('ffi-napi');
  const folder = path.win32.join(process.env['SystemRoot'] ?? 'C:\\Windows', 'System32');
  const library = (name: string, functions: typeof KERNEL32): object =>
    ffi.Library(path.win32.join(folder, name), functions as never);
  loaded = { ...library('kernel32.dll', KERNEL32), ...library('advapi32.dll', ADVAPI32) } as Foreign;
  return loaded;
}

function call(name: string, ...args: (number | Buffer)[]): number {
  const result = windows()[name]?.(...args);
  if (result === undefined) throw new Error(`${name} is missing`);
  return Number(result);
}

const wide = (text: string): Buffer => Buffer.from(`${text}\0`, 'utf16le');

/** Calls `body` with an address that a function has left in a buffer, and frees it. */
function withAddress<T>(out: Buffer, body: (address: number) => T): T {
  const address = Number(out.readBigUInt64LE());
  try {
    return body(address);
  } finally {
    call('LocalFree', address);
  }
}

function readAccess(pipe: number): string {
  const descriptor = Buffer.alloc(8);
  const status = call('GetSecurityInfo', pipe, SE_KERNEL_OBJECT, DACL_SECURITY_INFORMATION, 0, 0, 0, 0, descriptor);
  if (status !== 0) throw new Error(`its access list cannot be read: Windows error ${status}`);
  return withAddress(descriptor, (address) => {
    const [string, length] = [Buffer.alloc(8), Buffer.alloc(4)];
    const name = 'ConvertSecurityDescriptorToStringSecurityDescriptorW';
    if (call(name, address, SDDL_REVISION_1, DACL_SECURITY_INFORMATION, string, length) === 0)
      throw new Error('its access list cannot be read as text');
    return withAddress(string, (at) => {
      const units = Math.min(length.readUInt32LE(), MOST_SDDL);
      const copy = Buffer.alloc((units + 1) * 2);
      call('lstrcpynW', copy, at, units + 1);
      return copy.toString('utf16le').replace(/\0.*$/s, '');
    });
  });
}

function writeAccess(pipe: number, sddl: string): void {
  const descriptor = Buffer.alloc(8);
  const name = 'ConvertStringSecurityDescriptorToSecurityDescriptorW';
  if (call(name, wide(sddl), SDDL_REVISION_1, descriptor, Buffer.alloc(4)) === 0)
    throw new Error(`Windows does not understand the access list ${sddl}`);
  withAddress(descriptor, (address) => {
    if (call('SetKernelObjectSecurity', pipe, DACL_SECURITY_INFORMATION, address) === 0)
      throw new Error('Windows refuses to change its access list');
  });
}

function withPipe<T>(pipe: string, body: (handle: number) => T): T {
  const handle = call('CreateFileW', wide(pipe), READ_CONTROL + WRITE_DAC, 0, 0, OPEN_EXISTING, 0, 0);
  if (handle === -1) throw new Error('it cannot be opened to change its access list');
  try {
    return body(handle);
  } finally {
    call('CloseHandle', handle);
  }
}

/** Gives a pipe that this process serves another access list, in SDDL. Returns what Windows has made of it. Only on Windows. */
export function setPipeAccess(pipe: string, sddl: string): string {
  return withPipe(pipe, (handle) => {
    writeAccess(handle, sddl);
    return readAccess(handle);
  });
}

/**
 * Takes Everyone and anonymous users out of the access list of a pipe that this process serves. Returns the list as it is
 * then, in SDDL. Error: why it could not be done; the list is then as it was. Only on Windows.
 */
export function narrowPipeAccess(pipe: string): string {
  return withPipe(pipe, (handle) => {
    const before = readAccess(handle);
    const wanted = narrowed(before);
    if (wanted === undefined) throw new Error(`its access list is not understood: ${JSON.stringify(before)}`);
    if (wanted !== before) writeAccess(handle, wanted);
    return readAccess(handle);
  });
}
