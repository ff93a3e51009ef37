/**
 * The shim's side of the stop protocol: a flag (trap_domain.stop_request) and a kick; every VP parks in the trap module
 * (native/trap/mailbox.c), says so in trap_vp.parked and rings the doorbell. It does the same when it goes on.
 *
 * A VP may park inside a call to the shim, whose answer it then finds when it goes on. The domain is paused when all VPs
 * are parked and nothing that they have asked for is under way: nobody writes to its memory then.
 *
 * Quirk: unlike Xen, which counts the pauses of its toolstack, a domain is paused or not. A second pause is refused, so
 * that whoever has paused a domain is the one to unpause it.
 */
import { ControlError } from './control-protocol';

export type RunState = 'running' | 'pausing' | 'paused' | 'unpausing';

export interface StopTarget {
  readonly nrVps: number;
  /** Sets or clears the flag and kicks every VP. */
  request(stop: boolean): void;
  isParked(vp: number): boolean;
  /** Work that the VPs have given us, in words; undefined: none. */
  pending(): string | undefined;
  /** All VPs have stopped: back ends leave the guest's memory alone from now on. */
  quiesce(): void;
  /** Before the first VP goes on. */
  resume(): void;
}

/** VPs stop within milliseconds, unless the host has no processor for them. */
const STOP_MS = 20_000;

const DESCRIPTION: Readonly<Record<RunState, string>> = {
  running: 'running',
  pausing: 'being paused',
  paused: 'paused',
  unpausing: 'being unpaused',
};

interface Wait {
  readonly done: () => boolean;
  readonly resolve: (done: boolean) => void;
}

export class VpStop {
  private current: RunState = 'running';
  private ended = false;
  private wait: Wait | undefined;

  constructor(
    private readonly target: StopTarget,
    private readonly timeoutMs = STOP_MS,
  ) {}

  get state(): RunState {
    return this.current;
  }

  /**
   * Resolves when the domain stands still. ControlError: 'wrong-state' if it does not run, 'not-running' if it ends
   * meanwhile, 'failed' if a VP does not stop in time; then the domain runs on.
   */
  async pause(): Promise<void> {
    this.expect('running', 'pause');
    this.current = 'pausing';
    const { target } = this;
    const by = this.deadline();
    // One that has not left an earlier stop would be taken for one that has obeyed this one.
    const left = await this.until(() => this.parked(true).length === 0, by);
    if (left) target.request(true);
    const stopped =
      left && (await this.until(() => this.parked(false).length === 0 && target.pending() === undefined, by));
    this.checkEnd();
    if (stopped) {
      target.quiesce();
      this.current = 'paused';
      return;
    }
    const running = this.parked(false);
    const why = !left
      ? `${vcpus(this.parked(true))} did not go on after the last pause`
      : running.length > 0
        ? `${vcpus(running)} did not stop`
        : (target.pending() ?? 'it was too late');
    target.request(false);
    this.current = 'running';
    throw new ControlError('failed', `not paused within ${this.timeoutMs / 1000} s: ${why}`);
  }

  /** Resolves when all VPs go on. ControlError as pause(). */
  async unpause(): Promise<void> {
    this.expect('paused', 'unpause');
    this.current = 'unpausing';
    this.target.resume();
    this.target.request(false);
    const gone = await this.until(() => this.parked(true).length === 0, this.deadline());
    this.checkEnd();
    this.current = 'running';
    if (gone) return;
    const still = vcpus(this.parked(true));
    throw new ControlError('failed', `${still} did not go on within ${this.timeoutMs / 1000} s`);
  }

  /** A VP has rung: perhaps what is waited for has come. */
  look(): void {
    const { wait } = this;
    if (wait?.done() === true) wait.resolve(true);
  }

  /** The domain ends: nothing is waited for any more. */
  end(): void {
    this.ended = true;
    this.wait?.resolve(false);
  }

  private parked(wanted: boolean): number[] {
    return Array.from({ length: this.target.nrVps }, (_, vp) => vp).filter((vp) => this.target.isParked(vp) === wanted);
  }

  private expect(state: RunState, what: string): void {
    this.checkEnd();
    if (this.current === state) return;
    throw new ControlError(
      'wrong-state',
      `cannot ${what} the domain: it is ${DESCRIPTION[this.current]}, wanted one that is ${DESCRIPTION[state]}`,
    );
  }

  private checkEnd(): void {
    if (this.ended) throw new ControlError('not-running', 'the domain is ending');
  }

  /** Of performance.now(): a client waits a little longer, and for both of a pause's steps. */
  private deadline(): number {
    return performance.now() + this.timeoutMs;
  }

  /** True once `done` holds, false when it does not in time or the domain ends. */
  private async until(done: () => boolean, by: number): Promise<boolean> {
    if (this.ended) return false;
    if (done()) return true;
    let timer: NodeJS.Timeout | undefined;
    try {
      return await new Promise((resolve) => {
        this.wait = { done, resolve };
        timer = setTimeout(() => resolve(done()), Math.max(by - performance.now(), 0));
      });
    } finally {
      clearTimeout(timer);
      this.wait = undefined;
    }
  }
}

function vcpus(numbers: readonly number[]): string {
  return `vCPU${numbers.length === 1 ? '' : 's'} ${numbers.join(', ')}`;
}
