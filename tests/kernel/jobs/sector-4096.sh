# An origin with 4 KiB sectors (null_blk): the volume has them too, and snapshots under load are exact.
#@ push 7.2
#@ seconds 240
. "$PROJECT/tests/kernel/lib/common.sh"
# null_disk NAME MEBIBYTES: prints a memory-backed disk with 4 KiB sectors, a volatile cache and discard.
null_disk() {
    local directory=/sys/kernel/config/nullb/$1
    mkdir "$directory"
    echo "$2" > "$directory/size"
    echo 4096 > "$directory/blocksize"
    echo 1 > "$directory/memory_backed"
    echo 1 > "$directory/discard"
    echo 1 > "$directory/power"
    echo "/dev/$1"
}
origin=$(null_disk origin 32)
store=$(null_disk store 512)
new_volume vol "$origin" "$store"
[ "$(blockdev --getss /dev/cairn/vol)" = 4096 ] || fail "the volume has sectors of $(blockdev --getss /dev/cairn/vol)"
cut-model fill /dev/cairn/vol --granule-bytes 4096
cut-model write /dev/cairn/vol --granule-bytes 4096 --log log --seconds 6 \
    --snapshot-command 'cairn snapshot vol@$NAME'
cut-model verify /dev/cairn/vol --log log
for name in $(snapshots_of log returned); do verify_snapshot vol "$name" log; done
say "discarded blocks are kept for the snapshots"
blkdiscard /dev/cairn/vol
for name in $(snapshots_of log returned); do verify_snapshot vol "$name" log; done
cairn check vol --data
cairn detach vol
