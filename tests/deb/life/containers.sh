# The image for containers. Sourced by life.sh.

echo "# an image for containers"
tar -C "$base" --one-file-system --exclude=./dev --exclude=./proc --exclude=./sys -cf "$work/root.tar" ./etc/os-release ./usr/lib/os-release ./lib
check "builds" "$repo/packaging/oci/build.sh" "$package" "$work/root.tar" "$work/oci"
check "twice the same" bash -c "'$repo/packaging/oci/build.sh' '$package' '$work/root.tar' '$work/oci2' && diff -r '$work/oci' '$work/oci2'"
mkdir "$work/unpacked"
check "unpacks as it says" python3 "$repo/tests/deb/oci.py" "$work/oci" "$work/unpacked"
check "the program is in it" test -x "$work/unpacked/usr/bin/millrace"
if command -v skopeo >/dev/null; then check "skopeo reads it" skopeo inspect "oci:$work/oci"; fi
rm -rf "$work/root.tar" "$work/oci" "$work/oci2" "$work/unpacked"

