#!/usr/bin/env bash
# Installs the distribution's PostgreSQL if no server binary is found on PATH or in Debian's per-version directory.
# No default cluster is created: pgfleet makes its own, private ones.
set -euo pipefail

found() {
    command -v postgres >/dev/null 2>&1 && return 0
    local binary
    for binary in /usr/lib/postgresql/*/bin/postgres; do
        [ -x "$binary" ] && return 0
    done
    return 1
}

if found; then
    exit 0
fi

needed="no PostgreSQL server found on PATH or in /usr/lib/postgresql"
package=postgresql
# shellcheck source=scripts/as-root.sh
. "$(dirname "$0")/as-root.sh"

# Before the package's own scripts run: they would make and start a cluster. Other lines of the file stay as they are.
conf=/etc/postgresql-common/createcluster.conf
setting='create_main_cluster = false'
if ! grep -Eqs '^[[:space:]]*create_main_cluster[[:space:]]*=[[:space:]]*false' "$conf"; then
    echo "writing '$setting' to $conf, so that no default cluster is made"
    run_as_root sh -c 'mkdir -p "$(dirname "$1")" && touch "$1" &&
        sed -i "/^[[:space:]]*create_main_cluster[[:space:]]*=/d" "$1" && printf "%s\n" "$2" >>"$1"' sh "$conf" "$setting"
fi
install_package
if ! found; then
    echo "the package $package is installed and still no postgres binary is found; look into /usr/lib/postgresql" >&2
    exit 69
fi
