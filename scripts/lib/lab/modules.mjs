/* Which kernel modules L1 needs, and in which order they are loaded: from depmod's modules.dep. */
import { readFileSync } from 'node:fs';
import path from 'node:path';
import { fail } from '../progress.mjs';

/** What L1 uses, by module name. All are loaded at boot: see native/lab/boot.c. */
export const wantedModules = [
  'virtio_pci',
  'virtio_blk',
  // The checksum that ext4 asks the crypto layer for by name, so modules.dep does not know of it.
  'crc32c_generic',
  'ext4',
  'virtio_console',
  'virtio_rng',
  '9pnet_virtio',
  '9p',
  'overlay',
  'kvm_amd',
  'tun',
];

/** A module's name as the kernel knows it: of a file kernel/arch/x86/kvm/kvm-amd.ko, kvm_amd. */
function nameOf(file) {
  return path
    .basename(file)
    .replace(/\.ko(\.\w+)?$/, '')
    .replaceAll('-', '_');
}

/** Files below lib/modules/RELEASE, dependencies before what needs them. */
export function loadOrder(modulesDirectory, names = wantedModules) {
  const byName = new Map();
  for (const line of readFileSync(path.join(modulesDirectory, 'modules.dep'), 'utf8').split('\n')) {
    const [file, needs] = line.split(':');
    if (needs === undefined) continue;
    byName.set(nameOf(file), { file, needs: needs.split(' ').filter((need) => need !== '') });
  }
  const order = new Set();
  const visit = (name) => {
    const module = byName.get(name);
    if (module === undefined || order.has(module.file)) return;
    // modules.dep lists indirect dependencies too, the deepest last.
    for (const need of module.needs.toReversed()) visit(nameOf(need));
    order.add(module.file);
  };
  for (const name of names) {
    if (!byName.has(name) && !builtIn(modulesDirectory, name)) fail(`the kernel has no module ${name}`);
    visit(name);
  }
  return [...order];
}

function builtIn(modulesDirectory, name) {
  return readFileSync(path.join(modulesDirectory, 'modules.builtin'), 'utf8')
    .split('\n')
    .some((line) => nameOf(line) === name);
}
