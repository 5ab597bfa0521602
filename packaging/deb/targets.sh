# Debian's architectures and what they are to Rust and binutils; sourced.

triple() { # architecture
    case "$1" in
        amd64) echo x86_64-unknown-linux-gnu ;;
        arm64) echo aarch64-unknown-linux-gnu ;;
        armhf) echo armv7-unknown-linux-gnueabihf ;;
        *) echo "unknown architecture $1; expected amd64, arm64 or armhf" >&2; return 2 ;;
    esac
}

gnu() { # architecture: what its binutils and C library are called by
    case "$1" in
        amd64) echo x86_64-linux-gnu ;;
        arm64) echo aarch64-linux-gnu ;;
        armhf) echo arm-linux-gnueabihf ;;
    esac
}

# What a binary may have at most, in MB: the design asks for 25, which is not reached (docs/decisions/0015-size.md).
binary_max_mb=40

# The oldest glibc that the packages run on: what agent/Cargo.toml says in `depends`. What the binaries ask for is checked against it.
glibc_floor() {
    sed -n 's/^depends = "libc6 (>= \([0-9.]*\)).*/\1/p' "$(dirname "${BASH_SOURCE[0]}")/../../agent/Cargo.toml"
}

glibc_asked() { # architecture, program
    "$(gnu "$1")-objdump" -T "$2" | grep -o 'GLIBC_[0-9.]*' | sed 's/GLIBC_//' | sort -Vu | tail -1
}

is_within_floor() { # a version of glibc
    [ "$(printf '%s\n%s\n' "$1" "$(glibc_floor)" | sort -V | tail -1)" = "$(glibc_floor)" ]
}
