#!/usr/bin/env bash
# Makes an OCI image of a package, without a daemon, root or network: the files of the .deb on the files of a Debian root.
#
#   packaging/oci/build.sh PACKAGE.deb ROOT.tar IMAGE-DIRECTORY
#
# ROOT.tar is a Debian 12 root of the package's architecture, for example from `mmdebstrap --variant=minbase bookworm root.tar`; its bytes
# become the first layer as they are. IMAGE-DIRECTORY becomes an OCI layout: `podman run oci:DIRECTORY`, `skopeo copy oci:DIRECTORY docker://…`.
# The same inputs give the same bytes.
set -euo pipefail
[ $# = 3 ] || { sed -n '4p' "$0" | sed 's/^# *//' >&2; exit 2; }
deb=$(readlink -f "$1") base=$(readlink -f "$2") image=$3
[ ! -e "$image" ] || { echo "error: $image is there already" >&2; exit 1; }
for tool in dpkg-deb tar gzip sha256sum python3; do
    command -v "$tool" >/dev/null || { echo "error: $tool is not installed" >&2; exit 1; }
done
epoch=${SOURCE_DATE_EPOCH:-0}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# The package's files, without what only systemd and a package manager need; data and socket are directories of the user 65532,
# so that a volume that is put there belongs to it.
dpkg-deb -x "$deb" "$work/files"
rm -rf "$work/files/lib/systemd" "$work/files/usr/lib/systemd" "$work/files/usr/lib/udev" "$work/files/usr/lib/tmpfiles.d" \
    "$work/files/usr/lib/sysusers.d" "$work/files/usr/share/lintian" "$work/files/usr/lib/millrace"
mkdir -p "$work/files/var/lib/millrace" "$work/files/run/millrace"
tar --sort=name --mtime="@$epoch" --owner=0 --group=0 --numeric-owner --mode='go-w,a+rX' \
    -C "$work/files" --exclude=./var --exclude=./run -cf "$work/layer.tar" .
tar --sort=name --mtime="@$epoch" --owner=65532 --group=65532 --numeric-owner --mode=0750 \
    -C "$work/files" -rf "$work/layer.tar" ./var/lib/millrace ./run/millrace
cp "$base" "$work/base.tar"

arch=$(dpkg-deb --field "$deb" Architecture)
version=$(dpkg-deb --field "$deb" Version)
python3 - "$work" "$image" "$arch" "$version" "$epoch" <<'PYTHON'
import datetime, gzip, hashlib, json, pathlib, sys

work, image, arch, version, epoch = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2]), *sys.argv[3:]
blobs = image / "blobs" / "sha256"
blobs.mkdir(parents=True)


def put(data):
    digest = hashlib.sha256(data).hexdigest()
    (blobs / digest).write_bytes(data)
    return "sha256:" + digest, len(data)


def described(media, data):
    digest, size = put(data)
    return {"mediaType": "application/vnd.oci.image." + media, "digest": digest, "size": size}


def text(value):
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()


layers, plain = [], []
for name in ("base.tar", "layer.tar"):
    tar = (work / name).read_bytes()
    plain.append("sha256:" + hashlib.sha256(tar).hexdigest())
    layers.append(described("layer.v1.tar+gzip", gzip.compress(tar, 9, mtime=0)))
created = datetime.datetime.fromtimestamp(int(epoch), datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
platform = {"os": "linux"} | {
    "amd64": {"architecture": "amd64"},
    "arm64": {"architecture": "arm64"},
    "armhf": {"architecture": "arm", "variant": "v7"},
}[arch]
config = described("config.v1+json", text(platform | {
    "created": created,
    "config": {
        "User": "65532:65532",
        "Entrypoint": ["/usr/bin/millrace"],
        "Cmd": ["run"],
        "Env": ["PATH=/usr/bin:/bin", "MILLRACE_SOCKET=/run/millrace/millrace.sock"],
        "Volumes": {"/var/lib/millrace": {}},
        "StopSignal": "SIGTERM",
    },
    "rootfs": {"type": "layers", "diff_ids": plain},
    "history": [{"created": created, "comment": "Debian"}, {"created": created, "comment": "millrace " + version}],
}))
manifest = described("manifest.v1+json", text({
    "schemaVersion": 2,
    "mediaType": "application/vnd.oci.image.manifest.v1+json",
    "config": config,
    "layers": layers,
    "annotations": {"org.opencontainers.image.title": "millrace", "org.opencontainers.image.version": version},
}))
manifest |= {"platform": platform, "annotations": {"org.opencontainers.image.ref.name": version}}
(image / "index.json").write_bytes(text({
    "schemaVersion": 2,
    "mediaType": "application/vnd.oci.image.index.v1+json",
    "manifests": [manifest],
}))
(image / "oci-layout").write_bytes(text({"imageLayoutVersion": "1.0.0"}))
print(f"{image}: millrace {version} for {arch}, manifest {manifest['digest']}")
PYTHON
