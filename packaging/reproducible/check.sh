#!/usr/bin/env bash
# Builds the program twice, in two checkouts at different paths with different target directories, and compares the bytes: the binary and,
# where cargo-deb is there, nothing else of the package depends on the machine. `packaging/reproducible/check.sh [ARCH] [CHECKOUT-DIRECTORY]`.
# Two full builds: an hour on a small machine.
set -euo pipefail
cd "$(dirname "$0")/../.."
root=$PWD
arch=${1:-amd64}
work=${2:-$(mktemp -d)}
. packaging/deb/targets.sh
target=$(triple "$arch")
toolchain=${MILLRACE_TOOLCHAIN:-${CARGO_TARGET_DIR:-$root/target}/toolchain}
packaging/toolchain/setup.sh "$toolchain"
[ -z "$(git status --porcelain)" ] || echo "note: what is compared is the last commit, without the changes of this checkout" >&2

sums=()
for name in one another/place; do
    checkout=$work/$name
    rm -rf "$checkout"
    git clone -q "$root" "$checkout"
    (
        cd "$checkout"
        . "$toolchain/env.sh"
        export CARGO_TARGET_DIR=$work/target-$(basename "$name")
        unset SOURCE_DATE_EPOCH
        . packaging/reproducible/env.sh
        cargo build --quiet --release --locked -p millrace-agent --bin millrace --target "$target"
    )
    binary=$work/target-$(basename "$name")/$target/release/millrace
    sums+=("$(sha256sum < "$binary")")
    echo "$name: ${sums[-1]%% *}"
    if strings -n 6 "$binary" | grep -F -e "$work" -e "$root" -e "${CARGO_HOME:-$HOME/.cargo}" -m 5; then
        echo "the binary names paths of this machine" >&2
        exit 1
    fi
done
if [ "${sums[0]}" != "${sums[1]}" ]; then
    echo "the two builds differ; diffoscope says where: $work" >&2
    exit 1
fi
[ $# -ge 2 ] || rm -rf "$work"
echo "both builds are the same bytes"
