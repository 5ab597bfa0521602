#!/usr/bin/env bash
# The life of the package in a Debian 12 root: install, upgrade from another version and back, an upgrade that a power cut ends, remove,
# reinstall, purge; units; claims; what docs/install.md says; an image for containers, baked images. Needs root.
#
#   sudo tests/deb/life.sh PACKAGE [ROOT]
#
# ROOT is made by debootstrap where it is not there, and kept for the next run; the tests work on copies of it. PREVIOUS=FILE.deb is the package of an
# older version (previous.sh makes one) for the upgrade with data, which is left out without it. What is missing on the machine is installed.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
repo=$(cd "$here/../.." && pwd)
package=$(readlink -e "${1:?the .deb to test}") || { echo "$1 is not there; hint: make deb ARCHES=amd64" >&2; exit 1; }
previous=""
[ -z "${PREVIOUS:-}" ] || previous=$(readlink -e "$PREVIOUS") || { echo "PREVIOUS=$PREVIOUS is not there" >&2; exit 1; }
[ "$(id -u)" = 0 ] || { echo "this takes root: programs are run in another root" >&2; exit 1; }

. "$repo/packaging/debian-packages.sh"
need debootstrap debootstrap
need systemd-analyze systemd
need python3 python3
need strace strace
need mosquitto mosquitto
need mosquitto_sub mosquitto-clients
need skopeo skopeo
need umoci umoci
need sfdisk fdisk
need mkfs.ext4 e2fsprogs
need mkfs.vfat dosfstools
install_missing "make test-deb"

. "$here/scene.sh"
base=${2:-$work/base}
if [ ! -x "$base/usr/bin/dpkg" ]; then
    echo "Making a Debian 12 root in $base"
    rm -rf "$base.new"
    debootstrap --variant=minbase --include=systemd,udev,ca-certificates bookworm "$base.new" >"$work/debootstrap.log" 2>&1 ||
        { tail -5 "$work/debootstrap.log"; rm -rf "$base.new"; exit 1; }
    mv "$base.new" "$base"
fi
base=$(readlink -e "$base")
version=$(dpkg-deb --field "$package" Version)
older=$(other 0.0.9-1 "$package")
newer=$(other 9.9.9-1 "$package")

for part in package power_cut versions units claims containers image; do
    . "$here/life/$part.sh"
done
check "the root that all of this began with is as it was" not test -e "$base/usr/bin/millrace"

echo "$passed passed, $failed failed"
[ "$failed" = 0 ]
