# What changed between three snapshots of one filesystem, told in every form, and judged by tools that others wrote:
# cmp, qemu-img, nbdinfo, nbdcopy, and the filesystem's own check. Sourced by deltas-*.sh after setting these variables:
#   filesystem   ext4, xfs                 size        of the disks
#   make         command that makes it, without the device
#   read_only    options with which a copy is mounted that must not be written
#   beside       options with which a copy is mounted and written beside the filesystem it is a copy of
#   check        command that checks an unmounted device without changing it
. "$PROJECT/tests/kernel/lib/filesystem.sh"

socket=$CAIRN_RUN_DIR/vol/nbd.sock

random_bytes() { head -c "$1" /dev/urandom; }
# overwrite FILE SIZE SEEK: SIZE fresh bytes inside a file, from block SEEK on.
overwrite() { random_bytes "$2" | dd of="$1" bs=4k seek="$3" conv=notrunc iflag=fullblock status=none; }
same_bytes() { cmp "$1" "$2" || fail "$1 is not byte for byte $2"; }

# free_space DEVICE: "offset length" of what an ext4 calls free.
free_space() {
    dumpe2fs "$1" 2>/dev/null | sed -n 's/^  Free blocks: //p' | tr ', ' '\n\n' | grep . |
        awk -F- -v block="$(block_bytes "$1")" '{ last = NF > 1 ? $2 : $1; print $1 * block, (last - $1 + 1) * block }'
}
block_bytes() { dumpe2fs -h "$1" 2>/dev/null | sed -n 's/^Block size: *//p'; }

# blocks: of lines "offset length" the numbers of all blocks of 4 KiB that they touch, as comm wants them.
blocks() {
    awk '{ for (b = int($1 / 4096); b < ($1 + $2) / 4096; b++) printf "%09d\n", b }' | sort -u
}
# differing_blocks A B: the numbers of the blocks of 4 KiB in which any byte differs. By the distribution's interpreter,
# which libnbd's module brings: `cmp -l` writes a line for each byte.
differing_blocks() {
    /usr/bin/python3 - "$1" "$2" <<'SCRIPT'
import sys
with open(sys.argv[1], "rb") as one, open(sys.argv[2], "rb") as other:
    block = 0
    while content := one.read(4096):
        if content != other.read(4096):
            print(f"{block:09}")
        block += 1
SCRIPT
}
# diff_blocks OLD NEW: what `cairn diff` says.
diff_blocks() {
    cairn --json diff "$1" "$2" | tr -d ' \n' | grep -o '"offset_bytes":[0-9]*,"length_bytes":[0-9]*' |
        sed 's/[^0-9]\+/ /g' | blocks
}
# map_blocks CONTEXT SNAPSHOT FLAGS: the blocks to which nbdinfo sees these flags given.
map_blocks() {
    nbdinfo --map="$1" "nbd+unix:///vol@$2?socket=$socket" | awk -v flags="$3" '$3 == flags { print $1, $2 }' | blocks
}
# contained A B: every line of A is in B.
contained() { [ -s "$1" ] && [ -z "$(comm -23 "$1" "$2")" ]; }

# is_a_filesystem DEVICE SUMS: it mounts, replaying its journal, has the files, takes writes and is clean after it.
is_a_filesystem() {
    mount -t "$filesystem" -o "$beside" "$1" /mnt/copy
    same_files /mnt/copy "$2"
    random_bytes 256K > /mnt/copy/it-works
    umount /mnt/copy
    $check "$1"
}

# history: a filesystem with the snapshots L, K and M, which went on after M. Leaves sums-L, sums-K, sums-M.
history() {
    local device=/dev/cairn/vol
    $make "$device"
    mount "$device" /mnt/live
    mkdir /mnt/live/docs
    (cd /usr/share/doc && find . -name '[a-d]*' -type f | sort | sed -n 1,150p | tar -cf - -T -) |
        tar -xf - -C /mnt/live/docs
    random_bytes 6M > /mnt/live/overwritten
    random_bytes 4M > /mnt/live/deleted
    random_bytes 4M > /mnt/live/gone-before
    sync
    rm /mnt/live/gone-before
    take_snapshot L

    overwrite /mnt/live/overwritten 1M 100
    rm /mnt/live/deleted
    random_bytes 3M > /mnt/live/of-K
    take_snapshot K

    find /mnt/live/docs -type f | sed -n '1~5p' | xargs -d '\n' rm -f
    find /mnt/live/docs -type f -size -64k | sed -n '1~7p' | while read -r file; do echo changed >> "$file"; done
    overwrite /mnt/live/overwritten 512K 150
    overwrite /mnt/live/overwritten 4K 1500
    random_bytes 2M > /mnt/live/of-M
    head -c 1M /dev/zero > /mnt/live/zeroes
    take_snapshot M

    rm /mnt/live/of-M /mnt/live/of-K
    overwrite /mnt/live/overwritten 2M 0
    random_bytes 8M > /mnt/live/after
    sync
}

take_snapshot() {
    sync
    fstrim /mnt/live
    sums /mnt/live > "sums-$1"
    cairn snapshot "vol@$1" --freeze
}

raw_exports() {
    local name
    for name in L K M; do
        cairn expose "vol@$name"
        cairn export "vol@$name" "$name.raw"
        same_bytes "$name.raw" "/dev/cairn/vol@$name"
    done
}

qcow2_chains() {
    local name
    cairn export vol@L L.qcow2 --format qcow2
    cairn export vol@K K.qcow2 --format qcow2 --base L --backing-file L.qcow2
    cairn export vol@M M.qcow2 --format qcow2 --base K --backing-file K.qcow2
    for name in L K M; do
        qemu-img check -q "$name.qcow2"
        qemu-img compare -f qcow2 -F raw "$name.qcow2" "/dev/cairn/vol@$name"
    done
    [ "$(stat -c %s M.qcow2)" -lt "$(stat -c %s L.qcow2)" ] || fail "the overlay is no smaller than the whole"
}

# deltas_hold OLDER NEWER: diff, both contexts and a byte compare of the two snapshots agree.
deltas_hold() {
    diff_blocks "vol@$1" "vol@$2" > said
    differing_blocks "$1.raw" "$2.raw" > differing
    echo "$1 to $2: $(wc -l < differing) blocks differ, $(wc -l < said) are said to have changed"
    # A file of zeroes on what was free is a change that no byte shows: it has 256 blocks.
    [ "$(wc -l < said)" -le $(($(wc -l < differing) * 11 / 10 + 256)) ] || fail "far more is said to have changed"
    contained differing said || fail "blocks differ between $1 and $2 that cairn diff does not list"
    map_blocks "qemu:dirty-bitmap:since-$1" "$2" 1 | cmp - said || fail "since-$1 of $2 is not what cairn diff says"
    map_blocks "cairn:changed:$1..$2" "$2" 1 | cmp - said || fail "changed:$1..$2 is not what cairn diff says"
}

holes_are_free() {
    map_blocks base:allocation M 3 > holes
    awk '{ print $1 * 4096, 4096 }' holes | blocks | cmp - holes
    [ -s holes ] || fail "nothing of M is a hole"
    [ "$filesystem" = ext4 ] || return 0
    free_space /dev/cairn/vol@M | blocks > free
    echo "of $(wc -l < free) free blocks $(wc -l < holes) are holes"
    contained holes free || fail "a block is a hole that the filesystem uses"
    [ "$(wc -l < holes)" -gt $(($(wc -l < free) * 9 / 10)) ] || fail "less than 90 % of what fstrim freed is a hole"
}

nbd_clients() {
    nbdcopy "nbd+unix:///vol@M?socket=$socket" nbdcopy.img
    same_bytes nbdcopy.img /dev/cairn/vol@M
    qemu-img convert -f raw -O qcow2 "nbd+unix:///vol@K?socket=$socket" converted.qcow2
    qemu-img compare -f qcow2 -F raw converted.qcow2 /dev/cairn/vol@K
    rm nbdcopy.img converted.qcow2
}

received_by_a_volume() {
    cairn create copy --origin "$(loop_disk copy-origin "$size")" --store "$(loop_disk copy-store "$size")" --yes
    cairn attach copy --frontend ublk
    cairn send vol@L | cairn receive copy
    same_bytes /dev/cairn/copy /dev/cairn/vol@L
    cairn send -i L vol@M | cairn receive copy
    same_bytes /dev/cairn/copy /dev/cairn/vol@M
    cairn expose copy@L
    same_bytes /dev/cairn/copy@L /dev/cairn/vol@L
    cairn unexpose copy@L

    mount -o "$read_only" /dev/cairn/copy /mnt/copy
    same_files /mnt/copy sums-M
    must_fail cairn receive copy < next.cairn
    must_say mounted
    umount /mnt/copy
    cairn expose copy@M --scratch
    is_a_filesystem /dev/cairn/copy@M sums-M
    cairn unexpose copy@M

    cairn receive copy --undo
    same_bytes /dev/cairn/copy /dev/cairn/vol@L
    overwrite /dev/cairn/copy 4K 1000
    must_fail cairn receive copy < delta.cairn
    [ "$refusal_status" = 11 ] || fail "a volume that was written since was not refused as such"
    cairn detach copy
}

received_by_a_disk() {
    local disk
    disk=$(loop_disk plain "$size")
    cairn send vol@L | cairn receive "$disk"
    same_bytes "$disk" /dev/cairn/vol@L
    mount -o "$read_only" "$disk" /mnt/copy
    same_files /mnt/copy sums-L
    must_fail cairn receive "$disk" < delta.cairn
    must_say mounted
    umount /mnt/copy

    overwrite "$disk" 4K 1000
    must_fail cairn receive "$disk" < delta.cairn
    [ "$refusal_status" = 11 ] || fail "a disk that was written since was not refused as such"
    dd if=/dev/cairn/vol@L of="$disk" bs=4k seek=1000 skip=1000 count=1 conv=notrunc status=none
    cairn receive "$disk" < delta.cairn
    same_bytes "$disk" /dev/cairn/vol@M
    is_a_filesystem "$disk" sums-M
}

received_by_a_file() {
    local disk
    cairn send vol@L | cairn receive file.img
    same_bytes file.img /dev/cairn/vol@L
    cairn send -i L vol@K --compress | cairn receive file.img
    same_bytes file.img /dev/cairn/vol@K
    cairn send -i K vol@M | cairn receive file.img
    same_bytes file.img /dev/cairn/vol@M

    disk=$(losetup --find --show --direct-io=on file.img)
    is_a_filesystem "$disk" sums-M
    losetup --detach "$disk"
    must_fail cairn receive file.img < next.cairn
    [ "$refusal_status" = 11 ] || fail "a file that was written since was not refused as such"
}

deltas_job() {
    mkdir -p /mnt/live /mnt/copy
    say "a history on $filesystem: L, K, M, and on"
    new_volume vol "$(loop_disk origin "$size")" "$(loop_disk store "$size")"
    history
    say "raw exports are what the exposed snapshots are"
    raw_exports
    say "qemu-img compares: whole images and a chain of overlays"
    qcow2_chains
    say "cairn diff, nbdinfo --map and a byte compare"
    deltas_hold L K
    deltas_hold K M
    deltas_hold L M
    holes_are_free
    say "nbdcopy and qemu-img convert"
    nbd_clients
    say "send and receive: into a volume, a disk, a file (after $SECONDS s)"
    cairn send -i L vol@M > delta.cairn
    cairn snapshot vol@N --freeze
    cairn send -i M vol@N > next.cairn
    received_by_a_volume
    received_by_a_disk
    received_by_a_file
    say "the end, after $SECONDS s"
    for name in L K M; do cairn unexpose "vol@$name"; done
    umount /mnt/live
    cairn check vol --data
    cairn detach vol
}
