# Plays the scene that lies in the scratch directory; benches/kernel/play.rs says how.
set -euo pipefail
ulimit -l unlimited
kernel-bench "$SCRATCH"
