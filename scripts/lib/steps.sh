# Steps of a long run: each is shown, timed and counted. Sourced by scripts that say what the steps are.
#
# A step's output is cargo's ("test result: ...") or that of tests/kernel/run ("kernel jobs: ..."); one that has no count
# of its own counts as one. Status 77 is a skip, which with CI=true is a failure.
# shellcheck shell=bash

only='' known=no
passed=0 failed=0 times=() beside=() failures=()
began_all=$SECONDS
logs=$(mktemp -d)
trap 'kill -- ${beside_pid:+-$beside_pid} 2>/dev/null; rm -rf "$logs"' EXIT

wanted() {
    if [ -n "$only" ] && [ "$only" != "$1" ]; then return 1; fi
    known=yes
}

# step NAME COMMAND...: runs one step.
step() {
    local name=$1 began=$SECONDS status
    shift
    wanted "$name" || return 0
    printf '\n== %s\n' "$name"
    "$@" 2>&1 | tee "$logs/$name"
    status=${PIPESTATUS[0]}
    count "$name" "$status" $((SECONDS - began))
}

# begin_beside "NAME COMMAND..."...: steps that run one after the other while others do.
begin_beside() {
    local line
    for line in "$@"; do
        if wanted "${line%% *}"; then beside+=("$line"); fi
    done
    [ ${#beside[@]} -gt 0 ] || return 0
    # In a process group of its own, so that nothing of it outlives this script.
    set -m
    run_beside &
    beside_pid=$!
    set +m
}

run_beside() {
    local line name began
    for line in "${beside[@]}"; do
        name=${line%% *} began=$SECONDS
        ${line#* } >"$logs/$name" 2>&1 </dev/null
        echo "$? $((SECONDS - began))" >"$logs/$name.ended"
    done
}

# end_beside: waits for those steps, shows and counts them.
end_beside() {
    local name status took line
    for line in "${beside[@]}"; do
        name=${line%% *}
        while [ ! -e "$logs/$name.ended" ]; do
            kill -0 "$beside_pid" 2>/dev/null || break
            sleep 1
        done
        read -r status took <"$logs/$name.ended" || { status=1 took=0; }
        printf '\n== %s (beside the others)\n' "$name"
        cat "$logs/$name"
        count "$name" "$status" "$took"
    done
}

# count NAME STATUS SECONDS: adds up what a step counted.
count() {
    local name=$1 status=$2 took=$3 counts
    # shellcheck disable=SC2207 # two numbers, no spaces in them
    counts=($(count_results <"$logs/$name"))
    if [ "$status" = 77 ] && [ "${CI:-}" != true ]; then
        times+=("$(printf '%5s s  %-12s SKIPPED' "$took" "$name")")
        return 0
    fi
    if [ $((counts[0] + counts[1])) = 0 ]; then
        # A test program that found no test to run proves nothing.
        if [ "$status" = 0 ] && ! grep -q '^test result:\|^kernel jobs:' "$logs/$name"; then counts[0]=1; else counts[1]=1; fi
    elif [ "$status" != 0 ] && [ "${counts[1]}" = 0 ]; then
        counts[1]=1
    fi
    passed=$((passed + counts[0])) failed=$((failed + counts[1]))
    [ "${counts[1]}" = 0 ] || failures+=("$(what_failed "$name" "$status")")
    times+=("$(printf '%5s s  %-12s %s passed, %s failed' "$took" "$name" "${counts[0]}" "${counts[1]}")")
}

# The sums of cargo's "test result" lines and of the closing line of tests/kernel/run. An ignored test is a failure:
# it would read as passed.
count_results() {
    awk '/^test result:/ { passed += $4; failed += $6 + $8 }
         /^kernel jobs:/ { passed += $3; failed += $5 }
         END { print passed + 0, failed + 0 }'
}

# what_failed NAME STATUS: which tests or jobs of a step failed and what they said, or else how the step ended.
what_failed() {
    local name=$1 status=$2 found
    found=$(awk '/^failures:$/ { block = 1 }
                 /^test result:/ { block = 0 }
                 /^(passed kernel|kernel jobs:)/ { rest = 0 }
                 /^failed kernel/ { rest = 60 }
                 / panicked at / { rest = 4 }
                 block || rest-- > 0 || /^error(\[|:)/ || /^SKIPPED/' "$logs/$name" | tail -n 150)
    printf 'step %s failed with status %s:\n%s\n' "$name" "$status" "${found:-$(tail -n 40 "$logs/$name")}"
}

# close_steps: what failed, the times and the closing line; the script's exit status.
close_steps() {
    if [ "$known" = no ]; then echo "no step is called $only" >&2; exit 2; fi
    [ ${#failures[@]} = 0 ] || printf '\n%s\n' "${failures[@]}"
    printf '\ntimes:\n'
    printf '%s\n' "${times[@]}" "$(printf '%5s s  all' $((SECONDS - began_all)))"
    echo "$passed passed, $failed failed"
    [ "$failed" = 0 ]
}
