/**
 * The FIFO event channel ABI. Implements Xen public/event_channel.h: struct evtchn_fifo_control_block, event words.
 *
 * Quirks: EVTCHN_FIFO_PENDING, MASKED, LINKED and BUSY are bit numbers, as in Xen's header, not masks. An event word is
 * a plain u32; 1024 of them fill an event array page. Priority 0 is the highest.
 */
import { constants, struct } from '../layout';

export const EvtchnFifoControlBlock = struct(
  'evtchn_fifo_control_block',
  'Xen public/event_channel.h: struct evtchn_fifo_control_block',
  72,
  {
    ready: { type: 'u32', offset: 0, doc: 'bit n: queue of priority n has events' },
    _rsvd: { type: 'u32', offset: 4 },
    head: { type: 'u32', offset: 8, count: 16 },
  },
);

export const EVTCHN_FIFO = constants('Xen public/event_channel.h: FIFO ABI', {
  EVTCHN_FIFO_PRIORITY_MAX: 0,
  EVTCHN_FIFO_PRIORITY_DEFAULT: 7,
  EVTCHN_FIFO_PRIORITY_MIN: 15,
  EVTCHN_FIFO_MAX_QUEUES: 16,
  EVTCHN_FIFO_PENDING: 31,
  EVTCHN_FIFO_MASKED: 30,
  EVTCHN_FIFO_LINKED: 29,
  EVTCHN_FIFO_BUSY: 28,
  EVTCHN_FIFO_LINK_BITS: 17,
  EVTCHN_FIFO_LINK_MASK: 0x1ffff,
  EVTCHN_FIFO_NR_CHANNELS: 0x20000,
});
