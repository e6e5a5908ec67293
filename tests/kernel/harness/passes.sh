# Harness proof: a job that passes.
[ -e /dev/ublk-control ]
echo "on $(uname -r) with $(nproc) CPUs"
touch "$SCRATCH/was-here"
