#!/usr/bin/env bash
# The life of the package in a Debian 12 root: install, upgrade from another version and back, an upgrade that a power cut ends, remove,
# reinstall, purge; units; claims; what docs/install.md says; an image for containers, baked images. Needs root.
#
#   sudo tests/deb/life.sh PACKAGE [ROOT]
#
# ROOT/ARCH is made by debootstrap where it is not there, and kept for the next run; the tests work on copies of it. PREVIOUS=FILE.deb is the package of
# an older version (previous.sh makes one) for the upgrade with data, which is left out without it. What is missing on the machine is installed. A package
# of another architecture is tried under qemu-user, as far as that goes.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
repo=$(cd "$here/../.." && pwd)
package=$(readlink -e "${1:?the .deb to test}") || { echo "$1 is not there; hint: make deb ARCHES=amd64" >&2; exit 1; }
previous=""
[ -z "${PREVIOUS:-}" ] || previous=$(readlink -e "$PREVIOUS") || { echo "PREVIOUS=$PREVIOUS is not there" >&2; exit 1; }
arch=$(dpkg-deb --field "$package" Architecture)
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
parts="package power_cut versions units claims containers image"
if [ "$arch" != "$(dpkg --print-architecture)" ]; then
    # The other two trace dpkg, which is the emulator here, and start the program outside of a root.
    parts="package units claims containers image"
    need /usr/lib/binfmt.d/qemu-aarch64.conf qemu-user-static
fi
install_missing "make test-deb"
[ "$arch" = "$(dpkg --print-architecture)" ] || . "$here/foreign.sh"

. "$here/scene.sh"
. "$here/root.sh"
root_of "$arch" "${2:-$work/roots}"
version=$(dpkg-deb --field "$package" Version)
older=$(other 0.0.9-1 "$package")
newer=$(other 9.9.9-1 "$package")

for part in $parts; do
    . "$here/life/$part.sh"
done
check "the root that all of this began with is as it was" not test -e "$base/usr/bin/millrace"

echo "$passed passed, $failed failed"
[ "$failed" = 0 ]
