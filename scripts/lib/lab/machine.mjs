/*
 * The machine that L1 runs on: QEMU's emulator with AMD SVM and nested paging, where Debian's kvm-amd works as on
 * hardware. One object is one QEMU process, ended by `kill` or by the end of this process.
 *
 * Everything between us and QEMU goes through inherited descriptors, so there are no files to leave behind.
 *
 * Quirks:
 * - q35, not microvm: without a HPET or PM timer L1's calibration of the TSC fails at random.
 * - sockets=1: with a socket for each processor the scheduler wakes an idle sibling late.
 * - The devices and their order are part of a snapshot; so every share is always there, if need be with nothing in it.
 * - With a single processor, TCG leaves out what makes locked instructions atomic: nobody else is there to see it.
 */
import { spawn } from 'node:child_process';
import { closeSync, openSync } from 'node:fs';
import path from 'node:path';
import { CommandError, root } from '../progress.mjs';

const QMP_FD = 3;
const CONTROL_FD = 4;
const STDOUT_FD = 5;
const STDERR_FD = 6;
const SERIAL_FD = 7;
const INCOMING_FD = 8;

const MONITOR_GONE = "QEMU's monitor is gone";

/**
 * What guests may want to use beyond the oldest 64-bit processor. Not on purpose: BMI1, BMI2 (QEMU 7.2 computes some of
 * it wrong, zstd fails), XSAVE without XSAVEOPT (Debian's kernel does not boot).
 */
const CPU = [
  'qemu64,+svm,+npt,+rdtscp,+ssse3,+sse4.1,+sse4.2,+popcnt,+aes,+pclmulqdq,+lahf-lm,+erms,+fsgsbase',
  '+xsave,+xsaveopt,+xgetbv1,+avx',
].join(',');

const KERNEL_ARGUMENTS = [
  'console=ttyS0 quiet loglevel=4',
  // A panic ends QEMU.
  'panic=-1 reboot=t',
  // Nothing to calibrate, nothing to watch, no other clock to fall back to.
  'tsc=reliable no_timer_check lpj=10000000',
  // Addresses in a report of a hang are System.map's.
  'nokaslr mitigations=off',
  'audit=0 lsm= cryptomgr.notests raid=noautodetect rcupdate.rcu_expedited=1',
].join(' ');

function quoted(value) {
  return value.replaceAll(',', ',,');
}

function share(tag, directory, writable) {
  const options = `local,id=${tag},path=${quoted(directory)},security_model=none,multidevs=remap`;
  return [
    '-fsdev',
    options + (writable ? '' : ',readonly=on'),
    '-device',
    `virtio-9p-pci,fsdev=${tag},mount_tag=${tag}`,
  ];
}

function port(fd, id) {
  return ['-chardev', `socket,id=${id},fd=${fd}`, '-device', `virtserialport,chardev=${id},name=xl.${id}`];
}

/** What of the machine must be the same when a snapshot of it is resumed, as text. */
export function machineIdentity({ smp, mem, cpu }) {
  const machine = { shares: {}, smp, mem, cpu, threads: 'multi' };
  return commandLine('/', machine).join(' ');
}

function commandLine(image, { smp, mem, cpu = '', threads, shares }) {
  const shared = (tag) =>
    share(tag, shares[tag]?.directory ?? path.join(image, 'nothing'), shares[tag]?.writable ?? true);
  return [
    ...['-accel', `tcg,thread=${threads},tb-size=512`, '-cpu', CPU + (cpu === '' ? '' : `,${cpu}`)],
    ...['-smp', `${smp},sockets=1,cores=${smp},threads=1`, '-m', `${mem}`],
    ...['-machine', 'q35,sata=off,usb=off,smbus=off', '-nodefaults', '-no-user-config', '-display', 'none'],
    '-no-reboot',
    ...['-kernel', path.join(image, 'vmlinux'), '-initrd', path.join(image, 'initrd'), '-append', KERNEL_ARGUMENTS],
    ...['-chardev', `socket,id=serial,fd=${SERIAL_FD}`, '-serial', 'chardev:serial'],
    ...['-chardev', `socket,id=qmp,fd=${QMP_FD}`, '-mon', 'chardev=qmp,mode=control'],
    ...['-device', 'virtio-rng-pci'],
    ...['-drive', `id=root,if=none,format=raw,file=${quoted(path.join(image, 'root.img'))},readonly=on`],
    ...['-device', 'virtio-blk-pci,drive=root'],
    ...shared('project'),
    ...shared('cache'),
    ...shared('share'),
    ...['-device', 'virtio-serial-pci,max_ports=8'],
    ...port(CONTROL_FD, 'control'),
    ...port(STDOUT_FD, 'stdout'),
    ...port(STDERR_FD, 'stderr'),
  ];
}

export class Machine {
  /** Starts QEMU. `snapshot` is a file to resume instead of booting. */
  constructor(image, options) {
    const incoming = options.snapshot === undefined ? 'ignore' : openSync(options.snapshot, 'r');
    const args = [
      '-name',
      `xenlighten-lab-${process.pid}`,
      ...commandLine(image, options),
      ...(incoming === 'ignore' ? [] : ['-incoming', `fd:${INCOMING_FD}`]),
    ];
    const launcher = path.join(root, 'build/Release/xl-launch');
    this.child = spawn(launcher, [`${process.pid}`, '--', options.qemu, ...args], {
      cwd: '/',
      env: { PATH: process.env.PATH, ...options.env },
      stdio: ['ignore', 'ignore', 'pipe', 'pipe', 'pipe', 'pipe', 'pipe', 'pipe', incoming],
    });
    if (incoming !== 'ignore') closeSync(incoming);
    const { stdio } = this.child;
    this.qmp = new Qmp(stdio[QMP_FD]);
    this.control = stdio[CONTROL_FD];
    this.stdout = stdio[STDOUT_FD];
    this.stderr = stdio[STDERR_FD];
    this.serial = stdio[SERIAL_FD];
    /** What QEMU itself complains of. */
    this.complaint = '';
    this.child.stderr.setEncoding('utf8').on('data', (text) => {
      this.complaint = (this.complaint + text).slice(-4000);
    });
    // A QEMU that is being killed resets its sockets: its end is what counts.
    for (const stream of stdio) stream?.on('error', () => undefined);
    this.ended = new Promise((resolve) => {
      this.child.once('error', (error) => {
        this.complaint = error.message;
        resolve({ status: null, signal: null });
      });
      this.child.once('close', (status, signal) => resolve({ status, signal }));
    });
  }

  /** Ends QEMU at once and waits until it is gone. */
  async kill() {
    this.child.kill('SIGKILL');
    // Unread output would keep the process from being reported as closed.
    for (const stream of [this.control, this.stdout, this.stderr, this.serial]) stream.destroy();
    await this.ended;
  }
}

/** QEMU's monitor protocol: commands one after the other, events ignored. */
class Qmp {
  constructor(stream) {
    this.stream = stream;
    this.waiting = [];
    this.greeted = new Promise((resolve, reject) => {
      this.greet = resolve;
      stream.once('close', () => reject(new CommandError(MONITOR_GONE)));
    });
    // Whoever executes something hears of it.
    this.greeted.catch(() => undefined);
    let text = '';
    stream.setEncoding('utf8').on('data', (chunk) => {
      text += chunk;
      for (let end = text.indexOf('\n'); end >= 0; end = text.indexOf('\n')) {
        this.hear(JSON.parse(text.slice(0, end)));
        text = text.slice(end + 1);
      }
    });
    stream.once('close', () => {
      for (const { reject } of this.waiting.splice(0)) reject(new CommandError(MONITOR_GONE));
    });
  }

  hear(message) {
    if ('QMP' in message) this.greet(this.send('qmp_capabilities'));
    else if ('return' in message) this.waiting.shift()?.resolve(message.return);
    else if ('error' in message) this.waiting.shift()?.reject(new CommandError(`QEMU says: ${message.error.desc}`));
  }

  send(execute, args = {}) {
    if (this.stream.destroyed) return Promise.reject(new CommandError(MONITOR_GONE));
    return new Promise((resolve, reject) => {
      this.waiting.push({ resolve, reject });
      this.stream.write(`${JSON.stringify({ execute, arguments: args })}\n`);
    });
  }

  /** Executes a command; rejects with QEMU's own words. */
  async execute(command, args) {
    await this.greeted;
    return this.send(command, args);
  }
}
