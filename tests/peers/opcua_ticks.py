"""An OPC UA server whose variables are tick counters.

Variable i is `ns=2;s=tick.<i>` with the value tick * 1000 + i and the source timestamp start + tick / rate: value and
source time prove each other. The namespace is urn:millrace:ticks.
"""

import argparse
import asyncio
import datetime
import json
import pathlib

from asyncua import Server, ua
from asyncua.crypto.cert_gen import setup_self_signed_certificate
from asyncua.crypto.permission_rules import User, UserRole
from asyncua.server.user_managers import UserManager
from cryptography.x509.oid import ExtendedKeyUsageOID

NAMESPACE = "urn:millrace:ticks"
APPLICATION_URI = "urn:millrace:tests:ticks"


class OneUser(UserManager):
    """Admits one user by name and password; everybody if no name is given."""

    def __init__(self, name, password):
        self.name = name
        self.password = password

    def get_user(self, iserver, username=None, password=None, certificate=None):
        if self.name is None or (username == self.name and password == self.password):
            return User(role=UserRole.User, name=username or "anonymous")
        return None


def arguments():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--variables", type=int, default=200)
    parser.add_argument("--rate", type=float, default=2.0, help="ticks a second")
    parser.add_argument("--security", choices=["None", "Basic256Sha256"], default="None")
    parser.add_argument("--user", help="name:password; default anonymous")
    parser.add_argument("--directory", default=".", help="where the certificate is kept")
    return parser.parse_args()


async def secure(server, args):
    """Gives the server a certificate of its own."""
    directory = pathlib.Path(args.directory)
    key, certificate = directory / "server-key.pem", directory / "server-cert.der"
    await setup_self_signed_certificate(
        key,
        certificate,
        APPLICATION_URI,
        "127.0.0.1",
        [ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH],
        {"countryName": "DE", "organizationName": "Millrace tests"},
    )
    await server.load_certificate(str(certificate))
    await server.load_private_key(str(key))


async def serve(args):
    name, _, password = (args.user or "").partition(":")
    server = Server(user_manager=OneUser(name or None, password))
    await server.init()
    server.set_endpoint(f"opc.tcp://127.0.0.1:{args.port}/ticks")
    await server.set_application_uri(APPLICATION_URI)
    if args.security == "None":
        server.set_security_policy([ua.SecurityPolicyType.NoSecurity])
    else:
        await secure(server, args)
        server.set_security_policy([ua.SecurityPolicyType.Basic256Sha256_SignAndEncrypt])
    server.set_identity_tokens([ua.UserNameIdentityToken] if args.user else [ua.AnonymousIdentityToken])

    space = await server.register_namespace(NAMESPACE)
    folder = await server.nodes.objects.add_folder(space, "Ticks")
    variables = []
    for index in range(args.variables):
        node = ua.NodeId(f"tick.{index}", space)
        variables.append(await folder.add_variable(node, f"tick.{index}", 0, ua.VariantType.UInt32))

    async with server:
        start = datetime.datetime.now(datetime.timezone.utc)
        loop_start = asyncio.get_running_loop().time()
        tick = 0
        print(json.dumps({"ready": True, "start": start.timestamp(), "namespace": space}), flush=True)
        while True:
            stamp = start + datetime.timedelta(seconds=tick / args.rate)
            for index, variable in enumerate(variables):
                value = ua.Variant(tick * 1000 + index, ua.VariantType.UInt32)
                await server.write_attribute_value(
                    variable.nodeid, ua.DataValue(value, SourceTimestamp=stamp, ServerTimestamp=stamp)
                )
            tick += 1
            await asyncio.sleep(max(0.0, loop_start + tick / args.rate - asyncio.get_running_loop().time()))


if __name__ == "__main__":
    asyncio.run(serve(arguments()))
