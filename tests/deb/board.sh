#!/usr/bin/env bash
# The package for arm64 on a whole machine: Debian 12 with systemd on an emulated board of 1 GB, from its first boot on. A claim on the boot partition, a
# meter on a USB serial adapter, a core that gives the configuration, a broker over TLS, a stick that is plugged in, a process that hangs. Needs root.
#
#   sudo tests/deb/board.sh PACKAGE [ROOTS]
#
# ROOTS/arm64 is the Debian root of life.sh, made as there. MILLRACE_TEST_PYTHON is the interpreter with the test peers' packages. It takes about ten minutes.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
repo=$(cd "$here/../.." && pwd)
package=$(readlink -e "${1:?the .deb for arm64}") || { echo "$1 is not there; hint: make deb ARCHES=arm64" >&2; exit 1; }
[ "$(id -u)" = 0 ] || { echo "this takes root: programs are run in another root" >&2; exit 1; }
arch=$(dpkg-deb --field "$package" Architecture)
[ "$arch" = arm64 ] || { echo "$package is for $arch; expected one for arm64" >&2; exit 1; }

. "$repo/packaging/debian-packages.sh"
need debootstrap debootstrap
need /usr/lib/binfmt.d/qemu-aarch64.conf qemu-user-static
need qemu-system-aarch64 qemu-system-arm
need /usr/lib/ipxe/qemu ipxe-qemu
need depmod kmod
need cpio cpio
need sfdisk fdisk
need mkfs.ext4 e2fsprogs
need mkfs.vfat dosfstools
need mcopy mtools
need mosquitto mosquitto
install_missing "make test-board"
. "$here/foreign.sh"
. "$here/scene.sh"
. "$here/root.sh"
root_of "$arch" "${2:-$work}"

echo "Making a board's image from $package"
root=$work/root
cp -a "$base" "$root"
cp /etc/resolv.conf "$root/etc/"
in_root sh -c 'apt-get update -q && apt-get install -y -q --no-install-recommends kmod && cd /tmp && kernel=$(apt-cache depends linux-image-arm64 | sed -n "s/.*Depends: //p" | head -1) &&
    apt-get download -q "$kernel" busybox-static' >"$work/apt.log" 2>&1 || { tail -5 "$work/apt.log"; exit 1; }
mkdir "$work/kernel" "$work/start"
dpkg-deb -x "$root"/tmp/linux-image-*.deb "$work/kernel"
dpkg-deb -x "$root"/tmp/busybox-static_*.deb "$work/start"
rm -f "$root"/tmp/*.deb "$root/etc/resolv.conf"
kernel=$(basename "$work"/kernel/lib/modules/*)
cp -a "$work/kernel/lib/modules" "$root/usr/lib/"
depmod -b "$root" "$kernel"

# What the kernel begins with: the drivers of the disk, then the system on it.
mkdir "$work/start/modules"
modprobe -d "$root" -S "$kernel" -a --show-depends virtio_pci virtio_blk ext4 | sed -n 's/^insmod \([^ ]*\).*/\1/p' | awk '!seen[$0]++' > "$work/order"
n=100
while read -r module; do cp "$module" "$work/start/modules/$n.ko"; n=$((n + 1)); done < "$work/order"
cat > "$work/start/init" <<'INIT'
#!/bin/busybox sh
/bin/busybox mkdir -p /dev /root
/bin/busybox mount -t devtmpfs dev /dev
for module in /modules/*.ko; do /bin/busybox insmod "$module"; done
until /bin/busybox mount -t ext4 /dev/vda2 /root; do /bin/busybox sleep 1; done
exec /bin/busybox switch_root /root /lib/systemd/systemd
INIT
chmod 755 "$work/start/init"
(cd "$work/start" && find init bin modules | cpio --quiet -o -H newc) | gzip -1 > "$work/start.gz"

# The system as an installer finds it: an address by DHCP, a boot partition, nothing of Millrace.
echo board > "$root/etc/hostname"
printf '127.0.0.1 localhost board\n10.0.2.2 core.example\n' > "$root/etc/hosts"
printf '/dev/vda1 /boot/firmware vfat defaults 0 2\n' > "$root/etc/fstab"
mkdir -p "$root/boot/firmware"
printf '[Match]\nName=e*\n[Network]\nDHCP=yes\n' > "$root/etc/systemd/network/wired.network"
in_root systemctl enable -q systemd-networkd
# What looks around on the board for board.py, and says it on the console.
install -m 755 "$here/board_probe.sh" "$root/usr/local/sbin/board-probe"
cat > "$root/etc/systemd/system/board-probe.service" <<'UNIT'
[Unit]
After=multi-user.target
[Service]
ExecStart=/usr/local/sbin/board-probe
StandardOutput=tty
StandardError=tty
TTYPath=/dev/ttyAMA0
[Install]
WantedBy=multi-user.target
UNIT
in_root systemctl enable -q board-probe
in_root systemctl mask -q serial-getty@ttyAMA0

truncate -s 2200M "$work/base.img"
printf 'label: dos\nsize=64MiB, type=c, bootable\ntype=83\n' | sfdisk --quiet "$work/base.img"
mkfs.ext4 -q -L rootfs -d "$root" -E offset=$((65 * 1024 * 1024)) "$work/base.img" 2100M
mkfs.vfat -F 16 -n BOOT --offset 2048 "$work/base.img" 65536 >/dev/null 2>&1
check "an image is baked" "$repo/packaging/image/bake.sh" "$work/base.img" --deb "$package" --out "$work/board.img"
rm -rf --one-file-system "$root" "$work/base.img"

"${MILLRACE_TEST_PYTHON:-python3}" "$here/board.py" --image "$work/board.img" --kernel "$work/kernel/boot/vmlinuz-$kernel" --start "$work/start.gz" --work "$work"
