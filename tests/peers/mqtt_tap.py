"""A wire between an MQTT client and its broker that writes down every packet as a line of JSON.

What Sparkplug payloads hold is decoded with the protobuf classes of pysparkplug; Millrace had no part in them.
{"at": unix seconds, "connection": id, "from": "client" | "broker", "packet": "PUBLISH", …}; a last line
{"packet": "END", "from": whoever ended it}. It serves until it is killed; then both ends of every connection break.
"""

import argparse
import asyncio
import json
import time

from mqtt_packets import NAMES, Fields, packets, serve
from pysparkplug._protobuf import sparkplug_b_pb2


def sparkplug(payload):
    """The payload as plain data; None where it is none."""
    parsed = sparkplug_b_pb2.Payload()
    try:
        parsed.ParseFromString(payload)
    except Exception:
        return None

    def optional(message, field):
        return getattr(message, field) if message.HasField(field) else None

    def metric(of):
        kind = of.WhichOneof("value")
        value = getattr(of, kind) if kind else None
        properties = dict(zip(of.properties.keys, of.properties.values))
        quality = properties.get("Quality")
        return {
            "name": optional(of, "name"),
            "alias": optional(of, "alias"),
            "timestamp": optional(of, "timestamp"),
            "datatype": optional(of, "datatype"),
            "historical": of.is_historical,
            "null": of.is_null,
            "kind": kind,
            "value": value.hex() if isinstance(value, bytes) else value,
            "quality": quality.int_value if quality else None,
        }

    return {
        "timestamp": optional(parsed, "timestamp"),
        "seq": optional(parsed, "seq"),
        "metrics": [metric(of) for of in parsed.metrics],
    }


def content(topic, payload):
    if topic.startswith("spBv1.0/") and not topic.startswith("spBv1.0/STATE/"):
        return {"sparkplug": sparkplug(payload)}
    return {"text": payload.decode("utf-8", "replace")}


class Connection:
    def __init__(self, number, log):
        self.number, self.log, self.version = number, log, 4
        self.aliases = {}

    def tell(self, sender, packet, **more):
        line = {"at": time.time(), "connection": self.number, "from": sender, "packet": packet, **more}
        self.log.write(json.dumps(line) + "\n")

    def packet(self, sender, head, body):
        name, flags, fields = NAMES[head >> 4], head & 15, Fields(body)
        more = {}
        if name == "CONNECT":
            fields.text()
            self.version = fields.byte()
            bits = fields.byte()
            fields.number()
            properties = fields.properties() if self.version == 5 else {}
            more = {"version": self.version, "clean": bool(bits & 2), "expiry": properties.get(17, 0), "will": None}
            more["client"] = fields.text()
            if bits & 4:
                if self.version == 5:
                    fields.properties()
                topic = fields.text()
                payload = fields.take(fields.number())
                more["will"] = {"topic": topic, "qos": bits >> 3 & 3, "retain": bool(bits & 32), **content(topic, payload)}
        elif name == "CONNACK":
            fields.byte()
            more = {"code": fields.byte()}
        elif name == "PUBLISH":
            topic = fields.text()
            qos = flags >> 1 & 3
            if qos:
                fields.number()
            alias = fields.properties().get(35) if self.version == 5 else None
            if alias and topic:
                self.aliases[sender, alias] = topic
            topic = topic or self.aliases.get((sender, alias), "")
            more = {"topic": topic, "qos": qos, "retain": bool(flags & 1), "dup": bool(flags & 8)}
            more.update(content(topic, fields.rest()))
        elif name == "SUBSCRIBE":
            fields.number()
            if self.version == 5:
                fields.properties()
            filters = []
            while fields.left():
                filters.append({"filter": fields.text(), "qos": fields.byte() & 3})
            more = {"filters": filters}
        elif name == "DISCONNECT":
            more = {"code": fields.byte() if fields.left() else 0}
        elif name in ("PINGREQ", "PINGRESP", "PUBACK"):
            return
        self.tell(sender, name, **more)

    def tell_of(self, sender, data):
        """Tells all whole packets; returns the rest."""
        found, rest = packets(data)
        for head, body, _ in found:
            self.packet(sender, head, body)
        return rest

    async def relay(self, sender, reader, writer):
        pending = b""
        try:
            while True:
                data = await reader.read(65536)
                if not data:
                    break
                pending = self.tell_of(sender, pending + data)
                writer.write(data)
                await writer.drain()
        except (ConnectionError, asyncio.CancelledError):
            pass
        writer.close()
        return sender


async def tap(args):
    log = open(args.log, "a", buffering=1, encoding="utf-8")

    async def accept(reader, writer):
        connection = Connection(time.time_ns(), log)
        try:
            up_reader, up_writer = await asyncio.open_connection("127.0.0.1", args.broker)
        except OSError:
            # The broker is down: what the client says to nobody is told, too.
            try:
                connection.tell_of("client", await asyncio.wait_for(reader.read(65536), 5))
            except (OSError, asyncio.TimeoutError):
                pass
            connection.tell("broker", "END")
            writer.close()
            return
        ways = [
            asyncio.create_task(connection.relay("client", reader, up_writer)),
            asyncio.create_task(connection.relay("broker", up_reader, writer)),
        ]
        done, _ = await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        connection.tell(next(iter(done)).result(), "END")
        for way in ways:
            way.cancel()
        writer.close()
        up_writer.close()

    await serve(args.port, accept)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--broker", type=int, required=True)
    parser.add_argument("--log", required=True)
    asyncio.run(tap(parser.parse_args()))
