#!/usr/bin/env bash
# Rust's standard library for armhf: Debian has none of this release for it that its signatures vouch for, and has the source for
# every architecture. Built by the very compiler that the packages are built with, so that plain `cargo build --target` works.
set -euo pipefail
dir=${1:?the toolchain directory}
target=armv7-unknown-linux-gnueabihf
source=$(echo "$dir"/rust/usr/src/rustc-*)
[ -d "$source/library" ] || { echo "$source has no library/: is rust-web-src unpacked?" >&2; exit 1; }

build=$dir/std-armhf
rm -rf "$build"
mkdir -p "$build"
cp -a "$source"/. "$build"/
cd "$build/library"
# Debian's vendored copy leaves out what only tests need, and cargo asks for all of it: the registry has it, under the lock file's checksums.
rm -rf .cargo ../.cargo
# Needed for the standard library alone, which uses the compiler's own features.
export RUSTC_BOOTSTRAP=1
export RUSTFLAGS="-Zforce-unstable-if-unmarked -Cembed-bitcode=yes -Cdebuginfo=0 --remap-path-prefix=$build=/rustc"
export __CARGO_DEFAULT_LIB_METADATA=stablestd
cargo build --quiet --locked --release --target "$target" --target-dir "$build/target" -p sysroot --features panic-unwind,backtrace

lib=$dir/rust/usr/lib/rustlib/$target/lib
rm -rf "$lib"
mkdir -p "$lib"
cp "$build/target/$target/release/deps"/*.rlib "$lib"/
