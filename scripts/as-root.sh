# Sourced by the ensure-* scripts: how to run one command as root, or a clear line if there is no way.
#
# Sets the array `as_root`; it is empty when we are root already.

as_root=()
if [ "$(id -u)" -ne 0 ]; then
    if ! command -v sudo >/dev/null 2>&1; then
        echo "$needed: run this as root, or install it yourself: apt-get install --no-install-recommends $package" >&2
        exit 77
    fi
    as_root=(sudo)
    # Without a terminal nobody can type a password: fail at once instead of waiting.
    if [ ! -t 0 ]; then
        as_root=(sudo -n)
    fi
    if ! "${as_root[@]}" true; then
        echo "$needed: sudo does not let you; install it yourself: apt-get install --no-install-recommends $package" >&2
        exit 77
    fi
fi

# Runs a command as root with apt's questions switched off; a configuration file that is there already stays.
run_as_root() {
    "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive UCF_FORCE_CONFFOLD=1 "$@"
}

# Installs $package, after saying so.
install_package() {
    if ! command -v apt-get >/dev/null 2>&1; then
        echo "$needed, and this machine has no apt-get; install $package with its package manager" >&2
        exit 69
    fi
    echo "$needed; installing the distribution's package $package (without recommends)"
    if ! run_as_root apt-get update -qq; then
        echo "apt-get update failed; trying with the package lists that are there" >&2
    fi
    if ! run_as_root apt-get install -y -qq --no-install-recommends "$package"; then
        echo "apt-get could not install $package; see its messages above" >&2
        exit 69
    fi
}
