# Supervisor and worker are both killed under fio: the device outlives them, and the next attach takes it up again
# without an I/O error (X10).
#@ seconds 300
. "$PROJECT/tests/kernel/lib/common.sh"
. "$PROJECT/tests/kernel/lib/fio.sh"
origin=$(loop_disk origin 64M)
store=$(loop_disk store 512M)
new_volume vol "$origin" "$store"
cairn snapshot vol@before
cairn expose vol@before
before=$(device_sum /dev/cairn/vol@before)
node=$(readlink -f /dev/cairn/vol)
fio_verify /dev/cairn/vol 15 > fio-output 2>&1 & fio=$!
sleep 3
kill -KILL $(pidof cairn-target)
sleep 1
[ -b "$node" ] || fail "the device did not outlive its process"
cairn attach vol --frontend ublk
[ "$(readlink -f /dev/cairn/vol)" = "$node" ] || fail "another device was made"
wait "$fio" || { cat fio-output; fail "fio saw an I/O error or a mismatch"; }
grep -E 'err= 0' fio-output
[ "$(device_sum /dev/cairn/vol@before)" = "$before" ] || fail "the exposed snapshot changed"
cairn unexpose vol@before
cairn check vol --data
cairn detach vol
