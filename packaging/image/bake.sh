#!/usr/bin/env bash
# Puts the package, and a claim, into an image: a gateway that is flashed with it comes up with Millrace running. No network, no container.
#
#   sudo packaging/image/bake.sh BASE --deb PACKAGE [--claim FILE] --out IMAGE
#
# BASE is a disk image (raw: .img) of a Debian 12 system or one that descends from it, or a directory that holds its root. It is copied, never
# changed. A claim with a static token serves any number of gateways; one with a one-time token serves the first that boots.
set -euo pipefail

usage() { sed -n '2,7s/^# \{0,1\}//p' "$0" >&2; exit 2; }
fail() { echo "error: $1" >&2; [ $# -lt 2 ] || echo "hint: $2" >&2; exit 1; }

base="" deb="" claim="" out=""
while [ $# -gt 0 ]; do
    case "$1" in
        --deb) deb=${2:?}; shift 2 ;;
        --claim) claim=${2:?}; shift 2 ;;
        --out) out=${2:?}; shift 2 ;;
        -*) usage ;;
        *) [ -z "$base" ] || usage; base=$1; shift ;;
    esac
done
[ -n "$base" ] && [ -n "$deb" ] && [ -n "$out" ] || usage
[ "$(id -u)" = 0 ] || fail "an image is mounted and its programs are run: that takes root" "run it with sudo"
[ -e "$base" ] || fail "$base is not there"
[ -f "$deb" ] || fail "$deb is not there" "make deb"
[ -z "$claim" ] || [ -f "$claim" ] || fail "$claim is not there"
[ ! -e "$out" ] || fail "$out is there already" "take another name for --out, or remove it"
for tool in dpkg-deb partx mount mountpoint chroot; do
    command -v "$tool" >/dev/null || fail "$tool is not installed" "apt-get install dpkg util-linux mount coreutils"
done

# What is not whole must not be taken for an image: it has its name only at the end.
half=$out.half
rm -rf --one-file-system "$half"
root="" place=""
detach() {
    [ -n "$place" ] || return 0
    ! mountpoint -q "$place" || umount "$place"
    rmdir "$place"
    place=""
}
clean() {
    detach
    rm -rf --one-file-system "$half"
}
trap clean EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

attach() { # an image: the partition that holds a system; by its place, since not every machine makes devices for partitions
    place=$(mktemp -d)
    root=$place
    local start sectors
    while read -r start sectors; do
        local where=loop,offset=$((start * 512))${sectors:+,sizelimit=$((sectors * 512))}
        mount -o "ro,$where" "$1" "$root" 2>/dev/null || continue
        if [ -e "$root/etc/os-release" ] || [ -L "$root/etc/os-release" ]; then
            umount "$root"
            mount -o "$where" "$1" "$root"
            return 0
        fi
        umount "$root"
    done < <(partx --show --noheadings --output START,SECTORS "$1" 2>/dev/null || true; echo 0)
    fail "no partition of $base has a Linux system" "the image has to be raw (.img), not compressed; loop devices are needed"
}

if [ -d "$base" ]; then
    cp -a "$base" "$half"
    root=$half
else
    cp --reflink=auto --sparse=always "$base" "$half"
    attach "$half"
fi

# The package has to be one for this system, and what it depends on has to be there: nothing is fetched.
[ -x "$root/usr/bin/dpkg" ] || fail "the image has no dpkg: Millrace's package is for Debian and its descendants"
chroot "$root" /bin/true 2>/dev/null || fail "this machine cannot run the image's programs" \
    "for another architecture: apt-get install qemu-user-static, whose binfmt handlers have to be registered (see /proc/sys/fs/binfmt_misc)"
has=$(chroot "$root" dpkg --print-architecture)
wants=$(dpkg-deb --field "$deb" Architecture)
[ "$has" = "$wants" ] || fail "the package is for $wants, the image is $has"

# Nothing is started while it is installed; the units are enabled and start at the first boot.
policy=$root/usr/sbin/policy-rc.d
kept_policy=""
if [ -e "$policy" ]; then kept_policy=$(mktemp); cp -a "$policy" "$kept_policy"; fi
printf '#!/bin/sh\nexit 101\n' > "$policy"
chmod 755 "$policy"
cp "$deb" "$root/millrace.deb"
installed=0
chroot "$root" env DEBIAN_FRONTEND=noninteractive PATH=/usr/sbin:/usr/bin:/sbin:/bin dpkg --install /millrace.deb || installed=$?
rm -f "$root/millrace.deb" "$policy"
[ -z "$kept_policy" ] || { cp -a "$kept_policy" "$policy"; rm -f "$kept_policy"; }
[ "$installed" = 0 ] || fail "the package could not be installed into the image" \
    "install what it depends on in the base image first: $(dpkg-deb --field "$deb" Depends)"

if [ -n "$claim" ]; then
    install -d -m 0700 "$root/etc/millrace/claim"
    install -m 0600 "$claim" "$root/etc/millrace/claim/claim.toml"
fi

# A thousand gateways from one image are a thousand machines: each makes its identity at its first boot.
if [ -e "$root/etc/machine-id" ]; then : > "$root/etc/machine-id"; fi
rm -f "$root/var/lib/dbus/machine-id" "$root/var/lib/systemd/random-seed"
if ls "$root"/etc/ssh/ssh_host_*_key >/dev/null 2>&1; then
    # Only where something makes new ones: a gateway without them lets nobody in.
    if [ -e "$root/usr/bin/cloud-init" ] || ls "$root"/{etc,lib}/systemd/system/*ssh*key*.service >/dev/null 2>&1; then
        rm -f "$root"/etc/ssh/ssh_host_*_key*
    else
        echo "warning: every gateway of this image will have the same ssh host keys: nothing in it makes new ones at first boot" >&2
    fi
fi
rm -rf "$root/var/lib/millrace/"* "$root/var/cache/apt/archives/"*.deb "$root/var/log/millrace"

for unit in millrace millrace-claim; do
    [ -L "$root/etc/systemd/system/multi-user.target.wants/$unit.service" ] || fail "$unit.service is not enabled in the image"
done
sync -f "$root"
detach
mv "$half" "$out"
echo "$out: Millrace $(dpkg-deb --field "$deb" Version) for $has, units enabled, $([ -n "$claim" ] && echo "claim in /etc/millrace/claim" || echo "no claim")"
