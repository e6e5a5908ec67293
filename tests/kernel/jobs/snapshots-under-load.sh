# A snapshot a second under load at depth, each held against the model of its cut; then deletions and a restore (A1-A3, A6).
#@ push 7.2
#@ seconds 300
. "$PROJECT/tests/kernel/lib/common.sh"
origin=$(loop_disk origin 32M)
store=$(loop_disk store 768M)
new_volume vol "$origin" "$store"
cut-model fill /dev/cairn/vol
cut-model write /dev/cairn/vol --log log --seconds 12 --snapshot-command 'cairn snapshot vol@$NAME'

say "the volume, and every snapshot"
cut-model verify /dev/cairn/vol --log log
names=$(snapshots_of log returned)
[ "$(wc -w <<<"$names")" -ge 5 ] || fail "fewer than five snapshots"
for name in $names; do verify_snapshot vol "$name" log; done

say "the oldest, the youngest and two in the middle deleted: the others stay exact"
for name in s1 s3 s4 "s$(wc -w <<<"$names")"; do cairn delete "vol@$name" --yes; done
for name in s2 s5; do verify_snapshot vol "$name" log; done

say "attached again"
cairn detach vol
cairn attach vol --frontend ublk
for name in s2 s5; do verify_snapshot vol "$name" log; done
cut-model verify /dev/cairn/vol --log log

say "restored to a snapshot, and back"
cairn restore vol@s2 --before undo --yes
cut-model verify /dev/cairn/vol --log log --snapshot s2
verify_snapshot vol s5 log
wait_for_restore vol
cairn restore vol@undo --yes
cut-model verify /dev/cairn/vol --log log
cairn check vol --data
wait_for_restore vol
cairn detach vol
say "the bare origin is the volume"
cut-model verify "$origin" --log log
