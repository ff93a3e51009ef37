/**
 * What is known about a running domain at a glance: the columns of `xenlighten list`, which are those of `xl list`.
 */
import { TrapVp } from '../../abi/trap';
import { RUNSTATE } from '../../abi/xen/runstate';

export interface DomainInfo {
  readonly name: string;
  /** As the guest sees it: every domain is alone in its partition. */
  readonly domid: number;
  readonly uuid: string;
  /** Process that serves the domain. */
  readonly pid: number;
  readonly memoryMiB: number;
  /** Those that are up. */
  readonly vcpus: number;
  /** running: a vCPU runs; blocked: all of them wait for events; paused: none may run. */
  readonly state: 'running' | 'blocked' | 'paused';
  /** Time that its vCPUs have run, all together. */
  readonly cpuSeconds: number;
  /** Since the domain was built. */
  readonly uptimeMs: number;
  readonly engine: string;
  readonly guestRing: number;
  readonly kernel: string;
  readonly tracing: boolean;
}

/**
 * State and run time from copies of the VPs' blocks (hostile: any number is possible in them, and only shown).
 * `systemTimeNs` is the domain's system time now: what runs at the moment has not been added up yet.
 */
export function vcpuTimes(
  vps: readonly Buffer[],
  systemTimeNs: number,
): Pick<DomainInfo, 'vcpus' | 'state' | 'cpuSeconds'> {
  let state: 'running' | 'blocked' = 'blocked';
  let ns = 0;
  let vcpus = 0;
  for (const vp of vps) {
    const view = new DataView(vp.buffer, vp.byteOffset, vp.byteLength);
    const up = TrapVp.get.online(view, 0) !== 0;
    if (up) vcpus++;
    ns += Number(TrapVp.get.runstate_time(view, 0, RUNSTATE.RUNSTATE_running));
    if (!up || TrapVp.get.runstate(view, 0) !== RUNSTATE.RUNSTATE_running) continue;
    state = 'running';
    ns += Math.max(0, systemTimeNs - Number(TrapVp.get.runstate_entry(view, 0)));
  }
  return { vcpus, state, cpuSeconds: ns / 1e9 };
}
