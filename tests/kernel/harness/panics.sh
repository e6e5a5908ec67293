# Harness proof: a kernel panic must be seen as failed, even if a status was written before.
#@ expect Kernel panic
echo 0 > "$SCRATCH/status"
sync -f "$SCRATCH/status"
echo c > /proc/sysrq-trigger
