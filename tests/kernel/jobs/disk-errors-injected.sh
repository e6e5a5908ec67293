# One write of the store in twenty fails, by the kernel's own error injection: each is tried again elsewhere; nobody
# sees anything of it (laws 3 and 5). Only on 7.2: 6.12 has no injection by chance; there dm-flakey and dm-error in the
# other jobs fail all requests of a kind. A flush alone cannot be made to fail so, because requests without data are not
# looked at: disk-faults-origin has the failed flush.
#@ series 7.2
#@ seconds 240
#@ allow-io-errors
. "$PROJECT/tests/kernel/lib/common.sh"
. "$PROJECT/tests/kernel/lib/faults.sh"

# inject DISK RULE: one more rule for a disk; `removeall` ends all.
inject() { echo "$2" > "/sys/kernel/debug/block/${1##*/}/error_injection"; }

fault_begin ext4
inject "$raw_store" add,op=WRITE,status=IOERR,chance=20
sleep 2
inject "$raw_store" removeall
dmesg | grep -q "injecting I/O error for WRITE" || fail "nothing was injected"
fault_end unharmed
judge_everything
fault_over
