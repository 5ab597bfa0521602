# An upgrade that a power cut ends: dpkg is killed at one of its renames, of which each step of unpacking and configuring has some.
# Sourced by life.sh.

echo "# an upgrade that a power cut ends"
# The package manager, killed at its n-th rename; 0: never, and its renames are counted.
cut_upgrade() { # n
    local inject=()
    [ "$1" = 0 ] || inject=(-e "inject=/^rename:signal=KILL:when=$1")
    cp "$newer" "$root/p.deb"
    # Not followed into its children: a power cut ends them, too, but a count over all of them would not repeat.
    # In braces, so that the shell's word of a killed child goes nowhere.
    {
        strace -qq -o "$work/renames" -e 'trace=/^rename' "${inject[@]}" \
            chroot "$root" /usr/bin/dpkg --force-confold -i /p.deb </dev/null >"$work/cut.log"
    } 2>/dev/null
}
left() { find "$root/usr" "$root/etc" "$root/lib/systemd" -name '*.dpkg-new' -o -name '*.dpkg-tmp'; }
# The root with the older package, made once. Nothing writes into files of /usr, so that copies of them can be links.
fresh
install_deb "$older" >/dev/null 2>&1
echo '# edited' >> "$root/etc/millrace/millrace.toml"
mv "$root" "$work/upgraded"
begin() {
    rm -rf --one-file-system "$root"
    mkdir "$root"
    cp -al "$work/upgraded/usr" "$root/usr"
    (cd "$work/upgraded" && find . -mindepth 1 -maxdepth 1 ! -name usr -exec cp -a -t "$root" {} +)
}

begin
check "an upgrade that nothing cuts" cut_upgrade 0
renames=$(grep -c rename "$work/renames")
check "its steps can be counted ($renames)" test "$renames" -gt 20
# A few at the beginning, where it is decided; some amid the files; each of the last, where the state is written down.
points="1 2 $(seq 5 $(((renames - 12) / 4 + 1)) $((renames - 12))) $(seq $((renames - 11)) $renames)"
cuts=0 by_configure=0
for n in $points; do
    begin
    before=$failed
    if cut_upgrade "$n"; then echo "was not cut at $n" > "$work/out"; check "cut at step $n of $renames" false; continue; fi
    check "cut at step $n of $renames: the program runs" in_root millrace --version
    # A root that lost its power begins with this; where the package was not unpacked yet, there is nothing for it to do.
    in_root dpkg --force-confold --configure -a >"$work/configure" 2>&1 || true
    if [ "$(in_root dpkg-query -W -f '${db:Status-Abbrev} ${Version}' millrace)" = "ii  9.9.9-1" ]; then
        by_configure=$((by_configure + 1))
    fi
    check "the same command ends it" in_root dpkg --force-confold -i /p.deb
    check "the package is whole" whole 9.9.9-1
    check "the edited configuration survives" grep -q '^# edited' "$root/etc/millrace/millrace.toml"
    check "no half file stays" same "$(left)" ""
    check "and the program runs" in_root millrace --version
    [ "$failed" != "$before" ] || cuts=$((cuts + 1))
done
echo "        $cuts cuts survived; after $by_configure of them dpkg --configure -a was enough"
check "dpkg --configure -a is enough where files were unpacked" test "$by_configure" -gt 2
rm -rf "$work/upgraded"
