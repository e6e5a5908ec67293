# The store fails under load: production goes on without an error, the snapshot is exact or broken and says so, now and
# after the next attach; the origin is the disk (laws 1, 3, 5).
#@ push 7.2
#@ seconds 240
#@ allow-io-errors
. "$PROJECT/tests/kernel/lib/common.sh"
origin=$(loop_disk origin 64M)
store=$(loop_disk store 512M)
sectors=$(blockdev --getsz "$store")
mapped_disk store "0 $sectors linear $store 0"
new_volume vol "$origin" /dev/mapper/store
cut-model fill /dev/cairn/vol
cut-model write /dev/cairn/vol --log log --seconds 10 --snapshots-max 1 --snapshot-command 'cairn snapshot vol@$NAME' &
writer=$!
wait_for 30 grep -qs "^return s1 " log
sleep 1
replace_table store "0 $sectors error"
wait "$writer" || fail "production failed with the store"
cut-model verify /dev/cairn/vol --log log
cairn show vol
if cairn show vol | grep -q '^state: .*whole'; then fail "a volume whose store is gone calls itself whole"; fi
cairn --json show vol@s1 | grep -q '"state": *"broken"' || fail "the snapshot is not marked broken"
must_fail cairn snapshot vol@s2
cairn detach vol

say "with the store back: the mark is still there"
replace_table store "0 $sectors linear $store 0"
if cairn attach vol --frontend ublk || cairn attach vol --frontend ublk --clear-failed-flush; then
    if cairn --json show vol@s1 | grep -q '"state": *"whole"'; then verify_snapshot vol s1 log; fi
    cut-model verify /dev/cairn/vol --log log
    cairn snapshot vol@s3
    cairn detach vol
fi
cut-model verify "$origin" --log log
