# No worker can be started: the supervisor gives up and says so, requests wait instead of failing, and when the cause is
# mended `cairn attach` goes on where it stopped (X10).
#@ push never
#@ seconds 480
. "$PROJECT/tests/kernel/lib/common.sh"
. "$PROJECT/tests/kernel/lib/fio.sh"
origin=$(loop_disk origin 64M)
store=$(loop_disk store 512M)
new_volume vol "$origin" "$store"
cairn snapshot vol@before
node=$(readlink -f /dev/cairn/vol)
fio_verify /dev/cairn/vol 200 --trigger-file=/tmp/stop-fio --trigger='true' > fio-output 2>&1 & fio=$!
sleep 2

say "the worker is killed, and no successor finds its configuration"
worker=$(worker_pid vol)
mv "$CAIRN_STATE_DIR" away
kill -KILL "$worker"
wait_for 150 test -e "$CAIRN_RUN_DIR/vol/gave-up"
cat "$CAIRN_RUN_DIR/vol/gave-up"
grep -q 'cairn attach vol' "$CAIRN_RUN_DIR/vol/gave-up" || fail "it does not say how to go on"
must_fail cairn snapshot vol@now
must_fail cairn attach vol --frontend ublk
kill -0 "$fio" || { cat fio-output; fail "fio did not wait"; }
[ -b "$node" ] || fail "the device did not outlive its process"

say "mended: it goes on where it stopped"
mv away "$CAIRN_STATE_DIR"
cairn attach vol --frontend ublk
[ "$(readlink -f /dev/cairn/vol)" = "$node" ] || fail "another device was made"
[ ! -e "$CAIRN_RUN_DIR/vol/gave-up" ] || fail "the mark of the past stayed"
sleep 2
touch /tmp/stop-fio
wait "$fio" || { cat fio-output; fail "fio saw an I/O error or a mismatch"; }
grep -E 'err= 0' fio-output
cairn check vol --data
cairn detach vol
