# Debian packages that a script needs; sourced. `need` collects what is missing, `install_missing` installs it as root or through
# passwordless sudo, else says what is missing and ends with 1.

missing=()

need() { # program or file, Debian package
    case "$1" in
        /*) [ -e "$1" ] ;;
        *) PATH="$PATH:/usr/sbin:/usr/local/sbin" command -v "$1" >/dev/null ;;
    esac || missing+=("$2")
}

install_missing() { # who asks
    [ ${#missing[@]} -gt 0 ] || return 0
    local as_root=""
    if [ "$(id -u)" != 0 ]; then
        as_root="sudo"
        if ! sudo -n true 2>/dev/null; then
            echo "$1 needs these Debian packages: ${missing[*]}" >&2
            echo "hint: sudo apt-get install --no-install-recommends ${missing[*]}" >&2
            exit 1
        fi
    fi
    if ! command -v apt-get >/dev/null; then
        echo "$1 needs what Debian packages as: ${missing[*]}" >&2
        echo "hint: install the same with this system's package manager, then run it again" >&2
        exit 1
    fi
    echo "Installing ${missing[*]}"
    # A service that a package would start is neither needed nor wanted.
    local policy=""
    if [ ! -e /usr/sbin/policy-rc.d ]; then
        policy=/usr/sbin/policy-rc.d
        printf '#!/bin/sh\nexit 101\n' | $as_root tee "$policy" >/dev/null
        $as_root chmod 755 "$policy"
    fi
    local worked=0
    $as_root apt-get update -q || worked=$?
    [ "$worked" != 0 ] || $as_root env DEBIAN_FRONTEND=noninteractive \
        apt-get install -y -q --no-install-recommends "${missing[@]}" || worked=$?
    [ -z "$policy" ] || $as_root rm -f "$policy"
    missing=()
    return $worked
}
