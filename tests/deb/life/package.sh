# Install, edit, upgrade, downgrade, remove, install again, purge: what stays and what goes. Sourced by life.sh.

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
check "the version is the older one" whole 0.0.9-1
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

