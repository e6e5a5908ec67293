# PostgreSQL under pgbench on ext4: snapshots under load, each mounted by a scratch device and recovered by PostgreSQL
# itself, as after a power cut. Every index and table is sound, money is conserved, and each snapshot holds what was
# committed before it was asked for and nothing that was committed after it was there (laws 3 and 4).
#@ seconds 600
#@ push 7.2
#@ memory 3G
. "$PROJECT/tests/kernel/lib/common.sh"
programs=$(find /usr/lib/postgresql -maxdepth 2 -name bin | sort -V | tail -n 1)
[ -x "$programs/pg_amcheck" ] || fail "PostgreSQL is not installed: apt-get install postgresql"
export PATH="$programs:$PATH" PGDATABASE=bench PGUSER=postgres
as_postgres="setpriv --reuid=postgres --regid=postgres --clear-groups"
origin=$(loop_disk origin 512M)
store=$(loop_disk store 1G)
mkdir -p /mnt/live /mnt/snapshot /run/live /run/snapshot
chown postgres /run/live /run/snapshot

# server DIRECTORY SOCKETS COMMAND...: pg_ctl for one of the two servers.
server() {
    local directory=$1 sockets=$2
    shift 2
    $as_postgres pg_ctl -D "$directory/data" -l "$sockets/log" -w -t 60 \
        -o "-c unix_socket_directories=$sockets -c listen_addresses=''" "$@" >/dev/null || {
        tail -n 20 "$sockets/log"
        fail "pg_ctl $* of $directory"
    }
}
query() { $as_postgres psql -h "$1" -X -q -A -t -c "$2"; }

say "a database on the volume"
new_volume vol "$origin" "$store"
mkfs.ext4 -q /dev/cairn/vol
mount /dev/cairn/vol /mnt/live
mkdir /mnt/live/data
chown postgres /mnt/live/data
$as_postgres initdb -D /mnt/live/data -A trust -E UTF8 --locale C --no-sync >/dev/null
cat >> /mnt/live/data/postgresql.conf <<'END'
shared_buffers = 16MB
max_connections = 20
checkpoint_timeout = 30s
max_wal_size = 64MB
jit = off
END
# A crash may otherwise show the appended lines as zeroes, on any disk.
sync -f /mnt/live
server /mnt/live /run/live start
PGDATABASE=postgres query /run/live 'CREATE DATABASE bench'
$as_postgres pgbench -h /run/live -i -q -s 2 2>&1 | tail -n 1
query /run/live 'CREATE TABLE counter (value bigint NOT NULL); INSERT INTO counter VALUES (0)'
echo 'UPDATE counter SET value = value + 1;' > /tmp/counter.sql
$as_postgres pgbench -h /run/live -n -c 4 -j 2 -T 280 -b tpcb-like@4 -f /tmp/counter.sql@1 > pgbench-output 2>&1 &
pgbench=$!

say "snapshots under load; the worker is killed once"
# What is visible is committed; the lock waits for a commit that is just becoming visible.
committed() { query /run/live 'SELECT value FROM counter'; }
committed_for_sure() { query /run/live 'SELECT value FROM counter FOR UPDATE'; }
snapshots='s1 s2 s3 s4'
declare -A lowest highest
for name in $snapshots; do
    sleep 3
    lowest[$name]=$(committed)
    if [ "$name" = s3 ]; then cairn snapshot "vol@$name" --freeze; else cairn snapshot "vol@$name"; fi
    highest[$name]=$(committed_for_sure)
    if [ "$name" = s2 ]; then kill -KILL "$(worker_pid vol)"; fi
done
[ "${highest[s1]}" -lt "${lowest[s4]}" ] || fail "the counter stands still: no load"

# In every state that a transaction leaves, the sums over accounts, tellers, branches and history are the same.
sound="SELECT count(*) FROM (SELECT sum(abalance) AS total FROM pgbench_accounts
    UNION SELECT sum(tbalance) FROM pgbench_tellers UNION SELECT sum(bbalance) FROM pgbench_branches
    UNION SELECT coalesce(sum(delta), 0) FROM pgbench_history) AS totals"
check_database() {
    [ "$(query "$1" "$sound")" = 1 ] || fail "$1: the balances do not add up"
    $as_postgres pg_amcheck -h "$1" --install-missing --heapallindexed --parent-check -d bench || fail "$1: pg_amcheck"
}

say "each snapshot, recovered by PostgreSQL, while the load goes on"
declare -A value
for name in $snapshots; do
    cairn expose "vol@$name" --scratch >/dev/null
    mount "/dev/cairn/vol@$name" /mnt/snapshot
    # It names the live server, which runs.
    rm /mnt/snapshot/data/postmaster.pid
    : > /run/snapshot/log
    chown postgres /run/snapshot/log
    server /mnt/snapshot /run/snapshot start
    grep -q 'automatic recovery in progress' /run/snapshot/log || fail "$name: nothing had to be recovered"
    value[$name]=$(query /run/snapshot 'SELECT value FROM counter')
    echo "$name: committed before ${lowest[$name]}, in the snapshot ${value[$name]}, committed after ${highest[$name]}"
    [ "${value[$name]}" -ge "${lowest[$name]}" ] || fail "$name lacks what was committed before it"
    [ "${value[$name]}" -le "${highest[$name]}" ] || fail "$name has what was committed after it"
    check_database /run/snapshot
    server /mnt/snapshot /run/snapshot stop -m immediate
    # The server's children outlive it by a moment.
    wait_for 30 umount /mnt/snapshot
    cairn unexpose "vol@$name" >/dev/null
    kill -0 "$pgbench" || { cat pgbench-output; fail "pgbench ended"; }
done

say "the live database"
kill -TERM "$pgbench"
wait "$pgbench" || true
if grep -Ei 'error|fatal|abort' pgbench-output; then fail "pgbench saw an error"; fi
check_database /run/live
echo "the counter stands at $(committed)"
server /mnt/live /run/live stop -m fast
umount /mnt/live

say "restored to s2: what the scratch device had shown"
cairn restore vol@s2 --yes
mount /dev/cairn/vol /mnt/live
rm -f /mnt/live/data/postmaster.pid
server /mnt/live /run/live start
[ "$(committed)" = "${value[s2]}" ] || fail "the restored database is another one: $(committed)"
check_database /run/live
server /mnt/live /run/live stop -m fast
umount /mnt/live
cairn check vol --data
wait_for_restore vol
cairn detach vol
