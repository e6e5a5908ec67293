# Detach under I/O: refused while anything has the volume open, and whoever has it open notices nothing.
#@ push 7.2
#@ seconds 240
. "$PROJECT/tests/kernel/lib/common.sh"
. "$PROJECT/tests/kernel/lib/fio.sh"
origin=$(loop_disk origin 64M)
store=$(loop_disk store 512M)
new_volume vol "$origin" "$store"
cairn snapshot vol@s
statistics=/sys/block/$(basename "$(readlink -f /dev/cairn/vol)")/stat
fio_verify /dev/cairn/vol 8 > fio-output 2>&1 & fio=$!
# Before its first writes fio opens the device and closes it again.
has_written() { [ "$(awk '{ print $5 }' "$statistics")" -gt 50 ]; }
wait_for 30 has_written
refusals=0
until cairn detach vol 2>/dev/null; do
    refusals=$((refusals + 1))
    sleep 0.3
done
wait "$fio" || { cat fio-output; fail "fio saw an error: the volume was detached under it"; }
grep -E 'err= 0' fio-output
[ "$refusals" -ge 5 ] || fail "only $refusals refusals"
cairn --json show vol | grep -q '"attached": *false' || fail "it calls itself attached"
wait_for 10 test ! -e /dev/cairn/vol
say "the origin is free again"
blkdiscard --zeroout --length 4096 "$origin"
