# The main job on btrfs (A1, A2, A3, A6, X1).
# Two btrfs with one fsid may be mounted beside each other since Linux 6.7, when each has one device.
#@ push never
#@ seconds 300
filesystem=btrfs make='mkfs.btrfs -q -f' beside='ro' bare='ro' check='btrfs check'
. "$PROJECT/tests/kernel/lib/filesystem.sh"
main_job
