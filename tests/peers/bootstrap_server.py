"""Bootstrap services, as each provider and generation documents them, status codes included.

--kind: mainflux-0.12, mainflux-0.13, magistrala-0.15, magistrala-0.30 (GET, plain and /secure/), magistrala-proof (challenge and
proof), hmac-claim (our own protocol, docs/bootstrap.md), est (RFC 7030), thingsboard, azure-dps.

--gateways names a JSON file, {external id: {"key", "reply", "disabled"?, "approve_after"?}}; it is read at each request, so that a
test can change it. `reply` is what an admitted gateway gets; {"…": "@cert"} and the like are not templates, replies are sent as they
are, but hmac-claim and est put a certificate for the gateway's key into them.

--fault KIND:N[:PART] does something wrong to the first N requests (with PART in the path) that would have been answered with 200: `lost` (the work is done and the
connection cut), `garbage`, `huge`, `drip`, `unavailable` (503 with Retry-After: 1).

Every request is printed as a JSON line: {"path", "method", "status", "authorization"?, "at"}; alarms of hmac-claim as {"alarm"}.
"""

import argparse
import base64
import hashlib
import hmac
import http.server
import json
import os
import pathlib
import secrets
import ssl
import threading
import time
import urllib.parse

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

try:
    from cryptography.hazmat.decrepit.ciphers.modes import CFB
except ImportError:
    from cryptography.hazmat.primitives.ciphers.modes import CFB

import bootstrap_ca


def arguments():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=0, help="0: any that is free; the first line says which")
    parser.add_argument("--kind", default="magistrala-0.15")
    parser.add_argument("--base", default="/things/bootstrap")
    parser.add_argument("--gateways", required=True)
    parser.add_argument("--secure-key", help="the service's key of /secure/")
    parser.add_argument("--fault", default="none:0")
    parser.add_argument("--tls", help="directory for a CA and the server's certificate, made there: HTTPS on localhost")
    parser.add_argument("--cert-days", type=float, default=90.0, help="life of the certificates that are given out")
    return parser.parse_args()


def b64url(data):
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def derive(key, salt, info):
    return HKDF(hashes.SHA256(), 32, salt.encode(), info.encode()).derive(key.encode())


def mac(key, *parts):
    return b64url(hmac.new(key, "\n".join(parts).encode(), hashlib.sha256).digest())


class Service:
    """What one kind answers: `answer(request)` gives (status, body, headers)."""

    def __init__(self, args, ca):
        self.args, self.ca = args, ca
        self.lock = threading.Lock()

    def gateway(self, external_id):
        return json.loads(pathlib.Path(self.args.gateways).read_text()).get(external_id)

    def below(self, path):
        base = self.args.base.rstrip("/")
        return urllib.parse.unquote(path[len(base) :]).split("/")[1:] if path.startswith(base + "/") else None


class Get(Service):
    """Mainflux 0.8 to Magistrala 0.30: one GET."""

    SCHEMES = {"mainflux-0.12": "", "mainflux-0.13": "Thing ", "magistrala-0.15": "Thing ", "magistrala-0.30": "Client "}

    def secure_key(self):
        text = self.args.secure_key or "12345678910111213141516171819202"
        return bytes.fromhex(text) if self.args.kind.startswith("mainflux") else text.encode()

    def cfb(self, iv):
        return Cipher(algorithms.AES(self.secure_key()), CFB(iv))

    def answer(self, request):
        old, thirteen = self.args.kind == "mainflux-0.12", self.args.kind in ("mainflux-0.13", "magistrala-0.15")
        parts = self.below(request.path)
        if request.command != "GET" or not parts:
            return 404, {"error": "not found"}, {}
        if parts == [""]:
            return 400, {"error": "malformed entity specification"}, {}
        secure = parts[0] == "secure" and len(parts) == 2
        given, scheme = request.headers.get("Authorization", ""), self.SCHEMES[self.args.kind]
        key = given[len(scheme) :] if given.startswith(scheme) else ""
        if not key:
            return (403 if old else 401), {"error": "missing or invalid credentials provided"}, {}
        gateway = self.gateway(parts[-1])
        if gateway is None:
            return 404, {"error": "entity not found"}, {}
        if secure:
            try:
                sealed = bytes.fromhex(key)
            except ValueError:
                return (404 if old else 403), {"error": "no hex"}, {}
            if len(sealed) < 16:
                return (400 if old else 403), {"error": "too short"}, {}
            decryptor = self.cfb(sealed[:16]).decryptor()
            key = (decryptor.update(sealed[16:]) + decryptor.finalize()).decode("latin-1")
        if not hmac.compare_digest(key.encode("latin-1", "replace"), gateway["key"].encode()):
            return (404 if old else 403), {"error": "failed to authenticate"}, {}
        if gateway.get("disabled") and not old and not thirteen:
            return 500, {"error": "failed to bootstrap: enrollment is disabled"}, {}
        body = json.dumps(gateway["reply"]).encode()
        if not secure:
            return 200, body, {}
        iv = os.urandom(16)
        encryptor = self.cfb(iv).encryptor()
        kind = "application/json" if old or thirteen else "application/octet-stream"
        return 200, iv + encryptor.update(body) + encryptor.finalize(), {"Content-Type": kind}


class Proof(Service):
    """Challenge and proof, as PR 3555 of Magistrala, and our own hmac-claim over the same crypto."""

    CHALLENGE_SECONDS = 60

    def __init__(self, args, ca):
        super().__init__(args, ca)
        self.challenges, self.claims = {}, {}
        self.claim = args.kind == "hmac-claim"
        prefix = "millrace-claim" if self.claim else "magistrala-bootstrap"
        self.auth, self.response = f"{prefix}-auth-v1", f"{prefix}-response-v1"
        self.aad = "millrace-claim-v1" if self.claim else "bootstrap-response-v1"

    def answer(self, request):
        parts = self.below(request.path)
        if request.command != "POST" or not parts or len(parts) != 2:
            return 404, {"error": "not found"}, {}
        step, external_id = parts
        if step == "challenges":
            return self.challenge(external_id)
        if request.headers.get("Content-Type") != "application/json":
            return 415, {"error": "unsupported content type"}, {}
        try:
            body = json.loads(request.body)
        except ValueError:
            return 400, {"error": "malformed"}, {}
        steps = {"configurations": self.configuration} if not self.claim else {
            "claims": self.configuration,
            "confirmations": self.confirm,
            "renewals": lambda external_id, body: self.renew(request, external_id, body),
        }
        return steps[step](external_id, body) if step in steps else (404, {"error": "not found"}, {})

    def challenge(self, external_id):
        # An unknown gateway gets one, too: nobody learns who is enrolled.
        challenge = {
            "challenge_id": secrets.token_hex(16),
            "server_nonce": b64url(os.urandom(32)),
            "expires_at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + self.CHALLENGE_SECONDS)),
            "key_version": 1,
        }
        with self.lock:
            self.challenges[challenge["challenge_id"]] = (external_id, challenge["server_nonce"], time.monotonic())
        return 200, challenge, {"Cache-Control": "no-store"}

    def configuration(self, external_id, body):
        refused = (403, {"error": "bootstrap failed"}, {})
        with self.lock:
            known = self.challenges.pop(body.get("challenge_id"), None)
        gateway = self.gateway(external_id)
        if known is None or gateway is None or gateway.get("disabled"):
            return refused
        owner, server_nonce, made = known
        if owner != external_id or time.monotonic() - made > self.CHALLENGE_SECONDS:
            return refused
        csr = base64.b64decode(body.get("csr", ""))
        bound = [external_id, body["challenge_id"], server_nonce, body["device_nonce"], "1"]
        if self.claim:
            bound.append(hashlib.sha256(csr).hexdigest())
        expected = mac(derive(gateway["key"], external_id, self.auth), "v1", *bound)
        if not hmac.compare_digest(expected, body["proof"]):
            return refused
        reply = dict(gateway["reply"])
        if self.claim:
            granted = self.grant(external_id, gateway, csr, bound[-1])
            if not isinstance(granted, dict):
                return granted
            reply.update(granted)
        nonce = os.urandom(12)
        key = derive(gateway["key"], external_id, self.response)
        aad = "\n".join([self.aad, *bound]).encode()
        sealed = AESGCM(key).encrypt(nonce, json.dumps(reply).encode(), aad)
        return 200, {
            "version": "v1",
            "key_version": 1,
            "challenge_id": body["challenge_id"],
            "nonce": b64url(nonce),
            "ciphertext": b64url(sealed),
        }, {"Cache-Control": "no-store"}

    def grant(self, external_id, gateway, csr, csr_sha256):
        """issued -> claimed; the same request gets the same again, another key is refused, and alarmed."""
        with self.lock:
            # A new token is a new claim.
            slot = (external_id, gateway["key"])
            claim = self.claims.get(slot)
            if claim is not None and (claim["csr"] != csr_sha256 or claim["confirmed"]):
                print(json.dumps({"alarm": "token used by another key or again", "id": external_id}), flush=True)
                return 403, {"error": "bootstrap failed"}, {}
            if claim is None:
                waits = gateway.get("approve_after", 0)
                asked = gateway_asked(self, external_id)
                if asked <= waits:
                    return 202, {"status": "waiting for approval"}, {"Retry-After": "1"}
                claim = {"csr": csr_sha256, "confirmed": False, "id": secrets.token_hex(16)}
                claim["given"] = {"claim_id": claim["id"]}
                if not gateway.get("without_certificate"):
                    claim["given"]["client_cert"] = self.ca.sign(csr, self.args.cert_days)
                    claim["given"]["ca_cert"] = self.ca.pem
                self.claims[slot] = claim
            return claim["given"]

    def confirm(self, external_id, body):
        gateway = self.gateway(external_id)
        claim = gateway and self.claims.get((external_id, gateway["key"]))
        if gateway is None or claim is None or claim["id"] != body.get("claim_id"):
            return 403, {"error": "bootstrap failed"}, {}
        key = derive(gateway["key"], external_id, self.auth)
        if not hmac.compare_digest(mac(key, "confirm-v1", external_id, claim["id"]), body.get("proof", "")):
            return 403, {"error": "bootstrap failed"}, {}
        claim["confirmed"] = True
        return 204, b"", {}

    def renew(self, request, external_id, body):
        if request.client_name() != external_id:
            return 403, {"error": "bootstrap failed"}, {}
        certificate = self.ca.sign(base64.b64decode(body["csr"]), self.args.cert_days)
        return 200, {"client_cert": certificate, "ca_cert": self.ca.pem}, {}


def gateway_asked(service, external_id):
    """How often it has asked, this time among them."""
    counts = service.__dict__.setdefault("asked", {})
    counts[external_id] = counts.get(external_id, 0) + 1
    return counts[external_id]


class Est(Service):
    """RFC 7030: cacerts, simpleenroll by one-time password, simplereenroll by certificate."""

    def __init__(self, args, ca):
        super().__init__(args, ca)
        self.spent = {}

    def answer(self, request):
        step = request.path.rsplit("/", 1)[-1]
        if not request.path.startswith("/.well-known/est/"):
            return 404, {"error": "not found"}, {}
        headers = {"Content-Type": "application/pkcs7-mime; smime-type=certs-only", "Content-Transfer-Encoding": "base64"}
        if request.command == "GET" and step == "cacerts":
            return 200, self.ca.pkcs7([self.ca.certificate]), headers
        if request.command != "POST" or step not in ("simpleenroll", "simplereenroll"):
            return 404, {"error": "not found"}, {}
        if request.headers.get("Content-Type") != "application/pkcs10":
            return 415, {"error": "unsupported media type"}, {}
        csr = base64.b64decode(request.body)
        name = bootstrap_ca.name_of(csr)
        if step == "simplereenroll":
            if request.client_name() != name:
                return 401, b"", {}
        else:
            user, _, password = base64.b64decode(request.headers.get("Authorization", "").removeprefix("Basic ")).decode().partition(":")
            gateway = self.gateway(user)
            if gateway is None or not hmac.compare_digest(password, gateway["key"]) or gateway.get("disabled"):
                return 401, b"", {"WWW-Authenticate": 'Basic realm="est"'}
            # One-time: whoever comes with the same request gets the same again.
            if self.spent.setdefault(user, csr) != csr:
                return 401, b"", {"WWW-Authenticate": 'Basic realm="est"'}
            if user != name:
                return 400, b"the subject is not yours", {}
            if gateway_asked(self, user) <= gateway.get("approve_after", 0):
                return 202, b"waiting for approval", {"Retry-After": "1"}
        # The leaf is not the first: nothing in RFC 7030 says that it is.
        return 200, self.ca.pkcs7([self.ca.certificate, self.ca.issue(csr, self.args.cert_days)]), headers


class ThingsBoard(Service):
    """POST /api/v1/provision, and the device API to look whether a token works."""

    def __init__(self, args, ca):
        super().__init__(args, ca)
        self.devices = {}

    def answer(self, request):
        parts = request.path.split("?")[0].strip("/").split("/")
        if request.command == "GET" and parts[:2] == ["api", "v1"] and parts[3:] == ["attributes"]:
            return (200 if parts[2] in self.devices.values() else 401), {}, {}
        if request.command != "POST" or parts != ["api", "v1", "provision"]:
            return 404, {"error": "not found"}, {}
        body = json.loads(request.body)
        profile = self.gateway("profile")
        if f"{body['provisionDeviceKey']}:{body['provisionDeviceSecret']}" != profile["key"] or profile.get("disabled"):
            return 200, {"status": "NOT_FOUND", "errorMsg": "Provision device profile not found"}, {}
        if body["deviceName"] in self.devices:
            return 200, {"status": "FAILURE", "errorMsg": "Failed to provision device!"}, {}
        token = body.get("token") or secrets.token_hex(10)
        self.devices[body["deviceName"]] = token
        return 200, {"credentialsType": "ACCESS_TOKEN", "credentialsValue": token, "status": "SUCCESS"}, {}


class AzureDps(Service):
    """PUT register, GET operations: 202 with Retry-After until it is assigned."""

    def answer(self, request):
        path, _, query = request.path.partition("?")
        parts = urllib.parse.unquote(path).strip("/").split("/")
        if len(parts) < 3 or parts[1] != "registrations" or parts[0] != "0ne00TEST":
            return 404, {"errorCode": 404201, "message": "ID scope not found"}, {}
        registration, gateway = parts[2], self.gateway(parts[2])
        if gateway is None or not self.admitted(request, "/".join(parts[:3]), gateway["key"]):
            return 401, {"errorCode": 401002, "message": "Invalid certificate or token"}, {}
        if "api-version=" not in query:
            return 400, {"errorCode": 400004, "message": "api-version"}, {}
        if gateway.get("disabled"):
            state = {"registrationId": registration, "status": "disabled", "errorMessage": "the enrollment is disabled"}
            return 200, {"operationId": "op", "status": "disabled", "registrationState": state}, {}
        if parts[3:] == ["register"] and request.command == "PUT":
            return 202, {"operationId": f"5.{registration}", "status": "assigning"}, {"Retry-After": "1"}
        if parts[3:] == ["operations", f"5.{registration}"] and request.command == "GET":
            if gateway_asked(self, registration) <= gateway.get("approve_after", 0):
                return 202, {"operationId": f"5.{registration}", "status": "assigning"}, {"Retry-After": "1"}
            state = {"registrationId": registration, "status": "assigned", **gateway["reply"]}
            return 200, {"operationId": f"5.{registration}", "status": "assigned", "registrationState": state}, {}
        return 404, {"message": "not found"}, {}

    @staticmethod
    def admitted(request, resource, key):
        given = request.headers.get("Authorization", "")
        fields = urllib.parse.parse_qs(given.removeprefix("SharedAccessSignature "))
        if fields.get("sr") != [resource] or fields.get("skn") != ["registration"]:
            return False
        if int(fields["se"][0]) < time.time():
            return False
        signed = f"{urllib.parse.quote(resource, safe='').replace('%2F', '%2f')}\n{fields['se'][0]}"
        expected = base64.b64encode(hmac.new(base64.b64decode(key), signed.encode(), hashlib.sha256).digest()).decode()
        return hmac.compare_digest(expected, fields["sig"][0])


SERVICES = {
    **dict.fromkeys(Get.SCHEMES, Get),
    "magistrala-proof": Proof,
    "hmac-claim": Proof,
    "est": Est,
    "thingsboard": ThingsBoard,
    "azure-dps": AzureDps,
}


def handler(service, fault):
    kind, count, where = (fault + "::").split(":")[:3]
    faults = {"left": int(count or 0)}
    lock = threading.Lock()

    class Bootstrap(http.server.BaseHTTPRequestHandler):
        def serve(self):
            at = time.time()
            self.body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            try:
                status, body, headers = service.answer(self)
            except (KeyError, ValueError, TypeError) as error:
                status, body, headers = 400, {"error": f"malformed: {error!r}"}, {}
            with lock:
                spoil = kind if status == 200 and faults["left"] > 0 and where in self.path else "none"
                faults["left"] -= spoil != "none"
            print(json.dumps({
                "path": self.path, "method": self.command, "status": status, "fault": spoil, "at": at,
                "authorization": self.headers.get("Authorization", ""),
            }), flush=True)
            if spoil == "unavailable":
                status, body, headers = 503, {"error": "busy"}, {"Retry-After": "1"}
            if spoil == "garbage":
                body = b"<html>a captive portal</html>"
            if spoil == "huge":
                body = b" " * (9 << 20)
            if spoil == "lost":
                self.close_connection = True
                self.connection.close()
                return
            data = body if isinstance(body, bytes) else json.dumps(body).encode()
            self.send_response(status)
            headers.setdefault("Content-Type", "application/json")
            for name, value in headers.items():
                self.send_header(name, value)
            if status != 204:
                self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            try:
                if spoil == "drip":
                    for byte in data:
                        self.wfile.write(bytes([byte]))
                        self.wfile.flush()
                        time.sleep(1)
                elif status != 204:
                    self.wfile.write(data)
            except OSError:
                # A client that does not wait for this.
                self.close_connection = True

        do_GET = do_POST = do_PUT = serve

        def client_name(self):
            """The common name of the client's certificate, which TLS has verified."""
            certificate = getattr(self.connection, "getpeercert", dict)() or {}
            names = dict(pair for entry in certificate.get("subject", ()) for pair in entry)
            return names.get("commonName")

        def log_message(self, *_):
            pass

    return Bootstrap


class Server(http.server.ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 512

    def handle_error(self, request, client_address):
        pass


def main():
    args = arguments()
    ca = bootstrap_ca.Ca(args.tls) if args.tls or args.kind in ("hmac-claim", "est") else None
    server = Server(("127.0.0.1", args.port), handler(SERVICES[args.kind](args, ca), args.fault))
    ready = {"ready": True, "port": server.server_port}
    if args.tls:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(ca.server_chain, ca.server_key)
        context.load_verify_locations(cadata=ca.pem)
        context.verify_mode = ssl.CERT_OPTIONAL
        server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
        ready["ca_sha256"] = ca.sha256
    print(json.dumps(ready), flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
