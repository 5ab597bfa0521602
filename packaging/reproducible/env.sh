# What makes two builds the same bytes, wherever the checkout lies; sourced from the checkout's root after the toolchain's env.sh.

# The time of the commit, not of the day.
SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct)}
export SOURCE_DATE_EPOCH
export CARGO_INCREMENTAL=0
export LC_ALL=C.UTF-8 TZ=UTC
_registry=${CARGO_HOME:-$HOME/.cargo}
_target=${CARGO_TARGET_DIR:-$PWD/target}
# No path of this machine: neither in what Rust writes for messages nor in what C compilers do. The last one that fits counts.
export RUSTFLAGS="--remap-path-prefix=$PWD=/millrace --remap-path-prefix=$_registry=/cargo --remap-path-prefix=$_target=/target"
export CFLAGS="-ffile-prefix-map=$PWD=/millrace -ffile-prefix-map=$_registry=/cargo -ffile-prefix-map=$_target=/target"
export CXXFLAGS=$CFLAGS
unset _registry _target CARGO_ENCODED_RUSTFLAGS
