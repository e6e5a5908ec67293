# What must be refused and needs a kernel to try: mounted and held disks, recursion, second targets, lost stores.
#@ seconds 240
. "$PROJECT/tests/kernel/lib/common.sh"
mkdir -p /mnt/live /mnt/other
origin=$(loop_disk origin 64M)
store=$(loop_disk store 128M)
mkfs.ext4 -q -F "$origin"

say "a mounted origin"
mount "$origin" /mnt/other
must_fail cairn create vol --origin "$origin" --store "$store" --yes
must_say mounted
umount /mnt/other

say "one device for both"
must_fail cairn create vol --origin "$origin" --store "$origin" --yes

say "while attached nothing else may hold the origin or the store, and there is no second target"
new_volume vol "$origin" "$store"
must_fail mount "$origin" /mnt/other
must_fail mkfs.ext4 -q -F "$store"
must_fail cairn attach vol --frontend ublk
[ "$refusal_status" = 5 ] || fail "exit code $refusal_status, not 5"
must_fail cairn create second --origin "$origin" --store "$(loop_disk store-2 128M)" --yes
must_fail cairn create second --origin "$(loop_disk origin-2 64M)" --store "$store" --yes

say "recursion: a store or a state directory on the volume itself, and on the origin's own filesystem"
mount /dev/cairn/vol /mnt/live
must_fail cairn create second --origin "$(loop_disk origin-3 64M)" --store /dev/cairn/vol --yes
truncate -s 40M /mnt/live/image
inner=$(losetup --find --show /mnt/live/image)
must_fail cairn create second --origin /dev/cairn/vol --store "$inner" --yes
losetup -d "$inner"
umount /mnt/live
cairn detach vol
mount "$origin" /mnt/other
must_fail cairn create third --origin "$origin" --store /mnt/other/store --store-size 32M --yes
umount /mnt/other
must_fail env CAIRN_STATE_DIR=/mnt/other/state cairn attach vol --frontend ublk

say "the state directory on the volume's own filesystem"
mount "$origin" /mnt/other
cp -r "$CAIRN_STATE_DIR" /mnt/other/state
must_fail env CAIRN_STATE_DIR=/mnt/other/state cairn attach vol --frontend ublk
rm -r /mnt/other/state
umount /mnt/other

say "an origin that another program holds"
must_fail cairn attach vol --frontend ublk --wait-s 20
must_say accept-changed-origin
dmsetup create holder --table "0 $(blockdev --getsz "$origin") linear $origin 0"
must_fail cairn attach vol --frontend ublk --accept-changed-origin
dmsetup remove holder

say "a store that is lost: attach says so, and the origin is still the disk"
dd if=/dev/zero of="$store" bs=1M conv=fsync status=none 2>/dev/null || true
must_fail cairn attach vol --frontend ublk --accept-changed-origin
must_say store
mount -o ro "$origin" /mnt/other
umount /mnt/other
e2fsck -fn "$origin"
