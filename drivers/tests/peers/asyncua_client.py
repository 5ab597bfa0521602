"""A client made with asyncua, for the tests of the simulated server.

    python asyncua_client.py URL

Does what a client does, and prints what it found as one line of JSON.
"""

import asyncio
import contextlib
import datetime
import json
import logging
import sys

from asyncua import Client, ua

NAMESPACE = "urn:millrace:sim"
PATIENCE_S = 60


class Changes:
    def __init__(self):
        self.values = asyncio.Queue()

    def datachange_notification(self, node, value, data):
        self.values.put_nowait(value)


async def subscribed(client, node, count):
    changes = Changes()
    subscription = await client.create_subscription(50, changes)
    await subscription.subscribe_data_change(node)
    values = [await asyncio.wait_for(changes.values.get(), PATIENCE_S) for _ in range(count)]
    await subscription.delete()
    return values


async def history(node):
    """All pages, oldest first, and backwards the newest three."""
    begin = datetime.datetime(2020, 1, 1, tzinfo=datetime.timezone.utc)
    end = datetime.datetime.now(datetime.timezone.utc)
    forward = await node.read_raw_history(begin, end)
    backward = await node.read_raw_history(end, begin, 3)
    return [v.Value.Value for v in forward], [v.Value.Value for v in backward]


async def below(node):
    """The standard nodes below this one, by any reference that makes a hierarchy."""
    reached, rest = {}, [node]
    while rest:
        node = rest.pop()
        if node.nodeid in reached or node.nodeid.NamespaceIndex != 0:
            continue
        reached[node.nodeid] = node
        rest.extend(await node.get_children(refs=ua.ObjectIds.HierarchicalReferences))
    return list(reached.values())


async def about_itself(client):
    """What the server says about itself, and whether all its standard nodes can be read and their events filtered."""
    found = {}
    nodes = await below(client.nodes.root)
    for node in nodes:
        await node.read_attributes(list(ua.AttributeIds))
    found["nodes"] = len(nodes)
    found["namespaces"] = await client.get_namespace_array()
    found["root"] = sorted([(await child.read_browse_name()).Name for child in await client.nodes.root.get_children()])
    status = await client.get_node(ua.ObjectIds.Server_ServerStatus).read_value()
    found["state"] = status.State
    found["runs"] = status.StartTime <= status.CurrentTime
    most = ua.ObjectIds.Server_ServerCapabilities_OperationLimits_MaxNodesPerRead
    found["most read"] = await client.get_node(most).read_value()
    changes = Changes()
    subscription = await client.create_subscription(50, changes)
    await subscription.subscribe_data_change(client.get_node(ua.ObjectIds.Server_ServerStatus_CurrentTime))
    times = [await asyncio.wait_for(changes.values.get(), PATIENCE_S) for _ in range(2)]
    found["clock goes"] = times[0] < times[1]
    await subscription.subscribe_events(client.nodes.server)
    await subscription.subscribe_alarms_and_conditions(client.nodes.server)
    number = ua.Variant(subscription.subscription_id, ua.VariantType.UInt32)
    servers, _ = await client.nodes.server.call_method("GetMonitoredItems", number)
    found["items"] = len(servers)
    found["resends"] = await code_of(client.nodes.server.call_method("ResendData", number))
    await subscription.delete()
    return found


async def code_of(awaitable):
    try:
        await awaitable
    except ua.UaStatusCodeError as error:
        return type(error).__name__
    return "Good"


async def main(url):
    found = {}
    with contextlib.suppress(ConnectionError, asyncio.TimeoutError):
        await look(url, found)
    print(json.dumps(found))


async def look(url, found):
    async with Client(url, timeout=PATIENCE_S) as client:
        index = await client.get_namespace_index(NAMESPACE)

        def node(name):
            return client.get_node(ua.NodeId(name, index))

        found["fixed"] = await node("Fixed").read_value()
        folder = await client.nodes.objects.get_child(f"{index}:Simulation")
        found["children"] = sorted([(await child.read_browse_name()).Name for child in await folder.get_children()])
        found["ticks"] = await subscribed(client, node("Tick"), 5)
        found["history"], found["newest"] = await history(node("Tick"))
        found["product"] = await folder.call_method(f"{index}:Multiply", 6.0, 7.0)
        await client.load_data_type_definitions()
        state = await node("Pump").read_value()
        found["pump"] = [state.Running, state.Speed, state.Starts]
        await node("Fixed").write_value(ua.Variant(5.5, ua.VariantType.Float))
        found["written"] = await node("Fixed").read_value()
        found["wrong type"] = await code_of(node("Fixed").write_value(ua.Variant("x", ua.VariantType.String)))
        found["nowhere"] = await code_of(node("Nowhere").read_value())
        found["server"] = await about_itself(client)
        found["misbehave"] = await code_of(folder.call_method(f"{index}:Misbehave", "be nice"))
        # The server goes away, and hears no farewell.
        await folder.call_method(f"{index}:Misbehave", "reorder")


if __name__ == "__main__":
    logging.disable(logging.CRITICAL)
    asyncio.run(main(sys.argv[1]))
