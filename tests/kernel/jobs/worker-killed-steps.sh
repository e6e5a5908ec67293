# The worker ends at named steps (CAIRN_CRASH_AT: every kind of disk call, before, during and after it) and is killed at
# random moments, 50 times together, under fio with checksums, discards and zeroes, while snapshots are taken: no error
# above, every snapshot exact (X4, X10, laws 3 and 4). On 6.12 the same with fewer deaths.
#@ seconds 480
. "$PROJECT/tests/kernel/lib/common.sh"
. "$PROJECT/tests/kernel/lib/fio.sh"
origin=$(loop_disk origin 96M)
store=$(loop_disk store 1536M)
# A worker takes what stands in this file, and its successor finds it gone.
plan=$CAIRN_RUN_DIR/crash-at
export CAIRN_CRASH_AT=@$plan
new_volume vol "$origin" "$store"
target_log=$CAIRN_RUN_DIR/vol/target.log

say "a step that does not exist is refused by name"
cairn detach vol
echo origin-wriet-after:1 > "$plan"
must_fail cairn attach vol --frontend ublk
must_say origin-wriet-after
cairn attach vol --frontend ublk

# Three users side by side: the model of the cut, fio's checksums, discards and zeroes.
mapped_disk model "0 $((16 * 2048)) linear /dev/cairn/vol 0"
mapped_disk checked "0 $((48 * 2048)) linear /dev/cairn/vol $((16 * 2048))"
mapped_disk emptied "0 $((32 * 2048)) linear /dev/cairn/vol $((64 * 2048))"
cut-model fill /dev/mapper/model
dd if=/dev/urandom of=/dev/mapper/emptied bs=1M count=32 oflag=direct status=none
cat > take-snapshot <<'END'
for attempt in $(seq 300); do
    cairn snapshot "vol@$NAME" && exit 0
    cairn show "vol@$NAME" && exit 0
    sleep 0.1
done
exit 1
END
snapshot_every_ms=6000 snapshots_min=5
[ "$TEST_KERNEL" != 6.12 ] || snapshot_every_ms=2000 snapshots_min=3
cut-model write /dev/mapper/model --log log --seconds 300 --stop-file stop --depth 8 --write-bytes-max 65536 \
    --snapshot-every-ms "$snapshot_every_ms" --snapshot-command 'sh take-snapshot >/dev/null 2>&1' & writer=$!
fio_verify /dev/mapper/checked 300 --trigger-file=/tmp/stop-fio --trigger='true' > fio-output 2>&1 & fio=$!
(
    while [ ! -e stop ]; do
        at=$((RANDOM % 255 * 131072))
        # What was just overwritten is needed by no snapshot, so that half of the discard reaches the origin.
        blkdiscard --zeroout --offset "$at" --length 65536 /dev/mapper/emptied
        blkdiscard --offset "$at" --length 131072 /dev/mapper/emptied
        sleep 0.05
    done
) & emptier=$!

# A worker says what it found in the plan; one that is about to be killed must not take what is meant for the next.
plans_read() { grep -c 'cairn_target::crash_at:' "$target_log"; }
plans_read_before=$(plans_read)
has_read_plan() { [ "$(plans_read)" -ge "$((plans_read_before + died))" ]; }
deaths() { grep -c 'the worker died' "$target_log" || true; }
died_times() { [ "$(deaths)" -ge "$1" ]; }
died=0
# next_death COMMAND...: what is to kill the worker; waits for the death.
next_death() {
    "$@"
    died=$((died + 1))
    wait_for 30 died_times "$died"
}
kill_worker() {
    local worker
    worker=$(pidof cairn-target | tr ' ' '\n' | sort -n | tail -n 1)
    kill -KILL "$worker"
}
# Ten quick deaths in a row are too many for the supervisor.
let_one_live() { sleep 2.2; }

# The first numbers fall into the successor's own opening of the volume, the later ones into service.
steps='store-read-after:1 store-flush-before:1 store-flush-after:1 store-write-durable-before:1
    store-write-durable-during:1 store-write-durable-after:1 store-write-durable-before:7 store-write-durable-during:12
    store-write-durable-after:23 store-write-durable-after:60 origin-write-before:1 origin-write-during:1
    origin-write-after:1 origin-write-before:17 origin-write-during:40 origin-write-after:90 origin-read-before:3
    origin-read-after:20 origin-flush-before:1 origin-flush-during:2 origin-flush-after:1 origin-write-zeroes-before:1
    origin-write-zeroes-after:2 origin-discard-before:1 origin-discard-after:2'
[ "$TEST_KERNEL" != 6.12 ] || steps=$(tr ' ' '\n' <<<"$steps" | sed -n '/:/p' | sed -n '1~4p')
began=$SECONDS
for step in $steps; do
    wait_for 30 has_read_plan
    # On 6.12 a kill in the moment in which a queue maps its descriptors can strand a device (docs/decisions/0006).
    if [ "$TEST_KERNEL" = 6.12 ]; then wait_for 60 cairn show vol > /dev/null; fi
    echo "$step" > "$plan"
    next_death kill_worker
    next_death true
    kill -0 "$fio" && kill -0 "$writer" || fail "a user of the volume ended at $step"
    echo "$step: $died deaths in $((SECONDS - began)) s"
    if [ $((died % 4)) = 0 ]; then let_one_live; else sleep "0.$((RANDOM % 5))"; fi
done
for step in $steps; do
    grep -q "the process ends at ${step%:*}" "$target_log" || fail "no process ended at $step"
done
[ "$TEST_KERNEL" = 6.12 ] || [ "$died" -ge 50 ] || fail "only $died deaths"
# fio removes its own.
touch stop stop-fio
wait "$writer" || fail "the writer saw an I/O error, or no snapshot could be taken"
wait "$fio" || { cat fio-output; fail "fio saw an I/O error or a mismatch"; }
grep -E 'err= 0' fio-output
wait "$emptier" || fail "a discard or zeroes failed"

say "the volume, and every snapshot, after $died deaths"
cut-model verify /dev/mapper/model --log log
names=$(snapshots_of log returned)
[ "$(wc -w <<<"$names")" -ge "$snapshots_min" ] || fail "fewer than $snapshots_min snapshots"
for name in $names; do verify_snapshot vol "$name" log; done
dmsetup remove model checked emptied
cairn check vol --data
cairn detach vol
