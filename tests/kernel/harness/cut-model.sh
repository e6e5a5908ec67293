# Harness proof: the model of a cut accepts exact snapshots (the kernel's own, as control) and sees a planted stale
# sector, a flipped bit, and a copy under load that is no instant.
#@ push 7.2
set -euo pipefail
#@ seconds 120
cd /tmp
truncate -s 64M origin
device=$(losetup --show --direct-io=on -f origin)
sectors=$(blockdev --getsz "$device")
for name in s1 s2 s3; do
    truncate -s 128M "cow-$name"
    losetup --show --direct-io=on -f "cow-$name" > "loop-$name"
done
dmsetup create volume --table "0 $sectors snapshot-origin $device"
dmsetup mknodes
cut-model fill /dev/mapper/volume
# The COW device of a snapshot is initialised while the origin is suspended.
cat > take-snapshot <<END
set -e
dmsetup suspend volume
dmsetup create "\$NAME" --table "0 $sectors snapshot $device \$(cat loop-\$NAME) P 8"
dmsetup resume volume
dmsetup mknodes
END
cut-model write /dev/mapper/volume --log log --seconds 4 --snapshot-command 'sh take-snapshot'
cut-model verify /dev/mapper/volume --log log
for name in $(cut-model snapshots --log log | cut -d' ' -f1); do
    cut-model verify "/dev/mapper/$name" --log log --snapshot "$name"
done

must_be_wrong() { if "$@"; then echo "not seen: $*"; exit 1; fi; }
must_be_wrong cut-model verify /dev/mapper/s1 --log log --snapshot s2
must_be_wrong cut-model verify /dev/mapper/s2 --log log --snapshot s1
must_be_wrong cut-model verify /dev/mapper/s1 --log log
cp --sparse=never /dev/mapper/s2 image
cut-model verify image --log log --snapshot s2
dd if=/dev/mapper/s1 of=image bs=1M count=8 conv=notrunc status=none
must_be_wrong cut-model verify image --log log --snapshot s2
cp --sparse=never /dev/mapper/s2 image
printf '\377\377' | dd of=image bs=1 seek=1000000 conv=notrunc status=none
must_be_wrong cut-model verify image --log log --snapshot s2

rm log
cut-model write /dev/mapper/volume --log log --seconds 2 --seed 1 \
    --snapshot-command 'dd if=/dev/mapper/volume of=image bs=64k iflag=direct status=none'
must_be_wrong cut-model verify image --log log --snapshot s1
