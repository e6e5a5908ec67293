# No worker can be started: the supervisor gives up and says so, requests wait instead of failing, and when the cause is
# mended `cairn attach` goes on where it stopped (X10).
#@ seconds 240
#@ allow-io-errors
. "$PROJECT/tests/kernel/lib/common.sh"
. "$PROJECT/tests/kernel/lib/fio.sh"
disk=$(loop_disk origin 64M)
store=$(loop_disk store 512M)
sectors=$(blockdev --getsz "$disk")
mapped_disk origin "0 $sectors linear $disk 0"
new_volume vol /dev/mapper/origin "$store"
cairn snapshot vol@before
node=$(readlink -f /dev/cairn/vol)
fio_verify /dev/cairn/vol 200 --trigger-file=/tmp/stop-fio --trigger='true' > fio-output 2>&1 & fio=$!
sleep 2

say "the worker is killed, and none of its successors can read the origin"
worker=$(worker_pid vol)
supervisor=$(sed -n 's/^PPid:\t//p' "/proc/$worker/status")
# The supervisor waits, so that the origin is gone before the first successor looks at it.
kill -STOP "$supervisor"
kill -KILL "$worker"
is_dead() { grep -q '^State:.*Z' "/proc/$1/status"; }
wait_for 30 is_dead "$worker"
replace_table origin "0 $sectors error"
kill -CONT "$supervisor"
wait_for 150 test -e "$CAIRN_RUN_DIR/vol/gave-up"
cat "$CAIRN_RUN_DIR/vol/gave-up"
grep -q 'cairn attach vol' "$CAIRN_RUN_DIR/vol/gave-up" || fail "it does not say how to go on"
must_fail cairn snapshot vol@now
must_fail cairn attach vol --frontend ublk
kill -0 "$fio" || { cat fio-output; fail "fio did not wait"; }
[ -b "$node" ] || fail "the device did not outlive its process"

say "mended: it goes on where it stopped"
replace_table origin "0 $sectors linear $disk 0"
cairn attach vol --frontend ublk
[ "$(readlink -f /dev/cairn/vol)" = "$node" ] || fail "another device was made"
[ ! -e "$CAIRN_RUN_DIR/vol/gave-up" ] || fail "the mark of the past stayed"
sleep 2
touch /tmp/stop-fio
wait "$fio" || { cat fio-output; fail "fio saw an I/O error or a mismatch"; }
grep -E 'err= 0' fio-output
cairn check vol --data
cairn detach vol
