"""The board of board.sh: starts it, beside a core, a broker and a meter, and holds what it says of itself and what arrives against each other.

The meter is pymodbus at the other end of the board's USB serial adapter; the core is tests/peers/bootstrap_server.py, the broker mosquitto with TLS, which
admits holders of a certificate of the core.
"""

import argparse
import json
import pathlib
import re
import socket
import subprocess
import sys
import threading

from arm_site import PEERS, TAGS, Broker, Tally, expect, process, wait

TOKEN = "token-of-the-board-5d1c2b7e"
# The adapter is in the first socket of the first bus.
METER = "/dev/serial/port/1-1"


def content():
    tags = "".join(f'[[device.tag]]\nname = "t{i}"\naddress = "holding:{2 * i}"\ntype = "u32"\n\n' for i in range(TAGS))
    return (
        f'[[line]]\nname = "bus"\nport = "{METER}"\nbaud = 19200\n\n'
        '[[device]]\nname = "meter"\ndriver = "modbus-rtu"\naddress = "bus"\nunit_id = 1\npoll_interval = "1s"\ntimeout = "5s"\n\n' + tags
    )


class Board:
    """The emulated machine, and what its console said."""

    def __init__(self, args):
        self.work = args.work
        self.lines = []
        self.monitor = args.work / "monitor"
        words = [
            "qemu-system-aarch64", "-M", "virt", "-cpu", "cortex-a72", "-smp", "2", "-m", "1G", "-display", "none", "-no-reboot",
            "-kernel", args.kernel, "-initrd", args.start, "-append", "console=ttyAMA0 systemd.default_timeout_start_sec=600 quiet",
            "-drive", f"file={args.image},format=raw,if=none,id=disk", "-device", "virtio-blk-pci,drive=disk",
            "-netdev", "user,id=net", "-device", "virtio-net-pci,netdev=net",
            "-device", "qemu-xhci,id=usb", "-chardev", "pty,id=line", "-device", "usb-serial,chardev=line,bus=usb.0,port=1,always-plugged=on",
            "-chardev", f"socket,id=monitor,path={self.monitor},server=on,wait=off", "-mon", "chardev=monitor,mode=control",
            "-serial", f"file:{args.work}/console",
        ]
        self.process = subprocess.Popen(list(map(str, words)), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        said = self.process.stdout.readline()
        line = re.search(r"(/dev/pts/\d+)", said)
        expect(line, f"the emulator said {said!r}")
        self.serial = line.group(1)
        threading.Thread(target=lambda: [None for _ in self.process.stdout], daemon=True).start()

    def console(self):
        return (self.work / "console").read_text(errors="replace").replace("\r", "")

    def said(self, name):
        """All that the probe said under this name."""
        return [line.partition(" ")[2] for line in re.findall(r"^PROBE (.*)$", self.console(), re.M) if line.split(" ")[0] == name]

    def reaches(self, name):
        """Waits until the probe has seen it; an emulated board takes its time."""

        def there():
            if name in self.said("seen") or f"PROBE {name}" in self.console():
                return True
            if self.process.poll() is not None or name in self.said("missing"):
                raise RuntimeError(f"{name} did not come; the console ends with {self.console()[-1500:]}")
            return False

        wait(name, there, limit=1200)

    def plug(self, image):
        """Plugs a stick in."""
        with socket.socket(socket.AF_UNIX) as monitor:
            monitor.connect(str(self.monitor))
            talk = monitor.makefile("rw")
            talk.readline()
            for command, arguments in [
                ("qmp_capabilities", {}),
                ("blockdev-add", {"driver": "raw", "node-name": "stick", "file": {"driver": "file", "filename": str(image)}}),
                ("device_add", {"driver": "usb-storage", "drive": "stick", "bus": "usb.0"}),
            ]:
                talk.write(json.dumps({"execute": command, "arguments": arguments}) + "\n")
                talk.flush()
                while "return" not in (answer := json.loads(talk.readline())):
                    expect("error" not in answer, f"{command}: {answer}")


def on_fat(image, claim):
    """Puts the claim on a FAT file system; `image` may say where in the file it begins."""
    subprocess.run(["mcopy", "-i", image, str(claim), "::millrace-claim.toml"], check=True)


def becomes_part_of_its_core(board):
    board.reaches("enrolled")


def is_served(board, broker):
    wait("samples of the meter", lambda: broker.count() >= 10 * TAGS, limit=600)
    with broker.lock:
        for key, (name, value) in broker.samples.items():
            if value != "None":
                expect(int(value) % 1000 == int(name.rpartition("/")[2][1:]), f"{key}: {name} is {value}")
    return f"{broker.count()} samples, each of its own register"


def one(board, name):
    said = board.said(name)
    expect(len(said) == 1, f"{name}: {said}")
    return said[0]


def has_a_name_that_stays(board):
    expect(one(board, "serial") == "1-1", board.said("serial"))
    expect(one(board, "latency") == "1", f"latency_timer is {board.said('latency')}")


def is_in_its_sandbox(board):
    exposure = float(re.search(r"service: ([0-9.]+)", one(board, "exposure")).group(1))
    expect(exposure <= 1.6, f"exposure {exposure}")
    return f"exposure {exposure}, {int(one(board, 'memory')) // 1_000_000} MB"


def takes_a_stick(board, stick):
    board.reaches("plug")
    board.plug(stick)
    board.reaches("stick")


def is_restarted_by_its_watchdog(board):
    board.reaches("restarted")
    board.reaches("end")
    expect(any("Watchdog timeout" in line for line in board.said("journal")), board.said("journal")[-20:])


def goes_on(board, broker, before):
    wait("samples after the restart", lambda: broker.count() > before + 5 * TAGS, limit=300)
    numbers = {}
    for source, stream, number in broker.samples:
        numbers.setdefault((source, stream), set()).add(number)
    told, _ = broker.announced()
    for (source, stream), seen in numbers.items():
        lost = {n for n in range(min(seen), max(seen) + 1) if n not in seen and (source, stream, n) not in told}
        expect(not lost, f"{source} {stream}: {len(lost)} numbers are neither there nor announced")
    return f"{broker.count()} samples, none missing that was not announced"


def has_no_failed_unit(board):
    expect(not board.said("failed"), board.said("failed"))


def never_shows_its_token(board):
    expect(TOKEN not in board.console(), "the token is on the console, or in the journal")
    expect(not board.said("world"), f"anybody can read it in {board.said('world')}")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ["image", "kernel", "start", "work"]:
        parser.add_argument(f"--{name}", type=pathlib.Path, required=True)
    args = parser.parse_args()
    tally, work = Tally(), args.work
    gateways, pki, claim, stick = work / "gateways.json", work / "pki", work / "claim.toml", work / "stick.img"
    gateways.write_text("{}")
    core = [sys.executable, PEERS / "bootstrap_server.py", "--kind", "hmac-claim", "--base", "/claim", "--gateways", gateways, "--tls", pki]
    with process(core, work, "core") as ready:
        ready = json.loads(ready)
        broker = Broker(work / "broker", pki)
        gateway = {"key": TOKEN, "reply": {
            "id": "gw-1", "content_type": "application/toml", "content": content(),
            "uplink": {"url": f"mqtts://core.example:{broker.tls_port}", "profile": "generic"},
        }}
        gateways.write_text(json.dumps({"gw-1": gateway}))
        claim.write_text(
            f'url = "https://core.example:{ready["port"]}/claim"\nca_sha256 = "{ready["ca_sha256"]}"\ntoken = "{TOKEN}"\n'
            'external_id = "gw-1"\nspread = "0s"\n'
        )
        on_fat(f"{args.image}@@1M", claim)
        subprocess.run(["mkfs.vfat", "-C", "-n", "MILLRACE", str(stick), "16384"], check=True, stdout=subprocess.DEVNULL)
        on_fat(str(stick), claim)
        with broker.running():
            board = Board(args)
            try:
                meter = [sys.executable, PEERS / "modbus_ticks.py", "--serial", board.serial, "--tags", TAGS]
                with process(meter, work, "meter") as ready:
                    expect("ready" in ready, f"the meter said {ready!r}")
                    tally.check("a claim on the boot partition makes it part of its core", becomes_part_of_its_core, board)
                    tally.check("its meter on a serial line is polled, and delivered over TLS", is_served, board, broker)
                    tally.check("a stick that is plugged in is taken, and its used token named", takes_a_stick, board, stick)
                    before = broker.count()
                    tally.check("where it hangs, its watchdog starts it anew", is_restarted_by_its_watchdog, board)
                    tally.check("and it goes on where it was", goes_on, board, broker, before)
                    tally.check("the claim is gone from the boot partition", expect, "claim-gone" in board.said("seen"), "it is there")
                    tally.check("the adapter has a name that stays, and does not hold bytes back", has_a_name_that_stays, board)
                    tally.check("it is in its sandbox", is_in_its_sandbox, board)
                    tally.check("no unit failed", has_no_failed_unit, board)
                    tally.check("the token is nowhere to be seen", never_shows_its_token, board)
            finally:
                board.process.kill()
                board.process.wait()
    print(f"{tally.passed} passed, {tally.failed} failed")
    if tally.failed:
        (pathlib.Path.cwd() / "board.console").write_text(board.console())
        print("what it said on its console: board.console", file=sys.stderr)
    sys.exit(bool(tally.failed))


if __name__ == "__main__":
    main()
