# The origin refuses writes or flushes, loses writes silently, or damages them, while two users work: they see what they
# would see on the bare disk; a snapshot from before is exact or broken and says so; a failed flush is latched until the
# owner clears it (laws 3 and 4).
#@ seconds 360
#@ push 7.2
#@ allow-io-errors
. "$PROJECT/tests/kernel/lib/common.sh"
. "$PROJECT/tests/kernel/lib/faults.sh"

say "writes are refused"
fault_begin ext4
fault_table origin "$(flakey origin error_writes)"
fault_end harmed
[ -e writer-failed ] || fail "a write of a disk that refuses writes was acknowledged"
fault_table origin
judge s1
echo "while attached: $judged"
says_failed_flush() {
    cairn show "$vol" > shown
    grep -q 'a flush of the disk failed' shown || fail "not shown: $(cat shown)"
}
says_failed_flush
say "a flush had failed: that outlives the process"
cairn detach "$vol" || fail "cannot be detached"
cairn attach "$vol" --frontend ublk
says_failed_flush
write_and_flush() {
    dd if=/dev/urandom of="/dev/cairn/$vol" bs=4096 count=1 oflag=direct conv=notrunc,fsync status=none
}
must_fail write_and_flush
cairn detach "$vol"
cairn attach "$vol" --frontend ublk --clear-failed-flush >/dev/null
if cairn show "$vol" | grep 'a flush of the disk failed'; then fail "it was cleared"; fi
write_and_flush
judge s1
[ "$judged" = "s1 is exact" ] || fail "the store worked all the time: $judged"
fault_over

say "writes are lost and reported as done, for a second"
fault_begin ext4
fault_table origin "$(flakey origin drop_writes)"
sleep 1
fault_table origin
fault_end harmed
judge_everything --accept-changed-origin
fault_over

say "writes are damaged for a second"
fault_begin xfs
fault_table origin "$(flakey origin corrupt_bio_byte 100 w 1 0)"
sleep 1
fault_table origin
fault_end harmed
judge_everything --accept-changed-origin
fault_over
