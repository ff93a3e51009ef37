/*
 * A virtual machine with one virtual processor that never runs, open for as long as L1 lives.
 *
 * KVM has switches in its code (static keys: "no machine is there", "some local APIC is disabled") that it flips by
 * patching the kernel's text when the first machine comes and the last one goes. QEMU's TCG with a thread per processor
 * sometimes goes on executing the block that it had translated before the patch; the processor then takes the same
 * breakpoint for ever. With this machine there, no switch is flipped while commands run. Its processor's local APIC
 * stays software-disabled, as after reset, which keeps that switch on as well.
 */
#include "lab.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <string.h>
#include <sys/ioctl.h>

void open_idle_vm(void)
{
    int kvm = open("/dev/kvm", O_RDWR | O_CLOEXEC);
    if (kvm < 0)
        give_up("/dev/kvm: %s", strerror(errno));
    int vm = ioctl(kvm, KVM_CREATE_VM, 0);
    if (vm < 0 || ioctl(vm, KVM_CREATE_IRQCHIP, 0) < 0 || ioctl(vm, KVM_CREATE_VCPU, 0) < 0)
        give_up("the idle virtual machine: %s", strerror(errno));
    /* Never closed. */
}
