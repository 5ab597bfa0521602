"""An asyncua server that is restarted, moved and cut off by the recovery tests, and keeps count of what it served.

    python asyncua_plant.py PORT DIRECTORY PASSWORD [no-history] [swapped] [spare=N]

Every value of Counter is appended to DIRECTORY/journal ("count microseconds") before it is served: what stands there is
the truth, also after a kill. With history, HistoryRead is answered from it. The certificate is made where DIRECTORY
has none. With "swapped", namespaces have other indices than without; "spare=N" adds N constant variables.

It says "ready" when it listens, then answers one line of JSON to each line that it reads: {"run": bool}, {"burst": N}
(values at once), {"ask": "sessions" | "sessions_max" | "logins" | "histories" | "counter"}.
"""

import asyncio
import datetime
import json
import logging
import sys
from pathlib import Path

from asyncua import Server, ua
from asyncua.crypto.cert_gen import setup_self_signed_certificate
from asyncua.crypto.permission_rules import User, UserRole
from asyncua.server.history import HistoryDict
from cryptography.x509.oid import ExtendedKeyUsageOID

NAMESPACE = "urn:millrace:plant"
OTHER = "urn:millrace:other"
APPLICATION = "urn:millrace:peer:plant"
TICK_S = 0.02
EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.timezone.utc)

T = ua.VariantType


class Users:
    def __init__(self, password):
        self.password = password
        self.logins = 0

    def get_user(self, iserver, username=None, password=None, certificate=None):
        self.logins += 1
        if username is None or (username, password) == ("gateway", self.password):
            return User(role=UserRole.User)
        return None


class Journal(HistoryDict):
    """History in memory, with the journal of the runs before this one."""

    def __init__(self, path, answers):
        super().__init__()
        self.path = path
        self.answers = answers
        self.asked = 0
        self.entries = []
        if path.exists():
            lines = (line.split() for line in path.read_text().splitlines())
            self.entries = [(int(count), int(us)) for count, us in lines]

    def append(self, count, us):
        self.entries.append((count, us))
        with self.path.open("a") as journal:
            journal.write(f"{count} {us}\n")

    async def read_node_history(self, node_id, start, end, nb_values):
        self.asked += 1
        if not self.answers or node_id.Identifier != "Counter":
            return [], None
        values = [stamped(*entry) for entry in self.entries]
        self._datachanges[node_id] = values
        return await super().read_node_history(node_id, start, end, nb_values)


def stamped(count, us):
    time = EPOCH + datetime.timedelta(microseconds=us)
    return ua.DataValue(ua.Variant(count, T.UInt32), SourceTimestamp=time)


class Plant:
    def __init__(self, server, users, journal, counter):
        self.server = server
        self.users = users
        self.journal = journal
        self.counter = counter
        self.running = False
        self.sessions_max = 0

    def sessions(self):
        return len(self.server.iserver._external_sessions)

    async def tick(self):
        while True:
            await asyncio.sleep(TICK_S)
            self.sessions_max = max(self.sessions_max, self.sessions())
            if self.running:
                await self.count()

    async def count(self):
        entries = self.journal.entries
        count, last = entries[-1] if entries else (0, 0)
        now = datetime.datetime.now(datetime.timezone.utc)
        us = max((now - EPOCH) // datetime.timedelta(microseconds=1), last + 1)
        self.journal.append(count + 1, us)
        await self.server.write_attribute_value(self.counter.nodeid, stamped(count + 1, us))

    async def answer(self, asked):
        if "run" in asked:
            self.running = asked["run"]
        elif "burst" in asked:
            for _ in range(asked["burst"]):
                await self.count()
        return {
            "sessions": self.sessions(),
            "sessions_max": self.sessions_max,
            "logins": self.users.logins,
            "histories": self.journal.asked,
            "counter": self.journal.entries[-1][0] if self.journal.entries else 0,
        }.get(asked.get("ask"))


async def furnish(server, journal, swapped, spare):
    for uri in [OTHER, NAMESPACE] if swapped else [NAMESPACE, OTHER]:
        await server.register_namespace(uri)
    index = await server.get_namespace_index(NAMESPACE)
    folder = await server.nodes.objects.add_folder(ua.NodeId("Plant", index), ua.QualifiedName("Plant", index))
    first = ua.Variant(0, T.UInt32)
    counter = await folder.add_variable(ua.NodeId("Counter", index), ua.QualifiedName("Counter", index), first)
    if journal.entries:
        await server.write_attribute_value(counter.nodeid, stamped(*journal.entries[-1]))
    for name, value in [("Fixed", ua.Variant(4.5, T.Float)), ("Array", ua.Variant([10, 20, 30, 40], T.Int32))]:
        await folder.add_variable(ua.NodeId(name, index), ua.QualifiedName(name, index), value)
    for count in range(spare):
        name = f"Spare{count}"
        # Each new node is compared with all of its folder.
        if count % 100 == 0:
            folder = await server.nodes.objects.add_folder(index, f"Spare{count}to{count + 99}")
        await folder.add_variable(ua.NodeId(name, index), ua.QualifiedName(name, index), ua.Variant(count, T.UInt32))
    return counter


async def main(port, directory, password, options):
    key, cert = directory / "key.pem", directory / "cert.der"
    use = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
    await setup_self_signed_certificate(key, cert, APPLICATION, "localhost", use, {"commonName": "Millrace test plant"})
    journal = Journal(directory / "journal", "no-history" not in options)
    users = Users(password)
    server = Server(user_manager=users)
    await server.init()
    server.iserver.history_manager.set_storage(journal)
    await server.set_application_uri(APPLICATION)
    server.set_endpoint(f"opc.tcp://127.0.0.1:{port}/plant")
    server.set_security_policy(
        [ua.SecurityPolicyType.NoSecurity, ua.SecurityPolicyType.Basic256Sha256_SignAndEncrypt]
    )
    await server.load_certificate(str(cert))
    await server.load_private_key(str(key))
    spare = next((int(option[6:]) for option in options if option.startswith("spare=")), 0)
    counter = await furnish(server, journal, "swapped" in options, spare)
    plant = Plant(server, users, journal, counter)
    async with server:
        ticking = asyncio.create_task(plant.tick())
        print("ready", flush=True)
        loop = asyncio.get_running_loop()
        while line := await loop.run_in_executor(None, sys.stdin.readline):
            print(json.dumps(await plant.answer(json.loads(line))), flush=True)
        ticking.cancel()


if __name__ == "__main__":
    logging.disable(logging.CRITICAL)
    port, directory, password, *options = sys.argv[1:]
    asyncio.run(main(int(port), Path(directory), password, options))
