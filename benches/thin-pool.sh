# Makes the metadata of a real dm-thin pool, in a user-mode kernel for scripts/compare-thin-delta: a thin volume that is
# mapped whole in chunks of 64 KiB, its snapshot, and chunks that were written since. /dev/ubda takes the metadata.
#
# $SCRATCH/size_gib says how large the volume is, $SCRATCH/changes which chunks are written, a number a line. With
# $SCRATCH/restored the metadata has the volume and its first mappings already.
set -euo pipefail

size_gib=$(cat "$SCRATCH/size_gib")
sectors=$((size_gib * 1024 * 1024 * 2))

# What the data is does not matter to thin_delta: the data device forgets it.
data=/sys/kernel/config/nullb/data
mkdir "$data"
echo $((size_gib * 2 * 1024)) > "$data/size"
echo 0 > "$data/memory_backed"
echo 1 > "$data/power"
dmsetup create pool --table "0 $((sectors * 2)) thin-pool /dev/ubda /dev/data 128 0 2 skip_block_zeroing \
no_discard_passdown"
dmsetup mknodes
[ -e "$SCRATCH/restored" ] || dmsetup message pool 0 'create_thin 0'
dmsetup create thin --table "0 $sectors thin /dev/mapper/pool 0"
dmsetup mknodes
[ -e "$SCRATCH/restored" ] ||
    dd if=/dev/zero of=/dev/mapper/thin bs=16M count=$((size_gib * 64)) oflag=direct status=none

dmsetup suspend thin
dmsetup message pool 0 'create_snap 1 0'
dmsetup resume thin
/usr/bin/python3 - "$SCRATCH/changes" <<'SCRIPT'
import mmap, os, sys
chunk = 64 << 10
content = mmap.mmap(-1, chunk)
volume = os.open("/dev/mapper/thin", os.O_WRONLY | os.O_DIRECT)
for line in open(sys.argv[1]):
    assert os.pwrite(volume, content, int(line) * chunk) == chunk
os.fsync(volume)
SCRIPT
dmsetup status pool
dmsetup remove thin
dmsetup remove pool
