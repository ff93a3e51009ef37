/**
 * The hypervisor's statistics of a VP. Implements the Windows Hypervisor Platform, WHV_PROCESSOR_COUNTER_SET and
 * WHV_PROCESSOR_INTERCEPT_COUNTERS.
 *
 * Quirks: newer Windows may append counters; older ones have fewer and say how many bytes they wrote.
 */
import { constants, struct } from '../../layout';

export const WHV_PROCESSOR_COUNTER_SET = constants('WHP: WHV_PROCESSOR_COUNTER_SET', {
  WHvProcessorCounterSetRuntime: 0,
  WHvProcessorCounterSetIntercepts: 1,
  WHvProcessorCounterSetEvents: 2,
  WHvProcessorCounterSetApic: 3,
  WHvProcessorCounterSetSyntheticFeatures: 4,
});

export const WhvProcessorInterceptCounter = struct(
  'WHV_PROCESSOR_INTERCEPT_COUNTER',
  'WHP: WHV_PROCESSOR_INTERCEPT_COUNTER',
  16,
  { Count: { type: 'u64', offset: 0 }, Time100ns: { type: 'u64', offset: 8 } },
);

export const WhvProcessorInterceptCounters = struct(
  'WHV_PROCESSOR_INTERCEPT_COUNTERS',
  'WHP: WHV_PROCESSOR_INTERCEPT_COUNTERS',
  224,
  {
    PageInvalidations: { type: WhvProcessorInterceptCounter, offset: 0 },
    ControlRegisterAccesses: { type: WhvProcessorInterceptCounter, offset: 16 },
    IoInstructions: { type: WhvProcessorInterceptCounter, offset: 32 },
    HaltInstructions: { type: WhvProcessorInterceptCounter, offset: 48 },
    CpuidInstructions: { type: WhvProcessorInterceptCounter, offset: 64 },
    MsrAccesses: { type: WhvProcessorInterceptCounter, offset: 80 },
    OtherIntercepts: { type: WhvProcessorInterceptCounter, offset: 96 },
    PendingInterrupts: { type: WhvProcessorInterceptCounter, offset: 112 },
    EmulatedInstructions: { type: WhvProcessorInterceptCounter, offset: 128 },
    DebugRegisterAccesses: { type: WhvProcessorInterceptCounter, offset: 144 },
    PageFaultIntercepts: { type: WhvProcessorInterceptCounter, offset: 160 },
    NestedPageFaultIntercepts: { type: WhvProcessorInterceptCounter, offset: 176 },
    Hypercalls: { type: WhvProcessorInterceptCounter, offset: 192 },
    RdpmcInstructions: { type: WhvProcessorInterceptCounter, offset: 208 },
  },
);
