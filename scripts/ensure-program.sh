#!/usr/bin/env bash
# Installs a program that tests call, if it is missing: scripts/ensure-program.sh PROGRAM PACKAGE
set -euo pipefail

program=$1
package=$2
if command -v "$program" >/dev/null 2>&1; then
    exit 0
fi

needed="no $program found on PATH"
# shellcheck source=scripts/as-root.sh
. "$(dirname "$0")/as-root.sh"
install_package
if ! command -v "$program" >/dev/null 2>&1; then
    echo "the package $package is installed and still no $program is found" >&2
    exit 69
fi
