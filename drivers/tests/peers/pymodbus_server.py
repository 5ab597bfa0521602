"""A Modbus device with fixed values, by pymodbus: over TCP, with RTU frames over TCP when called with "rtu", or on the
serial port that it is called with.

Lines on standard input give the tables from address 0 on, until an empty line: "holding 1 2 3". The first line of
standard output is the port, 0 for a serial one. Unit 7 answers.
"""

import asyncio
import sys

from pymodbus import FramerType, ModbusDeviceIdentification
from pymodbus.server import ModbusSerialServer, ModbusTcpServer
from pymodbus.simulator import DataType, SimData, SimDevice

UNIT = 7


def read_tables():
    tables = {"coil": [0], "discrete": [0], "holding": [0], "input": [0]}
    for line in sys.stdin:
        name, *values = line.split() or [None]
        if name is None:
            break
        tables[name] = [int(value) for value in values]
    return tables


def bits(values):
    return [SimData(0, values=[value == 1 for value in values], datatype=DataType.BITS)]


def registers(values):
    return [SimData(0, values=values, datatype=DataType.REGISTERS)]


async def serve(tables):
    simdata = (
        bits(tables["coil"]),
        bits(tables["discrete"]),
        registers(tables["holding"]),
        registers(tables["input"]),
    )
    device = SimDevice(id=UNIT, simdata=simdata)
    identity = ModbusDeviceIdentification(
        info_name={
            "VendorName": "Millrace tests",
            "ProductCode": "PLANT",
            "MajorMinorRevision": "1.0",
        }
    )
    port = sys.argv[1] if len(sys.argv) > 1 else ""
    if port.startswith("/"):
        # A pseudo-terminal has no parity bit, and newer C libraries refuse to set one.
        server = ModbusSerialServer(
            device, identity=identity, port=port, baudrate=115200, parity="N"
        )
        await server.serve_forever(background=True)
        print(0, flush=True)
    else:
        framer = FramerType.RTU if port == "rtu" else FramerType.SOCKET
        server = ModbusTcpServer(
            device, identity=identity, framer=framer, address=("127.0.0.1", 0)
        )
        await server.serve_forever(background=True)
        print(server.transport.sockets[0].getsockname()[1], flush=True)
    await server.serving


if __name__ == "__main__":
    asyncio.run(serve(read_tables()))
