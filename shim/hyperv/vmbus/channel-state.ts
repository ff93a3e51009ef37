/**
 * The life of a channel on the host's side, without a transport: what each event means in each state, and what has to be
 * done. Implements hyperv-abi appendix D, and 10.2 items 33, 39, 40.
 *
 * Two things go on at once, so two values are kept: who has the offer (`offer`), and whether the channel is in use (`use`).
 * The specification's names are pairs of them:
 *
 *   ClientReleased = none, closed          Closed, Opening, Open, Closing, ClosingReopen = offered, the use of that name
 *   Revoked = revoked, any use             Reoffered = reoffered, any use
 *
 * A relid may be used for something else when the guest has let go of the offer and the device is done with the channel,
 * whichever comes last; `release-relid` says when. The device is asked to open only when it is closed, and to close only
 * when it is open, so that it sees one opening at a time, whatever a guest sends.
 *
 * Quirks: a guest that closes a channel which is still opening, or releases the relid of an open one, breaks the protocol.
 * It is tolerated: the first is done when the device has answered, the second is ignored. After a revocation the
 * guest closes a channel that is closed already, and that is in order.
 */

export type OfferState = 'none' | 'offered' | 'revoked' | 'reoffered';
export type UseState = 'closed' | 'opening' | 'open' | 'closing' | 'closing-reopen';

/** What happens to a channel. `R` is what the guest asked for when it opened it. */
export type ChannelEvent<R> =
  /** The guest is to be told of the channel. */
  | { readonly event: 'offer' }
  /** OPENCHANNEL. */
  | { readonly event: 'open'; readonly request: R }
  /** The device has answered `open-device`. */
  | { readonly event: 'device-opened'; readonly ok: boolean }
  /** CLOSECHANNEL. */
  | { readonly event: 'close' }
  /** The device has done `close-device`. */
  | { readonly event: 'device-closed' }
  /** The device goes away. */
  | { readonly event: 'revoke' }
  /** A device that was revoked is back before the guest has let go. */
  | { readonly event: 'reoffer' }
  /** RELID_RELEASED. */
  | { readonly event: 'release' }
  /** The guest's connection is gone: UNLOAD, a new INITIATE_CONTACT, a reset. */
  | { readonly event: 'disconnect' };

/** What has to be done, in this order. */
export type ChannelAction<R> =
  /** Send OFFERCHANNEL. */
  | { readonly action: 'send-offer' }
  /** Send RESCIND_CHANNELOFFER. */
  | { readonly action: 'send-rescind' }
  /** Open the device; answer with `device-opened`. */
  | { readonly action: 'open-device'; readonly request: R }
  /** Send OPENCHANNEL_RESULT; when ok, signal the guest once afterwards. */
  | { readonly action: 'open-result'; readonly request: R; readonly ok: boolean }
  /** Close the device and stop touching the rings; answer with `device-closed`. */
  | { readonly action: 'close-device' }
  /** The guest knows nothing of the relid any more: it may be given to another offer. */
  | { readonly action: 'release-relid' }
  /** The device was revoked and nobody uses it any more. */
  | { readonly action: 'gone' }
  /** The guest broke the protocol; to be logged. */
  | { readonly action: 'protocol-error'; readonly what: string };

/** One channel. `step` never throws. */
export class ChannelState<R> {
  private offerState: OfferState = 'none';
  private useState: UseState = 'closed';
  /** Of the opening that is under way, or that holds. */
  private request: R | undefined;
  /** The opening that begins when the closing has ended. */
  private next: R | undefined;
  /** While opening: nobody wants it any more, close as soon as the device has answered. */
  private abandoned = false;
  /** Nobody on the guest's side holds the relid any more, but the device is not yet closed. */
  private releasing = false;
  /** The device went away for good while no guest held the offer. */
  private leaving = false;

  get offer(): OfferState {
    return this.offerState;
  }

  get use(): UseState {
    return this.useState;
  }

  /** True when the device is closed and nothing is under way. */
  get idle(): boolean {
    return this.useState === 'closed';
  }

  step(event: ChannelEvent<R>): ChannelAction<R>[] {
    const out: ChannelAction<R>[] = [];
    switch (event.event) {
      case 'offer':
        if (this.offerState !== 'none' || this.useState !== 'closed' || this.leaving) error(out, 'offered twice');
        else this.sendOffer(out);
        break;
      case 'open':
        this.open(event.request, out);
        break;
      case 'device-opened':
        this.deviceOpened(event.ok, out);
        break;
      case 'close':
        this.close(out);
        break;
      case 'device-closed':
        this.deviceClosed(out);
        break;
      case 'revoke':
        this.revoke(out);
        break;
      case 'reoffer':
        if (this.offerState === 'revoked') this.offerState = 'reoffered';
        else error(out, `offered again while ${this.offerState}`);
        break;
      case 'release':
        this.release(out);
        break;
      case 'disconnect':
        this.disconnect(out);
        break;
    }
    return out;
  }

  private open(request: R, out: ChannelAction<R>[]): void {
    if (this.offerState === 'none') {
      error(out, 'OPENCHANNEL of a channel that is not offered');
      return;
    }
    if (this.offerState !== 'offered') {
      // The rescind and the open have crossed: no error of the guest's.
      out.push({ action: 'open-result', request, ok: false });
    } else if (this.useState === 'closed') {
      this.begin(request, out);
    } else if (
      this.useState === 'closing' ||
      (this.useState === 'opening' && this.abandoned && this.next === undefined)
    ) {
      this.next = request;
      if (this.useState === 'closing') this.useState = 'closing-reopen';
    } else {
      error(out, `OPENCHANNEL of a channel that is ${this.useState}`);
      out.push({ action: 'open-result', request, ok: false });
    }
  }

  private begin(request: R, out: ChannelAction<R>[]): void {
    this.useState = 'opening';
    this.abandoned = false;
    this.request = request;
    out.push({ action: 'open-device', request });
  }

  private deviceOpened(ok: boolean, out: ChannelAction<R>[]): void {
    if (this.useState !== 'opening') {
      error(out, `the device has opened while ${this.useState}`);
      return;
    }
    const request = this.request as R;
    const wanted = ok && !this.abandoned;
    // After a disconnection or a release there is nobody to answer.
    if (this.offerState !== 'none' && !this.releasing) out.push({ action: 'open-result', request, ok: wanted });
    this.abandoned = false;
    if (wanted) {
      this.useState = 'open';
    } else if (ok) {
      this.useState = this.next === undefined ? 'closing' : 'closing-reopen';
      out.push({ action: 'close-device' });
    } else {
      this.closed(out);
    }
  }

  private close(out: ChannelAction<R>[]): void {
    switch (this.useState) {
      case 'open':
        this.useState = 'closing';
        out.push({ action: 'close-device' });
        break;
      case 'opening':
        error(out, 'CLOSECHANNEL of a channel that is opening');
        this.abandoned = true;
        this.dropNext(out);
        break;
      case 'closing-reopen':
        error(out, 'CLOSECHANNEL of a channel that is opening');
        this.useState = 'closing';
        this.dropNext(out);
        break;
      default:
        if (this.offerState !== 'revoked' && this.offerState !== 'reoffered') {
          error(out, `CLOSECHANNEL of a channel that is ${this.useState}`);
        }
    }
  }

  private deviceClosed(out: ChannelAction<R>[]): void {
    if (this.useState !== 'closing' && this.useState !== 'closing-reopen') {
      error(out, `the device has closed while ${this.useState}`);
      return;
    }
    this.closed(out);
  }

  /** The device is closed: what waited for that comes now. */
  private closed(out: ChannelAction<R>[]): void {
    this.useState = 'closed';
    this.request = undefined;
    const next = this.next;
    this.next = undefined;
    if (this.releasing) {
      this.relidFree(out);
    } else if (next !== undefined) {
      if (this.offerState === 'offered') this.begin(next, out);
      else out.push({ action: 'open-result', request: next, ok: false });
    }
  }

  private revoke(out: ChannelAction<R>[]): void {
    switch (this.offerState) {
      case 'none':
        if (this.leaving) break;
        this.leaving = true;
        if (this.useState === 'closed') out.push({ action: 'gone' });
        break;
      case 'offered':
        this.offerState = 'revoked';
        out.push({ action: 'send-rescind' });
        this.stopUse(out);
        break;
      case 'reoffered':
        this.offerState = 'revoked';
        break;
    }
  }

  private release(out: ChannelAction<R>[]): void {
    if (this.offerState === 'none' || this.releasing) {
      error(out, 'RELID_RELEASED of a channel that is not offered');
      return;
    }
    if (this.offerState === 'offered') {
      if (this.useState !== 'closed' && this.useState !== 'closing') {
        error(out, `RELID_RELEASED of a channel that is ${this.useState}`);
        return;
      }
      this.offerState = 'none';
    }
    this.letGo(out);
  }

  private disconnect(out: ChannelAction<R>[]): void {
    this.stopUse(out, false);
    if (this.offerState === 'none') return;
    // A device that is back is offered to the next connection.
    if (this.offerState !== 'revoked') this.offerState = 'none';
    if (!this.releasing) this.letGo(out);
  }

  private letGo(out: ChannelAction<R>[]): void {
    this.releasing = true;
    if (this.useState === 'closed') this.relidFree(out);
  }

  private relidFree(out: ChannelAction<R>[]): void {
    this.releasing = false;
    out.push({ action: 'release-relid' });
    if (this.offerState === 'reoffered') {
      this.sendOffer(out);
    } else if (this.offerState === 'revoked' || this.leaving) {
      this.offerState = 'none';
      this.leaving = true;
      out.push({ action: 'gone' });
    }
  }

  private sendOffer(out: ChannelAction<R>[]): void {
    this.offerState = 'offered';
    out.push({ action: 'send-offer' });
  }

  /** Ends the use of the channel, whatever it is; `answer`: the guest is still there. */
  private stopUse(out: ChannelAction<R>[], answer = true): void {
    if (this.useState === 'open') {
      this.useState = 'closing';
      out.push({ action: 'close-device' });
    } else if (this.useState === 'opening') {
      this.abandoned = true;
    } else if (this.useState === 'closing-reopen') {
      this.useState = 'closing';
    }
    if (answer) this.dropNext(out);
    else this.next = undefined;
  }

  private dropNext(out: ChannelAction<R>[]): void {
    const request = this.next;
    this.next = undefined;
    if (request !== undefined) out.push({ action: 'open-result', request, ok: false });
  }
}

function error<R>(out: ChannelAction<R>[], what: string): void {
  out.push({ action: 'protocol-error', what });
}
