#!/usr/bin/env bash
# Builds a package twice, in two checkouts at different paths with different target directories, and compares the bytes: of the program, and
# of the package with all that is in it.
#
#   packaging/reproducible/check.sh [ARCH] [DIRECTORY] [--against PACKAGE]
#
# Two full builds are an hour on a small machine. With --against there is one, compared with a package of the same commit that was built
# elsewhere, by anybody. DIRECTORY is where the checkouts and their builds go, and stay; without one they are removed in the end.
set -euo pipefail
cd "$(dirname "$0")/../.."
root=$PWD
against=
words=()
while [ $# -gt 0 ]; do
    case "$1" in
        --against)
            against=$(readlink -e "${2:?--against needs a package}") || { echo "$2 is missing" >&2; exit 2; }
            shift 2
            ;;
        -*) sed -n '5p' "$0" | cut -c3- >&2; exit 2 ;;
        *) words+=("$1"); shift ;;
    esac
done
arch=${words[0]:-amd64}
work=${words[1]:-}
if [ -z "$work" ]; then
    work=$(mktemp -d)
    trap 'rm -rf "$work"' EXIT
fi
mkdir -p "$work"
work=$(cd "$work" && pwd)
. packaging/deb/targets.sh
target=$(triple "$arch")
MILLRACE_TOOLCHAIN=${MILLRACE_TOOLCHAIN:-${CARGO_TARGET_DIR:-$root/target}/toolchain}
export MILLRACE_TOOLCHAIN
[ -z "$(git status --porcelain)" ] || echo "note: what is compared is the last commit, without the changes of this checkout" >&2

build() { # place: leaves the package's name in $package
    local place=$1 checkout=$work/$1 built=$work/target-$(basename "$1")
    rm -rf "$checkout"
    git clone -q "$root" "$checkout"
    env -u SOURCE_DATE_EPOCH CARGO_TARGET_DIR="$built" "$checkout/packaging/deb/build.sh" "$arch"
    package=$(echo "$built"/debian/millrace_*_"$arch".deb)
    local named
    named=$(strings -n 6 "$built/$target/release/millrace" | grep -F -e "$work" -e "$root" -e "${CARGO_HOME:-$HOME/.cargo}" || true)
    if [ -n "$named" ]; then
        echo "the program of $place names paths of this machine:" >&2
        head -5 <<< "$named" >&2
        exit 1
    fi
}

program_of() { # package
    dpkg-deb --fsys-tarfile "$1" | tar -xO ./usr/bin/millrace | sha256sum | cut -d' ' -f1
}

packages=()
if [ -n "$against" ]; then
    packages+=("$against")
else
    build one
    packages+=("$package")
fi
build another/place
packages+=("$package")

for package in "${packages[@]}"; do
    echo "$package: $(sha256sum < "$package" | cut -d' ' -f1), program $(program_of "$package")"
done
if [ "$(program_of "${packages[0]}")" != "$(program_of "${packages[1]}")" ]; then
    echo "the programs differ; diffoscope says where" >&2
    exit 1
fi
if ! cmp "${packages[@]}"; then
    echo "the programs are the same bytes, other files of the packages are not; diffoscope says which" >&2
    exit 1
fi
echo "both are the same bytes: program and package"
