# The worker is killed again and again while snapshots are taken under load: every snapshot that was reported is exact,
# and so is every one whose call was interrupted (X4, X10).
#@ push never
#@ seconds 480
. "$PROJECT/tests/kernel/lib/common.sh"
origin=$(loop_disk origin 32M)
store=$(loop_disk store 768M)
new_volume vol "$origin" "$store"
cut-model fill /dev/cairn/vol

# A call that was interrupted by a kill may have taken the snapshot.
cat > take-snapshot <<'END'
for attempt in $(seq 200); do
    cairn snapshot "vol@$NAME" && exit 0
    cairn show "vol@$NAME" && exit 0
    sleep 0.1
done
exit 1
END
cut-model write /dev/cairn/vol --log log --seconds 20 --snapshot-command 'sh take-snapshot >/dev/null 2>&1' & writer=$!
kills=0
while kill -0 "$writer" 2>/dev/null; do
    sleep "$((1 + RANDOM % 2)).$((RANDOM % 10))"
    if worker=$(worker_pid vol 2>/dev/null) && [ -n "$worker" ] && kill -KILL "$worker"; then kills=$((kills + 1)); fi
done
wait "$writer" || fail "the writer saw an I/O error, or no snapshot could be taken"
[ "$kills" -ge 4 ] || fail "only $kills kills"
wait_for 60 cairn show vol >/dev/null
echo "$kills kills"
cut-model verify /dev/cairn/vol --log log
for name in $(snapshots_of log returned); do verify_snapshot vol "$name" log; done
cairn check vol --data
cairn detach vol
