"""Fleet provisioning of AWS IoT by claim, played over a broker (paho-mqtt), with the CA of a directory (ca.pem, ca.key).

--template is the one template that there is, --answer what it makes of a device: a file of JSON with `thingName` and
`deviceConfiguration`. Prints {"ready": true} once it listens, then each question as {"topic", "asked"}.
"""

import argparse
import json
import pathlib

import paho.mqtt.client as mqtt
from cryptography import x509
from cryptography.hazmat.primitives import serialization

from bootstrap_ca import Ca

CREATE = "$aws/certificates/create-from-csr/json"


def say(line):
    print(json.dumps(line), flush=True)


def rejected(status, code, message):
    return "rejected", {"statusCode": status, "errorCode": code, "errorMessage": message}


class Account:
    def __init__(self, args):
        self.ca = Ca(args.pki, serves=False)
        self.provision = f"$aws/provisioning-templates/{args.template}/provision/json"
        self.device = json.loads(pathlib.Path(args.answer).read_text())
        self.tokens = {}

    def create(self, asked):
        request = x509.load_pem_x509_csr(asked["certificateSigningRequest"].encode())
        certificate = self.ca.sign(request.public_bytes(serialization.Encoding.DER), 30)
        token = f"ownership of {len(self.tokens)}"
        self.tokens[token] = certificate
        return "accepted", {"certificateId": "0", "certificatePem": certificate, "certificateOwnershipToken": token}

    def register(self, asked):
        if not self.tokens.pop(asked["certificateOwnershipToken"], None):
            return rejected(400, "InvalidCertificateOwnershipToken", "")
        if not asked["parameters"].get("SerialNumber"):
            return rejected(400, "InvalidParameters", "SerialNumber is missing")
        return "accepted", self.device

    def answer(self, client, _, message):
        asked = json.loads(message.payload)
        say({"topic": message.topic, "asked": asked})
        how, answer = self.create(asked) if message.topic == CREATE else self.register(asked)
        client.publish(f"{message.topic}/{how}", json.dumps(answer), qos=1)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    for name in ("--pki", "--template", "--answer"):
        parser.add_argument(name, required=True)
    args = parser.parse_args()
    account = Account(args)
    client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, client_id="account")
    client.on_connect = lambda client, *_: client.subscribe([(CREATE, 1), (account.provision, 1)])
    client.on_subscribe = lambda *_: say({"ready": True})
    client.on_message = account.answer
    client.connect("127.0.0.1", args.port)
    client.loop_forever()


if __name__ == "__main__":
    main()
