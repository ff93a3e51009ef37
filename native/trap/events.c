/*
 * Event channels as the guest sees them: pending bits (2-level and FIFO ABI), upcalls, block, poll and yield.
 *
 * Only this file sets pending bits. Which port is what lies in dom->ports[], which the shim writes; the shim's own
 * events come in through trap_vp.raise[]. Guest-writable words (pending and mask bitmaps, FIFO event words, control
 * blocks) are only ever touched by locked operations and are never trusted: an index read from them is checked.
 */
#include "trap.h"

#define FIFO_PRIORITIES 16
/* event_word_t: PENDING, MASKED, LINKED, BUSY and the 17-bit link. */
#define FIFO_PENDING_BIT 31
#define FIFO_MASKED_BIT 30
#define FIFO_LINKED_BIT 29
#define FIFO_BUSY_BIT 28
#define FIFO_LINKED (1u << FIFO_LINKED_BIT)
#define FIFO_LINK_MASK 0x1ffffu

/* Per VP: protects fifo_tail and the heads. A port that moves takes those of both its queues, in ascending order. */
static u32 fifo_lock[TRAP_MAX_VPS];
/* VPs in SCHEDOP_poll; vp->poll_port says more. */
static u64 pollers;

static struct shared_info *shared(void)
{
    return gpa_to_va(dom->shared_info_gpa);
}

static inline u32 port_kind(u64 e)
{
    return (u32)(e & TRAP_PORT_KIND_MASK);
}
static inline u32 port_prio(u64 e)
{
    return (u32)(e >> TRAP_PORT_PRIO_SHIFT) & 0xf;
}
static inline u32 port_vcpu(u64 e)
{
    u32 v = (u32)(e >> TRAP_PORT_VCPU_SHIFT) & 0xffff;
    return v < dom->nr_vps ? v : 0;
}
static inline u32 port_peer(u64 e)
{
    return (u32)(e >> TRAP_PORT_PEER_SHIFT);
}

static void lock(struct vp *vp, u32 *l)
{
    while (__atomic_exchange_n(l, 1, __ATOMIC_ACQUIRE))
        mm_spin(vp);
}
static void unlock(u32 *l)
{
    store_release(l, 0);
}

/* Marks the upcall on `target`; interrupts it if it may be running guest code or sleeping elsewhere. */
static void mark_upcall(struct vp *vp, struct vp *target)
{
    if (!__atomic_exchange_n(&target->vi->evtchn_upcall_pending, 1, __ATOMIC_SEQ_CST) && target != vp)
        vp_interrupt(vp, 1ul << target->id);
}

/* Any vCPU may poll any port, whichever vCPU the port notifies. The port's pending bit has been set before. */
static void wake_pollers(struct vp *vp, u32 port)
{
    u64 polling = __atomic_load_n(&pollers, __ATOMIC_SEQ_CST) & ~(1ul << vp->id), wake = 0;
    while (unlikely(polling)) {
        u32 i = (u32)__builtin_ctzl(polling);
        polling &= polling - 1;
        u32 only = READ_ONCE(vps[i].poll_port);
        if (!only || only == port)
            wake |= 1ul << i;
    }
    if (unlikely(wake))
        vp_interrupt(vp, wake);
}

/*
 * A sender may have read the port's entry before the shim closed it, and set the pending bit after the shim cleared it:
 * then it is cleared again. The caller must not notify in that case.
 */
static bool port_was_closed(u32 port, u64 entry)
{
    return unlikely(READ_ONCE(dom->ports[port]) != entry) && port_kind(READ_ONCE(dom->ports[port])) == TRAP_PORT_FREE;
}

/* --- 2-level ------------------------------------------------------------------------------------------------------ */

static void raise_2level(struct vp *vp, u32 port, u64 entry, bool set)
{
    struct shared_info *si = shared();
    struct vp *t = &vps[port_vcpu(entry)];
    if (set) {
        if (test_and_set_bit(port, si->evtchn_pending))
            return;
        if (port_was_closed(port, entry)) {
            test_and_clear_bit(port, si->evtchn_pending);
            return;
        }
    }
    if (!test_bit(port, si->evtchn_mask) && !test_and_set_bit(port / 64, &t->vi->evtchn_pending_sel))
        mark_upcall(vp, t);
    wake_pollers(vp, port);
}

/* --- FIFO --------------------------------------------------------------------------------------------------------- */

/* The port's event word, or NULL while the guest has not added its array page. */
static u32 *fifo_word(u32 port)
{
    u64 page = READ_ONCE(dom->fifo_array[(port >> 10) & 127]);
    return page ? (u32 *)gpa_to_va(page) + (port & 1023) : NULL;
}

/* Makes `word` (the current tail) point to `port`, if it is still on the queue. */
static bool fifo_set_link(u32 *word, u32 port)
{
    u32 w = READ_ONCE(*word);
    for (int tries = 0; tries < 8; tries++) {
        if (!(w & FIFO_LINKED))
            return false;
        if (__atomic_compare_exchange_n(word, &w, (w & ~(FIFO_LINK_MASK | (1u << FIFO_BUSY_BIT))) | port, false,
                                        __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST))
            return true;
    }
    /* The guest keeps changing the word: BUSY tells it to wait with unlinking, and it must see it soon. */
    test_and_set_bit(FIFO_BUSY_BIT, word);
    bool linked = false;
    w = READ_ONCE(*word);
    for (int tries = 0; tries < 1000 && (w & FIFO_LINKED); tries++) {
        if (__atomic_compare_exchange_n(word, &w, (w & ~(FIFO_LINK_MASK | (1u << FIFO_BUSY_BIT))) | port, false,
                                        __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST)) {
            linked = true;
            break;
        }
    }
    if (!linked)
        test_and_clear_bit(FIFO_BUSY_BIT, word);
    return linked;
}

/* The VP whose queue the port was linked on last; NULL if none. */
static struct vp *last_queue_vp(u32 port)
{
    u16 last = READ_ONCE(dom->fifo_last_queue[port]);
    u32 v = last ? (last - 1u) >> 4 : TRAP_MAX_VPS;
    return v < dom->nr_vps ? &vps[v] : NULL;
}

/* Locks the queues of a port that is to be linked on `t`: those of `t`, and those where it was last. Returns the other. */
static struct vp *lock_queues(struct vp *vp, u32 port, struct vp *t)
{
    for (;;) {
        struct vp *other = last_queue_vp(port);
        if (likely(!other || other == t)) {
            other = NULL;
            lock(vp, &fifo_lock[t->id]);
        } else {
            lock(vp, &fifo_lock[other->id < t->id ? other->id : t->id]);
            lock(vp, &fifo_lock[other->id < t->id ? t->id : other->id]);
        }
        struct vp *now = last_queue_vp(port);
        if (likely(now == t || now == other || !now))
            return other;
        if (other)
            unlock(&fifo_lock[other->id]);
        unlock(&fifo_lock[t->id]);
    }
}

static void unlock_queues(struct vp *t, struct vp *other)
{
    if (other)
        unlock(&fifo_lock[other->id]);
    unlock(&fifo_lock[t->id]);
}

static void raise_fifo(struct vp *vp, u32 port, u64 entry, bool set)
{
    u32 vcpu = port_vcpu(entry), prio = port_prio(entry);
    struct vp *t = &vps[vcpu];
    u32 *word = fifo_word(port);
    const u64 control = READ_ONCE(t->s->fifo_control_gpa);
    if (unlikely(!word || !control)) {
        if (set)
            test_and_set_bit(port, dom->early_pending);
        /* What is missing may have come at this moment, and evtchn_resync may have been here already. */
        if (set && fifo_word(port) && READ_ONCE(t->s->fifo_control_gpa) && test_and_clear_bit(port, dom->early_pending))
            raise_fifo(vp, port, entry, true);
        else
            wake_pollers(vp, port);
        return;
    }
    /* Linked even if it is pending already: the guest may have unlinked it and not yet cleared PENDING. So does Xen. */
    if (set) {
        test_and_set_bit(FIFO_PENDING_BIT, word);
        if (port_was_closed(port, entry)) {
            test_and_clear_bit(FIFO_PENDING_BIT, word);
            return;
        }
    }
    if (test_bit(FIFO_MASKED_BIT, word)) {
        wake_pollers(vp, port);
        return;
    }
    struct vp *other = lock_queues(vp, port, t);
    /* Checked under the lock: two raisers must not link the same port twice. */
    if (!test_and_set_bit(FIFO_LINKED_BIT, word)) {
        /* The tail of the queue that it was on before must forget a port that moves. */
        u16 queue = (u16)((vcpu << 4 | prio) + 1), last = dom->fifo_last_queue[port];
        struct vp *last_vp = last_queue_vp(port);
        if (last_vp && last != queue && last_vp->s->fifo_tail[(last - 1) & 15] == port)
            last_vp->s->fifo_tail[(last - 1) & 15] = 0;
        WRITE_ONCE(dom->fifo_last_queue[port], queue);
        u32 tail = t->s->fifo_tail[prio];
        u32 *tail_word = tail && tail != port ? fifo_word(tail & (TRAP_MAX_PORTS - 1)) : NULL;
        struct evtchn_fifo_control_block *cb = gpa_to_va(control);
        bool linked = tail_word && fifo_set_link(tail_word, port);
        if (!linked)
            WRITE_ONCE(cb->head[prio], port);
        t->s->fifo_tail[prio] = port;
        unlock_queues(t, other);
        if (!linked && !test_and_set_bit(prio, &cb->ready))
            mark_upcall(vp, t);
    } else {
        unlock_queues(t, other);
    }
    wake_pollers(vp, port);
}

/* --- both --------------------------------------------------------------------------------------------------------- */

void evtchn_raise(struct vp *vp, u32 port)
{
    if (port == 0 || port >= dom->ports_nr)
        return;
    u64 e = READ_ONCE(dom->ports[port]);
    /* A bit that the shim set before it closed the port: "clear entry, kick, clear pending". */
    if (port_kind(e) == TRAP_PORT_FREE)
        return;
    if (dom->evtchn_fifo)
        raise_fifo(vp, port, e, true);
    else
        raise_2level(vp, port, e, true);
}

long do_evtchn_send(struct vp *vp, u32 port)
{
    if (port == 0 || port >= dom->ports_nr)
        return E(EINVAL);
    u64 e = READ_ONCE(dom->ports[port]);
    switch (port_kind(e)) {
    case TRAP_PORT_SHIM: {
        u32 word = port / 64;
        __atomic_fetch_or(&dom->to_shim[word], 1ul << (port & 63), __ATOMIC_SEQ_CST);
        __atomic_fetch_or(&dom->to_shim_sel, 1ul << word, __ATOMIC_SEQ_CST);
        ring_doorbell(vp);
        return 0;
    }
    case TRAP_PORT_SELF:
        evtchn_raise(vp, port_peer(e));
        return 0;
    case TRAP_PORT_IPI:
        evtchn_raise(vp, port);
        return 0;
    case TRAP_PORT_UNBOUND:
        return 0;
    default:
        return E(EINVAL);
    }
}

long do_evtchn_unmask(struct vp *vp, u32 port)
{
    if (port >= dom->ports_nr)
        return E(EINVAL);
    /* Xen unmasks ports in any state, port 0 included. */
    u64 e = READ_ONCE(dom->ports[port]);
    if (dom->evtchn_fifo) {
        u32 *word = fifo_word(port);
        if (word) {
            test_and_clear_bit(FIFO_MASKED_BIT, word);
            if (test_bit(FIFO_PENDING_BIT, word))
                raise_fifo(vp, port, e, false);
        }
    } else {
        struct shared_info *si = shared();
        if (test_and_clear_bit(port, si->evtchn_mask) && test_bit(port, si->evtchn_pending))
            raise_2level(vp, port, e, false);
    }
    return 0;
}

bool evtchn_is_pending(u32 port)
{
    if (dom->evtchn_fifo) {
        u32 *word = fifo_word(port);
        return word && test_bit(FIFO_PENDING_BIT, word);
    }
    return test_bit(port, shared()->evtchn_pending);
}

/* The FIFO array, a control block or the ABI changed: what could not be linked before is raised now. */
void evtchn_resync(struct vp *vp)
{
    if (!dom->evtchn_fifo) {
        memset(dom->fifo_last_queue, 0, sizeof(dom->fifo_last_queue));
        return;
    }
    for (u32 word = 0; word < TRAP_PORT_WORDS; word++) {
        u64 bits = __atomic_exchange_n(&dom->early_pending[word], 0, __ATOMIC_SEQ_CST);
        while (bits) {
            u32 port = word * 64 + (u32)__builtin_ctzl(bits);
            bits &= bits - 1;
            evtchn_raise(vp, port);
        }
    }
    for (u32 port = 1; port < dom->ports_nr; port++) {
        u32 *w = fifo_word(port);
        u64 e = READ_ONCE(dom->ports[port]);
        if (w && port_kind(e) != TRAP_PORT_FREE && (READ_ONCE(*w) & (1u << FIFO_PENDING_BIT)) &&
            !(READ_ONCE(*w) & FIFO_LINKED))
            raise_fifo(vp, port, e, false);
    }
}

/* --- SCHEDOP_block, poll, yield ------------------------------------------------------------------------------------- */

/* In trap_vp.kick: the VP looks out for the shim. To the shim it is a kick that is on its way: it sends none. */
#define KICK_POLLED 2

/*
 * Waits a little without halting; true if something came. The shim's answer to a request is often there sooner than a
 * halted VP is woken, which takes a kick, QEMU's main loop, its lock and an interrupt.
 */
static bool poll_for_shim(struct vp *vp, bool (*done)(struct vp *vp, void *arg), void *arg)
{
    struct trap_vp *s = vp->s;
    u64 until = system_time() + hv->poll_ns, deadline = next_deadline(s);
    if (deadline < until)
        until = deadline;
    bool found = __atomic_exchange_n(&s->kick, KICK_POLLED, __ATOMIC_SEQ_CST) != 0;
    while (!found && system_time() < until)
        found = READ_ONCE(s->kick) != KICK_POLLED || READ_ONCE(s->requests) || READ_ONCE(dom->stop_request) ||
                done(vp, arg);
    return __atomic_exchange_n(&s->kick, 0, __ATOMIC_SEQ_CST) != KICK_POLLED || found;
}

static void sleep_until(struct vp *vp, bool (*done)(struct vp *vp, void *arg), void *arg)
{
    runstate_change(vp, RUNSTATE_blocked);
    vp_set_running(vp, false);
    /* Not with several VPs: they may be more than the host has processors, and VP 0 has the others' kicks to pass on. */
    bool may_poll = vp->short_sleep && dom->nr_vps == 1;
    u64 began = system_time();
    for (;;) {
        serve_kick(vp);
        timer_expire(vp);
        if (done(vp, arg))
            break;
        if (may_poll) {
            may_poll = false;
            if (poll_for_shim(vp, done, arg))
                continue;
        }
        timer_rearm(vp);
        count_hv(vp, TRAP_HV_IDLE);
        hv->idle(vp);
    }
    timer_rearm(vp); /* what woke us may have been one of several deadlines */
    vp->short_sleep = system_time() - began < 2 * (u64)hv->poll_ns;
    vp_set_running(vp, true);
    runstate_change(vp, RUNSTATE_running);
}

static bool upcall_pending(struct vp *vp, void *arg)
{
    (void)arg;
    return READ_ONCE(vp->vi->evtchn_upcall_pending) || nmi_deliverable(vp);
}

long sched_block(struct vp *vp)
{
    __atomic_store_n(&vp->vi->evtchn_upcall_mask, 0, __ATOMIC_SEQ_CST);
    if (!upcall_pending(vp, NULL))
        sleep_until(vp, upcall_pending, NULL);
    return 0;
}

struct poll {
    u32 nr;
    u64 deadline;
    u32 ports[128];
};

static bool poll_done(struct vp *vp, void *arg)
{
    const struct poll *p = arg;
    for (u32 i = 0; i < p->nr; i++)
        if (evtchn_is_pending(p->ports[i]))
            return true;
    if (upcall_deliverable(vp) || nmi_deliverable(vp))
        return true;
    return p->deadline && ((s64)p->deadline < 0 || system_time() >= p->deadline);
}

long sched_poll(struct vp *vp, u64 arg)
{
    struct sched_poll req;
    struct poll p;
    if (copy_from_guest(&req, arg, sizeof(req)))
        return E(EFAULT);
    if (req.nr_ports > ARRAY_SIZE(p.ports))
        return E(EINVAL);
    if (copy_from_guest(p.ports, req.ports, req.nr_ports * sizeof(u32)))
        return E(EFAULT);
    for (u32 i = 0; i < req.nr_ports; i++)
        if (p.ports[i] == 0 || p.ports[i] >= dom->ports_nr)
            return E(EINVAL);
    p.nr = req.nr_ports;
    p.deadline = req.timeout;
    /* First this, then the look at the ports; senders set the pending bit first. */
    WRITE_ONCE(vp->poll_port, p.nr == 1 ? p.ports[0] : 0);
    __atomic_fetch_or(&pollers, 1ul << vp->id, __ATOMIC_SEQ_CST);
    if (!poll_done(vp, &p)) {
        vp->s->timer_poll = req.timeout;
        sleep_until(vp, poll_done, &p);
        vp->s->timer_poll = 0;
        timer_rearm(vp);
    }
    __atomic_fetch_and(&pollers, ~(1ul << vp->id), __ATOMIC_SEQ_CST);
    return 0;
}

long sched_yield(struct vp *vp)
{
    count_hv(vp, TRAP_HV_LONG_SPIN_WAIT);
    hv->long_spin_wait(vp);
    return 0;
}
