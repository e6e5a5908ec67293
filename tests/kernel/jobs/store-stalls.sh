# The store neither completes nor fails (mission X11): with `--on-late break` no write waits longer than the deadline and
# a little; the snapshot is broken and says so; the store is taken back when it answers, and what is taken then is exact.
#@ push 7.2
#@ seconds 360
. "$PROJECT/tests/kernel/lib/common.sh"
origin=$(loop_disk origin 64M)
store=$(loop_disk store 512M)
sectors=$(blockdev --getsz "$store")
mapped_disk store "0 $sectors linear $store 0"
cairn create vol --origin "$origin" --store /dev/mapper/store --save-deadline-ms 2000 --on-late break --yes
cairn attach vol --frontend ublk
is_given_up() { cairn --json show vol | grep -q '"given_up": *"'; }
is_taken_back() { ! is_given_up; }

say "writes go on while the store stalls"
cut-model fill /dev/cairn/vol
cairn snapshot vol@one
write_until_stopped() {
    until [ -e stop ]; do
        dd if=/dev/urandom of=/dev/cairn/vol bs=64k count=128 oflag=direct status=none || return 1
    done
}
write_until_stopped &
writer=$!
sleep 3
dmsetup suspend --noflush --nolockfs store
began=$SECONDS
# A block that nobody has overwritten since the snapshot.
timeout 20 dd if=/dev/zero of=/dev/cairn/vol bs=4096 count=1 seek=16000 oflag=direct status=none ||
    fail "a write waits for the store"
[ $((SECONDS - began)) -le 6 ] || fail "it took $((SECONDS - began)) s to give up a store with a deadline of 2 s"
wait_for 5 is_given_up
cairn show vol
cairn show vol | grep -q ALARM || fail "show does not say so"
cairn --json show vol | grep -q '"state": *"broken"' || fail "the snapshot is not marked broken"

say "the store answers again"
dmsetup resume store
wait_for 30 is_taken_back
touch stop
wait "$writer" || fail "production failed with the store"
cut-model fill /dev/cairn/vol
cut-model write /dev/cairn/vol --log log --seconds 5 --snapshots-max 2 --snapshot-command 'cairn snapshot vol@$NAME'
for name in $(snapshots_of log returned); do verify_snapshot vol "$name" log; done
cut-model verify /dev/cairn/vol --log log
cairn detach vol
cairn attach vol --frontend ublk
for name in $(snapshots_of log returned); do verify_snapshot vol "$name" log; done
cairn detach vol

say "without a policy writes wait, and nothing breaks"
cairn attach vol --frontend ublk --on-late wait
cairn snapshot vol@two
dmsetup suspend --noflush --nolockfs store
dd if=/dev/zero of=/dev/cairn/vol bs=4096 count=64 seek=8000 oflag=direct status=none &
writer=$!
is_late() { cairn show vol | grep -q ALARM; }
wait_for 20 is_late
kill -0 "$writer" || fail "the write did not wait"
dmsetup resume store
wait "$writer"
cairn --json show vol@two | grep -q '"state": *"whole"' || fail "the snapshot broke"
cairn detach vol
