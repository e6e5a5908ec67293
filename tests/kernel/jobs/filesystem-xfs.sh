# The main job on xfs (A1, A2, A3, A6, X1).
#@ seconds 150
filesystem=xfs make='mkfs.xfs -q -f' beside='ro,nouuid,norecovery' check='xfs_repair -n'
. "$PROJECT/tests/kernel/lib/filesystem.sh"
main_job
