"""A certificate authority for the bootstrap services: it signs requests, and has a certificate for `localhost`.

With a directory, ca.pem, ca.key, server.pem (with the CA behind it), server.key, and broker.pem and broker.key for a mosquitto are
written there; a CA that is there already is used again, and where it only signs nothing else is written.
"""

import base64
import datetime
import hashlib
import ipaddress
import pathlib
import threading

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import pkcs7
from cryptography.x509.oid import NameOID

DAY = datetime.timedelta(days=1)


def name(common):
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common)])


def name_of(csr):
    request = x509.load_der_x509_csr(csr)
    return request.subject.get_attributes_for_oid(NameOID.COMMON_NAME)[0].value


def pem(certificate):
    return certificate.public_bytes(serialization.Encoding.PEM).decode()


def key_pem(key):
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


class Ca:
    def __init__(self, directory=None, serves=True):
        self.lock = threading.Lock()
        place = pathlib.Path(directory) if directory else None
        if place and (place / "ca.key").exists():
            self.key = serialization.load_pem_private_key((place / "ca.key").read_bytes(), None)
            self.certificate = x509.load_pem_x509_certificate((place / "ca.pem").read_bytes())
        else:
            self.key = ec.generate_private_key(ec.SECP256R1())
            self.certificate = self.build(name("the core's CA"), self.key.public_key(), 3650, ca=True)
        self.pem = pem(self.certificate)
        der = self.certificate.public_bytes(serialization.Encoding.DER)
        self.sha256 = hashlib.sha256(der).hexdigest()
        if place and serves:
            place.mkdir(exist_ok=True)
            (place / "ca.pem").write_text(self.pem)
            (place / "ca.key").write_bytes(key_pem(self.key))
            for role in ("server", "broker"):
                key = ec.generate_private_key(ec.SECP256R1())
                certificate = self.build(name("localhost"), key.public_key(), 365, local=True)
                (place / f"{role}.pem").write_text(pem(certificate) + self.pem)
                (place / f"{role}.key").write_bytes(key_pem(key))
            self.server_chain, self.server_key = place / "server.pem", place / "server.key"

    def build(self, subject, public_key, days, ca=False, local=False):
        # A clock that is a little behind must not refuse a certificate that was made just now.
        begins = datetime.datetime.now(datetime.timezone.utc) - datetime.timedelta(minutes=5 if days > 1 else 0)
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self.certificate.subject if hasattr(self, "certificate") else subject)
            .public_key(public_key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(begins)
            .not_valid_after(begins + days * DAY)
            .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
        )
        if local:
            names = [x509.DNSName("localhost"), x509.DNSName("core.example"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
            builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        return builder.sign(self.key, hashes.SHA256())

    def issue(self, csr, days):
        request = x509.load_der_x509_csr(csr)
        if not request.is_signature_valid:
            raise ValueError("the request is not signed by its key")
        with self.lock:
            return self.build(request.subject, request.public_key(), days)

    def sign(self, csr, days):
        return pem(self.issue(csr, days))

    @staticmethod
    def pkcs7(certificates):
        return base64.encodebytes(pkcs7.serialize_certificates(certificates, serialization.Encoding.DER))
