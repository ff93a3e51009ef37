/**
 * KVM's own statistics of a vCPU (KVM_GET_STATS_FD): how often it left the guest, and for what.
 *
 * Implements Documentation/virt/kvm/api.rst 4.133. They are the host's, independent of what the trap module counts.
 */
import { closeSync, readSync } from 'node:fs';
import { KVM_REQUEST, KvmStatsDesc, KvmStatsHeader } from './abi';
import { ioctl } from './libc';

const MAX_BYTES = 1 << 20;

function readAt(fd: number, position: number, length: number): Buffer {
  const buffer = Buffer.alloc(length);
  for (let done = 0; done < length; ) {
    const got = readSync(fd, buffer, done, length - done, position + done);
    if (got === 0) throw new Error('KVM statistics end early');
    done += got;
  }
  return buffer;
}

function view(buffer: Buffer): DataView {
  return new DataView(buffer.buffer, buffer.byteOffset, buffer.length);
}

/** Counters of one vCPU by KVM's names, such as exits, halt_exits, hypercalls, irq_injections. */
export class VcpuStatistics {
  private readonly counters: readonly { readonly name: string; readonly offset: number }[];
  private readonly end: number;

  /** Opens a descriptor on the vCPU's statistics, which close() closes. */
  static open(vcpuFd: number): VcpuStatistics {
    const fd = ioctl(vcpuFd, 'KVM_GET_STATS_FD', KVM_REQUEST.KVM_GET_STATS_FD);
    try {
      return new VcpuStatistics(fd);
    } catch (error) {
      closeSync(fd);
      throw error;
    }
  }

  private constructor(private readonly fd: number) {
    const header = view(readAt(fd, 0, KvmStatsHeader.size));
    const get = KvmStatsHeader.get;
    const stride = KvmStatsDesc.size + get.name_size(header, 0);
    const count = get.num_desc(header, 0);
    if (stride * count > MAX_BYTES) throw new Error(`KVM describes ${count} statistics`);
    const descriptors = readAt(fd, get.desc_offset(header, 0), stride * count);
    const dv = view(descriptors);
    const data = get.data_offset(header, 0);
    const counters: { name: string; offset: number }[] = [];
    for (let i = 0; i < count; i++) {
      const at = i * stride;
      const name = descriptors.toString('latin1', at + KvmStatsDesc.size, at + stride).split('\0', 1)[0] ?? '';
      // Histograms have several values; a counter has one.
      if (KvmStatsDesc.get.size(dv, at) === 1) counters.push({ name, offset: data + KvmStatsDesc.get.offset(dv, at) });
    }
    this.counters = counters;
    this.end = Math.max(data, ...counters.map((c) => c.offset + 8));
  }

  read(): Record<string, number> {
    const first = Math.min(this.end, ...this.counters.map((c) => c.offset));
    const bytes = readAt(this.fd, first, this.end - first);
    return Object.fromEntries(
      this.counters.map(({ name, offset }) => [name, Number(bytes.readBigUInt64LE(offset - first))]),
    );
  }

  close(): void {
    closeSync(this.fd);
  }
}
