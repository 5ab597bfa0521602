#!/usr/bin/env bash
# Makes the package of an older version, for the upgrade that life.sh tries: from a checkout of an older commit, by what that commit says of its
# package. Not optimised: its formats on the disk and its configuration matter, not its speed.
#
#   git worktree add ../older COMMIT
#   tests/deb/previous.sh ../older VERSION OUT.deb
#
# VERSION is what the package claims to be, lower than today's: 0.0.9. Needs cargo-deb and dpkg-dev.
set -euo pipefail
[ $# = 3 ] || { sed -n '5,6s/^# *//p' "$0" >&2; exit 2; }
out=$(readlink -m "$3")
cd "$1"
target_dir=${CARGO_TARGET_DIR:-$PWD/target}
cargo build --locked -p millrace-agent --bin millrace
# Commits whose package has man pages, completions and a bill of materials take them from there; these are not what is tried.
files=target/deb-files
mkdir -p "$files/man"
gzip -9n < README.md > "$files/man/millrace.1.gz"
touch "$files"/millrace.{bash,zsh,fish}
cp LICENSE "$files/copyright"
echo '{}' > "$files/sbom.cdx.json"
# Where its metadata asks for the optimised program, this one takes its place.
cargo deb --quiet --no-build --strip --profile dev --locked -p millrace-agent --deb-version "$2-1" --output "$out"
echo "$out: $(dpkg-deb --field "$out" Version) of $(git log -1 --format='%h, %cs, %s')"
