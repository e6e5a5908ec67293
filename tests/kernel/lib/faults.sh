# A volume with two users, the model of the cut and a filesystem, on disks that are made to fail below it. Sourced.
#
# fault_begin FILESYSTEM      new disks, a volume, both users at work, the snapshot s1 taken
# fault_table WHICH TABLE     the disk `origin` or `store` gets another table; without one it is whole again
# fault_end WRITER            waits for both users: WRITER `unharmed` may not have seen an error, `harmed` may
# judge_everything [FLAGS]     the snapshot is exact, or broken with a reason; the same after the next attach, which may
#                             need the FLAGS; with `may-be-refused` for good, where the disk is exact without Cairn

origin_sectors=$((400 * 2048)) store_sectors=$((512 * 2048))
round=0

fault_begin() {
    local name
    round=$((round + 1))
    vol=vol$round
    raw_origin=$(loop_disk "origin-$round" 400M)
    raw_store=$(loop_disk "store-$round" 512M)
    mapped_disk origin "0 $origin_sectors linear $raw_origin 0"
    mapped_disk store "0 $store_sectors linear $raw_store 0"
    new_volume "$vol" /dev/mapper/origin /dev/mapper/store >/dev/null
    mapped_disk model "0 $((16 * 2048)) linear /dev/cairn/$vol 0"
    mapped_disk files "0 $((384 * 2048)) linear /dev/cairn/$vol $((16 * 2048))"
    cut-model fill /dev/mapper/model
    "mkfs.$1" -q /dev/mapper/files
    mkdir -p /mnt/files /mnt/look
    mount -t "$1" /dev/mapper/files /mnt/files
    filesystem=$1
    cp -r /usr/share/common-licenses /mnt/files/before
    sync -f /mnt/files
    rm -f log stop writer-failed files-failed
    (cut-model write /dev/mapper/model --log log --seconds 60 --stop-file stop --depth 8 --write-bytes-max 65536 \
        --snapshots-max 1 --snapshot-command "cairn snapshot $vol@\$NAME" > writer-output 2>&1 || touch writer-failed) &
    writer=$!
    (while [ ! -e stop ]; do
        rm -rf /mnt/files/now && cp -r /usr/share/common-licenses /mnt/files/now && sync -f /mnt/files &&
            diff -r /usr/share/common-licenses /mnt/files/now || { touch files-failed; break; }
    done) > files-output 2>&1 & copier=$!
    wait_for 30 grep -qs "^return s1 " log
    sleep 0.7
}

fault_table() {
    local raw=raw_$1 sectors=$1_sectors
    replace_table "$1" "0 ${!sectors} ${2:-linear ${!raw} 0}"
}

# flakey WHICH FEATURES...: the table of a disk that has these faults all the time.
flakey() {
    local raw=raw_$1
    shift
    echo "flakey ${!raw} 0 0 60 $# $*"
}

fault_end() {
    sleep 0.7
    touch stop
    wait "$writer" "$copier"
    if [ "$1" = unharmed ]; then
        [ ! -e writer-failed ] || { cat writer-output; fail "the volume gave an error"; }
        [ ! -e files-failed ] || { cat files-output; fail "the filesystem saw an error"; }
        cut-model verify /dev/mapper/model --log log
        diff -r /usr/share/common-licenses /mnt/files/before || fail "files are wrong"
    fi
    umount /mnt/files || fail "the filesystem cannot be unmounted"
    dmsetup remove model files
}

# judge SNAPSHOT: exact, broken with a reason, or unreadable where `check` says so. Wrong content is a failure, always.
judge() {
    local status=0
    if cairn --json show "$vol@$1" | grep -q '"state": *"broken"'; then
        cairn show "$vol@$1" | grep -i 'broken' || fail "$1 is broken for no reason"
        judged="$1 is broken"
        return 0
    fi
    cairn expose "$vol@$1" > /dev/null
    cut-model verify "/dev/cairn/$vol@$1" --log log --snapshot "$1" > verdict 2>&1 || status=$?
    cat verdict
    cairn unexpose "$vol@$1" > /dev/null
    case $status in
        0) judged="$1 is exact" ;;
        1) fail "$1 is wrong and nobody says so" ;;
        *) # It could not be read: then that must be known, too.
            if cairn check "$vol" --data > checked 2>&1; then fail "$1 cannot be read, and the check finds nothing"; fi
            tail -n 1 checked
            judged="$1 cannot be read" ;;
    esac
}

judge_everything() {
    judge s1
    echo "while attached: $judged"
    cairn detach "$vol" || fail "cannot be detached"
    if ! cairn attach "$vol" --frontend ublk > attached 2>&1; then
        echo "the next attach: $(cat attached)"
        [ $# -gt 0 ] || fail "the next attach is refused"
        if [ "$1" = may-be-refused ]; then
            grep -q 'the origin is whole' attached || fail "the refusal does not say how the disk is"
            cut-model verify /dev/mapper/origin --log log
            judged="the store is refused"
            return 0
        fi
        cairn attach "$vol" --frontend ublk "$@" > /dev/null
    fi
    judge s1
    echo "after the next attach: $judged"
}

fault_over() {
    if [ "$judged" != "the store is refused" ]; then cairn detach "$vol"; fi
    cairn destroy "$vol" --force --yes
    dmsetup remove origin store
    losetup -d "$raw_origin" "$raw_store"
    rm -f "/tmp/origin-$round" "/tmp/store-$round"
}
