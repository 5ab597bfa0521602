# Has the kernel start programs of the package's architecture by qemu-user, in other roots, too: what Debian's qemu-user-static asks of systemd-binfmt or of
# binfmt-support, for machines that run neither. It stays until the next boot. Sourced by life.sh.

case "$arch" in
    arm64) handler=qemu-aarch64 ;;
    armhf) handler=qemu-arm ;;
    *) echo "a package for $arch cannot be tried on this machine; arm64 and armhf can, and its own $(dpkg --print-architecture)" >&2; exit 1 ;;
esac
formats=/proc/sys/fs/binfmt_misc
[ -e $formats/register ] || mount -t binfmt_misc binfmt_misc $formats
[ -e $formats/$handler ] || cat /usr/lib/binfmt.d/$handler.conf > $formats/register
