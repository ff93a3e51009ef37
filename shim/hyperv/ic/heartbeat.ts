/**
 * The heartbeat service: each 2 s the host sends a number, and a guest that is alive sends it back with 1 added. Implements
 * hyperv-abi 6.3.
 *
 * One beat is under way at a time: while it has no answer no other is sent, so that a guest that hangs does not fill its ring.
 *
 * Quirk: an answer with another number than the one expected counts: the guest is alive. The number is the guest's word and
 * used for nothing.
 */
import { HeartbeatMsgData, ICMSG, VMBUS_CLASS } from '../../../abi/hyperv';
import type { ChannelHandler, ChannelOffer, VmbusChannel, Vsp } from '../vmbus/channel';
import { IcChannel } from './ic-channel';

/** none: no guest uses it. ok: the last beat was answered, or is not late. lost: beats have gone unanswered. */
export type HeartbeatStatus = 'none' | 'ok' | 'lost';

export interface HeartbeatOptions {
  /** Distinguishes this device from others of its class; a GUID. */
  readonly instanceId?: string;
  /** Milliseconds between beats; default 2,000. */
  readonly intervalMs?: number;
  /** Intervals without an answer after which the heartbeat is lost; default 5. */
  readonly lostAfter?: number;
  readonly onStatus?: (status: HeartbeatStatus) => void;
}

/** Any instance will do: guests look at the class. */
const DEFAULT_INSTANCE = '4f6c3a0e-52b7-4d0c-9d0b-6f3a1e7a2c11';

export class HeartbeatService implements Vsp {
  private readonly ic: IcChannel;
  private readonly intervalMs: number;
  private readonly lostAfter: number;
  private timer: NodeJS.Timeout | undefined;
  private current: HeartbeatStatus = 'none';
  private sequence = 0n;
  private underWay = false;
  private missed = 0;
  private count = 0;

  constructor(private readonly options: HeartbeatOptions = {}) {
    this.intervalMs = options.intervalMs ?? 2000;
    this.lostAfter = options.lostAfter ?? 5;
    this.ic = new IcChannel({
      interfaceType: VMBUS_CLASS.heartbeat,
      instanceId: options.instanceId ?? DEFAULT_INSTANCE,
      versions: [
        { major: 3, minor: 0 },
        { major: 1, minor: 0 },
      ],
      onReady: () => this.begin(),
      onGone: () => this.end(),
    });
  }

  get offer(): ChannelOffer {
    return this.ic.offer;
  }

  open(channel: VmbusChannel): ChannelHandler {
    return this.ic.open(channel);
  }

  get status(): HeartbeatStatus {
    return this.current;
  }

  /** Beats that were answered. */
  get beats(): number {
    return this.count;
  }

  private begin(): void {
    this.missed = 0;
    this.underWay = false;
    this.become('ok');
    clearInterval(this.timer);
    this.timer = setInterval(() => this.beat(), this.intervalMs);
    this.timer.unref();
    this.beat();
  }

  private end(): void {
    clearInterval(this.timer);
    this.timer = undefined;
    this.become('none');
  }

  private beat(): void {
    if (this.underWay) {
      this.missed++;
      if (this.missed >= this.lostAfter) this.become('lost');
      return;
    }
    const body = Buffer.alloc(HeartbeatMsgData.size);
    const view = new DataView(body.buffer, body.byteOffset, body.byteLength);
    HeartbeatMsgData.set.seq_num(view, 0, this.sequence);
    this.sequence = BigInt.asUintN(64, this.sequence + 1n);
    this.underWay = true;
    this.ic.request(ICMSG.ICMSGTYPE_HEARTBEAT, body).then(
      () => this.answered(),
      // Closed: `end` has been called.
      () => undefined,
    );
  }

  private answered(): void {
    if (this.timer === undefined) return;
    this.underWay = false;
    this.missed = 0;
    this.count++;
    this.become('ok');
  }

  private become(status: HeartbeatStatus): void {
    if (status === this.current) return;
    this.current = status;
    this.options.onStatus?.(status);
  }
}
