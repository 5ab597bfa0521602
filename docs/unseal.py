"""Opens payloads that Millrace has sealed (`seal = "aes-256-gcm"`). Needs the package `cryptography`.

As a filter: lines of JSON {"topic", "payload": <base64>} in, {"stream", "first_seq", "last_seq", "payload": <base64>} out.
    unseal.py seal.key < messages
As a part of your receiver: unseal(key, topic, payload).
"""

import base64
import json
import struct
import sys
import uuid

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

HEADER = struct.Struct(">4s16sQ16sQQ")  # magic, salt, counter, stream, first number, last number


def unseal(key, topic, payload):
    """Returns stream, first number, last number (zero where the message carries no records) and the payload.

    Raises cryptography.exceptions.InvalidTag where key, topic or any byte is wrong.
    """
    header = payload[: HEADER.size]
    magic, salt, counter, stream, first, last = HEADER.unpack(header)
    if magic != b"MRS1":
        raise ValueError("not sealed, or by a newer version")
    derived = HKDF(hashes.SHA256(), 32, salt, b"millrace-seal-v1").derive(key)
    nonce = bytes(4) + counter.to_bytes(8, "big")
    additional = topic.encode() + b"\0" + header
    plain = AESGCM(derived).decrypt(nonce, payload[HEADER.size :], additional)
    return uuid.UUID(bytes=stream).hex, first, last, plain


def read_key(path):
    text = open(path).read().strip()
    return bytes.fromhex(text) if len(text) == 64 else base64.b64decode(text)


if __name__ == "__main__":
    secret = read_key(sys.argv[1])
    for line in sys.stdin:
        message = json.loads(line)
        sealed = base64.b64decode(message["payload"])
        stream, first, last, plain = unseal(secret, message["topic"], sealed)
        opened = {"stream": stream, "first_seq": first, "last_seq": last}
        print(json.dumps(opened | {"payload": base64.b64encode(plain).decode()}))
