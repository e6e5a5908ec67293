# Harness proof: a kernel panic must be seen as failed, even if a status was written before.
#@ push 7.2
#@ expect Kernel panic
echo 0 > "$SCRATCH/status"
sync -f "$SCRATCH/status"
echo c > /proc/sysrq-trigger
