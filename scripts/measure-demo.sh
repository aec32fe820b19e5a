#!/usr/bin/env bash
# Runs the demo several times and writes the medians to bench/results/demo.json and, for people, demo.md.
#
# Usage: scripts/measure-demo.sh [RUNS]     (make measure-demo RUNS=5)
# The floor is what one durable write costs on this disk: fdatasync as PostgreSQL's own pg_test_fsync sees it. A hand-over
# holds three of them in a row: the last batch of the old leader, the claim, the first write of the new one.
set -euo pipefail
cd "$(dirname "$0")/.."

runs=${1:-5}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
keys="handover_gap_ms controllers_handover_gap_ms takeover_ms requests_total requests_failed requests_held
latency_median_ms write_latency_median_ms latency_max_ms duration_s"

value() { # FILE KEY: a number of the report's top level
    sed -n "s/^  \"$2\": \([0-9.]*\),\{0,1\}$/\1/p" "$1"
}

spread() { # KEY: minimum, median and maximum over the runs
    for report in "$work"/*.json; do value "$report" "$1"; done | sort -g |
        awk '{v[NR] = $1} END {if (NR) printf "%.3f %.3f %.3f\n", v[1], v[int((NR + 1) / 2)], v[NR]}'
}

pg_bin() {
    dirname "$(readlink -f "$(command -v postgres)" || ls -d /usr/lib/postgresql/*/bin/postgres | sort -V | tail -n 1)"
}

for run in $(seq "$runs"); do
    echo "run $run of $runs"
    make --no-print-directory demo >"$work/log" 2>&1 || { cat "$work/log" >&2; exit 1; }
    cp target/demo/report.json "$work/$run.json"
done
fsync_us=$("$(pg_bin)/pg_test_fsync" -s 1 -f "$work/fsync" 2>/dev/null |
    awk '$1 == "fdatasync" {sub(/usecs\/op/, ""); print $(NF); exit}')

mkdir -p bench/results
commit=$(git rev-parse --short HEAD)
machine="$(nproc) cores, $(awk '/MemTotal/ {printf "%.0f GiB", $2 / 1048576}' /proc/meminfo), Linux $(uname -r | cut -d- -f1)"
{
    printf '{\n  "scenario": "demo",\n  "commit": "%s",\n  "date": "%s",\n  "machine": "%s",\n  "n": %s,\n  "figures": {\n' \
        "$commit" "$(date -u +%F)" "$machine" "$runs"
    separator=
    for key in $keys; do
        read -r minimum median maximum < <(spread "$key")
        printf '%s    "%s": {"min": %s, "median": %s, "max": %s}' "$separator" "$key" "$minimum" "$median" "$maximum"
        separator=$',\n'
    done
    printf '\n  },\n  "floors": {"fdatasync_ms": %s}\n}\n' "$(awk -v us="$fsync_us" 'BEGIN {printf "%.3f", us / 1000}')"
} >bench/results/demo.json
{
    printf '# The demo, %s runs at %s\n\n%s. One durable write (fdatasync) took %s us.\n\n' "$runs" "$commit" "$machine" "$fsync_us"
    printf '| figure | minimum | median | maximum |\n|---|---|---|---|\n'
    for key in $keys; do
        read -r minimum median maximum < <(spread "$key")
        printf '| %s | %s | %s | %s |\n' "$key" "$minimum" "$median" "$maximum"
    done
} >bench/results/demo.md
cat bench/results/demo.md
