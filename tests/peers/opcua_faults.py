"""An OPC UA server that shows a faulty certificate for each path of its address: opc.tcp://127.0.0.1:PORT/expired and so on.

    python opcua_faults.py PKI

PKI is the gateway's directory of certificates; what is to be trusted there is put into it: all but the untrusted ones are pinned,
or signed by "Plant CA", which is trusted with its revocation list. The keys of most certificates are one. Its first line of
output is {"port": number}.
"""

import asyncio
import datetime
import ipaddress
import json
import logging
import sys
from copy import copy
from pathlib import Path
from urllib.parse import urlparse

from asyncua import Server, ua
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

APPLICATION = "urn:millrace:faults"
DAY = datetime.timedelta(days=1)
NOW = datetime.datetime.now(datetime.timezone.utc)


def key(bits=2048):
    return rsa.generate_private_key(public_exponent=65537, key_size=bits)


def name(text):
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


class Authority:
    def __init__(self, text):
        self.name = name(text)
        self.key = key()
        self.certificate = (
            x509.CertificateBuilder()
            .subject_name(self.name)
            .issuer_name(self.name)
            .public_key(self.key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(NOW - 100 * DAY)
            .not_valid_after(NOW + 1000 * DAY)
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .sign(self.key, hashes.SHA256())
        )

    def der(self):
        return self.certificate.public_bytes(Encoding.DER)

    def revoke(self, serial):
        entry = x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(NOW - DAY).build()
        builder = x509.CertificateRevocationListBuilder().issuer_name(self.name)
        builder = builder.last_update(NOW - DAY).next_update(NOW + 30 * DAY).add_revoked_certificate(entry)
        return builder.sign(self.key, hashes.SHA256()).public_bytes(Encoding.DER)


LEAF_KEY = key()


def certificate(
    subject,
    signed_by=None,
    begin=NOW - 10 * DAY,
    end=NOW + 100 * DAY,
    uri=APPLICATION,
    host="127.0.0.1",
    use=ExtendedKeyUsageOID.SERVER_AUTH,
    own_key=None,
    serial=None,
):
    own_key = own_key or LEAF_KEY
    try:
        host = x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        host = x509.DNSName(host)
    builder = (
        x509.CertificateBuilder()
        .subject_name(name(subject))
        .issuer_name(signed_by.name if signed_by else name(subject))
        .public_key(own_key.public_key())
        .serial_number(serial or x509.random_serial_number())
        .not_valid_before(begin)
        .not_valid_after(end)
        .add_extension(x509.SubjectAlternativeName([x509.UniformResourceIdentifier(uri), host]), critical=False)
        .add_extension(x509.ExtendedKeyUsage([use]), critical=False)
    )
    return builder.sign(signed_by.key if signed_by else own_key, hashes.SHA256()).public_bytes(Encoding.DER)


def make(pki):
    plant, namesake, other = Authority("Plant CA"), Authority("Plant CA"), Authority("Other CA")
    pinned = {
        "good": certificate("good"),
        "expired": certificate("expired", begin=NOW - 20 * DAY, end=NOW - 10 * DAY),
        "not-yet-valid": certificate("not-yet-valid", begin=NOW + 10 * DAY),
        "wrong-application": certificate("wrong-application", uri="urn:somebody:else"),
        "wrong-usage": certificate("wrong-usage", use=ExtendedKeyUsageOID.CLIENT_AUTH),
        "key-size": certificate("key-size", own_key=key(1024)),
    }
    signed = {
        "wrong-host": certificate("wrong-host", plant, host="plc-7"),
        "revoked": certificate("revoked", plant, serial=4711),
        "wrong-signature": certificate("wrong-signature", namesake),
        "unknown-authority": certificate("unknown-authority", other),
        "untrusted": certificate("untrusted"),
        "no-certificate": b"",
    }
    trusted = pki / "trusted"
    (trusted / "crl").mkdir(parents=True)
    for case, der in pinned.items():
        (trusted / f"{case}.der").write_bytes(der)
    (trusted / "plant-ca.der").write_bytes(plant.der())
    (trusted / "crl" / "plant-ca.crl").write_bytes(plant.revoke(4711))
    return pinned | signed


def endpoints(template, case, certificates):
    """What a server with this fault offers."""
    if case == "clock-off":
        raise ua.uaerrors.BadInvalidTimestamp
    secured = copy(template)
    secured.Server = copy(template.Server)
    secured.Server.ApplicationUri = APPLICATION
    secured.ServerCertificate = certificates.get(case, certificates["good"])
    if case == "no-common-login":
        secured.UserIdentityTokens = [
            token for token in template.UserIdentityTokens if token.TokenType == ua.UserTokenType.UserName
        ]
    return [secured]


async def main(pki):
    certificates = make(pki)
    server = Server()
    await server.init()
    server.set_endpoint("opc.tcp://127.0.0.1:0/")
    (pki.parent / "server.der").write_bytes(certificates["good"])
    server.set_security_policy([ua.SecurityPolicyType.NoSecurity])
    await server.start()
    template = copy((await server.iserver.get_endpoints())[0])
    template.SecurityPolicyUri = "http://opcfoundation.org/UA/SecurityPolicy#Basic256Sha256"
    template.SecurityMode = ua.MessageSecurityMode.SignAndEncrypt

    async def get_endpoints(params=None, sockname=None):
        case = urlparse(params.EndpointUrl).path.strip("/")
        return endpoints(template, case, certificates)

    server.iserver.get_endpoints = get_endpoints
    print(json.dumps({"port": server.bserver.port}), flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    logging.disable(logging.CRITICAL)
    asyncio.run(main(Path(sys.argv[1])))
