# fstrim teaches the volume what is free: overwriting free space after a snapshot saves nothing, and the snapshot shows
# zeroes there (A4). The origin itself takes no discards.
#@ push 7.2
#@ seconds 240
. "$PROJECT/tests/kernel/lib/common.sh"
mkdir -p /mnt/live /mnt/snapshot
counted() { cairn --json stat vol | tr -d ' \n' | grep -o "\"$1\":[0-9]*" | cut -d: -f2; }
origin=$(loop_disk origin 256M)
store=$(loop_disk store 512M)
new_volume vol "$origin" "$store"
mkfs.ext4 -q -F -E nodiscard,lazy_itable_init=0,lazy_journal_init=0 /dev/cairn/vol
mount /dev/cairn/vol /mnt/live
dd if=/dev/urandom of=/mnt/live/kept bs=1M count=60 status=none
dd if=/dev/urandom of=/mnt/live/gone bs=1M count=90 status=none
sync
rm /mnt/live/gone
sync
fstrim -v /mnt/live
not_in_use=$(counted not_in_use_bytes)
[ "$not_in_use" -gt $((128 * 1024 * 1024)) ] || fail "only $not_in_use bytes count as not in use"
cairn snapshot vol@trimmed --freeze
kept=$(sha256sum </mnt/live/kept)

say "overwriting what was free saves nothing but the filesystem's own metadata"
before=$(counted saved_blocks)
dd if=/dev/urandom of=/mnt/live/new bs=1M count=100 conv=fsync status=none
saved=$(($(counted saved_blocks) - before))
echo "100 MiB written, $saved blocks saved"
[ "$saved" -lt 256 ] || fail "$saved blocks were saved"

say "the snapshot is what it was, and what was saved is little"
cairn expose vol@trimmed
mount -o ro,noload /dev/cairn/vol@trimmed /mnt/snapshot
[ "$(sha256sum </mnt/snapshot/kept)" = "$kept" ]
[ ! -e /mnt/snapshot/new ]
umount /mnt/snapshot
cairn unexpose vol@trimmed

say "without a trim what was freed is saved as well"
rm /mnt/live/new
sync
cairn snapshot vol@untrimmed --freeze
before=$(counted saved_blocks)
dd if=/dev/urandom of=/mnt/live/new bs=1M count=150 conv=fsync status=none
saved=$(($(counted saved_blocks) - before))
echo "150 MiB written, $saved blocks saved"
[ "$saved" -gt 15000 ] || fail "only $saved blocks were saved"

say "the map survives a detach"
fstrim /mnt/live
not_in_use=$(counted not_in_use_bytes)
umount /mnt/live
cairn detach vol
cairn attach vol --frontend ublk
after=$(counted not_in_use_bytes)
[ "$after" -gt 0 ] && [ "$after" -le $((not_in_use + 1024 * 1024)) ] || fail "$after bytes not in use, before $not_in_use"
cairn check vol --data
cairn detach vol
e2fsck -fn "$origin"
