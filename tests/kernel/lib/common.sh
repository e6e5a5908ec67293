# What all kernel jobs share. Sourced; a command that fails ends the job and is named.
set -Eeuo pipefail
trap 'echo "FAILED: ${BASH_SOURCE[0]##*/} line $LINENO: $BASH_COMMAND (status $?)"; show_target_log' ERR

say() { printf '\n-- %s\n' "$*"; }
fail() { echo "FAILED: $*"; show_target_log; exit 1; }

show_target_log() {
    local log
    for log in "$CAIRN_RUN_DIR"/*/target.log; do
        if [ -e "$log" ]; then echo "last lines of $log:"; tail -n 25 "$log"; fi
    done
}

# loop_disk NAME SIZE: prints a loop device over a new sparse file in memory.
loop_disk() {
    truncate -s "$2" "/tmp/$1"
    losetup --find --show --direct-io=on "/tmp/$1"
}

# new_volume NAME ORIGIN STORE: creates and attaches.
new_volume() {
    cairn create "$1" --origin "$2" --store "$3" --yes
    cairn attach "$1" --frontend ublk
    [ -b "/dev/cairn/$1" ] || fail "/dev/cairn/$1 is no block device after attach"
}

# must_fail COMMAND...: the command must be refused; what it said is in $refusal, its status in $refusal_status.
must_fail() {
    refusal_status=0
    refusal=$("$@" 2>&1) || refusal_status=$?
    [ "$refusal_status" != 0 ] || fail "was not refused: $*"
    echo "refused ($refusal_status): $* : $refusal"
}

# must_say TEXT: the last refusal must contain it, in whatever case.
must_say() { grep -qi -- "$1" <<<"$refusal" || fail "the refusal does not say '$1'"; }

# wait_for SECONDS COMMAND...: until the command succeeds.
wait_for() {
    local deadline=$((SECONDS + $1))
    shift
    until "$@"; do
        [ "$SECONDS" -lt "$deadline" ] || fail "did not come true in time: $*"
        sleep 0.1
    done
}

worker_pid() { cairn --json show "$1" | sed -n 's/.*"process_id": *\([0-9]*\).*/\1/p'; }

# device_sum DEVICE: prints the checksum of the whole device.
device_sum() { dd if="$1" bs=1M iflag=direct status=none | sha256sum | cut -d' ' -f1; }

# verify_snapshot VOL NAME LOG: exposes, holds against the model of the cut, hides again.
verify_snapshot() {
    cairn expose "$1@$2" >/dev/null
    cut-model verify "/dev/cairn/$1@$2" --log "$3" --snapshot "$2"
    cairn unexpose "$1@$2" >/dev/null
}

# snapshots_of LOG OUTCOME: names of the snapshots in a log that returned, failed, or are in-doubt.
snapshots_of() { cut-model snapshots --log "$1" | sed -n "s/ $2\$//p"; }

# mapped_disk NAME TABLE...: a device-mapper disk /dev/mapper/NAME.
mapped_disk() { dmsetup create "$1" --table "$2" && dmsetup mknodes; }

# replace_table NAME TABLE: changes a device-mapper disk under whoever has it open.
replace_table() {
    dmsetup suspend --noflush --nolockfs "$1"
    dmsetup load "$1" --table "$2"
    dmsetup resume "$1"
}

# A restore shows its snapshot at once and goes on in the background; until it is done the volume can neither be
# detached nor restored again.
restore_is_done() { cairn --json show "$1" | grep -q '"restore": *null'; }
wait_for_restore() { wait_for 60 restore_is_done "$1"; }
