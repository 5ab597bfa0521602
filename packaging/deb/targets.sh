# Debian's architectures and what they are to Rust and binutils; sourced.

triple() { # architecture
    case "$1" in
        amd64) echo x86_64-unknown-linux-gnu ;;
        arm64) echo aarch64-unknown-linux-gnu ;;
        armhf) echo armv7-unknown-linux-gnueabihf ;;
        *) echo "unknown architecture $1; expected amd64, arm64 or armhf" >&2; return 2 ;;
    esac
}

objdump_of() { # architecture, arguments
    local arch=$1
    shift
    case "$arch" in
        amd64) objdump "$@" ;;
        arm64) aarch64-linux-gnu-objdump "$@" ;;
        armhf) arm-linux-gnueabihf-objdump "$@" ;;
    esac
}
