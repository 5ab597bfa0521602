#!/usr/bin/env bash
# The Rust toolchain of the packages: one compiler for amd64, arm64 and armhf, from Debian's own packages, verified by
# Debian's signatures and unpacked into a directory (its packages would drive out an installed rustup). A second run does nothing.
#
#   packaging/toolchain/setup.sh DIR
#
# DIR/bin then has cargo, rustc, rustdoc and cargo-deb, DIR/env.sh what cross builds need in the environment.
set -euo pipefail
[ $# = 1 ] || { echo "usage: $0 DIR" >&2; exit 2; }
here=$(cd "$(dirname "$0")" && pwd)
mkdir -p "$1"
dir=$(cd "$1" && pwd)

# Debian's name of the release of Rust that its browsers are built with, and the minor version in its packages' names.
rust=1.96
cargo_deb=3.8.0

stamp="$rust $cargo_deb $(cat "$0" "$here"/*.sh | sha256sum | cut -c1-16)"
[ "$(cat "$dir/stamp" 2>/dev/null)" = "$stamp" ] && exit 0

. "$here/../debian-packages.sh"
need aarch64-linux-gnu-gcc gcc-aarch64-linux-gnu
need aarch64-linux-gnu-g++ g++-aarch64-linux-gnu
need arm-linux-gnueabihf-gcc gcc-arm-linux-gnueabihf
need arm-linux-gnueabihf-g++ g++-arm-linux-gnueabihf
need /usr/aarch64-linux-gnu/include/stdio.h libc6-dev-arm64-cross
need /usr/arm-linux-gnueabihf/include/stdio.h libc6-dev-armhf-cross
need qemu-aarch64-static qemu-user-static
need gcc gcc
need lintian lintian
need objdump binutils
need python3 python3
need git git
install_missing "make deb"

# An apt of our own: packages of two architectures, without a change to the machine's own lists.
fetch_packages() {
    local apt=$dir/apt site suite component
    mkdir -p "$apt/state/lists/partial" "$apt/cache/archives/partial"
    : > "$apt/status"
    apt-get indextargets --format '$(REPO_URI) $(RELEASE) $(COMPONENT)' 'Identifier: Packages' 'Origin: Debian' \
        | sort -u | while read -r site suite component; do
            echo "deb [arch=amd64,arm64] $site $suite $component"
        done > "$apt/sources.list"
    [ -s "$apt/sources.list" ] || { echo "no Debian source in this machine's apt; hint: see sources.list(5)" >&2; exit 1; }
    cat > "$apt/apt.conf" <<CONF
APT::Architecture "amd64";
APT::Architectures { "amd64"; "arm64"; };
Acquire::Languages "none";
Dir::State "$apt/state";
Dir::State::status "$apt/status";
Dir::Cache "$apt/cache";
Dir::Etc::SourceList "$apt/sources.list";
Dir::Etc::SourceParts "-";
CONF
    APT_CONFIG="$apt/apt.conf" apt-get update -q
    (cd "$apt" && APT_CONFIG="$apt/apt.conf" apt-get download -q \
        rustc-web cargo-web "libstd-rust-web-$rust" libstd-rust-web-dev rust-web-src \
        "libstd-rust-web-$rust:arm64" libstd-rust-web-dev:arm64 \
        libllvm22 libgit2-1.5 libmbedcrypto7 libmbedtls14 libmbedx509-1 libhttp-parser2.9 libssh2-1)
}

unpack() {
    rm -rf "$dir/rust"
    mkdir -p "$dir/rust"
    local package
    for package in "$dir"/apt/*.deb; do
        dpkg-deb -x "$package" "$dir/rust"
    done
}

wrap() { # program
    cat > "$dir/bin/$1" <<WRAP
#!/bin/sh
root=\$(dirname "\$(dirname "\$(readlink -f "\$0")")")
LD_LIBRARY_PATH=\$root/rust/usr/lib/x86_64-linux-gnu\${LD_LIBRARY_PATH:+:\$LD_LIBRARY_PATH} exec "\$root/rust/usr/bin/$1" "\$@"
WRAP
    chmod 755 "$dir/bin/$1"
}

# The environment of a rustup that calls this script is another toolchain's.
unset RUSTUP_TOOLCHAIN RUSTC RUSTDOC RUSTFLAGS CARGO_ENCODED_RUSTFLAGS CARGO CARGO_TARGET_DIR

echo "Fetching Rust $rust for three architectures from Debian into $dir"
rm -rf "$dir/apt" "$dir/bin"
mkdir -p "$dir/bin"
fetch_packages
unpack
for program in cargo rustc rustdoc; do wrap "$program"; done
sed "s,@DIR@,$dir," "$here/env.sh.in" > "$dir/env.sh"
. "$dir/env.sh"
"$here/std-armhf.sh" "$dir"
cargo install --quiet --locked --root "$dir/tools" --version "$cargo_deb" cargo-deb
ln -sf ../tools/bin/cargo-deb "$dir/bin/cargo-deb"
rm -rf "$dir/apt" "$dir/std-armhf"
echo "$stamp" > "$dir/stamp"
