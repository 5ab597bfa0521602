#!/usr/bin/env bash
# The life of the package in a Debian 12 root: install, upgrade, an upgrade cut off by a power cut, downgrade, remove, reinstall, purge; units;
# claims; what docs/install.md says; an image for containers, a baked image. Needs root, debootstrap, dpkg-deb, systemd-analyze, python3.
#
#   sudo tests/deb/life.sh PACKAGE [ROOT]
#
# ROOT is made by debootstrap where it is not there, and kept for the next run; the tests work on copies of it.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
repo=$(cd "$here/../.." && pwd)
package=$(readlink -f "${1:?the .deb to test}")
work=$(mktemp -d)
base=${2:-$work/base}
trap 'rm -rf "$work"' EXIT

passed=0 failed=0
check() { # what, command…
    local what=$1
    shift
    if "$@" >"$work/out" 2>&1; then
        passed=$((passed + 1))
        echo "ok      $what"
    else
        failed=$((failed + 1))
        echo "FAILED  $what"
        sed 's/^/        /' "$work/out" | head -20
    fi
}
not() { ! "$@"; }
fresh() { rm -rf "$root"; cp -a "$base" "$root"; }
in_root() { chroot "$root" env DEBIAN_FRONTEND=noninteractive PATH=/usr/sbin:/usr/bin:/sbin:/bin "$@"; }
# Conffiles that were edited stay, as an unattended upgrade does it.
install_deb() { cp "$1" "$root/p.deb"; local rc=0; in_root dpkg --force-confold -i /p.deb || rc=$?; rm -f "$root/p.deb"; return $rc; }
mode() { [ "$(stat -c '%a %U %G' "$root$1")" = "$2" ] || { stat -c '%a %U %G %n' "$root$1"; return 1; }; }
mode_in() { [ "$(in_root stat -c '%a %U %G' "$1")" = "$2" ] || { in_root stat -c '%a %U %G %n' "$1"; return 1; }; }
same() { [ "$1" = "$2" ] || { echo "expected $2, found $1"; return 1; }; }

if [ ! -x "$base/usr/bin/dpkg" ]; then
    echo "Making a Debian 12 root in $base"
    debootstrap --variant=minbase --include=systemd,udev,ca-certificates bookworm "$base" >"$work/debootstrap.log" 2>&1 ||
        { tail -5 "$work/debootstrap.log"; exit 1; }
fi
root=$work/root

version=$(dpkg-deb --field "$package" Version)
other() { # version: the same files as another version of the package
    local tree=$work/tree
    rm -rf "$tree"
    dpkg-deb -R "$package" "$tree"
    sed -i "s/^Version: .*/Version: $1/" "$tree/DEBIAN/control"
    dpkg-deb -Znone -b "$tree" "$work/millrace_$1.deb" >/dev/null
    echo "$work/millrace_$1.deb"
}
older=$(other 0.0.9-1)
newer=$(other 9.9.9-1)

echo "# install, edit, upgrade, downgrade, remove, purge"
fresh
check "installs" install_deb "$older"
check "the program runs" in_root millrace --version
check "the user is made" in_root id millrace
check "and reads serial ports" bash -c "chroot '$root' id -nG millrace | grep -qw dialout"
for unit in millrace millrace-claim; do
    check "$unit.service is enabled" test -L "$root/etc/systemd/system/multi-user.target.wants/$unit.service"
done
systemd-tmpfiles --root="$root" --create millrace.conf && tmpfiles=0 || tmpfiles=$?
check "what the service needs at boot is made" same "$tmpfiles" 0
check "the configuration is the service's to read, nobody else's" mode_in /etc/millrace/millrace.toml "640 root millrace"
check "manual pages" test -e "$root/usr/share/man/man1/millrace.1.gz"
check "completions" test -e "$root/usr/share/bash-completion/completions/millrace"
check "the bill of materials names what is linked" grep -q '"name": "sled"' "$root/usr/share/doc/millrace/sbom.cdx.json"
if [ -n "${MILLRACE_SBOM_PYTHON:-}" ]; then
    check "it is what CycloneDX asks for" "$MILLRACE_SBOM_PYTHON" "$here/sbom.py" "$root/usr/share/doc/millrace/sbom.cdx.json"
fi
check "the licences name it, too" grep -q '^Files: crates/sled-' "$root/usr/share/doc/millrace/copyright"
check "no file of the package can be written by others" same "$(in_root dpkg -L millrace | while read -r f; do
    [ -L "$root$f" ] || [ -z "$(find "$root$f" -maxdepth 0 -perm /022)" ] || echo "$f"; done)" ""
check "check of the configuration that comes with it" in_root millrace check
echo '# edited' >> "$root/etc/millrace/millrace.toml"
install -d -m 0700 "$root/var/lib/millrace"
echo state > "$root/var/lib/millrace/state"
check "upgrades" install_deb "$package"
check "the edited configuration survives" grep -q '^# edited' "$root/etc/millrace/millrace.toml"
check "what the agent wrote survives" test -e "$root/var/lib/millrace/state"
check "downgrades" install_deb "$older"
check "the version is the older one" bash -c "[ \"\$(chroot '$root' dpkg-query -W -f '\${Version}' millrace)\" = 0.0.9-1 ]"
check "the edited configuration survives that" grep -q '^# edited' "$root/etc/millrace/millrace.toml"
check "reinstalls" install_deb "$older"
check "removes" in_root dpkg --remove millrace
check "removed: the program is gone" not test -e "$root/usr/bin/millrace"
check "removed: the configuration stays" grep -q '^# edited' "$root/etc/millrace/millrace.toml"
check "removed: the buffer stays" test -e "$root/var/lib/millrace/state"
check "installs again over what stayed" install_deb "$package"
check "purges" in_root dpkg --purge millrace
for gone in /etc/millrace /var/lib/millrace /usr/lib/millrace /lib/systemd/system/millrace.service /usr/lib/systemd/system/millrace.service \
    /etc/systemd/system/multi-user.target.wants/millrace.service /etc/systemd/system/multi-user.target.wants/millrace-claim.service; do
    check "purged: $gone is gone" not test -e "$root$gone" -o -L "$root$gone"
done
check "purged: the user stays, so that its number is never another's" in_root id millrace
diff <(cd "$base" && find . -xdev | sort) <(cd "$root" && find . -xdev | sort) | grep '^>' |
    grep -vE '^> \./(var/log|var/lib/dpkg|etc/(passwd|group|shadow|gshadow)-|var/lib/systemd|var/cache)' > "$work/left" || true
check "purged: no file is left behind" same "$(cat "$work/left")" ""

echo "# an upgrade that a power cut ends"
for cut in unpack configure; do
    fresh
    install_deb "$older" >/dev/null 2>&1
    echo '# edited' >> "$root/etc/millrace/millrace.toml"
    cp "$newer" "$root/p.deb"
    if [ "$cut" = unpack ]; then
        # Half of the archive has come onto the disk: dpkg ends while it unpacks.
        head -c $(($(stat -c %s "$newer") / 2)) "$newer" > "$root/p.deb"
        in_root dpkg --force-confold -i /p.deb >/dev/null 2>&1 || true
        cp "$newer" "$root/p.deb"
        check "cut while unpacking: the old program still runs" in_root millrace --version
        check "cut while unpacking: the same command ends it" in_root dpkg --force-confold -i /p.deb
    else
        in_root dpkg --force-confold --unpack /p.deb >/dev/null 2>&1
        check "cut before configuring: the new program runs" in_root millrace --version
        check "cut before configuring: dpkg --configure -a ends it" in_root dpkg --force-confold --configure -a
    fi
    check "the edited configuration survives" grep -q '^# edited' "$root/etc/millrace/millrace.toml"
    check "the package is whole" bash -c "[ \"\$(chroot '$root' dpkg-query -W -f '\${db:Status-Status} \${Version}' millrace)\" = 'installed 9.9.9-1' ]"
done

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

echo "# claims"
planted='token-8d1f4c-planted'
claim() { printf 'url = "https://core.example/bootstrap"\ntoken = "%s"\n' "$planted" > "$1"; }
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
grep -rl --exclude-dir=proc --exclude-dir=sys "$planted" "$root" 2>/dev/null | grep -v "^$root/var/lib/millrace/claim/" > "$work/found" || true
check "the token is nowhere else" same "$(cat "$work/found")" ""

echo "# as docs/install.md says: package, claim, status"
fresh
install_deb "$package" >/dev/null 2>&1
claim "$root/boot/millrace-claim.toml"
in_root /usr/lib/millrace/take-claim >/dev/null 2>&1
check "the data directory is the service's" mode_in /var/lib/millrace "750 millrace millrace"
mkdir -p "$root/run/millrace"
in_root chown millrace:millrace /run/millrace
in_root chgrp millrace /etc/millrace /etc/millrace/millrace.toml
# What systemd would start.
in_root setpriv --reuid millrace --regid millrace --clear-groups env RUNTIME_DIRECTORY=/run/millrace millrace run >"$work/agent.log" 2>&1 &
agent=$!
said() { in_root millrace bootstrap status 2>&1 | tee "$work/said" | grep -q "$1" || { cat "$work/said" "$work/agent.log"; return 1; }; }
soon() { local n; for n in $(seq 60); do "$@" >/dev/null 2>&1 && return 0; sleep 1; done; "$@"; }
check "the agent takes the claim and says what it waits for" soon said 'hmac-claim: transient'
check "the console says it, too" soon grep -q 'Millrace .*core.example' "$root/run/millrace/issue"
claim "$root/etc/millrace-second.toml"
mkdir -p "$root/etc/millrace/claim" && mv "$root/etc/millrace-second.toml" "$root/etc/millrace/claim/second.toml"
in_root /usr/lib/millrace/take-claim >/dev/null 2>&1
check "a second claim is named" soon said 'there are 2 claims'
check "the log has no token" not grep -q "$planted" "$work/agent.log"
echo "$planted" > "$work/planted"
check "nor the list of processes" not grep -aqf "$work/planted" /proc/*/cmdline
in_root pkill -TERM -x millrace 2>/dev/null || kill -TERM "$(pgrep -P "$agent" -x millrace || echo "$agent")"
check "it ends in order" wait "$agent"

echo "# an image for containers"
tar -C "$base" --one-file-system --exclude=./dev --exclude=./proc --exclude=./sys -cf "$work/root.tar" ./etc/os-release ./usr/lib/os-release ./lib
check "builds" "$repo/packaging/oci/build.sh" "$package" "$work/root.tar" "$work/oci"
check "twice the same" bash -c "'$repo/packaging/oci/build.sh' '$package' '$work/root.tar' '$work/oci2' && diff -r '$work/oci' '$work/oci2'"
mkdir "$work/unpacked"
check "unpacks as it says" python3 "$repo/tests/deb/oci.py" "$work/oci" "$work/unpacked"
check "the program is in it" test -x "$work/unpacked/usr/bin/millrace"
if command -v skopeo >/dev/null; then check "skopeo reads it" skopeo inspect "oci:$work/oci"; fi
rm -rf "$work/root.tar" "$work/oci" "$work/oci2" "$work/unpacked"

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

echo "$passed passed, $failed failed"
[ "$failed" = 0 ]
