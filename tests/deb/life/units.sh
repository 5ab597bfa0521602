# Units, udev rules: what systemd and udev say of them. Sourced by life.sh.

echo "# units"
fresh
install_deb "$package" >/dev/null 2>&1
for unit in millrace millrace-claim; do
    check "$unit.service verifies" bash -c "chroot '$root' systemd-analyze verify --man=no /lib/systemd/system/$unit.service 2>&1 | tee /dev/stderr | grep -v 'Failed to connect\|SO_PASSCRED' | grep -c . | grep -qx 0"
done
exposure=$(systemd-analyze security --offline=true --root="$root" millrace.service 2>/dev/null | sed -n 's/.*exposure level for .*: \([0-9.]*\).*/\1/p')
check "exposure of the service is at most 1.6 (is ${exposure:-unknown})" awk -v e="${exposure:-9}" 'BEGIN { exit !(e <= 1.6) }'
in_root udevadm test --action=add /sys/class/tty/tty0 > "$work/udev" 2>&1 || true
check "udev reads its rules" grep -q 'Reading rules file: /usr/lib/udev/rules.d/70-millrace.rules' "$work/udev"
check "and understands each" not grep '/70-millrace.rules:' "$work/udev"

check "the agent waits for neither network nor clock" same \
    "$(sed -n 's/^After=//p' "$root/lib/systemd/system/millrace.service")" "network.target local-fs.target"
check "nothing runs before it" not grep -q '^ExecStartPre' "$root/lib/systemd/system/millrace.service"

