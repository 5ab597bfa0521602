"""What the programs for ARM do, beside the one for amd64: `arm.py WORK NAME=PROGRAM…`; tests/deb/arm.sh calls it.

The first program is the one that the others are held against. Each check leaves a line, the counts come last; the exit code is 1
where one failed. MILLRACE_ARM_ONLY has some of the parts: program, scores, models, devices, tls, demo, buffer.
"""

import hashlib
import json
import os
import pathlib
import re
import struct
import sys

from arm_site import PEERS, TAGS, Broker, Gateway, NotShown, Program, Tally, device, expect, free_port, process, rows, ticks, wait

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]
ZOO = REPOSITORY / "inference/tests/zoo"
PUMP = REPOSITORY / "models/pump-anomaly"
PUMP_ROLES = ["pressure", "flow", "motor_current", "vibration", "bearing_temp"]

# Of a score, relative to the larger of the score and the spread of the scores, as `inference/tests/it/zoo.rs` has it: another
# processor's vectors add 32-bit floats in another order.
TOLERANCE = 1e-5
# Kinds of models of the zoo.
KINDS = [
    "conv_ae_script", "tcn_dynamo", "lstm_script", "lstm_ae_repeat_dynamo", "bilstm_script", "gru_dynamo", "rnn_script",
    "transformer_script", "dense_ae_script", "vae_script", "iforest", "scaler_iforest", "rf_cls", "xgb_reg", "lgb_reg", "gb_reg",
    "ocsvm", "svr", "gmm", "kmeans", "lof", "scaler_pca", "logistic", "imputer_scaler_mlp",
]
DEMO_SECONDS = 60
# Samples of one life of an agent: several commits.
SAMPLES = 600


# Programs


def same_version(program, reference):
    said = program.output("--version")
    expect(said == reference.output("--version"), said)
    return said.strip()


def same_manual(program, reference, work):
    pages = []
    for of in [program, reference]:
        directory = work / f"man-{program.arch}-{of.arch}"
        of.output("man", "--dir", directory)
        pages.append({page.name: page.read_bytes() for page in directory.iterdir()})
    expect(pages[0] == pages[1], "the manual pages differ")
    return f"{len(pages[0])} pages"


def judges_the_same(program, reference, work):
    good = REPOSITORY / "packaging/deb/millrace.toml"
    bad = work / "bad.toml"
    bad.write_text('[gateway]\nid = "gw-1"\n\n[[device]]\nname = "a"\ndriver = "modbus-tpc"\naddress = 5\n\n[buffer]\nmax_bytes = "1 KiB"\n')
    for config, code in [(good, 0), (bad, 2)]:
        found, other = program.run("check", "--config", config), reference.run("check", "--config", config)
        expect(found.returncode == code, f"{config.name}: exit {found.returncode}: {found.stderr}")
        expect((found.stdout, found.stderr) == (other.stdout, other.stderr), f"{config.name}: {found.stdout}{found.stderr}")


def says_that_no_agent_runs(program, reference, work):
    env = {"MILLRACE_SOCKET": str(work / "nobody")}
    found, other = program.run("status", env=env), reference.run("status", env=env)
    expect(found.returncode != 0 and found.stderr, f"exit {found.returncode}")
    expect((found.returncode, found.stderr) == (other.returncode, other.stderr), found.stderr)


# The demo


def demo(program):
    done = program.run("demo", "--seconds", DEMO_SECONDS, "--json")
    expect(done.stdout, f"exit {done.returncode}: {done.stderr}")
    verdict = json.loads(done.stdout)
    expect(done.returncode == 0 and verdict["ok"], f"exit {done.returncode}: {verdict}")
    expect(verdict["missing"] == 0 and verdict["wrong"] == 0 and verdict["broker_cut_ms"] > 0, verdict)
    expect(verdict["faults"] and all(fault["seen"] for fault in verdict["faults"]), verdict)
    return (
        f"served {verdict['served']}, missing 0, wrong 0, bad {verdict['bad']}, broker cut for {verdict['broker_cut_ms']} ms, "
        f"{len(verdict['faults'])} faults seen, {verdict['events']} events"
    )


# Scores


class Scores:
    """Models, the data that they are scored on, and the scores of the first program."""

    def __init__(self, reference, work):
        self.reference = reference
        self.known = {}
        self.directory = work / "scores"
        self.directory.mkdir()
        entries = json.loads((ZOO / "expected.json").read_text())
        for shape in ["rows", "series"]:
            self.write_table(shape, [f"in{i}" for i in range(8)], zoo_rows(shape))
        # (bundle, data, scores of onnxruntime)
        self.cases = [(self.bundle(name, entries[name]), entries[name]["windows"], entries[name]["scores"]) for name in KINDS]
        self.write_table("pump", PUMP_ROLES, pump_rows())
        self.cases.append((PUMP, "pump", None))

    def write_table(self, name, heading, table):
        lines = [",".join(heading), *(",".join(map(repr, row)) for row in table)]
        (self.directory / f"{name}.csv").write_text("\n".join(lines) + "\n")

    def bundle(self, name, entry):
        model = (ZOO / f"{name}.onnx").read_bytes()
        bundle = self.directory / name
        bundle.mkdir()
        (bundle / "model.onnx").write_bytes(model)
        length, layout = (1, "NF") if entry["windows"] == "rows" else (60, "NTF")
        inputs = "".join(f'[[input]]\nrole = "in{i}"\n\n' for i in range(8))
        (bundle / "model.toml").write_text(
            f'name = "{name}"\nversion = "1.0.0"\n\n[model]\nfile = "model.onnx"\nsha256 = "{hashlib.sha256(model).hexdigest()}"\n'
            f'layout = "{layout}"\n\n{inputs}[window]\nlen = {length}\nstride = {length}\ngrid = "1s"\nmax_gap = "2s"\n\n'
            f'[output]\nscore = "{entry["score"]}"\n\n[threshold]\nmethod = "fixed"\nvalue = 10.0\n\n[decision]\non = 1\n'
        )
        return bundle

    def of(self, program, bundle, table):
        evaluation = program.json("model", "eval", bundle, "--csv", self.directory / f"{table}.csv", "--windows")
        # Rows before the first whole window are no failure.
        unscored = [gap for gap in evaluation["unscored"] if not gap["reason"].startswith("warming up")]
        expect(evaluation["scored"] > 0 and not unscored, f"{bundle.name}: {evaluation['scored']} windows scored, {unscored}")
        return [window["score"] for window in evaluation["windows"]], len(evaluation["events"])

    def compare(self, program):
        furthest, worst, count, from_onnx = 0.0, "none", 0, 0.0
        for bundle, table, expected in self.cases:
            name = bundle.name
            if name not in self.known:
                self.known[name] = self.of(self.reference, bundle, table)
            found, events = self.of(program, bundle, table)
            off = distance(found, self.known[name][0], name)
            expect(off <= TOLERANCE, f"{name}: off by {off:.1e}")
            expect(events == self.known[name][1], f"{name}: {events} events instead of {self.known[name][1]}")
            if expected:
                from_onnx = max(from_onnx, distance(found, expected, name))
                expect(from_onnx <= TOLERANCE, f"{name}: off from onnxruntime by {from_onnx:.1e}")
            count += len(found)
            if off > furthest:
                furthest, worst = off, name
        return (
            f"{len(self.cases)} models, {count} scores, furthest from {self.reference.arch} {furthest:.1e} ({worst}), "
            f"from onnxruntime {from_onnx:.1e}, tolerance {TOLERANCE:.0e}"
        )


def zoo_rows(shape):
    """Rows of 8 inputs: windows of one row each, or of 60."""
    data = (ZOO / f"{shape}.f32").read_bytes()
    values = struct.unpack(f"<{len(data) // 4}f", data)
    return [values[at : at + 8] for at in range(0, len(values), 8)]


def pump_rows():
    """The pump of the demo at work, sick for a while."""
    table = []
    for row in range(400):
        wave, sick = (row * 37 % 100) / 100, 3.0 if 200 <= row < 260 else 0.0
        table.append([4.9 + wave / 20, 48 - wave, 19 + wave / 2 + sick, 2 + wave / 10 + sick, 51 + wave / 4])
    return table


def distance(found, expected, name):
    expect(len(found) == len(expected), f"{name}: {len(found)} windows instead of {len(expected)}")
    spread = max(expected) - min(expected)
    return max(abs(a - b) / max(abs(b), spread, 1e-30) for a, b in zip(found, expected))


# The buffer


def lives(gateway, program, end):
    """An agent takes so many more samples, then ends."""
    gateway.start(program)
    try:
        gateway.wait_for_samples("pump", gateway.ledger("pump")["acquired"] + SAMPLES)
    except BaseException:
        gateway.kill()
        raise
    end(gateway)


def opens_everywhere(gateway, writer, readers):
    """What one program has left is the same, byte for byte, to every other."""
    found = gateway.export(writer)
    samples = rows(found)
    expect(len(samples) > SAMPLES / 2, f"{len(samples)} samples")
    for reader in readers:
        expect(gateway.export(reader) == found, f"{reader.arch} reads something else than {writer.arch}")
    return f"{len(samples)} samples"


def drains(gateway, program, broker):
    """An agent of this architecture sends all that those before it have left."""
    left = rows(gateway.export(program))
    gateway.start(program)
    try:
        row = wait("an empty queue", lambda: (lambda row: row if row["queued"] == 0 and row["acquired"] else None)(gateway.ledger("pump")))
        wait("everything at the subscriber", lambda: broker.count() >= row["acked"])
    finally:
        gateway.stop()
    got, (announced, reasons) = broker.samples, broker.announced()
    missing = [key for key in left if got.get(key) != left[key]]
    expect(not missing, f"{len(missing)} of {len(left)} are missing or other, such as {missing[:3]}")
    # What never came was announced.
    (stream,) = {stream for _, stream, _ in got}
    silent = {("pump", stream, n) for n in range(1, max(n for _, _, n in got) + 1)} - set(got) - announced
    expect(not silent, f"{len(silent)} numbers neither came nor were announced, such as {sorted(silent)[:3]}")
    expect(row["acked"] == len(got), f"acked {row['acked']}, at the subscriber {len(got)}")
    return f"{len(left)} stored, {len(got)} at the subscriber, {len(announced)} numbers announced as lost ({', '.join(sorted(reasons)) or 'none'})"


def chain(tally, work, programs, how, end):
    """A gateway whose architecture changes with each life: each writes, all read; the last one sends it all."""
    gateway, broker = Gateway(work / how), Broker(work / f"{how}-broker")
    name = f"buffer {' -> '.join(program.arch for program in programs)}, {how}"
    common = '[buffer]\ncommit_interval = "1s"\n\n' + broker.uplink()
    with ticks(work) as port:
        gateway.configure(common + device(gateway, "modbus-tcp", f"127.0.0.1:{port}"))
        for place, program in enumerate(programs, 1):
            tally.check(f"{name}: life {place}, on {program.arch}", lives, gateway, program, end)
            others = [other for other in dict.fromkeys(programs) if other is not program]
            readers = " and ".join(other.arch for other in others)
            tally.check(f"{name}: what {program.arch} left, read by {readers}", opens_everywhere, gateway, program, others)
    # No device any more: what is stored is what is sent.
    gateway.configure(common)
    with broker.running():
        tally.check(f"{name}: {programs[-1].arch} sends it all over TLS", drains, gateway, programs[-1], broker)


# TLS


def delivers_over_tls(program, work):
    gateway, broker = Gateway(work / f"tls-{program.arch}"), Broker(work / f"tls-broker-{program.arch}")
    with ticks(work) as port, broker.running():
        gateway.configure(broker.uplink() + device(gateway, "modbus-tcp", f"127.0.0.1:{port}"))
        with gateway.running(program):
            wait("samples over TLS", lambda: broker.count() > SAMPLES)
            uplink = gateway.ask("status")["uplinks"][0]
    expect(uplink["broker_certificate_ends"], uplink)
    return f"{broker.count()} samples"


def refuses_another_ca(program, work):
    gateway, broker = Gateway(work / f"ca-{program.arch}"), Broker(work / f"ca-broker-{program.arch}")
    gateway.configure(broker.uplink(ca="other-ca.pem"))
    with broker.running(), gateway.running(program):
        error = wait("the cause", lambda: gateway.ask("status")["uplinks"][0]["error"])
    expect(re.search("certificate|issuer", error, re.IGNORECASE), error)


# Devices


def serial_line(program, work):
    """A serial port without wires; the device on it is this program, too."""
    gateway = Gateway(work / f"rtu-{program.arch}")
    words = [program.command, "sim", "modbus", "--transport", "rtu", "--tags", TAGS, "--tick", "100ms", "--units", "1"]
    with process(words, gateway.directory, "sim") as said:
        path = re.search(r"/dev/pts/\d+", said)
        expect(path, f"the simulated line said {said!r}")
        line = f'[[line]]\nname = "bus"\nport = "{path[0]}"\nbaud = 19200\n\n'
        gateway.configure(line + device(gateway, "modbus-rtu", "bus"))
        with gateway.running(program):
            # qemu-user 7.2 has no TCGETS2, by which ports get any rate.
            error = wait("the port", lambda: (lambda d: d["error"] or (d["state"] == "online"))(gateway.ask("status")["devices"][0]))
            if "Function not implemented" in str(error):
                raise NotShown(error)
            row = gateway.wait_for_samples("pump", SAMPLES)
            status = gateway.ask("status")["devices"][0]
    expect(status["tags_good"] == TAGS and status["read_errors_total"] == 0, status)
    return f"{row['acquired']} samples"


def opcua(program, work):
    gateway = Gateway(work / f"ua-{program.arch}")
    port = free_port()
    words = [
        sys.executable, PEERS / "opcua_ticks.py", "--port", port, "--variables", TAGS, "--security", "Basic256Sha256",
        "--user", "operator:tick-tock", "--directory", gateway.directory,
    ]
    lines = ["name,address,type", *(f"t{i},nsu=urn:millrace:ticks;s=tick.{i},u32" for i in range(TAGS))]
    (gateway.directory / "ticks.csv").write_text("\n".join(lines) + "\n")
    (gateway.directory / "password").write_text("tick-tock")
    with process(words, gateway.directory, "opcua") as ready:
        expect("ready" in ready, f"the server said {ready!r}")
        gateway.configure(
            f'[[device]]\nname = "ua"\ndriver = "opcua"\naddress = "opc.tcp://127.0.0.1:{port}/ticks"\nsecurity = "Basic256Sha256"\n'
            f'mode = "sign-and-encrypt"\nserver_cert_file = "{gateway.directory}/server-cert.der"\nusername = "operator"\n'
            f'password_file = "password"\npublish_interval = "500ms"\nsampling_interval = "100ms"\nqueue_size = 50\ntags_file = "ticks.csv"\n'
        )
        with gateway.running(program):
            gateway.wait_for_samples("ua", SAMPLES / 2)
        samples = wait("stored samples", lambda: rows(gateway.export(program)))
    return f"{len(samples)} samples"


# Examination


def examines(program, work):
    """A bundle is examined in a process of its own before it runs, and one with other scores than its golden ones is refused there."""
    gateway = Gateway(work / f"shelf-{program.arch}")
    wrong = gateway.directory / "wrong"
    wrong.mkdir()
    (wrong / "model.onnx").write_bytes((PUMP / "model.onnx").read_bytes())
    golden = re.sub(r'"score": *', '"score": 9', (PUMP / "golden.json").read_text())
    (wrong / "golden.json").write_text(golden)
    manifest = (PUMP / "model.toml").read_text().replace('version = "1.0.0"', 'version = "1.1.0"')
    manifest = re.sub(r'(file = "golden.json"\nsha256 = )"\w+"', rf'\1"{hashlib.sha256(golden.encode()).hexdigest()}"', manifest)
    (wrong / "model.toml").write_text(manifest)
    inputs = "\n".join(f'{role} = "pump/t{i}"' for i, role in enumerate(PUMP_ROLES))
    with ticks(work) as port:
        gateway.configure(
            device(gateway, "modbus-tcp", f"127.0.0.1:{port}")
            + f'[[model]]\nname = "pump-anomaly"\nbundle = "{PUMP}"\n[model.inputs]\n{inputs}\n'
        )
        with gateway.running(program):
            wait("the model", lambda: gateway.ask("status")["models"][0]["version"] == "1.0.0")
            refused = program.run("model", "install", wrong, env=gateway.env())
    expect(refused.returncode != 0 and "golden window" in refused.stderr, f"exit {refused.returncode}: {refused.stderr}")
    return refused.stderr.strip().splitlines()[0]


def main():
    work = pathlib.Path(sys.argv[1])
    reference, *others = [Program(*word.split("=", 1)) for word in sys.argv[2:]]
    only = os.environ.get("MILLRACE_ARM_ONLY")
    parts = set(only.split(",")) if only else {"program", "scores", "models", "devices", "tls", "demo", "buffer"}
    tally = Tally()
    scores = Scores(reference, work)
    for program in others:
        arch = program.arch
        print(f"# {arch}", flush=True)
        if "program" in parts:
            tally.check(f"{arch}: the version of {reference.arch}", same_version, program, reference)
            tally.check(f"{arch}: manual pages as of {reference.arch}", same_manual, program, reference, work)
            tally.check(f"{arch}: check judges configurations as {reference.arch} does", judges_the_same, program, reference, work)
            tally.check(f"{arch}: status says that no agent runs", says_that_no_agent_runs, program, reference, work)
        if "scores" in parts:
            tally.check(f"{arch}: scores as of {reference.arch}", scores.compare, program)
        if "models" in parts:
            tally.check(f"{arch}: bundles are examined in a process of their own", examines, program, work)
        if "devices" in parts:
            tally.check(f"{arch}: Modbus on a serial line", serial_line, program, work)
            tally.check(f"{arch}: OPC UA, signed and encrypted", opcua, program, work)
        if "tls" in parts:
            tally.check(f"{arch}: TLS to mosquitto, with a client certificate", delivers_over_tls, program, work)
            tally.check(f"{arch}: the broker of another CA is refused", refuses_another_ca, program, work)
        if "demo" in parts:
            tally.check(f"{arch}: demo --seconds {DEMO_SECONDS}", demo, program)
    if "buffer" in parts:
        print("# buffers from one architecture to the next", flush=True)
        chain(tally, work, [reference, *others, reference], "killed", Gateway.kill)
        chain(tally, work, [*reversed(others), reference, others[-1]], "stopped", Gateway.stop)
    print(f"{tally.passed} passed, {tally.failed} failed, {tally.not_shown} not shown")
    return tally.failed > 0


if __name__ == "__main__":
    sys.exit(main())
