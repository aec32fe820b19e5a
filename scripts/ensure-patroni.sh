#!/usr/bin/env bash
# Installs what runs a database that fails over, if it is missing: the distribution's etcd, and Patroni of a pinned version.
#
# Patroni lies in a directory of its own, which the user who runs PostgreSQL can read: /var/cache/pgfleet for root, else the
# caller's cache. Prints its path. No service is started: who uses it starts it.
set -euo pipefail
here=$(dirname "$0")

version=4.1.5
psycopg=3.3.9

if [ "$(id -u)" -eq 0 ]; then
    cache=/var/cache/pgfleet
else
    cache=${XDG_CACHE_HOME:-$HOME/.cache}/pgfleet
fi
home=$cache/patroni-$version

policy=/usr/sbin/policy-rc.d
if ! command -v etcd >/dev/null 2>&1; then
    needed="no etcd found on PATH"
    package=etcd-server
    # shellcheck source=scripts/as-root.sh
    . "$here/as-root.sh"
    # The package would start a server of its own: while it is installed, no package may start one.
    if [ ! -e "$policy" ]; then
        run_as_root sh -c 'printf "#!/bin/sh\nexit 101\n" >"$1" && chmod 755 "$1"' sh "$policy"
        trap 'run_as_root rm -f "$policy"' EXIT
    fi
    install_package >&2
    # Nor at the next boot.
    if command -v systemctl >/dev/null 2>&1; then
        run_as_root systemctl --quiet disable etcd >&2 || true
    fi
fi

# Another Python of the caller's, from a version manager in his home, could not be read by the user postgres.
python=/usr/bin/python3
if ! "$home/bin/patroni" --version >/dev/null 2>&1; then
    if ! "$python" -c 'import ensurepip, venv' >/dev/null 2>&1; then
        needed="no $python with venv found"
        package=python3-venv
        # shellcheck source=scripts/as-root.sh
        . "$here/as-root.sh"
        install_package >&2
    fi
    mkdir -p "$cache"
    rm -rf "$home"
    "$python" -m venv "$home" >&2
    if ! "$home/bin/pip" install --quiet --disable-pip-version-check --no-cache-dir \
        "patroni[etcd3]==$version" "psycopg[binary]==$psycopg" >&2; then
        rm -rf "$home"
        echo "pip could not install patroni $version; see its messages above" >&2
        exit 69
    fi
fi
echo "$home/bin/patroni"
