/*
 * Extended processor state: XCR0 (Xen PV ABI: privileged-instruction emulation, XSETBV).
 *
 * The guest saves and restores its own state with XSAVE and XRSTOR, which need no privilege; the module touches no
 * register that they know. Each VP's hardware XCR0 is its vCPU's, so there is nothing to switch, only XSETBV to emulate.
 *
 * Quirks: CR4.OSXSAVE is on whenever XSAVE is shown, whatever the guest's virtual CR4 says, as under Xen: only XSETBV
 * obeys the virtual bit. XCR0 starts with x87 and SSE, which is what a vCPU of Xen runs with before its first XSETBV.
 */
#include "trap.h"

#define CR4_OSXSAVE (1ul << 18)

#define XCR0_X87 (1ul << 0)
#define XCR0_SSE (1ul << 1)
#define XCR0_AVX (1ul << 2)
#define XCR0_AVX512 (7ul << 5) /* opmask, upper halves of ZMM0-15, ZMM16-31 */

/* The architecture's rules; max is what the guest is shown. */
static bool xcr0_valid(u64 value, u64 max)
{
    if ((value & ~max) || !(value & XCR0_X87))
        return false;
    if ((value & XCR0_AVX) && !(value & XCR0_SSE))
        return false;
    if ((value & XCR0_AVX512) && ((value & XCR0_AVX512) != XCR0_AVX512 || !(value & XCR0_AVX)))
        return false;
    return true;
}

void xstate_init_vp(struct vp *vp)
{
    if (!guest_xcr0_max()) {
        vp->s->xcr0 = 0;
        return;
    }
    write_cr4(read_cr4() | CR4_OSXSAVE);
    if (!vp->s->xcr0)
        vp->s->xcr0 = XCR0_X87 | XCR0_SSE;
    xsetbv(0, vp->s->xcr0);
}

bool xstate_enabled(const struct vp *vp)
{
    return guest_xcr0_max() && (vp->s->vcr4 & CR4_OSXSAVE);
}

bool xstate_set(struct vp *vp, u32 index, u64 value)
{
    if (index != 0 || !xcr0_valid(value, guest_xcr0_max()))
        return false;
    xsetbv(0, value);
    vp->s->xcr0 = value;
    return true;
}
