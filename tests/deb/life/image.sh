# Images for machines: a directory with a root, and a disk image with partitions. Sourced by life.sh.

# What a machine knows of its own place: name, network, sources of packages.
known() { # root
    (cd "$1" && { find etc/apt etc/hostname etc/resolv.conf etc/hosts var/lib/apt -type f 2>/dev/null || true; } | sort | xargs -r sha256sum)
}

holds_all() { # what it is: the root that it has is $root
    check "$1: the package is in it" whole "$version"
    check "$1: the claim is in it, closed" mode /etc/millrace/claim/claim.toml "600 root root"
    local unit
    for unit in millrace millrace-claim; do
        check "$1: $unit.service is enabled" test -L "$root/etc/systemd/system/multi-user.target.wants/$unit.service"
    done
    check "$1: no machine identity" same "$(cat "$root/etc/machine-id" "$root/var/lib/dbus/machine-id" 2>/dev/null)" ""
    check "$1: no keys, no data" same "$(find "$root/etc/ssh" "$root/var/lib/millrace" "$root/var/lib/systemd/random-seed" -type f 2>/dev/null)" ""
    check "$1: no policy, package or emulator is left" not ls "$root/usr/sbin/policy-rc.d" "$root/millrace.deb" "$root"/usr/bin/qemu-*
    # Paths of this machine, its name, what its apt knows.
    grep -rIlF --exclude-dir=proc --exclude-dir=sys -e "$repo" -e "$work" -e "${CARGO_HOME:-$HOME/.cargo}" "$root/etc" "$root/var" "$root/usr/lib/millrace" \
        "$root/usr/share/doc/millrace" > "$work/found" 2>/dev/null || true
    grep -laF -e "$repo" -e "${CARGO_HOME:-$HOME/.cargo}" "$root/usr/bin/millrace" >> "$work/found" || true
    check "$1: nothing of the build machine" same "$(cat "$work/found")" ""
    known "$root" > "$work/known"
    known "$base" > "$work/known.base"
    check "$1: names, addresses and packages that it knows are those of the base" diff "$work/known.base" "$work/known"
}

echo "# images"
claim "$work/claim.toml"
check "a directory is baked" "$repo/packaging/image/bake.sh" "$base" --deb "$package" --claim "$work/claim.toml" --out "$work/image"
root=$work/image
holds_all "a directory"
check "a second one does not go over it" not "$repo/packaging/image/bake.sh" "$base" --deb "$package" --out "$work/image"
rm -rf "$work/image"
claim_is_missing() { ! "$repo/packaging/image/bake.sh" "$base" --deb "$package" --claim "$work/none" --out "$work/image"; }
check "a claim that is not there ends it" claim_is_missing
check "and leaves nothing" not ls -d "$work"/image*

if [ -e /dev/loop-control ]; then
    # As a card has it: a partition for the firmware, one for the system.
    truncate -s 1200M "$work/disk.img"
    printf 'label: dos\nsize=64MiB, type=c, bootable\ntype=83\n' | sfdisk --quiet "$work/disk.img"
    mkfs.ext4 -q -L rootfs -d "$base" -E offset=$((65 * 1024 * 1024)) "$work/disk.img" 1100M
    sha256sum "$work/disk.img" > "$work/disk.sum"
    check "an image is baked" "$repo/packaging/image/bake.sh" "$work/disk.img" --deb "$package" --claim "$work/claim.toml" --out "$work/baked.img"
    check "its base is as it was" sha256sum --status -c "$work/disk.sum"
    check "no loop device stays" same "$(losetup --noheadings -j "$work/disk.img")$(losetup --noheadings -j "$work/baked.img")" ""
    check "its file system is clean" fsck.ext4 -fn "$work/baked.img?offset=$((65 * 1024 * 1024))"
    root=$work/mounted
    mkdir "$root"
    mount -o loop,offset=$((65 * 1024 * 1024)) "$work/baked.img" "$root"
    holds_all "an image"
    umount "$root"
    [ -z "${KEEP_IMAGE:-}" ] || mv "$work/baked.img" "$KEEP_IMAGE"
    rm -f "$work/disk.img" "$work/baked.img"
else
    not_checked "an image with partitions: this machine has no loop devices"
fi
root=$work/root

# In a root, since cloud-init would set up the machine that it is installed on.
fresh
cp /etc/resolv.conf "$root/etc/resolv.conf"
cp "$repo/packaging/image/cloud-init.yaml" "$root/"
in_root apt-get update -q >"$work/apt.log" 2>&1 &&
    in_root apt-get install -y -q --no-install-recommends cloud-init >>"$work/apt.log" 2>&1 || tail -3 "$work/apt.log"
check "cloud-init takes its file" in_root cloud-init schema --config-file /cloud-init.yaml
