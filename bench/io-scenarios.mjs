/*
 * The machines whose disks are compared. The same kernel file, the same initramfs, the same guest memory; the same QEMU
 * binary and CPU model below, with one CPU; the image in the host's memory, or in dom0's.
 *
 *   ring1, ring3  xenlighten, guest kernel in that ring: blkfront, the shim's storage VSP, a raw image
 *   bare          the kernel on QEMU's pc, page-table isolation off: virtio-blk, QEMU's raw image, cache=writeback
 *   xen           the kernel as a domU of real Xen: blkfront, dom0's blkback, a loop device on a file in dom0's tmpfs
 */
import path from 'node:path';
import { CLI, cmdline, GUEST_MEMORY, qemu, xenCmdline } from './scenarios.mjs';

export const IO_LABELS = {
  ring1: 'xenlighten, ring 1',
  ring3: 'xenlighten, ring 3',
  bare: 'bare',
  xen: 'Xen domU',
};

/** What is measured unless --only says otherwise. */
export const IO_DEFAULT = ['ring1', 'bare', 'xen'];

export const DISK_MIB = 128;
/** Dom0 has the image, the kernel and twice what it boots from in its memory. */
const DOM0_MEMORY = 768;
const HOST_MEMORY = 1536;

const FRONT = ['drivers/block/xen-blkfront'];
const VIRTIO = [
  ...['drivers/virtio/virtio', 'drivers/virtio/virtio_ring', 'drivers/virtio/virtio_pci_legacy_dev'],
  ...['drivers/virtio/virtio_pci_modern_dev', 'drivers/virtio/virtio_pci', 'drivers/block/virtio_blk'],
];
/** Modules of the guests and of dom0, by their path in the kernel's package. */
export const GUEST_MODULES = [...FRONT, ...VIRTIO];
export const DOM0_MODULES = ['drivers/block/loop', 'drivers/block/xen-blkback/xen-blkback'];

const bootWords = (disk, modules) =>
  `bench.disk=${disk} bench.modules=${modules.map((name) => path.basename(name)).join(',')}`;

/** The command line of a guest that finds its disk through xenbus; `words` for the benchmark. */
export const xenGuestCmdline = (words) => cmdline('hvc0', `${bootWords('xvda', FRONT)} ${words}`);

/** The command of a machine. `inputs`: {kernel, initramfs, xen, dom0Image}; `disk`: path of the image. */
export function ioCommand(name, { kernel, initramfs, xen, dom0Image }, disk, words) {
  switch (name) {
    case 'ring1':
    case 'ring3': {
      const machine = ['--kernel', kernel, '--ramdisk', initramfs, '--memory', `${GUEST_MEMORY}`];
      const guest = [
        '--guest-ring',
        name.slice(4),
        '--disk',
        `${disk},raw,xvda,w`,
        '--cmdline',
        xenGuestCmdline(words),
      ];
      return [process.execPath, CLI, 'run', ...machine, ...guest];
    }
    case 'bare':
      return qemu(GUEST_MEMORY, [
        ...[
          '-drive',
          `file=${disk},if=none,id=disk,format=raw,cache=writeback`,
          '-device',
          'virtio-blk-pci,drive=disk',
        ],
        ...['-kernel', kernel, '-initrd', initramfs],
        ...['-append', `${cmdline('ttyS0', `${bootWords('vda', VIRTIO)} ${words}`)} pti=off`],
      ]);
    case 'xen': {
      const dom0 = cmdline('hvc0', 'random.trust_bootloader=on rdinit=/bench-init bench.guest=guest');
      return qemu(HOST_MEMORY, [
        ...['-kernel', xen, '-append', xenCmdline(DOM0_MEMORY)],
        ...['-initrd', `${kernel} ${dom0},${dom0Image}`],
      ]);
    }
    default:
      throw new Error(`no machine ${name}`);
  }
}
