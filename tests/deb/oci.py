#!/usr/bin/env python3
"""Unpacks an OCI layout as a runtime would, and holds it to what it says of itself: `oci.py LAYOUT ROOT`.

Every digest and size, the layers' own digests, owner and rights of the data directory; ROOT then holds the files.
"""

import gzip
import hashlib
import io
import json
import pathlib
import sys
import tarfile


def blob(layout, described):
    data = (layout / "blobs" / described["digest"].replace(":", "/")).read_bytes()
    assert "sha256:" + hashlib.sha256(data).hexdigest() == described["digest"], described
    assert len(data) == described["size"], described
    return data


def main(layout, root):
    layout = pathlib.Path(layout)
    assert json.loads((layout / "oci-layout").read_bytes()) == {"imageLayoutVersion": "1.0.0"}
    [entry] = json.loads((layout / "index.json").read_bytes())["manifests"]
    manifest = json.loads(blob(layout, entry))
    config = json.loads(blob(layout, manifest["config"]))
    named = {entry["digest"], manifest["config"]["digest"], *(layer["digest"] for layer in manifest["layers"])}
    there = {"sha256:" + path.name for path in (layout / "blobs" / "sha256").iterdir()}
    assert named == there, there ^ named
    assert config["config"]["User"] == "65532:65532"
    owners = {}
    for layer, diff_id in zip(manifest["layers"], config["rootfs"]["diff_ids"], strict=True):
        tar = gzip.decompress(blob(layout, layer))
        assert "sha256:" + hashlib.sha256(tar).hexdigest() == diff_id, layer
        with tarfile.open(fileobj=io.BytesIO(tar)) as opened:
            owners |= {member.name: (member.uid, member.gid, member.mode & 0o7777) for member in opened}
            opened.extractall(root, filter="fully_trusted")
    assert owners["./var/lib/millrace"] == (65532, 65532, 0o750), owners["./var/lib/millrace"]
    assert owners["./usr/bin/millrace"] == (0, 0, 0o755), owners["./usr/bin/millrace"]
    assert not owners["./etc/millrace/millrace.toml"][2] & 0o022
    print(f"{len(owners)} files, {len(manifest['layers'])} layers, as they say")


if __name__ == "__main__":
    main(*sys.argv[1:])
