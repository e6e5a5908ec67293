# The command, or the worker, is killed at any moment of a snapshot with a freeze: the filesystem is thawed all the same,
# and every snapshot that exists holds what it was taken of (A8).
#@ push 7.2
#@ seconds 300
. "$PROJECT/tests/kernel/lib/common.sh"
mkdir -p /mnt/live /mnt/look
origin=$(loop_disk origin 128M)
store=$(loop_disk store 256M)
new_volume vol "$origin" "$store"
mkfs.ext4 -q -F /dev/cairn/vol
mount /dev/cairn/vol /mnt/live
cp /usr/bin/bash /mnt/live/bash
sync -f /mnt/live
( while [ ! -e over ]; do dd if=/dev/urandom of=/mnt/live/busy bs=64k count=64 conv=notrunc,fsync status=none; done ) &
writer=$!
is_thawed() { timeout 2 sh -c 'echo thawed > /mnt/live/thawed && sync -f /mnt/live'; }
for round in 1 2 3 4 5 6 7 8; do
    cairn snapshot "vol@s$round" --freeze=/mnt/live --freeze-timeout-ms 5000 > said 2>&1 & command=$!
    sleep "0.0$((RANDOM % 10))$((RANDOM % 10))"
    case $((round % 2)) in
        0) kill -KILL "$(worker_pid vol)" ;;
        1) kill -KILL "$command" 2>/dev/null || true ;;
    esac
    wait "$command" || true
    wait_for 60 is_thawed
    wait_for 60 cairn show vol >/dev/null
done
touch over
wait "$writer" || fail "the writer saw an error"
taken=0
for round in 1 2 3 4 5 6 7 8; do
    cairn show "vol@s$round" >/dev/null 2>&1 || continue
    taken=$((taken + 1))
    cairn expose "vol@s$round"
    mount -o ro,noload "/dev/cairn/vol@s$round" /mnt/look
    cmp /usr/bin/bash /mnt/look/bash
    umount /mnt/look
    cairn unexpose "vol@s$round"
done
echo "$taken snapshots exist"
umount /mnt/live
e2fsck -fn /dev/cairn/vol
cairn check vol --data
cairn detach vol
