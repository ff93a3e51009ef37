/**
 * Virtual interrupt numbers, bound to ports by EVTCHNOP_bind_virq. Implements Xen public/xen.h, VIRQ_*.
 *
 * Quirks: TIMER, DEBUG, XENOPROF and XENPMU are per vCPU; the others are per domain or global and can be bound on
 * vCPU 0 only.
 */
import { constants } from '../layout';

export const VIRQ = constants('Xen public/xen.h: virtual interrupts', {
  VIRQ_TIMER: 0,
  VIRQ_DEBUG: 1,
  VIRQ_CONSOLE: 2,
  VIRQ_DOM_EXC: 3,
  VIRQ_TBUF: 4,
  VIRQ_DEBUGGER: 6,
  VIRQ_XENOPROF: 7,
  VIRQ_CON_RING: 8,
  VIRQ_PCPU_STATE: 9,
  VIRQ_MEM_EVENT: 10,
  VIRQ_ARGO: 11,
  VIRQ_ENOMEM: 12,
  VIRQ_XENPMU: 13,
  VIRQ_ARCH_0: 16,
  VIRQ_ARCH_1: 17,
  VIRQ_ARCH_2: 18,
  VIRQ_ARCH_3: 19,
  VIRQ_ARCH_4: 20,
  VIRQ_ARCH_5: 21,
  VIRQ_ARCH_6: 22,
  VIRQ_ARCH_7: 23,
  NR_VIRQS: 24,
});
