# The store refuses writes, loses them silently, or damages them on the way in or out, while two users work: neither
# sees anything of it, and the snapshot is exact or broken and says so (laws 1, 3, 5).
#@ seconds 360
#@ push 7.2
#@ allow-io-errors
. "$PROJECT/tests/kernel/lib/common.sh"
. "$PROJECT/tests/kernel/lib/faults.sh"

say "writes are refused"
fault_begin ext4
fault_table store "$(flakey store error_writes)"
fault_end unharmed
judge s1
echo "with the fault: $judged"
fault_table store
judge_everything --clear-failed-flush
[ "$judged" = "s1 is broken" ] || fail "a snapshot whose blocks could not be saved for a second calls itself $judged"
fault_over

say "writes are lost and reported as done, for a second"
fault_begin xfs
fault_table store "$(flakey store drop_writes)"
sleep 1
fault_table store
fault_end unharmed
judge_everything may-be-refused
[ "$judged" != "s1 is exact" ] || fail "a second of lost writes left no trace: the fault did not work"
fault_over

say "writes are damaged for a second, behind the head of a record"
fault_begin ext4
fault_table store "$(flakey store corrupt_bio_byte 5000 w 165 0)"
sleep 1
fault_table store
fault_end unharmed
judge_everything may-be-refused
[ "$judged" != "s1 is exact" ] || fail "a second of damaged writes left no trace: the fault did not work"
fault_over

say "reads are damaged: what is on the store is whole"
fault_begin xfs
sleep 1
fault_table store "$(flakey store corrupt_bio_byte 100 r 1 0)"
sleep 1
judge s1
echo "with the fault: $judged"
[ "$judged" != "s1 is exact" ] || fail "damaged reads left no trace: the fault did not work"
fault_table store
fault_end unharmed
judge_everything
fault_over
