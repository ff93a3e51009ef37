import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Elf64Ehdr, Elf64Shdr, Elf64Sym, parseElf } from '../../../shim/xen/builder/elf';
import { readKallsyms } from '../../../shim/xen/builder/kallsyms';
import {
  elfSymbols,
  kernelSymbols,
  parseSystemMap,
  SymbolTable,
  systemMapCandidates,
} from '../../../shim/xen/builder/symbols';
import { makeElf, tinyLinux, u32, u64, viewOf } from './images';

const MAP_LINES = Array.from(
  { length: 20 },
  (_, i) => `ffffffff8100${(i * 16).toString(16).padStart(4, '0')} t fn${i}`,
);

test('System.map', () => {
  const map = [...MAP_LINES, '0000000000000000 A __per_cpu_start', 'ffffffff81000200 T last [mod]', 'rubbish'].join(
    '\n',
  );
  const symbols = parseSystemMap(map);
  expect(symbols).toHaveLength(21);
  expect(symbols?.[20]).toEqual({ address: 0xffffffff81000200n, name: 'last' });
});

test('Debian’s stub is no System.map', () => {
  expect(
    parseSystemMap('ffffffffffffffff B The real System.map is in the linux-image-<version>-dbg package\n'),
  ).toBeUndefined();
  expect(parseSystemMap('')).toBeUndefined();
});

test('lookup', () => {
  const table = new SymbolTable(
    [
      { address: 0x2000n, name: 'b' },
      { address: 0x1000n, name: 'a' },
      { address: 0x2000n, name: 'b_alias' },
    ],
    'test',
  );
  expect(table.lookup(0xfffn)).toBeUndefined();
  expect(table.lookup(0x1000n)).toEqual({ name: 'a', offset: 0 });
  expect(table.format(0x1fffn)).toBe('a+0xfff');
  expect(table.format(0x2000n)).toBe('b');
  expect(table.format(0x102000n)).toBe('b+0x100000');
  expect(table.format(0x102001n)).toBeUndefined();
  expect(new SymbolTable([], 'none').format(5n)).toBeUndefined();
});

test('where a System.map is looked for', () => {
  expect(systemMapCandidates('/boot/vmlinuz-6.1.0-50-amd64')).toEqual([join('/boot', 'System.map-6.1.0-50-amd64')]);
  expect(systemMapCandidates('/src/vmlinux')).toEqual([join('/src', 'System.map')]);
});

/** tinyLinux with a symbol table behind it. */
function withSymtab(symbols: readonly [string, bigint, number][]): Buffer {
  const image = tinyLinux();
  const names = Buffer.from(`\0${symbols.map(([name]) => `${name}\0`).join('')}`, 'latin1');
  const table = Buffer.alloc(Elf64Sym.size * (symbols.length + 1));
  let at = 1;
  symbols.forEach(([name, value, type], i) => {
    const base = Elf64Sym.size * (i + 1);
    Elf64Sym.set.st_name(viewOf(table), base, at);
    Elf64Sym.set.st_info(viewOf(table), base, type);
    Elf64Sym.set.st_shndx(viewOf(table), base, 1);
    Elf64Sym.set.st_value(viewOf(table), base, value);
    at += name.length + 1;
  });
  const sections = Buffer.alloc(Elf64Shdr.size * 3);
  const section = (i: number, type: number, offset: number, size: number, link: number): void => {
    Elf64Shdr.set.sh_type(viewOf(sections), i * Elf64Shdr.size, type);
    Elf64Shdr.set.sh_offset(viewOf(sections), i * Elf64Shdr.size, BigInt(offset));
    Elf64Shdr.set.sh_size(viewOf(sections), i * Elf64Shdr.size, BigInt(size));
    Elf64Shdr.set.sh_link(viewOf(sections), i * Elf64Shdr.size, link);
  };
  section(1, 2, image.length, table.length, 2);
  section(2, 3, image.length + table.length, names.length, 0);
  Elf64Ehdr.set.e_shoff(viewOf(image), 0, BigInt(image.length + table.length + names.length));
  Elf64Ehdr.set.e_shentsize(viewOf(image), 0, Elf64Shdr.size);
  Elf64Ehdr.set.e_shnum(viewOf(image), 0, 3);
  return Buffer.concat([image, table, names, sections]);
}

const SYMBOLS: readonly [string, bigint, number][] = [
  ['startup_xen', 0xffffffff81000040n, 0x12],
  ['file.c', 0n, 4],
  ['.text', 0xffffffff81000000n, 3],
  ['some_data', 0xffffffff81008000n, 0x11],
];

test('an ELF symbol table', () => {
  expect(elfSymbols(parseElf('k', withSymtab(SYMBOLS)))).toEqual([
    { address: 0xffffffff81000040n, name: 'startup_xen' },
    { address: 0xffffffff81008000n, name: 'some_data' },
  ]);
  expect(elfSymbols(parseElf('k', tinyLinux()))).toBeUndefined();
});

interface Kallsyms {
  readonly image: Buffer;
  readonly count: number;
}

/** The tables as Linux's scripts/kallsyms lays them out, with `sym_N` at 16-byte distances and one per-CPU symbol. */
function kallsymsImage(order: 'old' | 'old with sequence' | 'new', percpu: boolean): Kallsyms {
  const align = (b: Buffer): Buffer => Buffer.concat([b, Buffer.alloc((8 - (b.length % 8)) % 8)]);
  const base = 0xffffffff81000000n;
  const count = 1500;
  // Token c stands for the character c, except 200, which stands for "sym_".
  const tokens = Array.from({ length: 256 }, (_, i) => (i === 200 ? 'sym_' : String.fromCharCode(Math.max(i, 33))));
  const tokenTable = Buffer.concat(tokens.map((t) => Buffer.from(`${t}\0`, 'latin1')));
  const index = Buffer.alloc(512);
  let at = 0;
  tokens.forEach((t, i) => {
    index.writeUInt16LE(at, 2 * i);
    at += t.length + 1;
  });
  const markers: Buffer[] = [];
  const names: Buffer[] = [];
  let length = 0;
  for (let i = 0; i < count; i++) {
    if (i % 256 === 0) markers.push(u32(length));
    const body = [...Buffer.from('T'), 200, ...Buffer.from(String(i))];
    // One name needs two bytes for its length.
    if (i === 700) body.push(...Buffer.alloc(140, 'x'));
    const head = body.length < 128 ? [body.length] : [(body.length & 0x7f) | 0x80, body.length >> 7];
    const name = Buffer.from([...head, ...body]);
    names.push(name);
    length += name.length;
  }
  const offsets = Buffer.alloc(count * 4);
  for (let i = 0; i < count; i++) {
    if (!percpu) offsets.writeInt32LE(i * 16, i * 4);
    else offsets.writeInt32LE(i === 0 ? 0x30 : -1 - i * 16, i * 4);
  }
  const addresses = [align(offsets), u64(base)];
  const number = [align(u32(count))];
  const lists = [align(Buffer.concat(names)), align(Buffer.concat(markers))];
  if (order === 'old with sequence') lists.push(align(Buffer.alloc(count * 3, 7)));
  const tables = [align(tokenTable), align(index)];
  const all =
    order === 'new' ? [...number, ...lists, ...tables, ...addresses] : [...addresses, ...number, ...lists, ...tables];
  const noise = Buffer.from('0\x001\x002\x003\x004\x005\x006\x007\x008\x009\0', 'latin1');
  const bytes = Buffer.concat([align(noise), Buffer.alloc(4096, 0x90), ...all, Buffer.alloc(64)]);
  const header = makeElf({ segments: [{ paddr: 0n, bytes: Buffer.alloc(0) }] }).length;
  expect(header % 8).toBe(0);
  return { image: makeElf({ segments: [{ paddr: 0x1000000n, bytes }] }), count };
}

describe.each([
  ['old', true],
  ['old with sequence', true],
  ['new', true],
  ['new', false],
] as const)('kallsyms, %s order, per-CPU %s', (order, percpu) => {
  const { image, count } = kallsymsImage(order, percpu);
  const elf = parseElf('k', image);

  test('are found', () => {
    const symbols = readKallsyms(elf);
    expect(symbols).toHaveLength(count);
    expect(symbols?.[0]).toEqual({ name: 'sym_0', address: percpu ? 0x30n : 0xffffffff81000000n });
    expect(symbols?.[1]).toEqual({ name: 'sym_1', address: 0xffffffff81000010n });
    expect(symbols?.[700].name).toBe(`sym_700${'x'.repeat(140)}`);
    expect(symbols?.[1499]).toEqual({ name: 'sym_1499', address: 0xffffffff81000000n + 1499n * 16n });
  });

  test('damaged ones are none, or at least no exception', () => {
    for (let at = 0; at < image.length; at += 331) {
      const damaged = Buffer.from(image);
      damaged[at] ^= 0xff;
      if (at < 176) continue;
      expect(() => readKallsyms(parseElf('k', damaged))).not.toThrow();
    }
  });
});

test('no kallsyms in a kernel without', () => {
  expect(readKallsyms(parseElf('k', tinyLinux()))).toBeUndefined();
});

describe('the source for one kernel', () => {
  let directory: string;
  beforeEach(() => {
    directory = mkdtempSync(join(tmpdir(), 'xl-symbols-'));
  });
  afterEach(() => rmSync(directory, { recursive: true, force: true }));

  test('System.map beside the kernel comes first', async () => {
    writeFileSync(join(directory, 'vmlinuz-1'), withSymtab(SYMBOLS));
    writeFileSync(join(directory, 'System.map-1'), MAP_LINES.join('\n'));
    const table = await kernelSymbols(join(directory, 'vmlinuz-1')).load();
    expect(table?.source).toBe(join(directory, 'System.map-1'));
    expect(table?.format(0xffffffff81000018n)).toBe('fn1+0x8');
  });

  test('a stub is passed over for the ELF’s table', async () => {
    writeFileSync(join(directory, 'vmlinuz-1'), withSymtab(SYMBOLS));
    writeFileSync(join(directory, 'System.map-1'), 'ffffffffffffffff B The real System.map is elsewhere\n');
    const table = await kernelSymbols(join(directory, 'vmlinuz-1')).load();
    expect(table?.source).toBe("the kernel's symbol table");
    expect(table?.format(0xffffffff81000044n)).toBe('startup_xen+0x4');
  });

  test('kallsyms come last', async () => {
    writeFileSync(join(directory, 'vmlinux'), kallsymsImage('new', true).image);
    const table = await kernelSymbols(join(directory, 'vmlinux')).load();
    expect(table?.source).toBe("the kernel's kallsyms");
    expect(table?.format(0xffffffff81000015n)).toBe('sym_1+0x5');
  });

  test('no symbols, or no kernel any more, is no failure', async () => {
    writeFileSync(join(directory, 'vmlinux'), tinyLinux());
    expect(await kernelSymbols(join(directory, 'vmlinux')).load()).toBeUndefined();
    expect(await kernelSymbols(join(directory, 'gone')).load()).toBeUndefined();
  });
});
