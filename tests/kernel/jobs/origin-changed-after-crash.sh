# The kernel is killed, and the next boot mounts the origin bare before Cairn: attach sees it (law 3).
#@ push 7.2
#@ disk 64M
#@ disk 256M
#@ kill-when kill-now
#@ seconds 180
. "$PROJECT/tests/kernel/lib/common.sh"
export CAIRN_STATE_DIR=$SCRATCH/state
mkdir -p /mnt/live
if [ "$TEST_PHASE" = 1 ]; then
    new_volume vol /dev/ubda /dev/ubdb
    mkfs.ext4 -q -F /dev/cairn/vol
    mount /dev/cairn/vol /mnt/live
    cp /usr/bin/bash /mnt/live
    cairn snapshot vol@old --freeze
    cp /usr/bin/perl /mnt/live
    sync -f /mnt/live
    touch "$SCRATCH/kill-now"
    sleep 60
    fail "was not killed"
fi
mount /dev/ubda /mnt/live
echo behind > /mnt/live/behind
umount /mnt/live
must_fail cairn attach vol --frontend ublk
[ "$refusal_status" = 11 ] || fail "exit code $refusal_status, not 11"
must_say accept-changed-origin
cairn attach vol --frontend ublk --accept-changed-origin
cairn --json show vol@old | grep -q '"state": *"broken"' || fail "the older snapshot is not marked broken"
mount /dev/cairn/vol /mnt/live
grep -q behind /mnt/live/behind
umount /mnt/live
cairn detach vol
