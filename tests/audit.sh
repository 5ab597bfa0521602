#!/usr/bin/env bash
# Known vulnerabilities of the crates, by the database of RustSec, which is fetched; where it cannot be, by the one that was fetched last.
# Ends with 0 where none is known, with 3 where nothing was checked, and says why.
set -euo pipefail
cd "$(dirname "$0")/.."
cargo=${CARGO:-cargo}
database=https://github.com/RustSec/advisory-db

not_checked() {
    echo "advisories were NOT checked: $1" >&2
    exit 3
}

if "$cargo" deny --version >/dev/null 2>&1; then
    kept=$(ls -d "${CARGO_HOME:-$HOME/.cargo}"/advisory-dbs/advisory-db-* 2>/dev/null | head -1 || true)
    if timeout 300 "$cargo" deny fetch db >/dev/null 2>&1; then
        echo "the database of RustSec is of now"
    elif [ -n "$kept" ]; then
        echo "warning: $database cannot be fetched; the one of $(git -C "$kept" show -s --format=%cs HEAD) is used" >&2
    else
        not_checked "$database cannot be fetched, and was not before"
    fi
    exec "$cargo" deny --offline --locked check --hide-inclusion-graph advisories
elif "$cargo" audit --version >/dev/null 2>&1; then
    timeout 60 git ls-remote --quiet "$database" HEAD >/dev/null 2>&1 || not_checked "$database cannot be reached"
    # As in deny.toml.
    exec "$cargo" audit --ignore RUSTSEC-2023-0071
fi
not_checked "neither cargo-deny nor cargo-audit is installed (cargo install cargo-deny)"
