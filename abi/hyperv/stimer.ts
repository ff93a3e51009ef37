/**
 * Synthetic timers. Implements TLFS "Synthetic Timers".
 *
 * Quirks: COUNT is an absolute reference time (100 ns) for a one-shot timer and a period for a periodic one; 0 stops
 * the timer. In message mode SINTx must not be 0. With auto-enable a write to COUNT arms the timer: one MSR write.
 */
import { constants, struct } from '../layout';

export const HvTimerMessagePayload = struct('hv_timer_message_payload', 'TLFS: HV_TIMER_MESSAGE_PAYLOAD', 24, {
  timer_index: { type: 'u32', offset: 0 },
  reserved: { type: 'u32', offset: 4 },
  expiration_time: { type: 'u64', offset: 8, doc: '100 ns' },
  delivery_time: { type: 'u64', offset: 16, doc: '100 ns' },
});

export const HV_STIMER = constants('TLFS: HV_X64_MSR_STIMERn_CONFIG', {
  HV_SYNIC_STIMER_COUNT: 4,
  HV_STIMER_ENABLE: 0x1,
  HV_STIMER_PERIODIC: 0x2,
  HV_STIMER_LAZY: 0x4,
  HV_STIMER_AUTO_ENABLE: 0x8,
  HV_STIMER_APIC_VECTOR_SHIFT: 4,
  HV_STIMER_APIC_VECTOR_MASK: 0xff0,
  HV_STIMER_DIRECT_MODE: 0x1000,
  HV_STIMER_SINTX_SHIFT: 16,
  HV_STIMER_SINTX_MASK: 0xf_0000,
});
