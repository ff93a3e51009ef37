/*
 * /dev/kvm: opened once a process, and what it can do.
 *
 * Another device can be named by WHP_STAND_IN_KVM, for tests of hosts without a hypervisor.
 */
#include "stand-in.h"

#include <stdlib.h>

static INIT_ONCE once = INIT_ONCE_STATIC_INIT;
static int device = -1;

static BOOL CALLBACK open_device(INIT_ONCE *self, void *argument, void **context)
{
    (void)self, (void)argument, (void)context;
    char name[MAX_PATH];
    DWORD length = GetEnvironmentVariableA("WHP_STAND_IN_KVM", name, sizeof name);
    bool named = length > 0 && length < sizeof name;
    device = (int)linux_open(named ? name : "/dev/kvm", LINUX_O_RDWR | LINUX_O_CLOEXEC);
    if (device >= 0 && linux_ioctl(device, KVM_GET_API_VERSION, 0) != KVM_API_VERSION) {
        linux_close(device);
        device = -1;
    }
    linux_prepare_interrupts();
    return TRUE;
}

int kvm_device(void)
{
    InitOnceExecuteOnce(&once, open_device, NULL, NULL);
    return device;
}

int64_t kvm_capability(int capability)
{
    int64_t value = linux_ioctl(kvm_device(), KVM_CHECK_EXTENSION, (uintptr_t)capability);
    return value < 0 ? 0 : value;
}

bool kvm_has_hyperv(void)
{
    return kvm_device() >= 0 && kvm_capability(KVM_CAP_HYPERV) && kvm_capability(KVM_CAP_HYPERV_CPUID) &&
           kvm_capability(KVM_CAP_HYPERV_SYNIC2) && kvm_capability(KVM_CAP_HYPERV_EVENTFD);
}

int64_t kvm_enable(int fd, uint32_t capability, uint64_t argument)
{
    struct kvm_enable_cap request = {.cap = capability, .args = {argument}};
    return linux_ioctl(fd, KVM_ENABLE_CAP, (uintptr_t)&request);
}

size_t kvm_run_bytes(void)
{
    int64_t size = linux_ioctl(kvm_device(), KVM_GET_VCPU_MMAP_SIZE, 0);
    return size < (int64_t)sizeof(struct kvm_run) ? sizeof(struct kvm_run) : (size_t)size;
}

HRESULT kvm_error(int64_t negative_errno)
{
    switch (-negative_errno) {
    case 12: /* ENOMEM */
        return E_OUTOFMEMORY;
    case 13: /* EACCES */
    case 1:  /* EPERM */
        return HV_E_OPERATION_DENIED;
    default:
        return HV_E_INVALID_PARAMETER;
    }
}
