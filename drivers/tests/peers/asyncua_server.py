"""An OPC UA server made with asyncua, for the driver's tests.

    python asyncua_server.py --port PORT --dir DIRECTORY --user USER --password PASSWORD

Certificate and key are made in DIRECTORY, cert.der and key.pem, where they are not there yet. Any X.509 user is let in:
asyncua does not check their signature. It says "ready" when it listens, and then answers one line of
JSON to each line that it reads: {"set": [name, value]}, {"status": [name, code]}, {"run": true},
{"ask": "unacknowledged"}, {"ask": "sessions"}, {"ask": "counter"}. It ends when its input ends.
"""

import argparse
import asyncio
import datetime
import json
import logging
import sys
import uuid
from pathlib import Path

from asyncua import Server, ua
from asyncua.crypto.cert_gen import setup_self_signed_certificate
from asyncua.crypto.permission_rules import User, UserRole
from cryptography.x509.oid import ExtendedKeyUsageOID

NAMESPACE = "urn:millrace:peer"
APPLICATION = "urn:millrace:peer:server"
TICK_S = 0.02

T = ua.VariantType
NODES = {
    "Counter": (0, T.UInt32),
    "Fixed": (4.5, T.Float),
    "Boolean": (True, T.Boolean),
    "SByte": (-5, T.SByte),
    "Byte": (250, T.Byte),
    "Int16": (-300, T.Int16),
    "UInt16": (60000, T.UInt16),
    "Int32": (-(2**31), T.Int32),
    "UInt32": (2**32 - 1, T.UInt32),
    "Int64": (-(2**63), T.Int64),
    "UInt64": (2**64 - 1, T.UInt64),
    "Float": (0.1, T.Float),
    "Double": (0.1, T.Double),
    "NaN": (float("nan"), T.Double),
    "String": ("Füllstand", T.String),
    "DateTime": (datetime.datetime(2026, 11, 21, 7, 30, 15, tzinfo=datetime.timezone.utc), T.DateTime),
    "Guid": (uuid.UUID("72962b91-fa75-4ae6-8d28-b404dc7daf63"), T.Guid),
    "ByteString": (b"\x01\x02", T.ByteString),
    "LocalizedText": (ua.LocalizedText("läuft", "de"), T.LocalizedText),
    "Array": ([1, -2, 3], T.Int32),
    "Range": (ua.Range(0.0, 1.0), T.ExtensionObject),
}


class Users:
    def __init__(self, user, password):
        self.known = (user, password)

    def get_user(self, iserver, username=None, password=None, certificate=None):
        if username is None or (username, password) == self.known:
            return User(role=UserRole.User)
        return None


async def furnish(server):
    index = await server.register_namespace(NAMESPACE)
    nodes = {}
    for name, (value, kind) in NODES.items():
        node_id = ua.NodeId(name, index)
        variant = ua.Variant(value, kind)
        nodes[name] = await server.nodes.objects.add_variable(node_id, name, variant)
        await nodes[name].set_writable()
    for count in range(200):
        name = f"Many{count}"
        node_id = ua.NodeId(name, index)
        nodes[name] = await server.nodes.objects.add_variable(node_id, name, ua.Variant(count, T.UInt32))
    return nodes


def now():
    return datetime.datetime.now(datetime.timezone.utc)


class Plant:
    def __init__(self, server, nodes):
        self.server = server
        self.nodes = nodes
        self.counter = 0
        self.running = False

    async def tick(self):
        while True:
            await asyncio.sleep(TICK_S)
            if self.running:
                self.counter += 1
                await self.write("Counter", ua.Variant(self.counter, T.UInt32))

    async def write(self, name, variant, status=ua.StatusCodes.Good):
        value = ua.DataValue(variant, ua.StatusCode(status), SourceTimestamp=now())
        await self.server.write_attribute_value(self.nodes[name].nodeid, value)

    async def answer(self, asked):
        if "run" in asked:
            self.running = asked["run"]
        elif "set" in asked:
            name, value = asked["set"]
            await self.write(name, ua.Variant(value, NODES[name][1]))
        elif "status" in asked:
            name, code = asked["status"]
            await self.write(name, ua.Variant(*NODES[name]), code)
        elif asked.get("ask") == "unacknowledged":
            subscriptions = self.server.iserver.subscription_service.subscriptions.values()
            return sum(len(s._not_acknowledged_results) for s in subscriptions)
        elif asked.get("ask") == "sessions":
            subscriptions = self.server.iserver.subscription_service.subscriptions.values()
            return len({s.session_id for s in subscriptions})
        elif asked.get("ask") == "counter":
            return self.counter
        return None


async def main(given):
    key, cert = given.dir / "key.pem", given.dir / "cert.der"
    names = {"commonName": "Millrace test peer"}
    use = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
    await setup_self_signed_certificate(key, cert, APPLICATION, "localhost", use, names)
    server = Server(user_manager=Users(given.user, given.password))
    await server.init()
    await server.set_application_uri(APPLICATION)
    server.set_endpoint(f"opc.tcp://127.0.0.1:{given.port}/peer")
    kind = ua.SecurityPolicyType
    server.set_security_policy(
        [
            kind.NoSecurity,
            kind.Basic256Sha256_SignAndEncrypt,
            kind.Basic256Sha256_Sign,
            kind.Aes128Sha256RsaOaep_SignAndEncrypt,
            kind.Aes128Sha256RsaOaep_Sign,
            kind.Aes256Sha256RsaPss_SignAndEncrypt,
            kind.Aes256Sha256RsaPss_Sign,
        ]
    )
    await server.load_certificate(str(cert))
    await server.load_private_key(str(key))
    nodes = await furnish(server)
    plant = Plant(server, nodes)
    async with server:
        ticking = asyncio.create_task(plant.tick())
        print("ready", flush=True)
        loop = asyncio.get_running_loop()
        while line := await loop.run_in_executor(None, sys.stdin.readline):
            print(json.dumps(await plant.answer(json.loads(line))), flush=True)
        ticking.cancel()


if __name__ == "__main__":
    logging.disable(logging.CRITICAL)
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--dir", type=Path, required=True)
    parser.add_argument("--user", required=True)
    parser.add_argument("--password", required=True)
    asyncio.run(main(parser.parse_args()))
