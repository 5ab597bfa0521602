"""Packets of MQTT 3.1.1 and 5 taken apart, for those who stand between a client and its broker."""

import asyncio
import json
import struct

NAMES = ["", "CONNECT", "CONNACK", "PUBLISH", "PUBACK", "PUBREC", "PUBREL", "PUBCOMP", "SUBSCRIBE", "SUBACK",
         "UNSUBSCRIBE", "UNSUBACK", "PINGREQ", "PINGRESP", "DISCONNECT", "AUTH"]


class Fields:
    """The bytes of a packet, read one after the other."""

    def __init__(self, data):
        self.data, self.at = data, 0

    def take(self, count):
        self.at += count
        return self.data[self.at - count:self.at]

    def byte(self):
        return self.take(1)[0]

    def number(self):
        return struct.unpack(">H", self.take(2))[0]

    def text(self):
        return self.take(self.number()).decode()

    def varint(self):
        value, shift = 0, 0
        while True:
            byte = self.byte()
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return value

    def rest(self):
        return self.data[self.at:]

    def left(self):
        return len(self.data) - self.at

    def properties(self):
        """The identifiers of MQTT 5 that matter here: session expiry."""
        end = self.varint() + self.at
        found = {}
        sizes = {1: 1, 2: 4, 17: 4, 19: 2, 23: 1, 24: 4, 25: 1, 33: 2, 34: 2, 35: 2, 36: 1, 37: 1, 39: 4, 40: 1, 41: 1, 42: 1}
        while self.at < end:
            key = self.varint()
            if key in sizes:
                found[key] = int.from_bytes(self.take(sizes[key]), "big")
            elif key == 11:
                found[key] = self.varint()
            elif key == 38:
                found[key] = (self.text(), self.text())
            else:
                found[key] = self.take(self.number())
        self.at = end
        return found


def packets(data):
    """Whole packets as (head, body, bytes), and what is left."""
    found = []
    while True:
        fields = Fields(data)
        try:
            head, size = fields.byte(), fields.varint()
        except IndexError:
            return found, data
        if fields.left() < size:
            return found, data
        body = fields.take(size)
        found.append((head, body, data[: fields.at]))
        data = fields.rest()


async def serve(port, accept):
    """Accepts connections until it is killed; says when it does."""
    server = await asyncio.start_server(accept, "127.0.0.1", port)
    print(json.dumps({"ready": True}), flush=True)
    async with server:
        await server.serve_forever()
