# The kernel is killed while files are written and synced on ext4: the next boot recovers the volume, every synced file
# is there, and every snapshot holds the files it was taken of (X4, law 4).
#@ push never
#@ disk 256M
#@ disk 512M
#@ kill-when kill-now
#@ seconds 240
. "$PROJECT/tests/kernel/lib/common.sh"
export CAIRN_STATE_DIR=$SCRATCH/state
mkdir -p /mnt/live /mnt/look
sums=$SCRATCH/sums
if [ "$TEST_PHASE" = 1 ]; then
    new_volume vol /dev/ubda /dev/ubdb
    mkfs.ext4 -q -F /dev/cairn/vol
    mount /dev/cairn/vol /mnt/live
    count=0
    # Files come, are changed and go; what is synced is in the sums, one file of them a snapshot.
    ( sleep "$((6 + RANDOM % 4)).$((RANDOM % 10))"; touch "$SCRATCH/kill-now" ) &
    while true; do
        count=$((count + 1))
        file=/mnt/live/file-$((count % 40))
        dd if=/dev/urandom of="$file" bs=1k count=$((1 + RANDOM % 900)) conv=fsync status=none
        sync -f /mnt/live
        # In one rename, so that the list is never half of one.
        (cd /mnt/live && sha256sum file-*) > "$sums.new"
        mv "$sums.new" "$sums"
        if [ $((count % 10)) = 0 ]; then
            cairn snapshot "vol@s$count" --freeze
            cp "$sums" "$sums-s$count"
        fi
    done
fi
cairn attach vol --frontend ublk
mount /dev/cairn/vol /mnt/live
# One file may have been under way.
(cd /mnt/live && sha256sum -c --quiet "$sums" 2>/dev/null | tee /tmp/differing) || true
[ "$(wc -l < /tmp/differing)" -le 1 ] || fail "synced files are lost"
snapshots=$(cd "$SCRATCH" && ls -d sums-s* | sed 's/sums-//')
[ -n "$snapshots" ] || fail "no snapshot was taken"
for name in $snapshots; do
    cairn expose "vol@$name"
    e2fsck -fn "/dev/cairn/vol@$name"
    mount -o ro,noload "/dev/cairn/vol@$name" /mnt/look
    (cd /mnt/look && sha256sum -c --quiet "$sums-$name") || fail "$name does not hold its files"
    umount /mnt/look
    cairn unexpose "vol@$name"
done
umount /mnt/live
e2fsck -fn /dev/cairn/vol
cairn check vol --data
cairn detach vol
