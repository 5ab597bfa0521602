"""A Modbus device, over TCP or a serial line, whose registers are tick counters.

Tag i is a u32 in the holding registers 2i and 2i+1 (high word first) with the value tick * 1000 + i, so that a value
proves which tag it belongs to and when it was served. With --log each served request becomes one JSON line:
{"at": unix seconds, "first": tag index, "count": tags, "tick": tick}.
"""

import argparse
import asyncio
import json
import time

from pymodbus import FramerType
from pymodbus.server import ModbusSerialServer, ModbusTcpServer
from pymodbus.simulator import DataType, SimData, SimDevice


def arguments():
    parser = argparse.ArgumentParser(description=__doc__)
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument("--port", type=int)
    where.add_argument("--serial", help="a pseudo-terminal: Modbus RTU at 19200 bit/s")
    parser.add_argument("--unit", type=int, default=1)
    parser.add_argument("--tags", type=int, default=200)
    parser.add_argument("--rate", type=float, default=100.0, help="ticks a second")
    parser.add_argument("--log", help="file for the served requests")
    parser.add_argument("--illegal", type=int, action="append", default=[], help="index of a tag that does not exist")
    return parser.parse_args()


def register_map(args):
    """All registers, with holes where a tag is said to be illegal."""
    blocks = []
    for index in range(args.tags):
        kind = DataType.INVALID if index in args.illegal else DataType.REGISTERS
        blocks.append(SimData(address=2 * index, count=2, values=0, datatype=kind))
    return blocks


async def serve(args):
    start = time.time()
    log = open(args.log, "a", buffering=1, encoding="ascii") if args.log else None

    async def refresh(_function, base, address, count, registers, _written):
        now = time.time()
        tick = int((now - start) * args.rate)
        for register in range(address, address + count):
            value = (tick * 1000 + register // 2) & 0xFFFFFFFF
            registers[register - base] = value & 0xFFFF if register % 2 else value >> 16
        if log:
            first = address // 2
            served = {"at": now, "first": first, "count": (address + count) // 2 - first, "tick": tick}
            log.write(json.dumps(served) + "\n")
        return None

    device = SimDevice(id=args.unit, simdata=register_map(args), action=refresh)
    if args.serial:
        # Of a pseudo-terminal, which has no parity bits.
        server = ModbusSerialServer(device, framer=FramerType.RTU, port=args.serial, baudrate=19200, bytesize=8, parity="N", stopbits=1)
    else:
        server = ModbusTcpServer(device, address=("127.0.0.1", args.port))
    await server.serve_forever(background=True)
    print(json.dumps({"ready": True, "start": start}), flush=True)
    await server.serving


if __name__ == "__main__":
    asyncio.run(serve(arguments()))
