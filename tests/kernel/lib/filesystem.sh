# The main job on one filesystem: real files, two snapshots, both mounted beside the live volume, restore, undo, and the
# bare disk without Cairn. Sourced by filesystem-*.sh after setting the variables below.
#   filesystem   ext4, xfs, btrfs          make   command that makes it, without the device
#   beside       options with which a snapshot is mounted beside its live filesystem
#   check        command that checks an unmounted device without changing it
#   bare         options with which the bare disk is mounted without writing to it
. "$PROJECT/tests/kernel/lib/common.sh"

sums() { (cd "$1" && find . -type f -print0 | sort -z | xargs -0 sha256sum); }
same_files() { sums "$1" | cmp - "$2" || fail "the files below $1 are not those of $2"; }

main_job() {
    local origin store device=/dev/cairn/vol
    mkdir -p /mnt/live /mnt/one /mnt/two /mnt/bare
    origin=$(loop_disk origin 512M)
    store=$(loop_disk store 512M)

    say "$filesystem on the volume, with real files"
    new_volume vol "$origin" "$store"
    $make "$device"
    mount "$device" /mnt/live
    (cd /usr/share/doc && find . -name '[a-h]*' -type f | sort | sed -n 1,1500p | tar -cf - -T -) | tar -xf - -C /mnt/live
    sums /mnt/live > sums-one
    cairn snapshot vol@one --freeze

    say "change, delete, add; a second snapshot; then delete nearly everything"
    find /mnt/live -type f | sed -n '1~3p' | xargs -d '\n' rm
    find /mnt/live -type f | sed -n '1~4p' | while read -r file; do echo changed >> "$file"; done
    cp -r /usr/share/common-licenses/. /mnt/live/licences 2>/dev/null || cp /etc/*.conf /mnt/live
    sums /mnt/live > sums-two
    cairn snapshot vol@two --freeze
    find /mnt/live -type f | sed '1~10d' | xargs -d '\n' rm
    sums /mnt/live > sums-live
    [ "$(wc -l < sums-live)" -lt "$(wc -l < sums-one)" ]

    say "both snapshots mounted read-only beside the live volume"
    cairn expose vol@one
    cairn expose vol@two
    mount -t "$filesystem" -o "$beside" /dev/cairn/vol@one /mnt/one
    mount -t "$filesystem" -o "$beside" /dev/cairn/vol@two /mnt/two
    same_files /mnt/one sums-one
    same_files /mnt/two sums-two
    same_files /mnt/live sums-live

    say "nothing is taken away while it is mounted"
    must_fail cairn detach vol
    must_fail cairn unexpose vol@one
    must_fail cairn restore vol@one --yes
    umount /mnt/one /mnt/two
    cairn unexpose vol@one
    cairn unexpose vol@two
    must_fail cairn restore vol@one --yes

    say "restore, look, undo"
    umount /mnt/live
    cairn restore vol@one --before undo --yes
    mount "$device" /mnt/live
    same_files /mnt/live sums-one
    umount /mnt/live
    $check "$device"
    wait_for_restore vol
    cairn restore vol@undo --yes
    mount "$device" /mnt/live
    same_files /mnt/live sums-live
    umount /mnt/live
    $check "$device"

    say "the bare disk, without Cairn"
    wait_for_restore vol
    cairn detach vol
    [ ! -e "$device" ]
    mount -t "$filesystem" -o "$bare" "$origin" /mnt/bare
    same_files /mnt/bare sums-live
    umount /mnt/bare

    say "attached again: the snapshots are still there"
    cairn attach vol --frontend ublk
    cairn expose vol@two
    mount -t "$filesystem" -o "$beside" /dev/cairn/vol@two /mnt/two
    same_files /mnt/two sums-two
    umount /mnt/two
    cairn unexpose vol@two
    cairn check vol --data
    cairn detach vol
}
