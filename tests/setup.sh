#!/usr/bin/env bash
# Makes a machine ready for `make test`: Debian packages, and the foreign peers from PyPI and npm.
# Installs what is missing as root or through passwordless sudo; otherwise says what is missing and ends with 1.
set -euo pipefail
cd "$(dirname "$0")/.."

# shellcheck source=packaging/debian-packages.sh
. packaging/debian-packages.sh

venv_works() {
    local trial
    trial=$(mktemp -d)
    "$1" -m venv "$trial/env" >/dev/null 2>&1
    local worked=$?
    rm -rf "$trial"
    return $worked
}

need cc gcc
need make make
need mosquitto mosquitto
need nats-server nats-server
need node nodejs
need npm npm
need openssl openssl
need pkg-config pkg-config
need /usr/include/modbus/modbus.h libmodbus-dev
need /etc/ssl/certs/ca-certificates.crt ca-certificates

python=""
make_python() {
    [ -x .venv/bin/python ] && return 0
    for candidate in python3 /usr/bin/python3; do
        if command -v "$candidate" >/dev/null && venv_works "$candidate"; then
            python=$candidate
            return 0
        fi
    done
    return 1
}
make_python || missing+=(python3 python3-venv)

if [ ${#missing[@]} -gt 0 ]; then
    install_missing "make test"
    make_python || { echo "no Python that can make a virtual environment, although python3-venv is installed" >&2; exit 1; }
fi

wanted=$(sha256sum tests/requirements.txt)
if [ "$(cat .venv/requirements.sha256 2>/dev/null)" != "$wanted" ]; then
    [ -x .venv/bin/python ] || "$python" -m venv .venv
    echo "Installing the foreign peers of the tests into .venv"
    .venv/bin/python -m pip install --quiet --disable-pip-version-check -r tests/requirements.txt
    # Only its protobuf classes are used; it asks for an older paho-mqtt than the other peers.
    .venv/bin/python -m pip install --quiet --disable-pip-version-check --no-deps pysparkplug==0.6.1
    echo "$wanted" > .venv/requirements.sha256
fi

# One foreign OPC UA server, at the exact versions of its lock file. The tests that need it say that they are skipped where it is missing.
peer=drivers/tests/peers/node
wanted=$(sha256sum "$peer/package-lock.json")
if [ "$(cat "$peer/node_modules/lock.sha256" 2>/dev/null)" != "$wanted" ]; then
    echo "Installing node-opcua into $peer/node_modules"
    if npm ci --prefix "$peer" --ignore-scripts --no-audit --no-fund --loglevel=error; then
        echo "$wanted" > "$peer/node_modules/lock.sha256"
    else
        rm -rf "$peer/node_modules"
        echo "node-opcua could not be installed: the tests against it will be skipped" >&2
    fi
fi
