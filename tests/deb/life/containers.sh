# The image for containers, read by tools that are not ours. Sourced by life.sh.

echo "# an image for containers"
# Of the root only what the program needs: it is packed twice.
(cd "$base" && tar -cf "$work/root.tar" --numeric-owner ./etc/os-release ./usr/lib/os-release ./lib $(ls -d ./lib64 ./usr/lib64 ./usr/lib/ld-linux* 2>/dev/null) \
    $(ls ./usr/lib/*/{ld-linux*,libc.so.6,libm.so.6,libgcc_s.so.1} 2>/dev/null))
check "builds" "$repo/packaging/oci/build.sh" "$package" "$work/root.tar" "$work/oci"
check "twice the same" bash -c "'$repo/packaging/oci/build.sh' '$package' '$work/root.tar' '$work/oci2' && diff -r '$work/oci' '$work/oci2'"
mkdir "$work/unpacked"
check "unpacks as it says" python3 "$repo/tests/deb/oci.py" "$work/oci" "$work/unpacked"
check "skopeo copies it, digest by digest" skopeo copy --quiet "oci:$work/oci:$version" "oci-archive:$work/oci.tar"
check "umoci unpacks it" umoci unpack --image "$work/oci:$version" "$work/bundle"
root=$work/bundle/rootfs
check "and says what runs, and as whom" python3 - "$work/bundle/config.json" <<'PYTHON'
import json, sys
process = json.load(open(sys.argv[1]))["process"]
assert process["args"] == ["/usr/bin/millrace", "run"], process["args"]
assert (process["user"]["uid"], process["user"]["gid"]) == (65532, 65532), process["user"]
PYTHON
check "the data is that user's" mode_as_number /var/lib/millrace "750 65532 65532"
check "the program runs in it, as that user" chroot --userspec=65532:65532 "$root" /usr/bin/millrace check
root=$work/root
rm -rf "$work/root.tar" "$work/oci" "$work/oci2" "$work/oci.tar" "$work/unpacked" "$work/bundle"
