/**
 * What integration services have in common: a VSP whose messages are pipe header, icmsg_hdr and body, and which agrees on
 * versions with the guest before anything else. Implements hyperv-abi 5.9 and 6.3.
 *
 * The host speaks first. It offers the versions that it knows, newest first; the guest answers with one framework version and
 * one of the service, or with none. Then the service sends requests, and the guest answers each of them in place.
 *
 * Answers are matched by the transaction id of the header, of which there are 256: a service has at most that many requests
 * under way; an answer that nobody waits for is ignored. Everything in an answer is the guest's word.
 *
 * Quirks: the transaction id in the packet is echoed by guests as well, but Linux's framework relies on the one in the header.
 * A guest's answer is as long as the request was, padded to 8 bytes.
 */
import {
  ICMSG,
  IcmsgHdr,
  IcmsgNegotiate,
  IcVersion,
  VMBUS_CHANNEL_FLAG,
  VMBUS_PIPE,
  VMBUS_PIPE_TYPE,
  VmbuspipeHdr,
} from '../../../abi/hyperv';
import type { ChannelHandler, ChannelOffer, VmbusChannel, VmbusPacket, Vsp } from '../vmbus/channel';

export interface Version {
  readonly major: number;
  readonly minor: number;
}

/** Framework versions, newest first. */
const FRAME_VERSIONS: readonly Version[] = [
  { major: 3, minor: 0 },
  { major: 1, minor: 0 },
];
const HEAD = VmbuspipeHdr.size + IcmsgHdr.size;
const TRANSACTIONS = 256;

/** What a guest answered. */
export interface IcAnswer {
  /** IC_STATUS_OK, or an HRESULT. */
  readonly status: number;
  readonly body: Buffer;
}

/** Why a request got no answer. */
export class IcClosedError extends Error {
  override readonly name = 'IcClosedError';
}

interface Waiting {
  readonly type: number;
  readonly answer: (answer: IcAnswer) => void;
  readonly failed: (error: Error) => void;
}

export interface IcService {
  readonly interfaceType: string;
  readonly instanceId: string;
  /** Service versions, newest first. */
  readonly versions: readonly Version[];
  /** The guest has agreed on a service version. */
  onReady?(version: Version): void;
  /** The guest has closed the channel, or knows none of the versions. */
  onGone?(): void;
}

function atLeast(version: Version, major: number, minor: number): boolean {
  return version.major > major || (version.major === major && version.minor >= minor);
}

function sameVersion(a: Version, b: Version): boolean {
  return a.major === b.major && a.minor === b.minor;
}

/** A service's device. */
export class IcChannel implements Vsp {
  readonly offer: ChannelOffer;
  private channel: VmbusChannel | undefined;
  private frame: Version | undefined;
  private agreed: Version | undefined;
  private readonly waiting = new Map<number, Waiting>();
  private nextTransaction = 0;
  private nextPacket = 1n;

  constructor(private readonly service: IcService) {
    const userDefined = Buffer.alloc(4);
    userDefined.writeUInt32LE(VMBUS_PIPE_TYPE.VMBUS_PIPE_TYPE_MESSAGE);
    this.offer = {
      interfaceType: service.interfaceType,
      instanceId: service.instanceId,
      flags:
        VMBUS_CHANNEL_FLAG.VMBUS_CHANNEL_ENUMERATE_DEVICE_INTERFACE | VMBUS_CHANNEL_FLAG.VMBUS_CHANNEL_NAMED_PIPE_MODE,
      userDefined,
      subChannelIndex: 0,
    };
  }

  /** The service version that was agreed on; undefined while there is none. */
  get version(): Version | undefined {
    return this.agreed;
  }

  /** Has a version of at least this been agreed on? */
  supports(major: number, minor: number): boolean {
    return this.agreed !== undefined && atLeast(this.agreed, major, minor);
  }

  open(channel: VmbusChannel): ChannelHandler {
    this.channel = channel;
    this.negotiate();
    return {
      onPacket: (packet) => this.onPacket(packet),
      close: async () => this.closed(),
    };
  }

  /** Sends a request. Rejects with IcClosedError when the guest closes the channel, or has not agreed on a version. */
  request(type: number, body: Uint8Array): Promise<IcAnswer> {
    if (this.agreed === undefined) return Promise.reject(new IcClosedError('the guest does not use this service'));
    return this.ask(type, body);
  }

  private negotiate(): void {
    const { versions } = this.service;
    const body = Buffer.alloc(IcmsgNegotiate.size + (FRAME_VERSIONS.length + versions.length) * IcVersion.size);
    const view = new DataView(body.buffer, body.byteOffset, body.byteLength);
    IcmsgNegotiate.set.icframe_vercnt(view, 0, FRAME_VERSIONS.length);
    IcmsgNegotiate.set.icmsg_vercnt(view, 0, versions.length);
    [...FRAME_VERSIONS, ...versions].forEach((version, i) => {
      setVersion(view, IcmsgNegotiate.size + i * IcVersion.size, version);
    });
    this.ask(ICMSG.ICMSGTYPE_NEGOTIATE, body).then(
      (answer) => this.negotiated(answer),
      // Closed before it was answered.
      () => undefined,
    );
  }

  private negotiated({ status, body }: IcAnswer): void {
    const view = new DataView(body.buffer, body.byteOffset, body.byteLength);
    if (status !== 0 || body.length < IcmsgNegotiate.size + 2 * IcVersion.size) {
      this.service.onGone?.();
      return;
    }
    const { get } = IcmsgNegotiate;
    const one = get.icframe_vercnt(view, 0) === 1 && get.icmsg_vercnt(view, 0) === 1;
    const frame = getVersion(view, IcmsgNegotiate.size);
    const version = getVersion(view, IcmsgNegotiate.size + IcVersion.size);
    const known = (list: readonly Version[], v: Version): boolean => list.some((other) => sameVersion(other, v));
    if (!one || !known(FRAME_VERSIONS, frame) || !known(this.service.versions, version)) {
      this.service.onGone?.();
      return;
    }
    this.frame = frame;
    this.agreed = version;
    this.service.onReady?.(version);
  }

  private ask(type: number, body: Uint8Array): Promise<IcAnswer> {
    const { channel } = this;
    if (channel === undefined) return Promise.reject(new IcClosedError('the guest has not opened this service'));
    if (this.waiting.size >= TRANSACTIONS) return Promise.reject(new IcClosedError('the guest does not answer'));
    while (this.waiting.has(this.nextTransaction)) this.nextTransaction = (this.nextTransaction + 1) % TRANSACTIONS;
    const transaction = this.nextTransaction;
    this.nextTransaction = (transaction + 1) % TRANSACTIONS;
    const message = Buffer.alloc(HEAD + body.length);
    const view = new DataView(message.buffer, message.byteOffset, message.byteLength);
    VmbuspipeHdr.set.flags(view, 0, VMBUS_PIPE.VMBUS_PIPE_DATA);
    VmbuspipeHdr.set.msgsize(view, 0, IcmsgHdr.size + body.length);
    const at = VmbuspipeHdr.size;
    setVersion(view, at + IcmsgHdr.offsetOf('icverframe'), this.frame ?? { major: 0, minor: 0 });
    setVersion(view, at + IcmsgHdr.offsetOf('icvermsg'), this.agreed ?? { major: 0, minor: 0 });
    const { set } = IcmsgHdr;
    set.icmsgtype(view, at, type);
    set.icmsgsize(view, at, body.length);
    set.ictransaction_id(view, at, transaction);
    set.icflags(view, at, ICMSG.ICMSGHDRFLAG_TRANSACTION | ICMSG.ICMSGHDRFLAG_REQUEST);
    message.set(body, HEAD);
    return new Promise((answer, failed) => {
      this.waiting.set(transaction, { type, answer, failed });
      channel.send(message, this.nextPacket++);
    });
  }

  private onPacket({ payload }: VmbusPacket): void {
    if (payload.length < HEAD) return;
    const view = new DataView(payload.buffer, payload.byteOffset, payload.byteLength);
    const at = VmbuspipeHdr.size;
    const { get } = IcmsgHdr;
    if ((get.icflags(view, at) & ICMSG.ICMSGHDRFLAG_RESPONSE) === 0) return;
    const transaction = get.ictransaction_id(view, at);
    const waiting = this.waiting.get(transaction);
    if (waiting === undefined || waiting.type !== get.icmsgtype(view, at)) return;
    this.waiting.delete(transaction);
    // What is there counts; the sizes in the headers are the guest's.
    waiting.answer({ status: get.status(view, at), body: payload.subarray(HEAD) });
  }

  private closed(): void {
    const waiting = [...this.waiting.values()];
    this.waiting.clear();
    this.channel = undefined;
    this.frame = undefined;
    this.agreed = undefined;
    for (const { failed } of waiting) failed(new IcClosedError('the guest has closed this service'));
    this.service.onGone?.();
  }
}

function setVersion(view: DataView, at: number, version: Version): void {
  IcVersion.set.major(view, at, version.major);
  IcVersion.set.minor(view, at, version.minor);
}

function getVersion(view: DataView, at: number): Version {
  return { major: IcVersion.get.major(view, at), minor: IcVersion.get.minor(view, at) };
}
