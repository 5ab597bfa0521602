"""The MQTT side of Mainflux 0.13 before a real broker: mProxy with the rules of its adapter, and the consumer behind it.

It reads MQTT 3.1.1 only. A CONNECT with a wrong thing or key, a PUBLISH or a SUBSCRIBE that is not on the thing's channel
closes the connection without a word; so does whatever goes to a subtopic of --refuse, and a subscription where --deaf. What
goes to a subtopic of --discard is acknowledged and goes nowhere. Everything else goes to the broker, whose PUBACK comes back,
and to the consumer, which takes a whole SenML pack or nothing of it and tells nobody. Each record that it stores is a line
of JSON: {"name": resolved name, "t": seconds, "subtopic": …}, and {"invalid": why} where a pack is dropped.
"""

import argparse
import asyncio
import json
import re

from mqtt_packets import NAMES, Fields, packets, serve

TOPIC = re.compile(r"/?channels/([\w-]+)/messages(?:/(.+))?")
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9\-:./_]*")
VALUES = ("v", "vs", "vb", "vd")


class Refused(Exception):
    """Mainflux closes the connection."""


def resolve(pack):
    """The records of a pack by the rules of Mainflux's transformer."""
    base, rows = {}, []
    for record in pack:
        base.update({key: record[key] for key in ("bn", "bt") if key in record})
        name = base.get("bn", "") + record.get("n", "")
        if not NAME.fullmatch(name):
            raise ValueError(f"the name {name!r}")
        if sum(key in record for key in VALUES) != 1:
            raise ValueError(f"not one value: {record}")
        rows.append({"name": name, "t": base.get("bt", 0) + record.get("t", 0)})
    return rows


class Session:
    def __init__(self, args, log):
        self.args, self.log, self.known = args, log, False

    def on_channel(self, topic):
        """The subtopic."""
        match = TOPIC.fullmatch(topic)
        if not match or match[1] != self.args.channel:
            raise Refused(topic)
        return match[2] or ""

    def packet(self, head, body):
        """The answer of the adapter itself; None: the packet goes to the broker."""
        name, fields = NAMES[head >> 4], Fields(body)
        if name == "CONNECT":
            self.connect(fields)
        elif not self.known:
            raise Refused("no CONNECT")
        elif name == "PUBLISH":
            return self.publish(head, fields)
        elif name == "SUBSCRIBE":
            fields.number()
            while fields.left():
                self.on_channel(fields.text())
                fields.byte()
            if self.args.deaf:
                raise Refused("SUBSCRIBE")
        return None

    def connect(self, fields):
        fields.text()
        if fields.byte() != 4:
            raise Refused("not MQTT 3.1.1")
        bits = fields.byte()
        fields.number()
        fields.text()
        if bits & 4:
            fields.text()
            fields.take(fields.number())
        thing = fields.text() if bits & 128 else None
        key = fields.text() if bits & 64 else None
        if (thing, key) != (self.args.thing, self.args.key):
            raise Refused("the thing's key")
        self.known = True

    def publish(self, head, fields):
        subtopic = self.on_channel(fields.text())
        number = fields.take(2) if head >> 1 & 3 else b""
        if subtopic in self.args.refuse:
            raise Refused(subtopic)
        if subtopic in self.args.discard:
            return b"\x40\x02" + number if number else b""
        self.consume(subtopic, fields.rest())
        return None

    def consume(self, subtopic, payload):
        try:
            rows = resolve(json.loads(payload))
        except (ValueError, TypeError, AttributeError) as error:
            rows = [{"invalid": str(error)}]
        for row in rows:
            self.log.write(json.dumps({"subtopic": subtopic, **row}) + "\n")


async def adapt(args):
    log = open(args.log, "a", buffering=1, encoding="utf-8")

    async def upwards(session, reader, writer, broker):
        pending = b""
        while data := await reader.read(65536):
            found, pending = packets(pending + data)
            for head, body, raw in found:
                answer = session.packet(head, body)
                (broker if answer is None else writer).write(raw if answer is None else answer)
            await broker.drain()
            await writer.drain()

    async def downwards(broker, writer):
        while data := await broker.read(65536):
            writer.write(data)
            await writer.drain()

    async def accept(reader, writer):
        try:
            broker_reader, broker_writer = await asyncio.open_connection("127.0.0.1", args.broker)
        except OSError:
            return writer.close()
        ways = [
            asyncio.ensure_future(upwards(Session(args, log), reader, writer, broker_writer)),
            asyncio.ensure_future(downwards(broker_reader, writer)),
        ]
        await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        for way in ways:
            way.cancel()
        await asyncio.gather(*ways, return_exceptions=True)
        writer.close()
        broker_writer.close()

    await serve(args.port, accept)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--broker", type=int, required=True)
    parser.add_argument("--thing", required=True)
    parser.add_argument("--key", required=True)
    parser.add_argument("--channel", required=True)
    parser.add_argument("--log", required=True)
    parser.add_argument("--refuse", action="append", default=[])
    parser.add_argument("--discard", action="append", default=[])
    parser.add_argument("--deaf", action="store_true")
    asyncio.run(adapt(parser.parse_args()))
