# Blocks of the origin that cannot be read when they are first overwritten: the write goes through, the snapshot gives an
# I/O error there and nowhere else (law 3).
#@ push 7.2
#@ seconds 240
#@ allow-io-errors
. "$PROJECT/tests/kernel/lib/common.sh"
origin=$(loop_disk origin 32M)
store=$(loop_disk store 128M)
mapped_disk dust "0 $(blockdev --getsz "$origin") dust $origin 0 4096"
new_volume vol /dev/mapper/dust "$store"
cut-model fill /dev/cairn/vol
sum=$(device_sum /dev/cairn/vol)
cairn snapshot vol@s
dmsetup message dust 0 addbadblock 100
dmsetup message dust 0 enable
must_fail dd if=/dev/cairn/vol of=/dev/null bs=4096 skip=100 count=1 iflag=direct
say "the disk itself heals by being written; so does the volume"
dd if=/dev/urandom of=new bs=4096 count=4 status=none
dd if=new of=/dev/cairn/vol bs=4096 seek=98 count=4 oflag=direct status=none
dd if=/dev/cairn/vol bs=4096 skip=98 count=4 iflag=direct status=none | cmp - new

say "the snapshot says so, in that block alone"
cairn expose vol@s
must_fail dd if=/dev/cairn/vol@s of=/dev/null bs=4096 skip=100 count=1 iflag=direct

dd if=/dev/cairn/vol@s of=image bs=4096 count=100 iflag=direct status=none
dd if=/dev/cairn/vol@s of=image bs=4096 skip=101 seek=101 iflag=direct status=none
# Block 100 as it was, to compare the whole: the fill is the same every time.
truncate -s 32M fill
cut-model fill fill
dd if=fill of=image bs=4096 skip=100 seek=100 count=1 conv=notrunc status=none
[ "$(device_sum image)" = "$sum" ] || fail "other blocks of the snapshot are wrong"
cairn unexpose vol@s
cairn check vol --data || echo "check reports the unreadable block"
cairn detach vol
