#!/usr/bin/env python3
"""What the package says of the crates in the program, from `cargo metadata`:

    crates.py copyright TARGET…        Debian's copyright file: every crate with its licence, every licence text once
    crates.py sbom TARGET              a bill of materials (CycloneDX 1.5, JSON) for one target

Only what is linked into `millrace` counts: normal dependencies, with the features that the package is built with.
"""

import collections
import datetime
import hashlib
import json
import os
import pathlib
import re
import subprocess
import sys
import uuid

ROOT = pathlib.Path(__file__).resolve().parents[2]
PROGRAM = "millrace-agent"
LICENCE_FILES = re.compile(r"(?i)^(licen[cs]e|copying|copyright|unlicense|notice)([-._].*)?$")
# Debian has these texts; others are in the copyright file in full.
COMMON = ["Apache-2.0", "MPL-2.0"]
COMMON_TEXTS = [
    (re.compile(r"(?s)Apache License\s+Version 2\.0, January 2004.*?END OF TERMS AND CONDITIONS"), "Apache-2.0"),
    (re.compile(r"(?s)Mozilla Public License Version 2\.0\s+=+.*"), "MPL-2.0"),
    (re.compile(r"(?s)GNU GENERAL PUBLIC LICENSE\s+Version 3.*"), "GPL-3"),
]


def linked(target):
    """The packages that are linked for a target, and who needs whom, both by package id."""
    metadata = json.loads(subprocess.run(
        [os.environ.get("CARGO", "cargo"), "metadata", "--format-version", "1", "--locked", "--filter-platform", target],
        cwd=ROOT, check=True, stdout=subprocess.PIPE).stdout)
    packages = {package["id"]: package for package in metadata["packages"]}
    nodes = {node["id"]: node for node in metadata["resolve"]["nodes"]}
    root = next(package["id"] for package in metadata["packages"] if package["name"] == PROGRAM)
    needs, open_ = {}, [root]
    while open_:
        node = open_.pop()
        if node in needs:
            continue
        normal = [dep["pkg"] for dep in nodes[node]["deps"]
                  if any(kind["kind"] is None for kind in dep["dep_kinds"])]
        # A macro is a program of the compiler; nothing of what it links comes into ours.
        macro = any("proc-macro" in part["kind"] for part in packages[node]["targets"])
        needs[node] = [] if macro else normal
        open_.extend(needs[node])
    return {node: packages[node] for node in needs}, needs, root


def is_ours(package):
    return package["source"] is None


def licence(package):
    """The licence as an SPDX expression. Some crates still write A/B for A OR B."""
    return (package["license"] or "LicenseRef-" + package["name"]).replace("/", " OR ")


def texts(package):
    """The licence texts that the crate ships, by file name."""
    directory = pathlib.Path(package["manifest_path"]).parent
    found = {}
    for path in sorted(directory.iterdir()):
        if path.is_file() and LICENCE_FILES.match(path.name):
            found[path.name] = path.read_text(encoding="utf-8", errors="replace").strip()
    return found


def without_common(text):
    """The text with pointers in the place of licences that every Debian system has."""
    for words, name in COMMON_TEXTS:
        text = words.sub(f"[here stands the text of /usr/share/common-licenses/{name}]", text)
    return text


def paragraph(text):
    """A text as the value of a field: each line with a blank before it, empty ones as a dot."""
    return "\n".join(" " + line.rstrip() if line.strip() else " ." for line in text.splitlines())


def copyright_file(targets):
    packages = {}
    for target in targets:
        found, _, _ = linked(target)
        packages.update(found)
    crates = sorted((package for package in packages.values() if not is_ours(package)),
                    key=lambda package: (package["name"], package["version"]))
    out = [
        "Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/",
        "Upstream-Name: Millrace",
        "Upstream-Contact: Millrace developers <packages@millrace.example>",
        "Source: https://github.com/millrace/millrace",
        "Comment: The program is linked statically with the Rust crates that are named below, each under its own licence.",
        "",
        "Files: *",
        "Copyright: The Millrace developers",
        "License: Apache-2.0",
        "",
    ]
    bodies = collections.OrderedDict()
    for package in crates:
        body = []
        for name, text in texts(package).items():
            text = without_common(text)
            digest = hashlib.sha256(" ".join(text.split()).encode()).hexdigest()[:12]
            bodies.setdefault(digest, (name, text, []))[2].append(f"{package['name']} {package['version']}")
            body.append(digest)
        authors = ", ".join(author.split(" <")[0] for author in package["authors"]) or f"the authors of {package['name']}"
        out += [
            f"Files: crates/{package['name']}-{package['version']}/*",
            f"Copyright: {authors}",
            f"License: {licence(package).replace(' OR ', ' or ').replace(' AND ', ' and ')}",
            f"Comment: {package['repository'] or 'https://crates.io/crates/' + package['name']}",
        ]
        if body:
            out.append(" Licence texts: " + ", ".join(body) + ".")
        out.append("")
    for name in COMMON:
        out += [f"License: {name}", f" The full text is in /usr/share/common-licenses/{name} on Debian systems.", ""]
    for digest, (name, text, users) in bodies.items():
        out += [f"License: text-{digest}", f" The file {name} of: {', '.join(users)}.", " .", paragraph(text), ""]
    return "\n".join(out)


def checksums():
    """SHA-256 of each crate's archive, from the lock file."""
    found, name, version = {}, None, None
    for line in (ROOT / "Cargo.lock").read_text().splitlines():
        key, _, value = line.partition(" = ")
        value = value.strip('"')
        if key == "name":
            name = value
        elif key == "version":
            version = value
        elif key == "checksum":
            found[name, version] = value
    return found


def purl(package):
    return f"pkg:cargo/{package['name']}@{package['version']}"


def component(package, sums):
    entry = {
        "type": "library",
        "bom-ref": purl(package),
        "name": package["name"],
        "version": package["version"],
        "licenses": [{"expression": licence(package)}],
        "purl": purl(package),
    }
    if package["description"]:
        entry["description"] = " ".join(package["description"].split())
    if package["repository"]:
        entry["externalReferences"] = [{"type": "vcs", "url": package["repository"]}]
    checksum = sums.get((package["name"], package["version"]))
    if checksum:
        entry["hashes"] = [{"alg": "SHA-256", "content": checksum}]
    if is_ours(package):
        del entry["purl"]
    return entry


def sbom(target):
    packages, needs, root = linked(target)
    sums = checksums()
    epoch = int(os.environ.get("SOURCE_DATE_EPOCH", "0"))
    program = packages[root]
    lock = (ROOT / "Cargo.lock").read_bytes()
    number = uuid.uuid5(uuid.NAMESPACE_URL, f"{program['version']} {target} {hashlib.sha256(lock).hexdigest()}")
    components = [component(package, sums) for node, package in packages.items() if node != root]
    depends = [{"ref": purl(packages[node]), "dependsOn": sorted({purl(packages[need]) for need in needs[node]})}
               for node in packages]
    return json.dumps({
        "$schema": "http://cyclonedx.org/schema/bom-1.5.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "serialNumber": f"urn:uuid:{number}",
        "version": 1,
        "metadata": {
            "timestamp": datetime.datetime.fromtimestamp(epoch, datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ"),
            "component": {
                "type": "application",
                "bom-ref": purl(program),
                "name": "millrace",
                "version": program["version"],
                "licenses": [{"expression": licence(program)}],
            },
            "properties": [{"name": "millrace:target", "value": target}],
        },
        "components": sorted(components, key=lambda entry: entry["bom-ref"]),
        "dependencies": sorted(depends, key=lambda entry: entry["ref"]),
    }, indent=1) + "\n"


def main(arguments):
    match arguments:
        case ["copyright", first, *more]:
            print(copyright_file([first, *more]))
        case ["sbom", target]:
            print(sbom(target), end="")
        case _:
            print(__doc__, file=sys.stderr)
            return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
