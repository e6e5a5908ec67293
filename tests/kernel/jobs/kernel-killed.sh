# The kernel is killed under load, as by a power cut; the next boot recovers the store: every snapshot that was reported
# is there and exact, every flushed write is there (X4, law 4).
#@ disk 32M
#@ disk 768M
#@ kill-when kill-now
#@ seconds 240
. "$PROJECT/tests/kernel/lib/common.sh"
export CAIRN_STATE_DIR=$SCRATCH/state
log=$SCRATCH/log
if [ "$TEST_PHASE" = 1 ]; then
    new_volume vol /dev/ubda /dev/ubdb
    cut-model fill /dev/cairn/vol
    cut-model write /dev/cairn/vol --log "$log" --seconds 100 --snapshot-every-ms 700 \
        --snapshot-command 'cairn snapshot vol@$NAME' &
    wait_for 60 grep -qs "^return s6 " "$log"
    sleep "0.$((RANDOM % 10))"
    touch "$SCRATCH/kill-now"
    wait
    fail "was not killed"
fi
cairn attach vol --frontend ublk
cut-model snapshots --log "$log"
for name in $(snapshots_of "$log" returned); do
    cairn show "vol@$name" >/dev/null
    verify_snapshot vol "$name" "$log"
done
for name in $(snapshots_of "$log" in-doubt); do
    if cairn show "vol@$name" >/dev/null; then verify_snapshot vol "$name" "$log"; fi
done
cut-model verify /dev/cairn/vol --log "$log"
cairn check vol --data

say "and it goes on"
cairn snapshot vol@after
cut-model fill /dev/cairn/vol --seed 2
verify_snapshot vol s3 "$log"
cairn detach vol
