# fio with checksums, as the jobs use it. Sourced.

# fio_verify DEVICE SECONDS [OPTIONS...]: mixed sizes that keep no 4 KiB alignment, verified while it runs and at the end.
fio_verify() {
    local device=$1 seconds=$2
    shift 2
    fio --name=verify --filename="$device" --ioengine=libaio --direct=1 --iodepth=16 --rw=randrw --rwmixread=30 \
        --bsrange=512-256k --blockalign=512 --verify=crc32c --verify_backlog=256 --verify_fatal=1 --verify_dump=0 \
        --fsync=16 --time_based --runtime="$seconds" --size=48M --randrepeat=0 --group_reporting "$@"
}
