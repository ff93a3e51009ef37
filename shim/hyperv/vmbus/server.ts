/**
 * The VMBus server of one partition, without SynIC: messages of the guest go in, messages and signals for it come out.
 * Implements hyperv-abi appendix D and 5.1 to 5.5, for versions 2.4 to 5.3.
 *
 * A connection begins with INITIATE_CONTACT and ends with UNLOAD or with the next INITIATE_CONTACT; either is answered when
 * every channel is closed and no memory of the guest's is touched any more. Until then all other messages are ignored.
 * A version that is not known is refused, and the guest tries a lower one.
 *
 * Whoever owns the server delivers: `post` must keep messages in order and pace them, one in a message slot at a time (10.2
 * item 25); `signal` sets the event flag and interrupts. Event ports for the channels' connection ids (`connectionIdOf`) must
 * exist from the offer on.
 *
 * Quirks: relids are given by class and instance, so that they are the same in each boot. Monitor pages are accepted and not
 * used. A guest can make `problem` be called as often as it likes: limit what becomes of it.
 */
import { HV_SYNIC } from '../../../abi/hyperv/synic';
import {
  CHANNELMSG,
  VMBUS_CHANNEL_LIMIT,
  VMBUS_CONNECTION,
  VMBUS_STATUS,
  VMBUS_VERSION,
} from '../../../abi/hyperv/vmbus';
import type { GuestMemory } from '../../partition/guest-memory';
import type { Vsp } from './channel';
import { type ChannelAction, type ChannelEvent, ChannelState } from './channel-state';
import { type GpadlAnswer, GpadlTable, type GpadlUse } from './gpadl';
import {
  type GuestMessage,
  gpadlCreatedMessage,
  gpadlTorndownMessage,
  type InitiateContact,
  modifyResponseMessage,
  type OpenRequest,
  offerMessage,
  openResultMessage,
  parseMessage,
  plainMessage,
  rescindMessage,
  versionResponseMessage,
} from './messages';
import { openRing, type RingChannel } from './ring-channel';

/** Relids double as event flags, of which flag 0 is not a channel's. */
const RELIDS = 2047;
const SINT_SHIFT = 12;

const SUPPORTED: readonly number[] = [
  VMBUS_VERSION.VERSION_WIN8,
  VMBUS_VERSION.VERSION_WIN8_1,
  VMBUS_VERSION.VERSION_WIN10,
  VMBUS_VERSION.VERSION_WIN10_V4_1,
  VMBUS_VERSION.VERSION_WIN10_V5,
  VMBUS_VERSION.VERSION_WIN10_V5_1,
  VMBUS_VERSION.VERSION_WIN10_V5_2,
  VMBUS_VERSION.VERSION_WIN10_V5_3,
];

/** What the guest signals for a channel: unique in the partition, and not 0 to 4. */
export function connectionIdOf(relid: number): number {
  return relid | (VMBUS_CONNECTION.VMBUS_MESSAGE_SINT << SINT_SHIFT);
}

export interface VmbusServerOptions {
  readonly memory: GuestMemory;
  /** May the guest hand this page over? Must say no for what is not RAM, and for pages that are not the guest's. */
  readonly allowed: (pfn: number) => boolean;
  /** Sends a channel message to a VP's SINT. The VP's number is what the guest said, and need not exist. */
  readonly post: (message: Buffer, vp: number, sint: number) => void;
  /** Sets an event flag of a VP's SINT, and interrupts. The VP need not exist. */
  readonly signal: (flag: number, vp: number, sint: number) => void;
  /** The guest broke the protocol. */
  readonly problem: (what: string) => void;
}

interface Device {
  readonly vsp: Vsp;
  readonly state: ChannelState<OpenRequest>;
  /** 0 while the guest knows nothing of it. */
  relid: number;
  targetVp: number;
  ring: RingChannel | undefined;
  use: GpadlUse | undefined;
  revoked: (() => void) | undefined;
}

/** A device that is offered. */
export interface Offered {
  /** Takes the device away; resolves when it is closed and the guest has let go of it, or has gone. */
  revoke(): Promise<void>;
}

interface Connection {
  readonly version: number;
  readonly vp: number;
  readonly sint: number;
  offersSent: boolean;
}

export class VmbusServer {
  private readonly devices = new Set<Device>();
  private readonly byRelid = new Map<number, Device>();
  private readonly gpadls: GpadlTable;
  private connection: Connection | undefined;
  /** What follows when every channel is closed; undefined unless the connection is being ended. */
  private afterReset: (() => void) | undefined;
  /** Set by `close`. */
  private closing: Promise<void> | undefined;

  constructor(private readonly options: VmbusServerOptions) {
    this.gpadls = new GpadlTable(options.allowed);
  }

  /** Version of the protocol, 0 when there is no connection. */
  get version(): number {
    return this.connection?.version ?? 0;
  }

  /** Offers a device; a guest that has asked for offers already is told at once. */
  offer(vsp: Vsp): Offered {
    const device: Device = {
      vsp,
      state: new ChannelState(),
      relid: 0,
      targetVp: 0,
      ring: undefined,
      use: undefined,
      revoked: undefined,
    };
    this.devices.add(device);
    if (this.connection?.offersSent === true) this.step(device, { event: 'offer' });
    let gone: Promise<void> | undefined;
    return {
      revoke: () => {
        gone ??= new Promise((resolve) => {
          device.revoked = resolve;
          this.step(device, { event: 'revoke' });
        });
        return gone;
      },
    };
  }

  /** A message that the guest has posted; a private copy. */
  receive(bytes: Buffer): void {
    if (this.closing !== undefined) return;
    const message = parseMessage(bytes, this.version);
    if (typeof message === 'string') {
      this.options.problem(message);
      return;
    }
    if (message.type === 'initiate-contact') this.contact(message);
    else if (this.connection === undefined) this.options.problem(`${message.type} while the connection ends`);
    else this.handle(message, this.connection);
  }

  /** The guest has signalled a channel's connection. */
  signalled(relid: number): void {
    this.byRelid.get(relid)?.ring?.signal();
  }

  /** Ends the connection without telling the guest: the partition ends. Resolves when every channel is closed. */
  close(): Promise<void> {
    this.closing ??= new Promise((resolve) => this.reset(resolve));
    return this.closing;
  }

  private contact(message: InitiateContact): void {
    this.reset(() => {
      const { version, targetVp: vp } = message;
      const supported = SUPPORTED.includes(version);
      const v5 = version >= VMBUS_VERSION.VERSION_WIN10_V5;
      const chosen = v5 && message.sint > 0 && message.sint < HV_SYNIC.HV_SYNIC_SINT_COUNT;
      const sint = chosen ? message.sint : VMBUS_CONNECTION.VMBUS_MESSAGE_SINT;
      if (supported) this.connection = { version, vp, sint, offersSent: false };
      const connectionId = VMBUS_CONNECTION.VMBUS_MESSAGE_CONNECTION_ID_4;
      this.options.post(versionResponseMessage(version, { supported, connectionId }), vp, sint);
    });
  }

  private handle(message: Exclude<GuestMessage, { type: 'initiate-contact' }>, connection: Connection): void {
    switch (message.type) {
      case 'request-offers':
        this.requestOffers(connection);
        break;
      case 'unload': {
        const { vp, sint } = connection;
        this.reset(() => this.options.post(plainMessage(CHANNELMSG.CHANNELMSG_UNLOAD_RESPONSE), vp, sint));
        break;
      }
      case 'open':
        this.to(message.relid, message.type, { event: 'open', request: message });
        break;
      case 'close':
        this.to(message.relid, message.type, { event: 'close' });
        break;
      case 'release':
        this.to(message.relid, message.type, { event: 'release' });
        break;
      case 'gpadl-header':
        if (this.byRelid.has(message.relid)) this.answer(this.gpadls.header(message));
        else this.send(gpadlCreatedMessage(message.relid, message.gpadl, VMBUS_STATUS.VMBUS_STATUS_INVALID_PARAMETER));
        break;
      case 'gpadl-body':
        this.answer(this.gpadls.body(message));
        break;
      case 'gpadl-teardown':
        this.answer(this.gpadls.teardown(message));
        break;
      case 'modify':
        this.modify(message, connection);
        break;
    }
  }

  private requestOffers(connection: Connection): void {
    if (connection.offersSent) {
      this.options.problem('REQUESTOFFERS twice');
      return;
    }
    connection.offersSent = true;
    const key = ({ vsp: { offer } }: Device): string =>
      `${offer.interfaceType} ${offer.instanceId} ${String(offer.subChannelIndex).padStart(5, '0')}`;
    for (const device of [...this.devices].sort((a, b) => (key(a) < key(b) ? -1 : 1))) {
      if (device.revoked === undefined) this.step(device, { event: 'offer' });
    }
    this.send(plainMessage(CHANNELMSG.CHANNELMSG_ALLOFFERS_DELIVERED));
  }

  private modify(message: { readonly relid: number; readonly targetVp: number }, connection: Connection): void {
    const device = this.byRelid.get(message.relid);
    const open = device?.state.use === 'open';
    if (device !== undefined && open) device.targetVp = message.targetVp;
    if (connection.version < VMBUS_VERSION.VERSION_WIN10_V5_3) return;
    const status = open ? VMBUS_STATUS.VMBUS_STATUS_SUCCESS : VMBUS_STATUS.VMBUS_STATUS_INVALID_PARAMETER;
    this.send(modifyResponseMessage(message.relid, status));
  }

  private to(relid: number, type: string, event: ChannelEvent<OpenRequest>): void {
    const device = this.byRelid.get(relid);
    if (device === undefined) this.options.problem(`${type} of channel ${relid}, which does not exist`);
    else this.step(device, event);
  }

  private step(device: Device, event: ChannelEvent<OpenRequest>): void {
    for (const action of device.state.step(event)) this.act(device, action);
  }

  private act(device: Device, action: ChannelAction<OpenRequest>): void {
    switch (action.action) {
      case 'send-offer':
        this.sendOffer(device);
        break;
      case 'send-rescind':
        this.send(rescindMessage(device.relid));
        break;
      case 'open-device':
        this.step(device, { event: 'device-opened', ok: this.open(device, action.request) });
        break;
      case 'open-result': {
        const { relid, openId } = action.request;
        const status = action.ok ? VMBUS_STATUS.VMBUS_STATUS_SUCCESS : VMBUS_STATUS.VMBUS_STATUS_UNSUCCESSFUL;
        this.send(openResultMessage(relid, openId, status));
        if (action.ok) device.ring?.start();
        break;
      }
      case 'close-device':
        this.closeDevice(device);
        break;
      case 'release-relid':
        this.gpadls.dropChannel(device.relid);
        this.byRelid.delete(device.relid);
        device.relid = 0;
        break;
      case 'gone':
        this.devices.delete(device);
        device.revoked?.();
        break;
      case 'protocol-error':
        this.options.problem(action.what);
    }
  }

  private sendOffer(device: Device): void {
    let relid = 1;
    while (this.byRelid.has(relid)) relid++;
    if (relid > RELIDS) throw new Error(`more than ${RELIDS} channels`);
    device.relid = relid;
    this.byRelid.set(relid, device);
    this.send(offerMessage(device.vsp.offer, relid, connectionIdOf(relid)));
  }

  private open(device: Device, request: OpenRequest): boolean {
    const { memory, problem } = this.options;
    const refuse = (why: string): false => {
      problem(`channel ${device.relid} is not opened: ${why}`);
      return false;
    };
    const use = this.gpadls.acquire(device.relid, request.ringGpadl);
    if (use === undefined) return refuse(`no GPADL ${request.ringGpadl}`);
    const [range, ...more] = use.gpadl.ranges;
    device.targetVp = request.targetVp;
    const ring =
      range === undefined || more.length > 0
        ? 'its GPADL has not one range'
        : openRing(device.vsp, {
            memory,
            range,
            downstreamOffset: request.downstreamOffset,
            signalGuest: () => this.signalGuest(device),
            onProblem: (why) => problem(`channel ${device.relid}: ${why}`),
          });
    if (typeof ring === 'string') {
      this.answer(use.release());
      return refuse(ring);
    }
    device.ring = ring;
    device.use = use;
    return true;
  }

  private signalGuest(device: Device): void {
    const { connection } = this;
    if (connection === undefined || device.targetVp === VMBUS_CHANNEL_LIMIT.VMBUS_TARGET_VP_NONE) return;
    this.options.signal(device.relid, device.targetVp, connection.sint);
  }

  private closeDevice(device: Device): void {
    const { ring, use } = device;
    device.ring = undefined;
    device.use = undefined;
    const done = (): void => {
      // The guest may have its pages back before it is told anything else about the channel.
      this.answer(use?.release());
      this.step(device, { event: 'device-closed' });
      this.continueReset();
    };
    (ring?.close() ?? Promise.resolve()).then(done, (error: unknown) => {
      this.options.problem(`channel ${device.relid}: the device has failed to close: ${String(error)}`);
      done();
    });
  }

  /** Ends the connection, then goes on with `then`. One that comes meanwhile takes the place of the one before. */
  private reset(then: () => void): void {
    this.connection = undefined;
    this.afterReset = then;
    for (const device of [...this.devices]) this.step(device, { event: 'disconnect' });
    this.continueReset();
  }

  private continueReset(): void {
    if (this.afterReset === undefined) return;
    for (const device of this.devices) if (!device.state.idle) return;
    this.gpadls.dropAll();
    const then = this.afterReset;
    this.afterReset = undefined;
    then();
  }

  private answer(answer: GpadlAnswer | undefined): void {
    switch (answer?.answer) {
      case 'created':
        this.send(gpadlCreatedMessage(answer.relid, answer.gpadl, answer.status));
        break;
      case 'torndown':
        this.send(gpadlTorndownMessage(answer.gpadl));
        break;
      case 'protocol-error':
        this.options.problem(answer.what);
    }
  }

  /** To the guest, if it is still there. */
  private send(message: Buffer): void {
    const { connection } = this;
    if (connection !== undefined) this.options.post(message, connection.vp, connection.sint);
  }
}
