# Harness proof: a kernel that is killed leaves what it had written to its disk, and boots again.
#@ push 7.2
#@ disk 16M
#@ kill-when kill-now
set -euo pipefail
if [ "$TEST_PHASE" = 1 ]; then
    echo "before the kill" | dd of=/dev/ubda bs=4096 conv=sync oflag=direct
    touch "$SCRATCH/kill-now"
    sleep 3600
fi
dd if=/dev/ubda bs=4096 count=1 iflag=direct | grep -a "before the kill"
