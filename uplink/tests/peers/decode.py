"""Decodes messages with libraries that Millrace had no part in.

Reads lines {"codec", "payload": <base64>}, writes for each a line with the points in it: [[name, value, time], …],
bytes as {"x": <hex>}, times in seconds or null.
"""

import base64
import json
import sys


def senml_points(records):
    from senml import SenMLDocument

    for record in records:
        if isinstance(record.get("vd"), str):
            text = record["vd"]
            record["vd"] = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
        values = [key for key in ("v", "vs", "vb", "vd") if key in record]
        assert len(values) == 1, record
    document = SenMLDocument.from_json(records)
    for measurement in document.measurements:
        resolved = measurement.to_absolute(document.base)
        value = resolved.value
        if isinstance(value, bytes):
            value = {"x": value.hex()}
        yield [resolved.name, value, float(measurement.time)]


def senml_json(payload):
    return senml_points(json.loads(payload))


LABELS = {-2: "bn", -3: "bt", 0: "n", 1: "u", 2: "v", 3: "vs", 4: "vb", 6: "t", 8: "vd"}


def senml_cbor(payload):
    import cbor2

    records = cbor2.loads(payload)
    return senml_points([{LABELS[key]: value for key, value in record.items()} for record in records])


def influx_line(payload):
    from line_protocol_parser import LineFormatError, parse_line

    # A line break within quotes does not end a line.
    pending = ""
    for line in payload.decode().split("\n"):
        pending = pending + "\n" + line if pending else line
        try:
            point = parse_line(pending)
        except LineFormatError:
            continue
        pending = ""
        for field, value in point["fields"].items():
            time = point["time"]
            yield [point["measurement"] + "/" + field, value, None if time == 0 else time / 1e9]
    assert pending == "", pending


def zstd(payload):
    import zstandard

    return json.loads(zstandard.ZstdDecompressor().decompressobj().decompress(payload))


def gzip(payload):
    import gzip as of_python

    return json.loads(of_python.decompress(payload))


def sparkplug(payload):
    from pysparkplug._protobuf import sparkplug_b_pb2

    parsed = sparkplug_b_pb2.Payload()
    parsed.ParseFromString(payload)

    def optional(message, field):
        return getattr(message, field) if message.HasField(field) else None

    def metric(of):
        value = of.WhichOneof("value")
        value = getattr(of, value) if value else None
        properties = dict(zip(of.properties.keys, of.properties.values))
        quality, reason = properties.get("Quality"), properties.get("Reason")
        return {
            "name": optional(of, "name"),
            "alias": optional(of, "alias"),
            "timestamp": optional(of, "timestamp"),
            "datatype": optional(of, "datatype"),
            "historical": of.is_historical,
            "null": of.is_null,
            "value": value.hex() if isinstance(value, bytes) else value,
            "quality": quality.int_value if quality else None,
            "reason": reason.string_value if reason else None,
        }

    return {"seq": optional(parsed, "seq"), "metrics": [metric(of) for of in parsed.metrics]}


def smartrest(payload):
    import csv

    return list(csv.reader(payload.decode().split("\n")))


CODECS = {
    "sparkplug": sparkplug,
    "smartrest": smartrest,
    "senml-json": senml_json,
    "senml-cbor": senml_cbor,
    "influx-line": influx_line,
    "zstd": zstd,
    "gzip": gzip,
}

for line in sys.stdin:
    message = json.loads(line)
    decoded = CODECS[message["codec"]](base64.b64decode(message["payload"]))
    print(json.dumps(decoded if isinstance(decoded, (dict, list)) else list(decoded)))
