# The origin grows while the volume is mounted: from Linux 6.16 the volume follows at once; before that the tool says
# what to do, and the next attach follows (A7).
#@ push 7.2
#@ seconds 240
. "$PROJECT/tests/kernel/lib/common.sh"
mkdir -p /mnt/live
origin=$(loop_disk origin 64M)
store=$(loop_disk store 256M)
new_volume vol "$origin" "$store"
mkfs.ext4 -q -F /dev/cairn/vol
mount /dev/cairn/vol /mnt/live
cp /usr/bin/bash /mnt/live/first
cairn snapshot vol@small --freeze

# 32 MiB and three sectors more: a size that is no multiple of 4 KiB is legal.
grown=$((96 * 1024 * 1024 + 3 * 512))
truncate -s "$grown" /tmp/origin
losetup --set-capacity "$origin"
[ "$(blockdev --getsize64 "$origin")" = "$grown" ]
if [ "$TEST_KERNEL" = 6.12 ]; then
    answer=$(cairn grow vol 2>&1) || true
    echo "$answer"
    grep -qi 'detach\|attach' <<<"$answer" || fail "grow does not say what to do"
    umount /mnt/live
    cairn detach vol
    cairn attach vol --frontend ublk
    mount /dev/cairn/vol /mnt/live
else
    cairn grow vol
fi
[ "$(blockdev --getsize64 /dev/cairn/vol)" = "$grown" ] || fail "the volume has $(blockdev --getsize64 /dev/cairn/vol)"
resize2fs /dev/cairn/vol
cp /usr/bin/perl /mnt/live/second
dd if=/dev/urandom of=/mnt/live/filler bs=1M count=60 status=none
cmp /usr/bin/bash /mnt/live/first
cairn snapshot vol@large --freeze

say "the older snapshot has its own size and content"
cairn expose vol@small
[ "$(blockdev --getsize64 /dev/cairn/vol@small)" = $((64 * 1024 * 1024)) ]
mkdir -p /mnt/small
mount -o ro,noload /dev/cairn/vol@small /mnt/small
cmp /usr/bin/bash /mnt/small/first
[ ! -e /mnt/small/second ]
umount /mnt/small /mnt/live
cairn unexpose vol@small
e2fsck -fn /dev/cairn/vol
say "the last, partial block can be read and written"
dd if=/dev/cairn/vol of=tail bs=512 skip=$((grown / 512 - 3)) iflag=direct status=none
[ "$(stat -c %s tail)" = 1536 ]
dd if=tail of=/dev/cairn/vol bs=512 seek=$((grown / 512 - 3)) oflag=direct status=none
cairn check vol --data
cairn detach vol
