# An origin with a partition table: the partitions of the volume are usable, those of a snapshot too, and reading the table
# hangs neither attach nor detach.
#@ push 7.2
#@ seconds 240
. "$PROJECT/tests/kernel/lib/common.sh"
mkdir -p /mnt/live /mnt/look
origin=$(loop_disk origin 64M)
store=$(loop_disk store 256M)
printf 'label: dos\n, 20M\n,\n' | sfdisk --quiet --no-reread "$origin"
new_volume vol "$origin" "$store"
node=$(readlink -f /dev/cairn/vol)
wait_for 10 test -b "${node}p2"
mkfs.ext4 -q -F "${node}p2"
mount "${node}p2" /mnt/live
cp /usr/bin/bash /mnt/live
must_fail cairn detach vol
sync -f /mnt/live
cairn snapshot vol@s --freeze=/mnt/live
rm /mnt/live/bash
sync -f /mnt/live
cairn expose vol@s
snapshot_node=$(readlink -f /dev/cairn/vol@s)
wait_for 10 test -b "${snapshot_node}p2"
mount -o ro,noload "${snapshot_node}p2" /mnt/look
cmp /usr/bin/bash /mnt/look/bash
must_fail cairn unexpose vol@s
umount /mnt/look /mnt/live
cairn unexpose vol@s
cairn detach vol
