# The store fills up under load: production goes on without an error, the oldest snapshots break and say so, and those
# that are whole are exact, now and after the next attach (laws 3 and 5).
#@ push 7.2
#@ seconds 300
. "$PROJECT/tests/kernel/lib/common.sh"
origin=$(loop_disk origin 32M)
store=$(loop_disk store 96M)
new_volume vol "$origin" "$store"
cut-model fill /dev/cairn/vol
cut-model write /dev/cairn/vol --log log --seconds 15 --snapshot-command 'cairn snapshot vol@$NAME' ||
    fail "production failed when the store was full"

is_whole() { cairn --json show "vol@$1" | grep -q '"state": *"whole"'; }
# Whole snapshots are exact, broken ones cannot be looked at, and the whole ones are the youngest.
verify_all() {
    local name whole_seen=no
    whole=0 broken=0
    for name in $(snapshots_of log returned); do
        if is_whole "$name"; then
            whole_seen=yes whole=$((whole + 1))
            verify_snapshot vol "$name" log
        else
            [ "$whole_seen" = no ] || fail "$name is broken, an older one is whole"
            broken=$((broken + 1))
            must_fail cairn expose "vol@$name"
        fi
    done
    echo "$whole whole, $broken broken"
}
cut-model verify /dev/cairn/vol --log log
verify_all
[ "$broken" -ge 1 ] || fail "the store was never full"
broken_before=$broken
cairn show vol
cairn show vol | grep -q '^state: .*store was full' || fail "the volume does not say that its store was full"
cairn detach vol

say "attached again"
cairn attach vol --frontend ublk
verify_all
[ "$broken" = "$broken_before" ] || fail "$broken snapshots are broken, $broken_before were"
cut-model verify /dev/cairn/vol --log log
cairn snapshot vol@fresh
say "what is broken can be deleted, and nothing else is wrong"
must_fail cairn check vol --data
must_say "the store was full"
for name in $(snapshots_of log returned); do
    if ! is_whole "$name"; then cairn delete "vol@$name" --yes; fi
done
cairn check vol --data
cairn detach vol
cut-model verify "$origin" --log log
