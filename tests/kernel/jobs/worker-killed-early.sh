# Workers are killed at any moment, above all while they are still taking over what their predecessor left: every device
# is taken up again by some successor, the volume's and those of exposed snapshots (X10).
#@ push never
#@ seconds 480
. "$PROJECT/tests/kernel/lib/common.sh"
. "$PROJECT/tests/kernel/lib/fio.sh"
origin=$(loop_disk origin 64M)
store=$(loop_disk store 512M)
new_volume vol "$origin" "$store"
dd if=/dev/urandom of=/dev/cairn/vol bs=1M count=16 oflag=direct status=none
for name in one two; do
    cairn snapshot "vol@$name"
    cairn expose "vol@$name"
done
sum=$(device_sum /dev/cairn/vol@one)
nodes() { readlink -f /dev/cairn/vol /dev/cairn/vol@one /dev/cairn/vol@two; }
nodes_before=$(nodes)
# Somebody has them open all the while.
exec 7< /dev/cairn/vol@one 8< /dev/cairn/vol@two
fio_verify /dev/cairn/vol 200 --trigger-file=/tmp/stop-fio --trigger='true' > fio-output 2>&1 & fio=$!
sleep 1

worker=$(worker_pid vol)
supervisor=$(sed -n 's/^PPid:\t//p' "/proc/$worker/status")
for kill in $(seq 15); do
    # The only other one, whether it serves already or not.
    worker=$(pidof -o "$supervisor" cairn-target) || true
    [ -z "$worker" ] || kill -KILL $worker 2>/dev/null || true
    sleep "0.$((RANDOM % 10))$((RANDOM % 10))"
    # Ten quick deaths in a row are too many for the supervisor.
    if [ $((kill % 5)) = 0 ]; then
        wait_for 90 cairn show vol >/dev/null
        sleep 2.5
        echo "$kill kills"
    fi
done
wait_for 90 cairn show vol >/dev/null
echo "served again"
[ "$(nodes)" = "$nodes_before" ] || fail "other devices: $(nodes)"
sleep 1
touch /tmp/stop-fio
has_ended() { ! kill -0 "$fio" 2>/dev/null || grep -q 'err=' fio-output; }
wait_for 60 has_ended
wait "$fio" || { cat fio-output; fail "fio saw an I/O error or a mismatch"; }
grep -E 'err= 0' fio-output
exec 7<&- 8<&-
for name in one two; do
    [ "$(device_sum "/dev/cairn/vol@$name")" = "$sum" ] || fail "vol@$name changed"
    cairn unexpose "vol@$name"
done
cairn check vol --data
cairn detach vol
[ -z "$(ls /dev | grep ublkb)" ] || fail "a device was left behind: $(ls /dev | grep ublkb)"
