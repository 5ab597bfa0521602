# From an older version and back, with samples that wait: PREVIOUS is a really different program. Sourced by life.sh.

echo "# the upgrade from $(if [ -n "$previous" ]; then dpkg-deb --field "$previous" Version; else echo "an older version"; fi), and back"
if [ -z "$previous" ]; then
    not_checked "what an older version buffered: PREVIOUS names no package (tests/deb/previous.sh makes one)"
    return 0
fi

rm -rf "$work/host"
dpkg-deb -x "$package" "$work/host"
# Ports that nothing listens on, as far as one can know.
ports=$(python3 -c 'import socket
a, b = socket.socket(), socket.socket()
for s in (a, b): s.bind(("127.0.0.1", 0))
print(a.getsockname()[1], b.getsockname()[1])')
device_port=${ports% *} broker_port=${ports#* }
# A device with ten counters, which runs as long as a step needs it.
start_device() {
    "$work/host/usr/bin/millrace" sim modbus --listen "127.0.0.1:$device_port" --tags 10 --tick 50ms >"$work/device.log" 2>&1 &
    device=$!
    running+=("$device")
}
stop_device() { ends "$device" INT || true; }
number() { # of a line of the ledger: acquired, acked, queued, dropped
    in_root millrace ledger --json | python3 -c 'import json, sys
line = json.load(sys.stdin)["devices"].get("plant", {})
print(sum(line["dropped"].values()) if sys.argv[1] == "dropped" else line.get(sys.argv[1], 0))' "$1"
}
has_acquired() { [ "$(number acquired)" -ge "$1" ]; }
drained() { [ "$(number queued)" = 0 ]; }
# The samples that a subscriber has, each once.
arrived() {
    python3 - "$work/arrived" <<'PYTHON'
import json, sys
seen = set()
for line in open(sys.argv[1], encoding="utf-8"):
    topic, _, text = line.partition(" ")
    if "/data/" in topic:
        message = json.loads(text)
        seen.update((message["stream"], number) for number in range(message["first_seq"], message["last_seq"] + 1))
print(len(seen))
PYTHON
}

fresh
check "the older version installs" install_deb "$previous"
echo '# edited' >> "$root/etc/millrace/millrace.toml"
mkdir -p "$root/etc/millrace/conf.d"
cat > "$root/etc/millrace/conf.d/plant.toml" <<TOML
[gateway]
id = "gw-1"
[[device]]
name = "plant"
driver = "modbus-tcp"
address = "127.0.0.1:$device_port"
unit_id = 1
poll_interval = "50ms"
tags_file = "/etc/millrace/plant.csv"
[[uplink]]
name = "core"
url = "mqtt://127.0.0.1:$broker_port"
profile = "generic"
TOML
(echo name,address,type; for n in $(seq 0 9); do echo "t$n,holding:$((2 * n)),u32"; done) > "$root/etc/millrace/plant.csv"
start_device
start_agent
check "the older version buffers samples" soon has_acquired 500
stop_device
before=$(number acquired)
check "and stops" stop_agent

check "upgrades" install_deb "$package"
check "the edited configuration survives" grep -q '^# edited' "$root/etc/millrace/millrace.toml"
check "the configuration of the older version is good for the new one" in_root millrace check
start_agent
check "the new version has what the older one queued ($before samples)" soon has_acquired "$before"
check "none is dropped" same "$(number dropped)" 0
check "its ledger is what is on the disk" in_root millrace ledger --verify
start_device
check "and it goes on" soon has_acquired $((before + 300))
stop_device
before=$(number acquired)
check "it stops" stop_agent

echo '[gateway]
status_led = "no-such-led"' > "$root/etc/millrace/conf.d/newer.toml"
check "the new version takes a setting of its own" in_root millrace check
start_agent
check "and runs with it" soon has_acquired "$before"
check "it stops" stop_agent
check "back to the older version" install_deb "$previous"
refused() { ! in_root millrace check >"$work/said" 2>&1 && grep -q status_led "$work/said" || { cat "$work/said"; return 1; }; }
check "which names the setting that it does not know" refused
start_agent
check "it runs all the same, with what the new version queued" soon has_acquired "$before"
check "none is dropped" same "$(number dropped)" 0
check "it stops" stop_agent

check "and forward again" install_deb "$package"
start_agent
check "all is still there" soon has_acquired "$before"
mosquitto -p "$broker_port" >"$work/broker.log" 2>&1 &
broker=$!
soon mosquitto_pub -p "$broker_port" -t test -n
mosquitto_sub -p "$broker_port" -q 1 -t 'millrace/gw-1/#' -v > "$work/arrived" &
subscriber=$!
running+=("$broker" "$subscriber")
check "and is delivered" soon drained
all_arrived() { same "$(arrived)" "$(number acked)" && same "$(number acquired)" "$(number acked)"; }
check "every sample of both versions has arrived ($(number acquired))" soon all_arrived
check "it stops" stop_agent
for pid in "$subscriber" "$broker"; do ends "$pid" TERM || true; done
