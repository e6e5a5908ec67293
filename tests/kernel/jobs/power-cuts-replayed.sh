# ext4 and xfs on a volume whose disk and store lie on one device that logs every write (dm-log-writes: one log, one
# order). Afterwards the device is built as a power cut would have left it, at flushes and durable writes and between
# them with volatile writes lost; each is attached: the filesystem mounts and has every file that was flushed, every
# snapshot that had returned is there and exact (laws 2, 3 and 4).
#@ seconds 900
#@ push 7.2
#@ memory 3G
. "$PROJECT/tests/kernel/lib/common.sh"
# At each cut the oldest snapshot and the youngest are held against the model, in the long tier all of them.
cuts_per_filesystem=3 snapshots_per_cut=2
[ "$TEST_TIER" = push ] || cuts_per_filesystem=10 snapshots_per_cut=100
origin_sectors=$((352 * 2048)) store_sectors=$((192 * 2048))
sectors=$((origin_sectors + store_sectors))
mkdir -p /mnt/files /mnt/look

# slices DISK: the volume's two devices, as slices of one.
slices() {
    mapped_disk origin "0 $origin_sectors linear $1 0"
    mapped_disk store "0 $store_sectors linear $1 $origin_sectors"
}
users() {
    mapped_disk model "0 $((16 * 2048)) linear /dev/cairn/$1 0"
    mapped_disk files "0 $((336 * 2048)) linear /dev/cairn/$1 $((16 * 2048))"
}
mark() { dmsetup message logged 0 mark "$1"; }
content_of() { seq "$1" $(($1 + 3000)); }

# record FILESYSTEM: a run under load; leaves the log, and the disk as it was when the log began.
record() {
    below=$(loop_disk below "$((sectors / 2048))M")
    log_disk=$(loop_disk writes 2G)
    slices "$below"
    cairn create vol --origin /dev/mapper/origin --store /dev/mapper/store --yes
    cairn attach vol --frontend ublk
    users vol
    cut-model fill /dev/mapper/model
    "mkfs.$1" -q /dev/mapper/files
    dmsetup remove model files
    cairn detach vol
    dmsetup remove origin store
    cp --sparse=always /tmp/below begin
    mapped_disk logged "0 $sectors log-writes $below $log_disk"
    slices /dev/mapper/logged
    cairn attach vol --frontend ublk
    users vol
    mount -t "$1" /dev/mapper/files /mnt/files
    rm -f log stop
    cut-model write /dev/mapper/model --log log --seconds 60 --stop-file stop --depth 4 --write-bytes-max 32768 \
        --snapshot-every-ms 1200 --snapshot-command 'cairn snapshot vol@$NAME && dmsetup message logged 0 mark $NAME' &
    writer=$!
    local number
    for number in $(seq 40); do
        content_of "$number" > "/mnt/files/$number"
        sync "/mnt/files/$number"
        mark "file-$number"
        sleep 0.1
        if [ $((number % 8)) = 0 ]; then rm "/mnt/files/$((number - 4))"; fi
    done
    touch stop
    wait "$writer" || fail "the writer failed"
    umount /mnt/files
    dmsetup remove model files
    cairn detach vol
    dmsetup remove origin store
    dmsetup remove logged
    losetup -d "$below"
    replay-writes list "$log_disk" > points
    echo "$(grep -c -E ' (flush|fua)$' points) durable points, $(grep -c ' s[0-9]' points) snapshots"
}

# judge FILESYSTEM ENTRY: the volume on the disk that a power cut left after so many entries.
judge() {
    local name number missing='' before
    before=$(awk -v cut="$2" '$1 < cut { print $2 }' points)
    cairn attach vol --frontend ublk > attached || { cat attached; fail "cut after entry $2: not attached"; }
    users vol
    mount -t "$1" /dev/mapper/files /mnt/files
    for number in $(sed -n 's/^file-//p' <<<"$before"); do
        if [ $(((number + 4) % 8)) = 0 ]; then continue; fi
        content_of "$number" | cmp -s - "/mnt/files/$number" || missing="$missing $number"
    done
    [ -z "$missing" ] || fail "cut after entry $2: flushed files are not there: $missing"
    umount /mnt/files
    case $1 in
        ext4) e2fsck -fn /dev/mapper/files > fsck 2>&1 || { cat fsck; fail "cut after entry $2: e2fsck"; } ;;
        xfs) xfs_repair -n /dev/mapper/files > fsck 2>&1 || { cat fsck; fail "cut after entry $2: xfs_repair"; } ;;
    esac
    dmsetup remove model files
    local snapshots chosen
    snapshots=$(grep '^s[0-9]' <<<"$before" || true)
    local half=$((snapshots_per_cut / 2))
    chosen=$( (head -n "$half" <<<"$snapshots"; tail -n "$half" <<<"$snapshots") | sort -u)
    for name in $snapshots; do
        cairn --json show "vol@$name" | grep -q '"state": *"whole"' || fail "cut after entry $2: $name is not whole"
    done
    for name in $chosen; do
        verify_snapshot vol "$name" log > verdict || { cat verdict; fail "cut after entry $2: $name"; }
        judged=$((judged + 1))
    done
    cairn check vol --data > checked || { cat checked; fail "cut after entry $2: check"; }
    cairn detach vol > /dev/null
}

for filesystem in ext4 xfs; do
    say "$filesystem: recording"
    record "$filesystem"
    say "$filesystem: power cuts"
    judged=0 at=0
    cp --sparse=always begin replayed
    # Spread over the run, the last one at its end.
    last=$(tail -n 1 points | cut -d' ' -f1)
    grep -E ' (flush|fua)$' points | cut -d' ' -f1 > durable
    for cut in $(seq "$cuts_per_filesystem"); do
        entry=$((last * cut / cuts_per_filesystem))
        lose=()
        if [ $((cut % 2)) = 0 ]; then
            # Somewhere, with half of the volatile writes lost; else right behind what became durable.
            entry=$((entry - RANDOM % 20)) lose=(--lose "$RANDOM")
        else
            entry=$(awk -v near="$entry" '$1 < near { found = $1 } END { print found + 1 }' durable)
        fi
        if [ "$entry" -le "$at" ]; then continue; fi
        cp --sparse=always replayed image
        replay-writes apply "$log_disk" image --from "$at" --to "$entry" "${lose[@]}"
        replay-writes apply "$log_disk" replayed --from "$at" --to "$entry" > /dev/null
        at=$entry
        image=$(losetup --find --show --direct-io=on image)
        slices "$image"
        judge "$filesystem" "$entry"
        dmsetup remove origin store
        losetup -d "$image"
        rm image
        echo "cut after entry $entry: $judged snapshots so far"
    done
    [ "$judged" -ge $((cuts_per_filesystem * 3 / 2)) ] || fail "only $judged snapshots were judged"
    if [ "$filesystem" = xfs ]; then break; fi
    losetup -d "$log_disk"
    slices "$(losetup --find --show --direct-io=on begin)"
    cairn destroy vol --force --yes > /dev/null
    dmsetup remove origin store
    losetup -D
    rm -f /tmp/below /tmp/writes begin replayed
done

say "the same with durable writes missing: this must be seen"
cp --sparse=always begin image
replay-writes apply "$log_disk" image --to "$last" --damage
slices "$(losetup --find --show --direct-io=on image)"
if (judge xfs "$last") > seen 2>&1; then fail "a disk that lost durable writes was called sound"; fi
grep -m 1 FAILED seen || fail "it failed for another reason: $(cat seen)"
