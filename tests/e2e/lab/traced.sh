#!/bin/sh
# traced.sh STATS.json COMMAND...: runs a command in the lab (--smp 1: switching tracepoints patches the kernel's code, which
# is safe with one processor) and prints, after a line "TRACED", how often each of KVM's Hyper-V tracepoints was hit, the
# hypercalls by their code; then "LOST n", records that the buffer had no room for; then the statistics.
stats=$1; shift
t=/sys/kernel/debug/tracing
if [ ! -d $t/events ]; then t=/sys/kernel/tracing; mount -t tracefs tracefs $t; fi
echo 16384 > $t/buffer_size_kb
for e in hypercall stimer_set_count stimer_expiration; do echo 1 > $t/events/kvm/kvm_hv_$e/enable; done
"$@"
status=$?
for e in hypercall stimer_set_count stimer_expiration; do echo 0 > $t/events/kvm/kvm_hv_$e/enable; done
echo; echo TRACED
grep -o 'kvm_hv_[a-z_]*: .*' $t/trace | sed 's/: code 0x\([0-9a-f]*\).*/ \1/; s/:.*//' | sort | uniq -c
echo LOST $(cat $t/per_cpu/cpu*/stats | awk '/overrun|dropped/ { n += $NF } END { print n + 0 }')
echo STATS
cat "$stats"
exit $status
