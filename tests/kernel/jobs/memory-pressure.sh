# Far more dirty data than memory, through a filesystem on a volume with a snapshot: write-back goes on, although the
# target needs memory for it (X1).
#@ push never
#@ disk 768M
#@ disk 1G
#@ memory 512M
#@ seconds 360
. "$PROJECT/tests/kernel/lib/common.sh"
mkdir -p /mnt/live /mnt/look
new_volume vol /dev/ubda /dev/ubdb
mkfs.ext4 -q -F /dev/cairn/vol
mount /dev/cairn/vol /mnt/live
head -c 250M /dev/urandom > /mnt/live/one
sum=$(sha256sum < /mnt/live/one)
cairn snapshot vol@s --freeze
dd if=/dev/zero of=/mnt/live/one bs=1M count=250 conv=notrunc status=none
dd if=/dev/zero of=/mnt/live/two bs=1M count=400 status=none
sync -f /mnt/live
grep -E 'MemTotal|MemFree|VmLck|VmRSS' /proc/meminfo "/proc/$(worker_pid vol)/status"
cairn expose vol@s
mount -o ro,noload /dev/cairn/vol@s /mnt/look
[ "$(sha256sum < /mnt/look/one)" = "$sum" ] || fail "the snapshot changed"
umount /mnt/look /mnt/live
cairn unexpose vol@s
e2fsck -fn /dev/cairn/vol
cairn detach vol
