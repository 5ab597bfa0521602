"""What the checks of `arm.py` and `board.py` run: programs, gateways, a broker, devices. Nothing here waits for time to pass, only for states."""

import contextlib
import csv
import io
import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
import threading
import time

import paho.mqtt.client as mqtt

PEERS = pathlib.Path(__file__).resolve().parents[1] / "peers"
TAGS = 20
# Until something must have come. An emulated program may be thirty times slower than a real one.
LIMIT = 240.0
LOOK_EVERY = 0.2


class Failed(Exception):
    """A check that did not hold."""


class NotShown(Exception):
    """What this emulator cannot do; it says nothing about the program."""


def expect(holds, otherwise):
    if not holds:
        raise Failed(otherwise)


def wait(what, ask, limit=LIMIT):
    """Waits until `ask` gives something; what it raises on the way counts as nothing yet."""
    until, last = time.monotonic() + limit, None
    while time.monotonic() < until:
        try:
            answer = ask()
            if answer:
                return answer
        except (Failed, OSError, ValueError, LookupError) as error:
            last = error
        time.sleep(LOOK_EVERY)
    raise Failed(f"{what} did not come within {limit:.0f} s ({last})")


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Tally:
    """The checks so far."""

    def __init__(self):
        self.passed = 0
        self.failed = 0
        self.not_shown = 0

    def check(self, what, claim, *args):
        """Runs a check, which raises where it does not hold, and may give a figure."""
        began = time.monotonic()
        try:
            figure = claim(*args)
        except NotShown as error:
            self.not_shown += 1
            print(f"-       {what}: not shown: {error}", flush=True)
            return
        except Exception as error:  # whatever goes wrong is this check's failure
            self.failed += 1
            print(f"FAILED  {what}\n        {type(error).__name__}: {error}", flush=True)
            return
        self.passed += 1
        print(f"ok      {what}{f': {figure}' if figure else ''} ({time.monotonic() - began:.0f} s)", flush=True)


class Program:
    """The program for one architecture."""

    def __init__(self, arch, command):
        self.arch = arch
        self.command = command

    def run(self, *args, env=None):
        words = [self.command, *map(str, args)]
        return subprocess.run(words, capture_output=True, text=True, env={**os.environ, "NO_COLOR": "1", **(env or {})}, check=False)

    def output(self, *args, env=None):
        done = self.run(*args, env=env)
        expect(done.returncode == 0, f"{self.arch}: millrace {' '.join(map(str, args))} ended with {done.returncode}: {done.stderr.strip()}")
        return done.stdout

    def json(self, *args, env=None):
        return json.loads(self.output(*args, "--json", env=env))


class Gateway:
    """A directory with configuration and data, on which agents of any architecture run, one after the other."""

    def __init__(self, directory):
        self.directory = directory
        self.process = None
        self.program = None
        directory.mkdir()

    def configure(self, text):
        (self.directory / "millrace.toml").write_text(f'[gateway]\nid = "gw-1"\ndata_dir = "data"\n\n{text}')

    def env(self):
        return {"MILLRACE_SOCKET": str(self.directory / "s")}

    def ask(self, *args):
        return self.program.json(*args, env=self.env())

    def start(self, program):
        self.program = program
        words = [program.command, "run", "--config", str(self.directory / "millrace.toml")]
        with open(self.directory / "run.log", "ab") as log:
            self.process = subprocess.Popen(words, stdout=log, stderr=log, env={**os.environ, **self.env()})
        try:
            wait("an answer of the agent", lambda: self.ask("status"))
        except Failed as error:
            self.kill()
            raise Failed(f"{error}: {self.log()[-800:]}") from None

    def kill(self):
        self.process.kill()
        self.process.wait()

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        code = self.process.wait(LIMIT)
        expect(code == 0, f"it ended with {code}: {self.log()[-800:]}")

    def log(self):
        return (self.directory / "run.log").read_text()

    def ledger(self, source):
        """The row of a source; it balances, or `--verify` fails."""
        return self.ask("ledger", "--verify")["devices"][source]

    def wait_for_samples(self, source, count):
        return wait(f"{count} samples", lambda: at_least(self.ledger(source), count))

    def export(self, program):
        return program.output("buffer", "export", "--config", self.directory / "millrace.toml")

    @contextlib.contextmanager
    def running(self, program):
        self.start(program)
        try:
            yield self
        finally:
            self.kill()


def at_least(row, count):
    return row if row["acquired"] >= count else None


def rows(exported):
    """The samples of an export by their numbers. A value proves which tag it is of."""
    found = {}
    for row in csv.DictReader(io.StringIO(exported)):
        key = (row["source"], row["stream"], int(row["seq"]))
        expect(row["v"] and int(row["v"]) % 1000 == int(row["n"][1:]), f"{key} is {row}")
        found[key] = (row["n"], row["v"])
    return found


@contextlib.contextmanager
def process(words, directory, name):
    """A process that says in its first line that it is ready, and is killed at the end; gives the line."""
    with open(directory / f"{name}.log", "wb") as log:
        child = subprocess.Popen(list(map(str, words)), cwd=directory, stdout=subprocess.PIPE, stderr=log, text=True)
        try:
            yield child.stdout.readline()
        finally:
            child.kill()
            child.wait()


@contextlib.contextmanager
def ticks(directory):
    """The port of a Modbus device of counters: `tests/peers/modbus_ticks.py`."""
    port = free_port()
    with process([sys.executable, PEERS / "modbus_ticks.py", "--port", port, "--tags", TAGS], directory, "ticks") as ready:
        expect("ready" in ready, f"the device said {ready!r}")
        yield port


def device(gateway, driver, address):
    lines = ["name,address,type", *(f"t{i},holding:{2 * i},u32" for i in range(TAGS))]
    (gateway.directory / "tags.csv").write_text("\n".join(lines) + "\n")
    return (
        f'[[device]]\nname = "pump"\ndriver = "{driver}"\naddress = "{address}"\nunit_id = 1\n'
        f'poll_interval = "200ms"\ntimeout = "5s"\ntags_file = "tags.csv"\n\n'
    )


class Broker:
    """mosquitto, plain and with TLS and client certificates, and what a subscriber has got from it."""

    def __init__(self, directory, pki=None):
        """With the certificates of `pki`, `ca.pem`, `server.pem` and `server.key`; with its own where there is none."""
        self.directory = directory
        self.port, self.tls_port = free_port(), free_port()
        self.samples = {}
        self.gaps = []
        self.lock = threading.Lock()
        directory.mkdir()
        if not pki:
            self.make_certificates()
        pki = pki or directory
        (directory / "mosquitto.conf").write_text(
            f"user root\nper_listener_settings true\nmax_queued_messages 0\nmax_inflight_messages 1000\n"
            f"listener {self.port} 127.0.0.1\nallow_anonymous true\n"
            f"listener {self.tls_port} 127.0.0.1\ncafile {pki}/ca.pem\ncertfile {pki}/server.pem\n"
            f"keyfile {pki}/server.key\nrequire_certificate true\nuse_identity_as_username true\n"
        )

    def openssl(self, *words):
        done = subprocess.run(["openssl", *words], cwd=self.directory, capture_output=True, text=True, check=False)
        expect(done.returncode == 0, done.stderr)

    def make_certificates(self):
        key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
        for ca in ["ca", "other-ca"]:
            self.openssl("req", "-x509", *key, "-keyout", f"{ca}.key", "-out", f"{ca}.pem", "-days", "2", "-subj", f"/CN={ca}")
        for name, subject, extension in [
            ("server", "localhost", "subjectAltName=IP:127.0.0.1\nextendedKeyUsage=serverAuth\nbasicConstraints=CA:FALSE\n"),
            ("client", "gw-1", "extendedKeyUsage=clientAuth\nbasicConstraints=CA:FALSE\n"),
        ]:
            (self.directory / f"{name}.ext").write_text(extension)
            self.openssl("req", *key, "-keyout", f"{name}.key", "-out", f"{name}.csr", "-subj", f"/CN={subject}")
            self.openssl(
                "x509", "-req", "-in", f"{name}.csr", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-days", "2",
                "-extfile", f"{name}.ext", "-out", f"{name}.pem",
            )

    def uplink(self, ca="ca.pem"):
        where = self.directory
        return (
            f'[[uplink]]\nname = "cloud"\nprofile = "generic"\nurl = "mqtts://127.0.0.1:{self.tls_port}"\n'
            f'ca_file = "{where}/{ca}"\ncert_file = "{where}/client.pem"\nkey_file = "{where}/client.key"\n\n'
        )

    @contextlib.contextmanager
    def running(self):
        program = next(path for path in ["/usr/sbin/mosquitto", "/usr/bin/mosquitto"] if os.path.exists(path))
        with open(self.directory / "mosquitto.log", "wb") as log:
            child = subprocess.Popen([program, "-c", str(self.directory / "mosquitto.conf")], stdout=log, stderr=log)
        client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, client_id="check")
        subscribed = threading.Event()
        client.on_connect = lambda c, *_: c.subscribe("millrace/#", 1)
        client.on_subscribe = lambda *_: subscribed.set()
        client.on_message = lambda _client, _data, message: self.take(message.topic, json.loads(message.payload))
        try:
            wait("mosquitto", lambda: client.connect("127.0.0.1", self.port) == mqtt.MQTT_ERR_SUCCESS)
            client.loop_start()
            expect(subscribed.wait(LIMIT), "no subscription")
            yield self
        finally:
            client.disconnect()
            client.loop_stop()
            child.kill()
            child.wait()

    def take(self, topic, message):
        with self.lock:
            match topic.split("/")[2]:
                case "data":
                    for number, sample in enumerate(message["samples"], message["first_seq"]):
                        self.samples[message["source"], message["stream"], number] = (sample["n"], str(sample.get("v")))
                case "gap" if message["log"] == "data":
                    self.gaps.append(message)

    def count(self):
        with self.lock:
            return len(self.samples)

    def announced(self):
        """Numbers that will never come, as they were told, and why."""
        with self.lock:
            numbers, reasons = set(), set()
            for gap in self.gaps:
                reasons.add(gap["reason"])
                for hole in gap["holes"]:
                    last = hole.get("last_seq") or hole["first_seq"]
                    numbers.update((hole["source"], gap["stream"], n) for n in range(hole["first_seq"], last + 1))
            return numbers, reasons
