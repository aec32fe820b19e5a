#!/usr/bin/env bash
# Installs promtool (Debian's package prometheus) if it is missing: the tests check every metrics page with it.
set -euo pipefail

if command -v promtool >/dev/null 2>&1; then
    exit 0
fi

needed="no promtool found on PATH"
package=prometheus
# shellcheck source=scripts/as-root.sh
. "$(dirname "$0")/as-root.sh"
install_package
if ! command -v promtool >/dev/null 2>&1; then
    echo "the package $package is installed and still no promtool is found" >&2
    exit 69
fi
