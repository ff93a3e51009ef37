/**
 * What a toolstack asks of a running guest through xenstore, as libxl does: to shut down (control/shutdown), to take
 * less or more memory (memory/target), to take processors offline and online (cpu/N/availability), magic SysRq keys
 * (control/sysrq). Implements xen-pv-abi section 10.8.
 *
 * All of these are requests: the guest's drivers watch the nodes and do what they can. Only a shutdown is acknowledged,
 * by an empty node. A guest that can do it says so in control/feature-poweroff and -reboot when its driver is there;
 * older kernels say nothing, and do it all the same, so that the features serve for explanations only.
 *
 * Quirks: as xl mem-set does, a memory target is also the most that the domain may have, plus 1 MiB. memory/target is in
 * KiB. vCPU 0 never goes offline.
 */

import type { XenstoreClient } from '../xen/xenstore/client';
import { domainPath } from '../xen/xenstore/path';
import { ControlError } from './control-protocol';

export const SHUTDOWN_KINDS = ['poweroff', 'reboot', 'halt'] as const;
export type ShutdownKind = (typeof SHUTDOWN_KINDS)[number];

/** As long as libxl waits for the acknowledgement. */
export const ACKNOWLEDGE_MS = 60_000;
/** What a domain may have beyond its target: LIBXL_MAXMEM_CONSTANT, in KiB. */
const MAXMEM_SLACK_KIB = 1024;

export interface ControlledGuest {
  readonly domid: number;
  /** vCPUs that there are. */
  readonly vcpus: number;
  /** What it can have at most, in KiB. */
  readonly maxMemoryKiB: number;
  /** It may have so many KiB from now on. */
  limitMemory(kib: number): void;
  isPaused(): boolean;
  hasEnded(): boolean;
  /** Resolves when it has. */
  readonly ended: Promise<unknown>;
}

export class GuestControl {
  private readonly home: string;

  constructor(
    private readonly store: XenstoreClient,
    private readonly guest: ControlledGuest,
  ) {
    this.home = domainPath(guest.domid);
  }

  /** Has the guest said that it can be asked to shut down? */
  get listens(): boolean {
    return ['poweroff', 'reboot'].some((kind) => this.store.read(`${this.home}/control/feature-${kind}`) === '1');
  }

  get paused(): boolean {
    return this.guest.isPaused();
  }

  /**
   * Asks the guest to shut down. Resolves when it has acknowledged that, or has ended. Without `timeoutMs` the request
   * stands for ever; with it, it is withdrawn after that time: ControlError 'not-listening' or 'not-acknowledged'.
   */
  async requestShutdown(kind: ShutdownKind, timeoutMs?: number): Promise<'acknowledged' | 'ended'> {
    this.checkRuns();
    const { store } = this;
    const node = `${this.home}/control/shutdown`;
    store.write(node, kind);
    let timer: NodeJS.Timeout | undefined;
    let unwatch: (() => void) | undefined;
    try {
      return await new Promise((resolve, reject) => {
        void this.guest.ended.then(() => resolve('ended'));
        unwatch = store.watch(node, () => {
          if ((store.read(node) ?? '') === '') resolve('acknowledged');
        });
        if (timeoutMs === undefined) return;
        timer = setTimeout(() => {
          if (store.read(node) === kind) store.write(node, '');
          reject(this.unanswered(kind, timeoutMs));
        }, timeoutMs);
      });
    } finally {
      clearTimeout(timer);
      unwatch?.();
    }
  }

  private unanswered(kind: ShutdownKind, timeoutMs: number): ControlError {
    const within = `within ${timeoutMs / 1000} s; the request is withdrawn`;
    if (this.listens) return new ControlError('not-acknowledged', `the guest did not acknowledge ${kind} ${within}`);
    return new ControlError(
      'not-listening',
      `the guest does not listen for shutdown requests (control/feature-poweroff is not set: its kernel has no driver for that, or is still booting), and did not acknowledge ${kind} ${within}`,
    );
  }

  /** Sets the memory that the guest is to have, in MiB. ControlError 'bad-params' when it can not have that. */
  setMemory(mib: number): void {
    this.checkRuns();
    const { maxMemoryKiB } = this.guest;
    if (!Number.isSafeInteger(mib) || mib < 1)
      throw new ControlError('bad-params', 'mib: wanted a whole number above 0');
    if (mib * 1024 > maxMemoryKiB) {
      throw new ControlError(
        'bad-params',
        `cannot set the memory to ${mib} MiB: wanted at most ${Math.floor(maxMemoryKiB / 1024)} MiB (maxmem of the guest)`,
      );
    }
    this.guest.limitMemory(Math.min(mib * 1024 + MAXMEM_SLACK_KIB, maxMemoryKiB));
    this.store.write(`${this.home}/memory/target`, String(mib * 1024));
  }

  /**
   * Sets the memory that the guest may have at most, in MiB, without telling it. ControlError 'bad-params' for less than
   * its target, or more than there is.
   */
  setMaxMemory(mib: number): void {
    this.checkRuns();
    const { maxMemoryKiB } = this.guest;
    if (!Number.isSafeInteger(mib) || mib < 1)
      throw new ControlError('bad-params', 'mib: wanted a whole number above 0');
    const targetKiB = this.store.readNumber(`${this.home}/memory/target`) ?? 0;
    if (mib * 1024 < targetKiB || mib * 1024 > maxMemoryKiB) {
      const [least, most] = [Math.ceil(targetKiB / 1024), Math.floor(maxMemoryKiB / 1024)];
      throw new ControlError(
        'bad-params',
        `cannot set the maximum to ${mib} MiB: wanted ${least} (what the guest is to have) to ${most} MiB (maxmem of its configuration)`,
      );
    }
    this.guest.limitMemory(Math.min(mib * 1024 + MAXMEM_SLACK_KIB, maxMemoryKiB));
  }

  /** Sets how many vCPUs are to be online, from vCPU 0 on. ControlError 'bad-params' for a number that cannot be. */
  setVcpus(count: number): void {
    this.checkRuns();
    const { vcpus } = this.guest;
    if (!Number.isSafeInteger(count) || count < 1 || count > vcpus) {
      throw new ControlError(
        'bad-params',
        `cannot set the vCPUs to ${count}: wanted 1 to ${vcpus} (maxvcpus of the guest)`,
      );
    }
    this.store.transaction((tx) => {
      for (let vcpu = 0; vcpu < vcpus; vcpu++) {
        const node = `${this.home}/cpu/${vcpu}/availability`;
        const wanted = vcpu < count ? 'online' : 'offline';
        // Each event makes the guest try: those for nothing would only be complained about.
        if (tx.read(node) !== wanted) tx.write(node, wanted);
      }
    });
  }

  /** Sends one magic SysRq key. ControlError 'bad-params' for what is not one character. */
  sysrq(key: string): void {
    this.checkRuns();
    if (typeof key !== 'string' || !/^[\x21-\x7e]$/.test(key))
      throw new ControlError('bad-params', 'key: wanted one printable ASCII character');
    this.store.write(`${this.home}/control/sysrq`, key);
  }

  private checkRuns(): void {
    if (this.guest.hasEnded()) throw new ControlError('not-running', 'the domain is ending');
  }
}
