# Claims that an installer leaves, and what an agent says that was installed with one. Sourced by life.sh.

echo "# claims"
fresh
install_deb "$package" >/dev/null 2>&1
mkdir -p "$root/boot/firmware" "$root/etc/millrace/claim"
claim "$root/boot/firmware/millrace-claim.toml"
check "a claim on the boot partition is taken" in_root /usr/lib/millrace/take-claim
check "its source is gone" not test -e "$root/boot/firmware/millrace-claim.toml"
check "the service has it, and nobody else" mode_in /var/lib/millrace/claim/boot-firmware.toml "600 millrace millrace"
check "its directory is closed" mode_in /var/lib/millrace/claim "700 millrace millrace"
claim "$root/etc/millrace/claim/a b\"c.toml"
claim "$root/etc/millrace/claim/second.toml"
check "two claims with strange names are both taken" in_root /usr/lib/millrace/take-claim
check "each is a file of its own" same "$(find "$root/var/lib/millrace/claim" -type f | wc -l)" 3
head -c 70000 /dev/zero > "$root/boot/firmware/millrace-claim.toml"
check "a huge file is left where it is" in_root /usr/lib/millrace/take-claim
check "and not copied over the first" grep -q planted "$root/var/lib/millrace/claim/boot-firmware.toml"
rm -f "$root/boot/firmware/millrace-claim.toml"
ln -s /etc/shadow "$root/etc/millrace/claim/link.toml"
check "a link is not followed" in_root /usr/lib/millrace/take-claim
check "and nothing of it is taken" not test -e "$root/var/lib/millrace/claim/etc-link.toml"
rm -f "$root/etc/millrace/claim/link.toml"
in_root setpriv --reuid millrace --regid millrace --clear-groups ln -s /etc/passwd /var/lib/millrace/claim/.boot.new
claim "$root/boot/millrace-claim.toml"
check "what the service's user lays in root's way is harmless" in_root /usr/lib/millrace/take-claim
check "its target is as it was" not grep -q planted "$root/etc/passwd"
check "nothing to do is no failure" in_root /usr/lib/millrace/take-claim

# A stick, as two kinds of machines format it.
on_stick() { mount "$loop" "$work/stick.mounted" && { "$@"; local rc=$?; umount "$loop"; return $rc; }; }
if [ -e /dev/loop-control ]; then
    mkdir -p "$work/stick.mounted" "$root/dev/disk/by-label"
    for kind in vfat ext4; do
        if ! modprobe $kind 2>/dev/null && ! grep -qw $kind /proc/filesystems; then
            not_checked "a stick with $kind: this kernel does not know it"
            continue
        fi
        rm -f "$work/stick" "$root/var/lib/millrace/claim/usb.toml"
        truncate -s 16M "$work/stick"
        case $kind in vfat) mkfs.vfat -n MILLRACE "$work/stick" ;; ext4) mkfs.ext4 -q -L MILLRACE "$work/stick" ;; esac >/dev/null
        loop=$(losetup --find --show "$work/stick")
        cp -a "$loop" "$root/dev/"
        ln -sfn "../../${loop#/dev/}" "$root/dev/disk/by-label/MILLRACE"
        on_stick claim "$work/stick.mounted/millrace-claim.toml"
        check "a claim on a stick with $kind is taken" in_root /usr/lib/millrace/take-claim
        check "$kind: the service has it, and nobody else" mode_in /var/lib/millrace/claim/usb.toml "600 millrace millrace"
        check "$kind: its source is gone" not on_stick test -e "$work/stick.mounted/millrace-claim.toml"
        check "$kind: no block of it holds the token" not grep -aq "$planted" "$work/stick"
        losetup -d "$loop"
        rm -f "$root$loop"
    done
    head -c 65536 /dev/zero > "$root/dev/blank"
    ln -sfn ../../blank "$root/dev/disk/by-label/MILLRACE"
    claim "$root/boot/millrace-claim.toml"
    check "a stick that cannot be read is a failure" not in_root /usr/lib/millrace/take-claim
    check "and keeps no other claim from being taken" not test -e "$root/boot/millrace-claim.toml"
    rm -f "$root/dev/disk/by-label/MILLRACE" "$root/dev/blank"
else
    not_checked "claims on sticks: this machine has no loop devices"
fi
grep -rl --exclude-dir=proc --exclude-dir=sys "$planted" "$root" 2>/dev/null | grep -v "^$root/var/lib/millrace/claim/" > "$work/found" || true
check "the token is nowhere else" same "$(cat "$work/found")" ""

echo "# as docs/install.md says: package, claim, status"
fresh
install_deb "$package" >/dev/null 2>&1
claim "$root/boot/millrace-claim.toml"
in_root /usr/lib/millrace/take-claim >/dev/null 2>&1
check "the data directory is the service's" mode_in /var/lib/millrace "750 millrace millrace"
start_agent
said() { in_root millrace bootstrap status 2>&1 | tee "$work/said" | grep -q "$1" || { cat "$work/said" "$work/agent.log"; return 1; }; }
check "the agent takes the claim and says what it waits for" soon said 'hmac-claim: transient'
check "the console says it, too" soon grep -q 'Millrace .*core.example' "$root/run/millrace/issue"
claim "$root/etc/millrace-second.toml"
mkdir -p "$root/etc/millrace/claim" && mv "$root/etc/millrace-second.toml" "$root/etc/millrace/claim/second.toml"
in_root /usr/lib/millrace/take-claim >/dev/null 2>&1
check "a second claim is named" soon said 'there are 2 claims'
check "the log has no token" not grep -q "$planted" "$work/agent.log"
echo "$planted" > "$work/planted"
check "nor the list of processes" not grep -aqf "$work/planted" /proc/*/cmdline
check "it ends in order" stop_agent

