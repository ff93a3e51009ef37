/**
 * The shutdown service: the host asks the guest to shut down. Implements hyperv-abi 6.3.
 *
 * The guest acknowledges, and then does it: the acknowledgement says that it will try, not that it has. There is nothing
 * that calls a request back.
 *
 * Quirks: the text is for the guest's log; Linux does not look at it. Hibernation came with version 3.2.
 */
import { IC_SHUTDOWN, IC_STATUS, ICMSG, ShutdownMsgData, VMBUS_CLASS, VMBUS_INSTANCE } from '../../../abi/hyperv';
import type { ChannelHandler, ChannelOffer, VmbusChannel, Vsp } from '../vmbus/channel';
import { IcChannel, IcClosedError } from './ic-channel';

export type ShutdownKind = 'power-off' | 'restart' | 'hibernate';

export interface ShutdownRequest {
  readonly kind: ShutdownKind;
  /** Without asking the guest's programs; default false. */
  readonly force?: boolean;
  /** What the guest is told about why; cut at 1,023 UTF-16 units. */
  readonly message?: string;
  /** Seconds that the guest may take, for its information; default 0: no hurry. */
  readonly timeoutSeconds?: number;
  /** Milliseconds to wait for the acknowledgement; default 30,000. */
  readonly answerMs?: number;
}

/** The guest does not shut down: it has no such service, said no, or did not answer. */
export class ShutdownRefusedError extends Error {
  override readonly name = 'ShutdownRefusedError';
}

const KIND_FLAGS: Readonly<Record<ShutdownKind, number>> = {
  'power-off': 0,
  restart: IC_SHUTDOWN.IC_SHUTDOWN_RESTART,
  hibernate: IC_SHUTDOWN.IC_SHUTDOWN_HIBERNATE,
};

export class ShutdownService implements Vsp {
  private readonly ic = new IcChannel({
    interfaceType: VMBUS_CLASS.shutdown,
    instanceId: VMBUS_INSTANCE.shutdown,
    versions: [
      { major: 3, minor: 2 },
      { major: 3, minor: 1 },
      { major: 3, minor: 0 },
      { major: 1, minor: 0 },
    ],
  });

  get offer(): ChannelOffer {
    return this.ic.offer;
  }

  open(channel: VmbusChannel): ChannelHandler {
    return this.ic.open(channel);
  }

  /** Does the guest listen? */
  get ready(): boolean {
    return this.ic.version !== undefined;
  }

  /** Resolves when the guest has said that it will; ShutdownRefusedError when it does not. */
  async request(request: ShutdownRequest): Promise<void> {
    if (!this.ready) throw new ShutdownRefusedError('the guest has no shutdown service');
    if (request.kind === 'hibernate' && !this.ic.supports(3, 2)) {
      throw new ShutdownRefusedError('the guest cannot be asked to hibernate');
    }
    const body = Buffer.alloc(ShutdownMsgData.size);
    const view = new DataView(body.buffer, body.byteOffset, body.byteLength);
    ShutdownMsgData.set.timeout_seconds(view, 0, request.timeoutSeconds ?? 0);
    const force = request.force === true ? IC_SHUTDOWN.IC_SHUTDOWN_FORCE : 0;
    ShutdownMsgData.set.flags(view, 0, KIND_FLAGS[request.kind] | force);
    const text = Buffer.from(request.message ?? '', 'utf16le');
    const room = ShutdownMsgData.fields.display_message.count - 2;
    body.set(text.subarray(0, room), ShutdownMsgData.offsetOf('display_message'));
    const status = await this.answer(body, request.answerMs ?? 30_000);
    if (status !== IC_STATUS.IC_STATUS_OK) {
      throw new ShutdownRefusedError(`the guest refuses to shut down: status 0x${status.toString(16)}`);
    }
  }

  private async answer(body: Buffer, ms: number): Promise<number> {
    let timer: NodeJS.Timeout | undefined;
    const late = new Promise<never>((_, reject) => {
      timer = setTimeout(() => reject(new ShutdownRefusedError(`the guest has not answered within ${ms} ms`)), ms);
    });
    try {
      const { status } = await Promise.race([this.ic.request(ICMSG.ICMSGTYPE_SHUTDOWN, body), late]);
      return status;
    } catch (error) {
      if (error instanceof IcClosedError) throw new ShutdownRefusedError(error.message, { cause: error });
      throw error;
    } finally {
      clearTimeout(timer);
    }
  }
}
