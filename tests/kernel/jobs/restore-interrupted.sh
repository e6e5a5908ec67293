# A restore is interrupted, once by the death of the worker and once by the death of the kernel: the volume shows the
# restored snapshot all the while, the restore ends by itself, and it can be undone (A6, law 1).
#@ push 7.2
#@ disk 32M
#@ disk 768M
#@ kill-when kill-now
#@ seconds 240
. "$PROJECT/tests/kernel/lib/common.sh"
export CAIRN_STATE_DIR=$SCRATCH/state
log=$SCRATCH/log
is_another_worker() { local now; now=$(worker_pid vol 2>/dev/null) && [ -n "$now" ] && [ "$now" != "$1" ]; }
if [ "$TEST_PHASE" = 1 ]; then
    new_volume vol /dev/ubda /dev/ubdb
    cut-model fill /dev/cairn/vol
    cut-model write /dev/cairn/vol --log "$log" --seconds 6 --snapshot-every-ms 1500 --snapshots-max 3 \
        --snapshot-command 'cairn snapshot vol@$NAME'
    say "the worker dies"
    worker=$(worker_pid vol)
    cairn restore vol@s2 --before undo --yes
    kill -KILL "$worker"
    if cut-model verify /dev/cairn/vol --log "$log" --snapshot s2; then :; else fail "not what was restored"; fi
    is_another_worker "$worker" || fail "nobody was killed"
    wait_for_restore vol
    cut-model verify /dev/cairn/vol --log "$log" --snapshot s2
    cut-model verify /dev/ubda --log "$log" --snapshot s2
    say "the kernel dies"
    cairn restore vol@undo --before undo-2 --yes
    sleep "0.$((RANDOM % 10))"
    touch "$SCRATCH/kill-now"
    sleep 60
    fail "was not killed"
fi
cairn attach vol --frontend ublk
cut-model verify /dev/cairn/vol --log "$log"
wait_for_restore vol
cut-model verify /dev/cairn/vol --log "$log"
for name in s1 s2 s3; do verify_snapshot vol "$name" "$log"; done
cairn expose vol@undo
cut-model verify /dev/cairn/vol@undo --log "$log"
cairn unexpose vol@undo
cairn expose vol@undo-2
cut-model verify /dev/cairn/vol@undo-2 --log "$log" --snapshot s2
cairn unexpose vol@undo-2
cairn check vol --data
cairn detach vol
cut-model verify /dev/ubda --log "$log"
