"""An OPC UA server with a value of every built-in type, and what else a server has to offer beside numbers.

Namespace urn:millrace:types. `Plant/Values` has one variable a case, `Plant/Setpoints` what can be written, `Plant` itself the
methods: `mix`, and `alarm` and `event`, which make some.
"""

import argparse
import asyncio
import datetime
import json
import logging
import sys
import uuid

from asyncua import Server, ua, uamethod
from asyncua.common.structures104 import new_enum, new_struct, new_struct_field
from asyncua.common.type_dictionary_builder import DataTypeDictionaryBuilder

NAMESPACE = "urn:millrace:types"
T = ua.VariantType
UTC = datetime.timezone.utc
INF = float("inf")


def values(index):
    """Name, value, type: every scalar at its ends, arrays, matrices."""
    guid = uuid.UUID("72962b91-fa75-4ae6-8d28-b404dc7daf63")
    moment = datetime.datetime(2026, 11, 21, 7, 30, 15, 123456, tzinfo=UTC)
    return [
        ("bool-true", True, T.Boolean),
        ("bool-false", False, T.Boolean),
        ("i8-min", -128, T.SByte),
        ("i8-max", 127, T.SByte),
        ("u8-max", 255, T.Byte),
        ("i16-min", -(2**15), T.Int16),
        ("u16-max", 2**16 - 1, T.UInt16),
        ("i32-min", -(2**31), T.Int32),
        ("i32-max", 2**31 - 1, T.Int32),
        ("u32-max", 2**32 - 1, T.UInt32),
        ("i64-min", -(2**63), T.Int64),
        ("i64-max", 2**63 - 1, T.Int64),
        ("u64-max", 2**64 - 1, T.UInt64),
        ("f32", 0.1, T.Float),
        ("f32-max", 3.4028234663852886e38, T.Float),
        ("f32-subnormal", 1.401298464324817e-45, T.Float),
        ("f32-minus-zero", -0.0, T.Float),
        ("f32-nan", float("nan"), T.Float),
        ("f32-inf", INF, T.Float),
        ("f64", 0.1, T.Double),
        ("f64-max", sys.float_info.max, T.Double),
        ("f64-subnormal", 5e-324, T.Double),
        ("f64-minus-zero", -0.0, T.Double),
        ("f64-nan", float("nan"), T.Double),
        ("f64-minus-inf", -INF, T.Double),
        ("string", "plain", T.String),
        ("string-empty", "", T.String),
        ("string-null", None, T.String),
        ("string-unicode", "Füllstand „Ⅳ“ 水位 🚰 \t\"\\", T.String),
        ("time", moment, T.DateTime),
        ("time-whole", datetime.datetime(1999, 12, 31, 23, 59, 59, tzinfo=UTC), T.DateTime),
        ("guid", guid, T.Guid),
        ("bytes", b"\x00\x01\xfe\xff", T.ByteString),
        ("bytes-empty", b"", T.ByteString),
        ("xml", ua.XmlElement("<a b=\"1\">ü</a>"), T.XmlElement),
        ("node-id", ua.NodeId("Tank;1", index), T.NodeId),
        ("node-id-numeric", ua.NodeId(2258, 0), T.NodeId),
        ("expanded-node-id", ua.ExpandedNodeId("Tank", index), T.ExpandedNodeId),
        ("status-code", ua.StatusCode(0x808C0000), T.StatusCode),
        ("qualified-name", ua.QualifiedName("Pump", index), T.QualifiedName),
        ("localized-text", ua.LocalizedText("läuft", "de"), T.LocalizedText),
        ("array-i32", [1, -2, 3], T.Int32),
        ("array-u64", [0, 2**64 - 1], T.UInt64),
        ("array-f64", [1.5, float("nan"), INF, -INF, -0.0], T.Double),
        ("array-f32", [0.1, 3.4028234663852886e38], T.Float),
        ("array-bool", [True, False], T.Boolean),
        ("array-string", ["a", "", "ü"], T.String),
        ("array-time", [moment], T.DateTime),
        ("array-bytes", [b"\x01", b""], T.ByteString),
        ("array-text", [ua.LocalizedText("an", "de"), ua.LocalizedText("aus", "de")], T.LocalizedText),
        ("array-empty", [], T.Int32),
        ("matrix", [[1, 2, 3], [4, 5, 6]], T.Int32),
        ("range", ua.Range(-1.5, 100.0), T.ExtensionObject),
        ("array-range", [ua.Range(0.0, 1.0), ua.Range(2.0, 3.0)], T.ExtensionObject),
        ("variants", [ua.Variant(1, T.Byte), ua.Variant("two", T.String)], T.Variant),
    ]


async def structures(server, index):
    """Types of the server's own, with DataTypeDefinitions: nested, optional fields, a union, an enumeration."""
    kind = await new_enum(server, index, "Mode", ["off", "running", "fault"])
    point, _ = await new_struct(
        server, index, "Point", [new_struct_field("x", T.Double), new_struct_field("y", T.Float)]
    )
    await new_struct(
        server,
        index,
        "Recipe",
        [
            new_struct_field("name", T.String),
            new_struct_field("count", T.UInt64),
            new_struct_field("corner", point),
            new_struct_field("path", point, array=True),
            new_struct_field("tags", T.String, array=True),
            new_struct_field("mode", kind),
            new_struct_field("at", T.DateTime),
        ],
    )
    await new_struct(
        server,
        index,
        "Note",
        [
            new_struct_field("id", T.Int32),
            new_struct_field("text", T.String, optional=True),
            new_struct_field("rank", T.UInt16, optional=True),
        ],
    )
    await new_struct(
        server,
        index,
        "Either",
        [new_struct_field("number", T.Int64), new_struct_field("word", T.String)],
        is_union=True,
    )
    await server.load_data_type_definitions()
    moment = datetime.datetime(2026, 11, 21, 7, 30, 15, tzinfo=UTC)
    recipe = ua.Recipe(
        name="mash",
        count=2**64 - 1,
        corner=ua.Point(x=1.5, y=-2.5),
        path=[ua.Point(x=0.0, y=0.1), ua.Point(x=float("nan"), y=3.0)],
        tags=["a", "ü"],
        mode=ua.Mode.running,
        at=moment,
    )
    either = ua.Either()
    either.word = "chosen"
    return kind, [
        ("recipe", recipe),
        ("recipes", [recipe]),
        ("note", ua.Note(id=7, text=None, rank=3)),
        ("either", either),
    ]


async def old_structure(server, index):
    """A type of a server before OPC UA 1.04: in a dictionary, without a DataTypeDefinition."""
    builder = DataTypeDictionaryBuilder(server, index, NAMESPACE, "Old")
    await builder.init()
    inner = await builder.create_data_type("OldPart")
    inner.add_field("weight", ua.VariantType.Double)
    outer = await builder.create_data_type("OldWhole")
    outer.add_field("id", ua.VariantType.Int32)
    outer.add_field("names", ua.VariantType.String, is_array=True)
    outer.add_field("part", inner)
    await builder.set_dict_byte_string()
    await server.load_type_definitions()
    part = ua.OldPart()
    part.weight = 2.5
    whole = ua.OldWhole()
    whole.id, whole.names, whole.part = -7, ["x", "y"], part
    return whole, outer.data_type


@uamethod
def mix(parent, parts, ratio, label):
    return ua.Variant(parts * ratio, T.Double), ua.Variant(label.upper(), T.String)


def argument(name, kind, text):
    argument = ua.Argument()
    argument.Name, argument.DataType, argument.ValueRank = name, ua.NodeId(kind), -1
    argument.ArrayDimensions, argument.Description = [], ua.LocalizedText(text)
    return argument


async def furnish(server, index):
    plant = await server.nodes.objects.add_object(ua.NodeId("Plant", index), ua.QualifiedName("Plant", index))
    shown = await plant.add_folder(ua.NodeId("Values", index), ua.QualifiedName("Values", index))

    async def add(folder, name, value, kind=None, datatype=None):
        at = ua.NodeId(name, index)
        return await folder.add_variable(at, ua.QualifiedName(name, index), value, kind, datatype)

    for name, value, kind in values(index):
        # What holds anything has the type of everything.
        anything = ua.NodeId(ua.ObjectIds.BaseDataType) if kind == T.Variant else None
        await add(shown, name, ua.Variant(value, kind, is_array=isinstance(value, list)), datatype=anything)
    mode, made = await structures(server, index)
    for name, value in made:
        await add(shown, name, ua.Variant(value, T.ExtensionObject))
    old, old_type = await old_structure(server, index)
    await add(shown, "old", ua.Variant(old, T.ExtensionObject), datatype=old_type)
    await add(shown, "mode", ua.Variant(1, T.Int32), datatype=mode.nodeid)
    await add(shown, "modes", ua.Variant([0, 2], T.Int32), datatype=mode.nodeid)
    await add(shown, "mode-nameless", ua.Variant(9, T.Int32), datatype=mode.nodeid)
    state = ua.NodeId(ua.ObjectIds.ServerState)
    await add(shown, "standard-enum", ua.Variant(0, T.Int32), datatype=state)

    setpoints = await plant.add_folder(ua.NodeId("Setpoints", index), ua.QualifiedName("Setpoints", index))
    for name, value, kind, datatype in [
        ("set-u8", 1, T.Byte, None),
        ("set-i16", -1, T.Int16, None),
        ("set-i64", 0, T.Int64, None),
        ("set-f32", 0.5, T.Float, None),
        ("set-f64", 0.5, T.Double, None),
        ("set-bool", False, T.Boolean, None),
        ("set-string", "old", T.String, None),
        ("set-time", datetime.datetime(2026, 1, 1, tzinfo=UTC), T.DateTime, None),
        ("set-guid", uuid.UUID(int=0), T.Guid, None),
        ("set-bytes", b"", T.ByteString, None),
        ("set-text", ua.LocalizedText("alt", "de"), T.LocalizedText, None),
        ("set-array", [1, 2], T.Int32, None),
        ("set-mode", 0, T.Int32, mode.nodeid),
    ]:
        node = await add(setpoints, name, ua.Variant(value, kind), datatype=datatype)
        await node.set_writable()
    await add(setpoints, "set-never", ua.Variant(1, T.Int32))

    inputs = [
        argument("parts", ua.ObjectIds.Double, "how much"),
        argument("ratio", ua.ObjectIds.Float, "of what"),
        argument("label", ua.ObjectIds.String, "for whom"),
    ]
    outputs = [argument("mass", ua.ObjectIds.Double, ""), argument("shouted", ua.ObjectIds.String, "")]
    await plant.add_method(ua.NodeId("mix", index), ua.QualifiedName("mix", index), mix, inputs, outputs)
    return plant


class Alarms:
    """One condition of the plant and plain events of it."""

    def __init__(self, server, plant):
        self.server, self.plant = server, plant

    async def init(self, index):
        kind = self.server.get_node(ua.ObjectIds.AlarmConditionType)
        self.condition = await self.server.get_event_generator(kind, self.plant)
        event = self.condition.event
        event.ConditionName = "high level"
        event.NodeId = ua.NodeId("HighLevel", index)
        event.add_property("ActiveState/Id", False, T.Boolean)
        event.add_property("AckedState/Id", False, T.Boolean)
        event.Retain = True
        self.plain = await self.server.get_event_generator(emitting_node=self.plant)

    async def alarm(self, active, severity, message):
        event = self.condition.event
        event.Severity = severity
        event.Retain = active
        setattr(event, "ActiveState/Id", active)
        event.ActiveState = ua.LocalizedText("Active" if active else "Inactive", "en")
        await self.condition.trigger(message=message)

    async def event(self, severity, message):
        self.plain.event.Severity = severity
        await self.plain.trigger(message=message)

    async def add_methods(self, index):
        @uamethod
        async def alarm(parent, active, severity, message):
            await self.alarm(active, severity, message)

        @uamethod
        async def event(parent, severity, message):
            await self.event(severity, message)

        severity = argument("severity", ua.ObjectIds.UInt16, "1 to 1000")
        message = argument("message", ua.ObjectIds.String, "")
        active = argument("active", ua.ObjectIds.Boolean, "")
        for name, method, inputs in [
            ("alarm", alarm, [active, severity, message]),
            ("event", event, [severity, message]),
        ]:
            at, name = ua.NodeId(name, index), ua.QualifiedName(name, index)
            await self.plant.add_method(at, name, method, inputs, [])


def arguments():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    return parser.parse_args()


async def serve(args):
    server = Server()
    await server.init()
    server.set_endpoint(f"opc.tcp://127.0.0.1:{args.port}/types")
    server.set_security_policy([ua.SecurityPolicyType.NoSecurity])
    index = await server.register_namespace(NAMESPACE)
    plant = await furnish(server, index)
    alarms = Alarms(server, plant)
    await alarms.init(index)
    await alarms.add_methods(index)
    async with server:
        print(json.dumps({"ready": True, "namespace": index}), flush=True)
        await asyncio.Event().wait()


if __name__ == "__main__":
    logging.disable(logging.CRITICAL)
    asyncio.run(serve(arguments()))
