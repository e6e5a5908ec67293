# Devices of snapshots: read-only ones refuse writes, scratch ones take and forget them; what is in use stays.
#@ seconds 240
. "$PROJECT/tests/kernel/lib/common.sh"
mkdir -p /mnt/live /mnt/look
origin=$(loop_disk origin 64M)
store=$(loop_disk store 256M)
new_volume vol "$origin" "$store"
mkfs.ext4 -q -F /dev/cairn/vol
mount /dev/cairn/vol /mnt/live
cp /usr/bin/bash /mnt/live/bash
sync -f /mnt/live
# Without a freeze: the journal needs replay, which is what scratch devices are for.
cairn snapshot vol@s
rm /mnt/live/bash
sync -f /mnt/live

say "read-only"
cairn expose vol@s
sum=$(device_sum /dev/cairn/vol@s)
[ "$(blockdev --getro /dev/cairn/vol@s)" = 1 ]
must_fail dd if=/dev/zero of=/dev/cairn/vol@s bs=4096 count=1 oflag=direct conv=notrunc
must_fail blkdiscard -f /dev/cairn/vol@s
must_fail cairn delete vol@s --yes
[ "$(device_sum /dev/cairn/vol@s)" = "$sum" ] || fail "the read-only device changed"
exec 7< /dev/cairn/vol@s
must_fail cairn unexpose vol@s
exec 7<&-
cairn unexpose vol@s

say "scratch takes writes"
cairn expose vol@s --scratch
mount /dev/cairn/vol@s /mnt/look
cmp /usr/bin/bash /mnt/look/bash
dd if=/dev/urandom of=/mnt/look/scribble bs=1M count=8 status=none
sync -f /mnt/look
written=$(sha256sum < /mnt/look/scribble)
echo 3 > /proc/sys/vm/drop_caches
[ "$(sha256sum < /mnt/look/scribble)" = "$written" ]
umount /mnt/look
e2fsck -fn /dev/cairn/vol@s
[ "$(device_sum /dev/cairn/vol@s)" != "$sum" ]
cairn unexpose vol@s
say "and forgets them"
cairn expose vol@s
[ "$(device_sum /dev/cairn/vol@s)" = "$sum" ] || fail "a scratch device changed its snapshot"
cairn unexpose vol@s
umount /mnt/live
cairn check vol --data
cairn detach vol
