# A damaged store: one superblock is mended, a store that cannot be trusted is refused with the reason, and the origin
# mounts without Cairn all the while (law 1).
#@ push 7.2
#@ seconds 240
. "$PROJECT/tests/kernel/lib/common.sh"
mkdir -p /mnt/live /mnt/look
origin=$(loop_disk origin 64M)
store=$(loop_disk store 64M)
new_volume vol "$origin" "$store"
mkfs.ext4 -q -F /dev/cairn/vol
mount /dev/cairn/vol /mnt/live
cp /usr/bin/bash /mnt/live/bash
cairn snapshot vol@s --freeze
cp /usr/bin/perl /mnt/live/bash
umount /mnt/live
cairn detach vol
cp --sparse=always /tmp/store intact

# damage BYTE LENGTH: overwrites a part of the store.
damage() { dd if=/dev/urandom of="$store" bs=512 seek=$(($1 / 512)) count=$(($2 / 512)) conv=notrunc,fsync status=none; }
mend() { dd if=intact of="$store" bs=1M conv=notrunc,fsync status=none; }
the_origin_is_the_disk() {
    mount -o ro,noload "$origin" /mnt/look
    cmp /usr/bin/perl /mnt/look/bash
    umount /mnt/look
}
the_snapshot_is_exact() {
    cairn expose vol@s
    mount -o ro,noload /dev/cairn/vol@s /mnt/look
    cmp /usr/bin/bash /mnt/look/bash
    umount /mnt/look
    cairn unexpose vol@s
}

say "one of two superblocks"
for byte in 0 65536; do
    damage "$byte" 4096
    cairn attach vol --frontend ublk
    the_snapshot_is_exact
    cairn check vol
    cairn detach vol
done
cp --sparse=always /tmp/store intact

say "both superblocks"
damage 0 4096
damage 65536 4096
must_fail cairn attach vol --frontend ublk
must_say "$store"
[ ! -e /dev/cairn/vol ]
the_origin_is_the_disk
mend

say "the store of another volume in its place"
cairn create other --origin "$(loop_disk origin-2 64M)" --store "$(loop_disk store-2 64M)" --yes
dd if=/tmp/store-2 of="$store" bs=1M conv=notrunc,fsync status=none
must_fail cairn attach vol --frontend ublk
the_origin_is_the_disk
mend

say "a store that lost its end"
losetup -d "$store"
truncate -s 16M /tmp/store
store_again=$(losetup --find --show --direct-io=on /tmp/store)
[ "$store_again" = "$store" ]
must_fail cairn attach vol --frontend ublk
the_origin_is_the_disk
truncate -s 64M /tmp/store
losetup --set-capacity "$store"
mend

say "a store that is not there"
mv /tmp/store /tmp/away
losetup -d "$store"
must_fail cairn attach vol --frontend ublk
must_say "$store"
the_origin_is_the_disk
mv /tmp/away /tmp/store
[ "$(losetup --find --show --direct-io=on /tmp/store)" = "$store" ]

say "mended: all is as before"
cairn attach vol --frontend ublk
the_snapshot_is_exact
cairn check vol --data
cairn detach vol
