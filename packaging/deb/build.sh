#!/usr/bin/env bash
# Builds the Debian packages: `packaging/deb/build.sh [amd64] [arm64] [armhf]`; all three without an argument. Needs a Debian 12 machine (amd64)
# with Rust's cargo; everything else comes from Debian's packages and, for cargo-deb and the crates, from the crate registry.
# The packages are in target/debian. MILLRACE_TOOLCHAIN names a toolchain that packaging/toolchain/setup.sh has made before.
set -euo pipefail
cd "$(dirname "$0")/../.."
target_dir=${CARGO_TARGET_DIR:-$PWD/target}
[ $# -gt 0 ] || set -- amd64 arm64 armhf
. packaging/deb/targets.sh
for arch in "$@"; do triple "$arch" >/dev/null; done

toolchain=${MILLRACE_TOOLCHAIN:-$target_dir/toolchain}
packaging/toolchain/setup.sh "$toolchain"
. "$toolchain/env.sh"
. packaging/reproducible/env.sh

version=$(sed -n 's/^version = "\(.*\)"$/\1/p' Cargo.toml | head -1)
if ! head -1 packaging/deb/changelog | grep -qF "millrace ($version-1)"; then
    echo "packaging/deb/changelog does not begin with millrace ($version-1), the version of Cargo.toml" >&2
    exit 1
fi

for arch in "$@"; do
    # What compiles C is built anew, and all that stands on it, when the date changes; nothing of it is in the program.
    SOURCE_DATE_EPOCH=1 cargo build --release --locked -p millrace-agent --bin millrace --target "$(triple "$arch")"
done

# Manual pages and completions are the same on every architecture; a program of any of them can print them.
program() { # architecture, arguments
    local arch=$1 binary
    binary=$target_dir/$(triple "$arch")/release/millrace
    shift
    case "$arch" in
        amd64) "$binary" "$@" ;;
        arm64) qemu-aarch64-static -L /usr/aarch64-linux-gnu "$binary" "$@" ;;
        armhf) qemu-arm-static -L /usr/arm-linux-gnueabihf "$binary" "$@" ;;
    esac
}
files=$PWD/target/deb-files
rm -rf "$files"
mkdir -p "$files/man"
program "$1" man --dir "$files/man" >/dev/null
gzip -9n "$files"/man/*.1
for shell in bash zsh fish; do program "$1" completions "$shell" > "$files/millrace.$shell"; done
packaging/deb/crates.py copyright $(for arch in amd64 arm64 armhf; do triple "$arch"; done) > "$files/copyright"

for arch in "$@"; do
    target=$(triple "$arch")
    binary=$target_dir/$target/release/millrace
    asked=$(glibc_asked "$arch" "$binary")
    if ! is_within_floor "$asked"; then
        echo "the $arch binary asks for glibc $asked; agent/Cargo.toml says libc6 (>= $(glibc_floor)) in depends" >&2
        exit 1
    fi
    size=$(($(stat -c %s "$binary") / 1000000))
    if [ "$size" -gt "$binary_max_mb" ]; then
        echo "the $arch binary has $size MB; at most $binary_max_mb MB are meant" >&2
        exit 1
    fi
    packaging/deb/crates.py sbom "$target" > "$files/sbom.cdx.json"
    # Said here, since cargo-deb reads a rustup toolchain's name where there is one.
    cargo deb --quiet --no-build --no-strip --locked -p millrace-agent --target "$target" --output "$target_dir/debian/"
    package=$target_dir/debian/millrace_$version-1_$arch.deb
    lintian --fail-on error,warning "$package"
    echo "$package: $(($(stat -c %s "$package") / 1000)) kB, installed $(dpkg-deb --field "$package" Installed-Size) KiB," \
        "binary $(($(stat -c %s "$binary") / 1000)) kB, glibc $asked"
done
