# What a killed worker had in flight lands before its successor begins, never after (design: recovery). The disk takes
# five seconds for a write; the worker is killed with writes under way in it. Once as the origin's device, once as the
# store's, once as the device under an image file. Held against each other: when the old write is seen on the bare disk,
# and when the successor has its devices.
#@ seconds 300
#@ push 7.2
. "$PROJECT/tests/kernel/lib/common.sh"
delay_ms=5000
sectors=$((64 * 2048))
target_log=$CAIRN_RUN_DIR/vol/target.log

# slow_writes NAME DISK MS: writes of a device-mapper disk take so long from now on; reads do not.
slow_writes() { replace_table "$1" "0 $sectors delay $2 0 0 $2 0 $3"; }
now_ms() { date +%s%3N; }
openings() { grep -c 'devices are open' "$target_log"; }
worker() { pidof cairn-target | tr ' ' '\n' | sort -n | tail -n 1; }

# kill_and_watch LANDED DISK: kills the worker 0.7 s after its write, then looks at the bare disk until the successor
# has its devices; LANDED is the command that tells whether the old write is there. Then the slow disk over DISK is fast.
kill_and_watch() {
    local before killed_ms opened_ms landed=$1 victim
    sleep 0.7
    before=$(openings)
    victim=$(worker)
    kill -KILL "$victim"
    killed_ms=$(now_ms)
    while [ -e "/proc/$victim" ] && ! grep -q 'State:.*Z' "/proc/$victim/status" 2>/dev/null; do sleep 0.02; done
    echo "the killed process was gone after $(($(now_ms) - killed_ms)) ms"
    # Otherwise this job proves nothing: the write must still be under way when its process is killed.
    if $landed; then fail "the write had landed before the worker was killed"; fi
    until [ "$(openings)" -gt "$before" ]; do
        [ "$(($(now_ms) - killed_ms))" -lt 60000 ] || fail "no successor"
    done
    opened_ms=$(now_ms)
    # The write was on the bare disk when the successor had its devices: it cannot come after anything of his.
    $landed || fail "the successor began while a write of its predecessor was still under way"
    echo "the successor had its devices $((opened_ms - killed_ms)) ms after the kill"
    [ "$((opened_ms - killed_ms))" -ge "$((delay_ms - 1200))" ] ||
        fail "the successor did not wait for a write that takes $delay_ms ms"
    slow_writes slow "$2" 0
}

# block_of FILE OFFSET: checksum of the 4 KiB there, past every cache.
block_of() { dd if="$1" bs=4096 skip="$(($2 / 4096))" count=1 iflag=direct status=none | sha256sum | cut -d' ' -f1; }
pattern() { head -c 4096 /dev/zero | tr '\0' "$1"; }
sum_of() { pattern "$1" | sha256sum | cut -d' ' -f1; }
write_block() { pattern "$1" | dd of=/dev/cairn/vol bs=4096 seek=$((1 << 8)) iflag=fullblock oflag=direct status=none; }
at=$((1 << 20))

# The user's write is given to the successor again; the next one to the same block must stand in the end.
no_late_write() {
    wait "$1" || fail "the write that was under way failed"
    [ "$(block_of /dev/cairn/vol "$at")" = "$(sum_of A)" ] || fail "the acknowledged write is not there"
    write_block B
    [ "$(block_of /dev/cairn/vol "$at")" = "$(sum_of B)" ] || fail "the second write is not there"
    sleep $((delay_ms / 1000 + 2))
    [ "$(block_of /dev/cairn/vol "$at")" = "$(sum_of B)" ] || fail "an old write came after a new one"
}

say "a slow origin"
below=$(loop_disk origin 64M)
store=$(loop_disk store 256M)
mapped_disk slow "0 $sectors delay $below 0 0 $below 0 0"
new_volume vol /dev/mapper/slow "$store"
write_block 0
slow_writes slow "$below" "$delay_ms"
landed() { [ "$(block_of "$below" "$at")" = "$(sum_of A)" ]; }
write_block A & writer=$!
kill_and_watch landed "$below"
no_late_write "$writer"

say "a slow store: the before-image of a first write is under way"
cairn detach vol
cairn destroy vol --force --yes
dmsetup remove slow
store=$(loop_disk store-two 256M)
sectors=$((256 * 2048))
mapped_disk slow "0 $sectors delay $store 0 0 $store 0 0"
new_volume vol "$below" /dev/mapper/slow
write_block 0
cairn snapshot vol@one
# The first record of the active epoch: later ones only add to a segment that is open already.
dd if=/dev/urandom of=/dev/cairn/vol bs=4096 seek=512 count=1 oflag=direct status=none
cp /tmp/store-two store-before
slow_writes slow "$store" "$delay_ms"
store_changed() { ! cmp -s /tmp/store-two store-before; }
write_block A & writer=$!
kill_and_watch store_changed "$store"
no_late_write "$writer"
cairn expose vol@one >/dev/null
[ "$(block_of /dev/cairn/vol@one "$at")" = "$(sum_of 0)" ] || fail "the snapshot is not what it was"
cairn unexpose vol@one

say "an image file on a slow disk"
cairn detach vol
cairn destroy vol --force --yes
dmsetup remove slow
store=$(loop_disk disk-three 256M)
mapped_disk slow "0 $sectors delay $store 0 0 $store 0 0"
mkfs.ext4 -q /dev/mapper/slow
mkdir -p /mnt/slow
mount /dev/mapper/slow /mnt/slow
dd if=/dev/zero of=/mnt/slow/origin bs=1M count=64 oflag=direct status=none
sync
other=$(loop_disk other 256M)
new_volume vol /mnt/slow/origin "$other"
write_block 0
file_at=$(filefrag -b4096 -v /mnt/slow/origin | sed -n 's/^ *0: *0\.\. *[0-9]*: *\([0-9]*\)\.\..*/\1/p')
[ -n "$file_at" ] || fail "where the file is on its disk is not known"
[ "$(block_of "$store" "$((file_at * 4096 + at))")" = "$(sum_of 0)" ] || fail "the block is not found on the bare disk"
file_landed() { [ "$(block_of "$store" "$((file_at * 4096 + at))")" = "$(sum_of A)" ]; }
slow_writes slow "$store" "$delay_ms"
write_block A & writer=$!
kill_and_watch file_landed "$store"
no_late_write "$writer"
cairn detach vol
umount /mnt/slow
