/** How a partition of the kvm engine fails to start, and ends without being asked to: in words, and leaving nothing. */
import { execFileSync } from 'node:child_process';
import {
  chmodSync,
  closeSync,
  mkdtempSync,
  openSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { KvmPartition, type KvmPartitionOptions } from '../../../shim/partition/kvm/kvm-partition';
import { packageRoot } from '../../../shim/partition/native-files';
import type { PartitionExit, ProcessorCpuid } from '../../../shim/partition/partition';
import { answerTo } from './guest/abi';
import { Machine, type MachineOptions } from './machine';

/** Nothing but the guest's code is there, nor ever will be. */
const HOLE = 0xd000_0000;

function vpThreads(): string[] {
  return readdirSync('/proc/self/task')
    .map((id) => readFileSync(`/proc/self/task/${id}/comm`, 'utf8').trim())
    .filter((name) => name.startsWith('xl-'));
}

/** Descriptors of this process whose name matches. */
function descriptors(wanted: RegExp): number[] {
  return readdirSync('/proc/self/fd')
    .map(Number)
    .filter((fd) => {
      try {
        return wanted.test(readlinkSync(`/proc/self/fd/${fd}`));
      } catch {
        return false;
      }
    });
}

export function kvmEnds(hyperv: boolean, interpreted: boolean): void {
  const machines: Machine[] = [];
  const machine = (options: MachineOptions = {}, more: Partial<KvmPartitionOptions> = {}): Machine => {
    const made = new Machine((given) => new KvmPartition({ ...given, hyperv, ...more }), options);
    machines.push(made);
    return made;
  };
  afterEach(async () => {
    for (const made of machines.splice(0)) await made.end();
    expect(vpThreads()).toEqual([]);
    expect(descriptors(/^anon_inode:.*kvm|^.dev.kvm$/)).toEqual([]);
  });

  describe('a KVM that cannot be used: start() says why, and nothing is left but the memory', () => {
    const refused = async (device: string, message: RegExp): Promise<void> => {
      const m = machine({ vpCount: 2 }, { device });
      const before = readdirSync('/proc/self/fd').length;
      await expect(m.start()).rejects.toMatchObject({
        name: 'KvmUnusableError',
        message: expect.stringMatching(message) as string,
      });
      expect(readdirSync('/proc/self/fd').length).toBe(before);
      m.partition.kick(1);
      await m.partition.stop();
      expect(m.gone).toBeUndefined();
    };

    test('missing', () =>
      refused('/nonexistent/kvm', /^\/nonexistent\/kvm does not exist: .*no hardware virtualization.*modprobe/));

    test('something else', async () => {
      await refused('/dev/null', /^\/dev\/null is no KVM device \(KVM_GET_API_VERSION: ENOTTY\)$/);
      await refused('/tmp', /^cannot open \/tmp: EISDIR$/);
    });

    test('no permission', async () => {
      const directory = mkdtempSync(path.join(tmpdir(), 'xenlighten-kvm-'));
      const device = path.join(directory, 'kvm');
      writeFileSync(device, '');
      chmodSync(device, 0);
      const root = process.geteuid?.() === 0;
      try {
        // Root may open everything: be somebody else until start() has looked.
        const m = machine({}, { device });
        if (root) process.seteuid?.(65534);
        const started = m.start();
        if (root) process.seteuid?.(0);
        await expect(started).rejects.toThrow(`no permission to open ${device}: add this user to the group kvm`);
      } finally {
        rmSync(directory, { recursive: true });
      }
    });

    test('too few descriptors', () => {
      const program = `
        const { KvmPartition } = require('${path.join(packageRoot(), 'dist/shim/partition/kvm/kvm-partition.js')}');
        const partition = new KvmPartition({ memoryBytes: 2 ** 24, vpCount: 64, hyperv: ${hyperv} });
        partition.memory.setU64(0x500, 0n);
        const fs = require('node:fs');
        // Others may come and go in Node itself.
        const open = () => fs.readdirSync('/proc/self/fd').filter((fd) => {
          try {
            return /kvm|eventfd/.test(fs.readlinkSync('/proc/self/fd/' + fd));
          } catch {
            return false;
          }
        }).length;
        const before = open();
        partition.start({ doorbell() {}, exit() {} }).catch((error) => {
          console.log(error.message, open() - before);
        });`;
      // The addon and ffi-napi are open by then: nothing but the descriptors of VPs is left to open.
      const output = execFileSync('sh', ['-c', 'ulimit -n 80; exec "$0" -e "$1"', process.execPath, program], {
        encoding: 'utf8',
      });
      expect(output).toBe('KVM refuses the partition: KVM_CREATE_VCPU: EMFILE 0\n');
    });
  });

  describe('an end that nobody asked for is told in words', () => {
    const ends = async (m: Machine, what: () => void): Promise<PartitionExit> => {
      what();
      const exit = await m.exit;
      expect(exit).toMatchObject({ code: undefined, signal: undefined, stderr: '' });
      expect(vpThreads()).toEqual([]);
      // Its last counters are kept, and it stays ended.
      expect(m.partition.exits()).toHaveLength(m.vpCount);
      m.partition.kick(0);
      await m.partition.stop();
      return exit;
    };

    test('code where there is no memory', async () => {
      const m = await machine({ vpCount: 2 }).boot();
      m.post(0, 'COMMAND_SPIN');
      const { reason, message } = await ends(m, () => m.post(1, 'COMMAND_JUMP', HOLE));
      expect(reason).toBe('failed');
      expect(message).toMatch(
        /^KVM gave up on virtual processor 1: internal error 1 \(an instruction could not be emulated\) at 0xd0000000\b/,
      );
    });

    test('KVM_RUN fails', async () => {
      const m = await machine({ vpCount: 2 }).boot();
      m.post(0, 'COMMAND_SPIN');
      m.post(1, 'COMMAND_CALLS', 1, 0, 1);
      await m.until(() => m.get(1, 'request') === 1n);
      // The VP waits outside the guest. When it comes back, its vCPU is something else.
      const { reason, message } = await ends(m, () => {
        const [vcpu] = descriptors(/kvm-vcpu:1$/);
        if (vcpu === undefined) throw new Error('there is no descriptor of vCPU 1');
        const others: number[] = [];
        closeSync(vcpu);
        for (let fd = -1; fd !== vcpu; others.push(fd)) fd = openSync('/dev/null', 'r');
        for (const fd of others) if (fd !== vcpu) closeSync(fd);
        m.set(1, 'answer', answerTo(m.get(1, 'question')));
        m.set(1, 'reply', 1n);
        m.kick(1);
      });
      expect(reason).toBe('failed');
      expect(message).toBe('KVM_RUN failed on virtual processor 1: ENOTTY');
    });

    if (!interpreted)
      test('the counters of a VP that has left say for what it did', async () => {
        const m = await machine().boot();
        await ends(m, () => m.post(0, 'COMMAND_TRIPLE_FAULT'));
        expect(m.partition.exits()?.[0]?.toProcess).toMatchObject({ SHUTDOWN: 1 });
      });

    if (hyperv) {
      test('the reset MSR, where CPUID has it', async () => {
        const withReset: ProcessorCpuid = (host, hypervisor) => [
          ...host,
          ...hypervisor.map((e) => (e.leaf === 0x4000_0003 ? { ...e, eax: e.eax | 0x80 } : e)),
        ];
        const m = await machine({ cpuid: withReset }).boot();
        const { reason, message } = await ends(m, () => m.post(0, 'COMMAND_WRMSR', 0x4000_0003, 1));
        expect(reason).toBe('failed');
        expect(message).toBe('virtual processor 0 asked for a reset of the partition');
      });

      test('without that it is an exception in the guest, and no end', async () => {
        const m = await machine().boot();
        expect(await m.run(0, 'COMMAND_WRMSR', 0x4000_0003, 1)).toMatchObject({ 1: 13n });
      });
    }
  });
}
