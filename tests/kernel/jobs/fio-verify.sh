# fio with crc32c checksums across mixed sizes, unaligned to 4 KiB, with discards and fsync, while snapshots come and go.
#@ seconds 300
. "$PROJECT/tests/kernel/lib/common.sh"
. "$PROJECT/tests/kernel/lib/fio.sh"
origin=$(loop_disk origin 64M)
store=$(loop_disk store 768M)
new_volume vol "$origin" "$store"

# One snapshot a second; the oldest goes when there are four, the middle one now and then.
churn() {
    local count=0
    while [ ! -e churn-over ]; do
        count=$((count + 1))
        cairn snapshot "vol@c$count" >/dev/null
        if [ "$count" -gt 4 ]; then cairn delete "vol@c$((count - 4))" --yes >/dev/null; fi
        sleep 1
    done
    echo "$count snapshots" > churned
}
churn & churn=$!

say "direct, unaligned to 4 KiB, fsync"
fio_verify /dev/cairn/vol 12
say "through the page cache, unaligned to anything"
fio --name=buffered --filename=/dev/cairn/vol --ioengine=psync --rw=randwrite --bsrange=512-64k --bs_unaligned=1 \
    --verify=crc32c --do_verify=1 --verify_fatal=1 --fsync=64 --size=32M --io_size=32M --randrepeat=0
say "discards, each followed by a write of the same range"
fio --name=trim --filename=/dev/cairn/vol --ioengine=libaio --direct=1 --iodepth=8 --rw=randtrimwrite \
    --bsrange=4k-128k --verify=crc32c --verify_fatal=1 --fsync=32 --size=48M --io_size=96M --randrepeat=0
say "write-zeroes and discard of the whole device are accepted"
blkdiscard -z -o 0 -l 1M /dev/cairn/vol
cmp -n 1048576 /dev/cairn/vol /dev/zero
if [ "$(cat /sys/block/"$(basename "$(readlink -f /dev/cairn/vol)")"/queue/discard_max_bytes)" != 0 ]; then
    blkdiscard /dev/cairn/vol
fi

touch churn-over
wait "$churn"
cat churned
cairn check vol --data
cairn detach vol
