# Images for machines. Sourced by life.sh.

echo "# an image"
claim "$work/claim.toml"
check "bakes" "$repo/packaging/image/bake.sh" "$base" --deb "$package" --claim "$work/claim.toml" --out "$work/image"
root=$work/image
check "the package is in it" in_root dpkg-query -W millrace
check "the claim is in it, closed" mode /etc/millrace/claim/claim.toml "600 root root"
for unit in millrace millrace-claim; do
    check "$unit.service is enabled" test -L "$root/etc/systemd/system/multi-user.target.wants/$unit.service"
done
check "no machine identity" same "$(cat "$root/etc/machine-id" 2>/dev/null)" ""
check "no policy, package or emulator is left" not ls "$root/usr/sbin/policy-rc.d" "$root/millrace.deb" "$root"/usr/bin/qemu-*
grep -rIlF --exclude-dir=proc --exclude-dir=sys -e "$repo" -e "$work" -e "${CARGO_HOME:-$HOME/.cargo}" "$root/etc" "$root/var" "$root/usr/bin/millrace" "$root/usr/lib/millrace" 2>/dev/null > "$work/found" || true
check "nothing of the build machine" same "$(cat "$work/found")" ""
if command -v cloud-init >/dev/null; then
    check "cloud-init takes its file" cloud-init schema --config-file "$repo/packaging/image/cloud-init.yaml"
fi
check "the base is as it was" not test -e "$base/usr/bin/millrace"

