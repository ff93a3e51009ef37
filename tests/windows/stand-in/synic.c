/*
 * The SynIC from the host's side (TLFS, "Synthetic Interrupt Controller"): event flags, messages, triggers, notification
 * ports (WHvSignalVirtualProcessorSynicEvent.md, WHvPostVirtualProcessorSynicMessage.md, WHvCreateTrigger.md,
 * WHvCreateNotificationPort.md).
 *
 * KVM emulates what the guest sees of a SynIC and leaves the host's part to the monitor: it sets the flag or writes the
 * message in the guest's page and has the SINT interrupt, by a route of KVM_IRQ_ROUTING_HV_SINT for each SINT of each VP.
 * Where the pages are KVM says when the guest moves them.
 *
 * A trigger is a thread that waits for an event of Win32 and delivers; a port is one that waits for KVM's eventfd of the
 * guest's HvCallSignalEvent (or its doorbell write) and sets the monitor's event.
 */
#include "stand-in.h"

#include <stdlib.h>
#include <string.h>

#define SIEF_SINT_BYTES 256u
#define SINT_FLAGS 2048
#define MESSAGE_BYTES 256u
#define MESSAGE_TYPE_NONE 0
#define MESSAGE_FLAGS_OFFSET 5
#define MESSAGE_PENDING 1u
#define PAGE_MASK (~(uint64_t)(PAGE_BYTES - 1))

static uint32_t gsi_of(uint32_t vp, uint32_t sint)
{
    return vp * SINTS + sint;
}

void synic_route(struct partition *partition)
{
    struct kvm_irq_routing *table = calloc(1, sizeof *table + MAX_VPS * SINTS * sizeof *table->entries);
    if (!table)
        return;
    for (uint32_t vp = 0; vp < MAX_VPS; vp++)
        for (uint32_t sint = 0; partition->vps[vp] && sint < SINTS; sint++)
            table->entries[table->nr++] = (struct kvm_irq_routing_entry){
                .gsi = gsi_of(vp, sint), .type = KVM_IRQ_ROUTING_HV_SINT, .u.hv_sint = {.vcpu = vp, .sint = sint}};
    linux_ioctl(partition->vm_fd, KVM_SET_GSI_ROUTING, (uintptr_t)table);
    free(table);
}

static void interrupt_sint(struct partition *partition, uint32_t vp, uint32_t sint)
{
    /* A masked SINT takes none: that is the guest's business. */
    struct kvm_irq_level line = {.irq = gsi_of(vp, sint), .level = 1};
    linux_ioctl(partition->vm_fd, KVM_IRQ_LINE, (uintptr_t)&line);
}

static struct vp *find_vp(struct partition *partition, uint32_t index)
{
    struct vp *vp = index < MAX_VPS ? partition->vps[index] : NULL;
    return vp && vp->exists ? vp : NULL;
}

static bool is_event(struct partition *partition, const WHV_SYNIC_EVENT_PARAMETERS *event)
{
    return event->VpIndex < partition->properties.processor_count && event->TargetSint < SINTS &&
           event->TargetVtl == 0 && event->FlagNumber < SINT_FLAGS;
}

HRESULT synic_signal(struct partition *partition, const WHV_SYNIC_EVENT_PARAMETERS *event, BOOL *newly)
{
    struct vp *vp = find_vp(partition, event->VpIndex);
    if (newly)
        *newly = FALSE;
    if (!partition->properties.synthetic_features)
        return HV_E_OPERATION_DENIED;
    if (!vp)
        return WHV_E_VP_DOES_NOT_EXIST;
    uint64_t page = vp->siefp;
    /* Without a page the event is lost, as the TLFS has it. */
    if (!(vp->scontrol & 1) || !(page & 1))
        return HV_E_INVALID_PARAMETER;
    uint8_t *flags =
        memory_at(partition, (page & PAGE_MASK) + event->TargetSint * SIEF_SINT_BYTES, SIEF_SINT_BYTES, NULL);
    if (!flags)
        return HV_E_INVALID_PARAMETER;
    uint32_t bit = 1u << (event->FlagNumber % 32);
    uint32_t *word = (uint32_t *)(void *)(flags + event->FlagNumber / 32 * 4);
    if (__atomic_fetch_or(word, bit, __ATOMIC_SEQ_CST) & bit)
        return S_OK;
    if (newly)
        *newly = TRUE;
    interrupt_sint(partition, event->VpIndex, event->TargetSint);
    return S_OK;
}

HRESULT do_WHvSignalVirtualProcessorSynicEvent(WHV_PARTITION_HANDLE handle, WHV_SYNIC_EVENT_PARAMETERS event,
                                               BOOL *newly)
{
    struct partition *partition;
    HRESULT result = partition_acquire_set_up(handle, &partition);
    if (FAILED(result))
        return result;
    result = is_event(partition, &event) ? synic_signal(partition, &event, newly) : E_INVALIDARG;
    partition_release(partition);
    return result;
}

/* --- messages ------------------------------------------------------------------------------------------------------ */

static uint8_t *message_slot(struct vp *vp, uint32_t sint)
{
    uint64_t page = vp->simp;
    if (!(vp->scontrol & 1) || !(page & 1))
        return NULL;
    return memory_at(vp->partition, (page & PAGE_MASK) + sint * MESSAGE_BYTES, MESSAGE_BYTES, NULL);
}

static bool is_free(const uint8_t *slot)
{
    return __atomic_load_n((const uint32_t *)(const void *)slot, __ATOMIC_SEQ_CST) == MESSAGE_TYPE_NONE;
}

uint16_t synic_deliverable(struct vp *vp, uint16_t wanted)
{
    uint16_t free_slots = 0;
    for (uint32_t sint = 0; sint < SINTS; sint++) {
        const uint8_t *slot = wanted >> sint & 1 ? message_slot(vp, sint) : NULL;
        if (slot && is_free(slot))
            free_slots |= (uint16_t)(1u << sint);
    }
    return free_slots;
}

HRESULT do_WHvPostVirtualProcessorSynicMessage(WHV_PARTITION_HANDLE handle, UINT32 index, UINT32 sint,
                                               const void *message, UINT32 size)
{
    struct partition *partition;
    uint32_t type = 0;
    if (!message)
        return E_POINTER;
    if (size > MESSAGE_BYTES || size < sizeof type || sint >= SINTS)
        return E_INVALIDARG;
    HRESULT result = partition_acquire_set_up(handle, &partition);
    if (FAILED(result))
        return result;
    struct vp *vp = find_vp(partition, index);
    uint8_t *slot = vp ? message_slot(vp, sint) : NULL;
    if (!partition->properties.synthetic_features) {
        result = HV_E_OPERATION_DENIED;
    } else if (!vp) {
        result = WHV_E_VP_DOES_NOT_EXIST;
    } else if (!slot) {
        result = HV_E_INVALID_PARAMETER;
    } else {
        /* Everything but the type, and then the type: the guest looks at that first. */
        EnterCriticalSection(&partition->lock);
        if (is_free(slot)) {
            memcpy(&type, message, sizeof type);
            memcpy(slot + sizeof type, (const uint8_t *)message + sizeof type, size - sizeof type);
            slot[MESSAGE_FLAGS_OFFSET] &= (uint8_t)~MESSAGE_PENDING;
            __atomic_store_n((uint32_t *)(void *)slot, type, __ATOMIC_SEQ_CST);
            interrupt_sint(partition, index, sint);
        } else {
            slot[MESSAGE_FLAGS_OFFSET] |= MESSAGE_PENDING;
            result = HV_E_OBJECT_IN_USE;
        }
        LeaveCriticalSection(&partition->lock);
    }
    partition_release(partition);
    return result;
}

/* --- triggers and ports: threads ----------------------------------------------------------------------------------- */

static void deliver(struct signal *signal)
{
    struct partition *partition = signal->partition;
    WHV_TRIGGER_PARAMETERS trigger;
    EnterCriticalSection(&partition->lock);
    trigger = signal->trigger;
    LeaveCriticalSection(&partition->lock);
    if (trigger.TriggerType == WHvTriggerTypeInterrupt)
        interrupt_request(partition, &trigger.Interrupt);
    else
        synic_signal(partition, &trigger.SynicEvent, NULL);
}

static DWORD WINAPI trigger_thread(void *argument)
{
    struct signal *signal = argument;
    HANDLE handles[2] = {signal->stop, signal->event};
    while (WaitForMultipleObjects(2, handles, FALSE, INFINITE) == WAIT_OBJECT_0 + 1)
        deliver(signal);
    return 0;
}

static DWORD WINAPI port_thread(void *argument)
{
    struct signal *signal = argument;
    uint64_t count;
    for (;;) {
        int64_t got = linux_read(signal->fd, &count, sizeof count);
        if (signal->closing)
            return 0;
        if (got == sizeof count)
            SetEvent(signal->event);
        else if (got != -LINUX_EINTR)
            return 0;
    }
}

static bool is_trigger(struct partition *partition, const WHV_TRIGGER_PARAMETERS *p)
{
    /* Device interrupts need devices, of which there are none. */
    return p->TriggerType == WHvTriggerTypeInterrupt ||
           (p->TriggerType == WHvTriggerTypeSynicEvent && is_event(partition, &p->SynicEvent));
}

static struct signal *find_signal(struct partition *partition, const void *handle, enum signal_kind kind)
{
    for (struct signal *s = partition->signals; s; s = s->next)
        if (s == handle && s->kind == kind)
            return s;
    return NULL;
}

/* Out of the list, under the partition's lock. */
static bool unlink_signal(struct partition *partition, const void *handle, enum signal_kind kind, struct signal **found)
{
    *found = NULL;
    EnterCriticalSection(&partition->lock);
    for (struct signal **link = &partition->signals; *link; link = &(*link)->next) {
        if (*link != handle || (*link)->kind != kind)
            continue;
        *found = *link;
        *link = (*link)->next;
        break;
    }
    LeaveCriticalSection(&partition->lock);
    return *found != NULL;
}

static void attach(struct signal *signal, bool on)
{
    struct partition *partition = signal->partition;
    const WHV_NOTIFICATION_PORT_PARAMETERS *port = &signal->port;
    if (port->NotificationPortType == WHvNotificationPortTypeEvent) {
        struct kvm_hyperv_eventfd request = {
            .conn_id = port->Event.ConnectionId, .fd = signal->fd, .flags = on ? 0 : KVM_HYPERV_EVENTFD_DEASSIGN};
        linux_ioctl(partition->vm_fd, KVM_HYPERV_EVENTFD, (uintptr_t)&request);
    }
}

static void close_signal(struct signal *signal)
{
    uint64_t one = 1;
    InterlockedExchange(&signal->closing, 1);
    if (signal->kind == SIGNAL_PORT) {
        attach(signal, false);
        linux_write(signal->fd, &one, sizeof one);
    } else {
        SetEvent(signal->stop);
    }
    if (signal->thread) {
        WaitForSingleObject(signal->thread, INFINITE);
        CloseHandle(signal->thread);
    }
    if (signal->kind == SIGNAL_PORT)
        linux_close(signal->fd);
    CloseHandle(signal->event);
    if (signal->stop)
        CloseHandle(signal->stop);
    free(signal);
}

void signals_close(struct partition *partition)
{
    while (partition->signals) {
        struct signal *signal = partition->signals;
        partition->signals = signal->next;
        close_signal(signal);
    }
}

static HRESULT start(struct signal *signal, LPTHREAD_START_ROUTINE routine)
{
    signal->thread = CreateThread(NULL, 65536, routine, signal, 0, NULL);
    if (!signal->thread)
        return HRESULT_FROM_WIN32(GetLastError());
    struct partition *partition = signal->partition;
    EnterCriticalSection(&partition->lock);
    signal->next = partition->signals;
    partition->signals = signal;
    LeaveCriticalSection(&partition->lock);
    return S_OK;
}

HRESULT do_WHvCreateTrigger(WHV_PARTITION_HANDLE handle, const WHV_TRIGGER_PARAMETERS *parameters,
                            WHV_TRIGGER_HANDLE *trigger, HANDLE *event)
{
    struct partition *partition;
    if (!parameters || !trigger || !event)
        return E_POINTER;
    HRESULT result = partition_acquire_set_up(handle, &partition);
    if (FAILED(result))
        return result;
    struct signal *signal = NULL;
    HANDLE callers = NULL;
    if (!is_trigger(partition, parameters))
        result = E_INVALIDARG;
    else if (!(signal = calloc(1, sizeof *signal)))
        result = E_OUTOFMEMORY;
    if (SUCCEEDED(result)) {
        *signal = (struct signal){.kind = SIGNAL_TRIGGER, .partition = partition, .trigger = *parameters};
        signal->event = CreateEventW(NULL, FALSE, FALSE, NULL);
        signal->stop = CreateEventW(NULL, TRUE, FALSE, NULL);
        /* The caller closes its own handle, which outlives the trigger. */
        result = signal->event && signal->stop &&
                         DuplicateHandle(GetCurrentProcess(), signal->event, GetCurrentProcess(), &callers, 0, FALSE,
                                         DUPLICATE_SAME_ACCESS)
                     ? start(signal, trigger_thread)
                     : E_OUTOFMEMORY;
        if (FAILED(result)) {
            if (callers)
                CloseHandle(callers);
            close_signal(signal);
        }
    }
    if (SUCCEEDED(result)) {
        *trigger = signal;
        *event = callers;
    }
    partition_release(partition);
    return result;
}

HRESULT do_WHvUpdateTriggerParameters(WHV_PARTITION_HANDLE handle, const WHV_TRIGGER_PARAMETERS *parameters,
                                      WHV_TRIGGER_HANDLE trigger)
{
    struct partition *partition;
    if (!parameters)
        return E_POINTER;
    HRESULT result = partition_acquire_set_up(handle, &partition);
    if (FAILED(result))
        return result;
    EnterCriticalSection(&partition->lock);
    struct signal *signal = find_signal(partition, trigger, SIGNAL_TRIGGER);
    if (!signal || !is_trigger(partition, parameters) || signal->trigger.TriggerType != parameters->TriggerType)
        result = E_INVALIDARG;
    else
        signal->trigger = *parameters;
    LeaveCriticalSection(&partition->lock);
    partition_release(partition);
    return result;
}

static HRESULT delete_signal(WHV_PARTITION_HANDLE handle, const void *which, enum signal_kind kind)
{
    struct partition *partition;
    struct signal *signal;
    HRESULT result = partition_acquire_set_up(handle, &partition);
    if (FAILED(result))
        return result;
    if (unlink_signal(partition, which, kind, &signal))
        close_signal(signal);
    else
        result = E_INVALIDARG;
    partition_release(partition);
    return result;
}

HRESULT do_WHvDeleteTrigger(WHV_PARTITION_HANDLE handle, WHV_TRIGGER_HANDLE trigger)
{
    return delete_signal(handle, trigger, SIGNAL_TRIGGER);
}

/* KVM's connection ids have 24 bits. */
static HRESULT attach_port(struct signal *signal)
{
    const WHV_NOTIFICATION_PORT_PARAMETERS *port = &signal->port;
    struct kvm_hyperv_eventfd request = {.conn_id = port->Event.ConnectionId, .fd = signal->fd};
    if (!signal->partition->properties.synthetic_features)
        return HV_E_OPERATION_DENIED;
    int64_t error = linux_ioctl(signal->partition->vm_fd, KVM_HYPERV_EVENTFD, (uintptr_t)&request);
    return error == -LINUX_EEXIST ? HV_E_OBJECT_IN_USE : error < 0 ? kvm_error(error) : S_OK;
}

HRESULT do_WHvCreateNotificationPort(WHV_PARTITION_HANDLE handle, const WHV_NOTIFICATION_PORT_PARAMETERS *parameters,
                                     HANDLE event, WHV_NOTIFICATION_PORT_HANDLE *port)
{
    struct partition *partition;
    HANDLE own;
    if (!parameters || !port)
        return E_POINTER;
    HRESULT result = partition_acquire_set_up(handle, &partition);
    if (FAILED(result))
        return result;
    struct signal *signal = NULL;
    int64_t fd = -1;
    if (parameters->NotificationPortType == WHvNotificationPortTypeDoorbell)
        result = E_NOTIMPL;
    else if (parameters->NotificationPortType != WHvNotificationPortTypeEvent || parameters->ConnectionVtl)
        result = E_INVALIDARG;
    else if (!DuplicateHandle(GetCurrentProcess(), event, GetCurrentProcess(), &own, 0, FALSE, DUPLICATE_SAME_ACCESS))
        result = HRESULT_FROM_WIN32(GetLastError());
    else if (!(signal = calloc(1, sizeof *signal)) || (fd = linux_eventfd()) < 0)
        result = E_OUTOFMEMORY;
    if (SUCCEEDED(result)) {
        *signal = (struct signal){
            .kind = SIGNAL_PORT, .partition = partition, .port = *parameters, .event = own, .fd = (int)fd};
        result = attach_port(signal);
        if (FAILED(result)) {
            linux_close(signal->fd);
            CloseHandle(own);
            free(signal);
        } else if (FAILED(result = start(signal, port_thread))) {
            close_signal(signal);
        } else {
            *port = signal;
        }
    }
    partition_release(partition);
    return result;
}

HRESULT do_WHvSetNotificationPortProperty(WHV_PARTITION_HANDLE handle, WHV_NOTIFICATION_PORT_HANDLE port,
                                          WHV_NOTIFICATION_PORT_PROPERTY_CODE code,
                                          WHV_NOTIFICATION_PORT_PROPERTY value)
{
    struct partition *partition;
    HRESULT result = partition_acquire_set_up(handle, &partition);
    if (FAILED(result))
        return result;
    EnterCriticalSection(&partition->lock);
    /* Hints, which nothing here needs. */
    if (!find_signal(partition, port, SIGNAL_PORT))
        result = E_INVALIDARG;
    else if (code == WHvNotificationPortPropertyPreferredTargetVp)
        result = value == WHV_ANY_VP || value < partition->properties.processor_count ? S_OK : E_INVALIDARG;
    else if (code != WHvNotificationPortPropertyPreferredTargetDuration)
        result = E_INVALIDARG;
    LeaveCriticalSection(&partition->lock);
    partition_release(partition);
    return result;
}

HRESULT do_WHvDeleteNotificationPort(WHV_PARTITION_HANDLE handle, WHV_NOTIFICATION_PORT_HANDLE port)
{
    return delete_signal(handle, port, SIGNAL_PORT);
}
