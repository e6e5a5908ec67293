# The origin is mounted bare and written while detached: attach refuses and says what it saw; with consent it goes on,
# and the older snapshots are marked broken (law 3).
#@ push 7.2
#@ seconds 240
. "$PROJECT/tests/kernel/lib/common.sh"
mkdir -p /mnt/live
origin=$(loop_disk origin 64M)
store=$(loop_disk store 256M)
new_volume vol "$origin" "$store"
mkfs.ext4 -q -F /dev/cairn/vol
mount /dev/cairn/vol /mnt/live
cp /usr/bin/bash /mnt/live
cairn snapshot vol@old --freeze
umount /mnt/live
cairn detach vol

say "mounted bare, read-only: nothing changed, nothing refused"
mount -o ro,noload "$origin" /mnt/live
umount /mnt/live
cairn attach vol --frontend ublk
cairn detach vol

say "mounted bare and written: refused, and nothing was done"
mount "$origin" /mnt/live
echo behind > /mnt/live/behind
umount /mnt/live
must_fail cairn attach vol --frontend ublk
[ "$refusal_status" = 11 ] || fail "exit code $refusal_status, not 11"
must_say accept-changed-origin
must_fail cairn attach vol --frontend ublk
[ ! -e /dev/cairn/vol ]

say "with consent: the volume is current, the older snapshot broken, new ones work"
cairn attach vol --frontend ublk --accept-changed-origin
cairn --json show vol@old | grep -q '"state": *"broken"' || fail "the older snapshot is not marked broken"
must_fail cairn expose vol@old
mount /dev/cairn/vol /mnt/live
grep -q behind /mnt/live/behind
cairn snapshot vol@new --freeze
rm /mnt/live/behind
sync -f /mnt/live
cairn expose vol@new
mkdir -p /mnt/new
mount -o ro,noload /dev/cairn/vol@new /mnt/new
grep -q behind /mnt/new/behind
umount /mnt/new /mnt/live
cairn unexpose vol@new
cairn detach vol
cairn attach vol --frontend ublk
cairn --json show vol@old | grep -q '"state": *"broken"' || fail "the broken mark was forgotten"
cairn detach vol
