# The worker is killed ten times under fio with checksums: no I/O error, no mismatch (X10).
#@ push never
#@ seconds 480
. "$PROJECT/tests/kernel/lib/common.sh"
. "$PROJECT/tests/kernel/lib/fio.sh"
origin=$(loop_disk origin 64M)
store=$(loop_disk store 512M)
new_volume vol "$origin" "$store"
cairn snapshot vol@before

# fio runs until it is told to stop, so that a slow recovery lets no kill fall after its end.
fio_verify /dev/cairn/vol 200 --trigger-file=/tmp/stop-fio --trigger='true' > fio-output 2>&1 & fio=$!
is_another_worker() { local now; now=$(worker_pid vol 2>/dev/null) && [ -n "$now" ] && [ "$now" != "$1" ]; }
for kill in 1 2 3 4 5 6 7 8 9 10; do
    sleep "0.$((RANDOM % 10))"
    worker=$(worker_pid vol)
    kill -KILL "$worker"
    wait_for 60 is_another_worker "$worker"
    kill -0 "$fio" || { cat fio-output; fail "fio ended after kill $kill"; }
    echo "kill $kill: worker $worker was followed by $(worker_pid vol)"
    if [ "$kill" = 5 ]; then cairn snapshot vol@middle; fi
done
sleep 1
touch /tmp/stop-fio
wait "$fio" || { cat fio-output; fail "fio saw an I/O error or a mismatch"; }
grep -E 'err= 0' fio-output
cairn check vol --data
cairn detach vol
