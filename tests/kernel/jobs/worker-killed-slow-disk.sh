# The worker is killed while its writes hang in a slow disk: its successor must not begin before they have landed, or an
# old write would overwrite a new one (design: recovery).
#@ push never
#@ seconds 480
. "$PROJECT/tests/kernel/lib/common.sh"
origin=$(loop_disk origin 32M)
store=$(loop_disk store 256M)
sectors=$(blockdev --getsz "$origin")
# Reads at once, writes after a while.
mapped_disk slow "0 $sectors delay $origin 0 0 $origin 0 0"
new_volume vol /dev/mapper/slow "$store"
cut-model fill /dev/cairn/vol
replace_table slow "0 $sectors delay $origin 0 0 $origin 0 400"

cut-model write /dev/cairn/vol --log log --seconds 20 --depth 12 --write-bytes-max 65536 --snapshots-max 2 \
    --snapshot-every-ms 1500 --snapshot-command 'cairn snapshot vol@$NAME' & writer=$!
wait_for 60 grep -qs "^return s2 " log
is_another_worker() { local now; now=$(worker_pid vol 2>/dev/null) && [ -n "$now" ] && [ "$now" != "$1" ]; }
for kill in 1 2 3; do
    worker=$(worker_pid vol)
    kill -KILL "$worker"
    wait_for 60 is_another_worker "$worker"
    echo "kill $kill: followed by $(worker_pid vol)"
    sleep 1
done
wait "$writer" || fail "the writer saw an I/O error"
replace_table slow "0 $sectors delay $origin 0 0 $origin 0 0"
cut-model verify /dev/cairn/vol --log log
for name in s1 s2; do verify_snapshot vol "$name" log; done
cairn check vol --data
cairn detach vol
