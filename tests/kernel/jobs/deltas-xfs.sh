# What changed between snapshots of a real xfs, judged by tools that others wrote (lib/deltas.sh).
#@ push never
#@ seconds 420
#@ memory 3G
filesystem=xfs size=300M
make='mkfs.xfs -q -f -K'
read_only='ro,norecovery,nouuid' beside='rw,nouuid' check='xfs_repair -n'
. "$PROJECT/tests/kernel/lib/deltas.sh"
deltas_job
