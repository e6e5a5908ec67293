# The main job on xfs (A1, A2, A3, A6, X1).
# A read-only mount of xfs writes to the disk unless it is told not to, and the next attach would rightly refuse.
#@ push never
#@ seconds 300
filesystem=xfs make='mkfs.xfs -q -f' beside='ro,nouuid,norecovery' bare='ro,norecovery' check='xfs_repair -n'
. "$PROJECT/tests/kernel/lib/filesystem.sh"
main_job
