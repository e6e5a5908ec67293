# What changed between snapshots of a real ext4, judged by tools that others wrote (lib/deltas.sh).
#@ push 7.2
#@ seconds 480
#@ memory 3G
filesystem=ext4 size=96M
make='mkfs.ext4 -q -F -E nodiscard,lazy_itable_init=0,lazy_journal_init=0'
read_only='ro,noload' beside='rw' check='e2fsck -fn'
. "$PROJECT/tests/kernel/lib/deltas.sh"
deltas_job
