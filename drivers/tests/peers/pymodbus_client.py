"""A Modbus client by pymodbus, which does what lines on standard input say, one line of answer for each.

Called with "tcp HOST:PORT", "rtu-tcp HOST:PORT" or "rtu PORT". Lines: "FUNCTION ADDRESS NUMBERS" with the fields of the
request; "decode TYPE ORDER ADDRESS" reads a value of holding registers by the client's own conversion. Unit 7 is asked.
"""

import sys

from pymodbus import FramerType
from pymodbus.client import ModbusSerialClient, ModbusTcpClient

UNIT = 7
TIMEOUT_S = 30
TYPES = {
    "i16": ModbusTcpClient.DATATYPE.INT16,
    "u16": ModbusTcpClient.DATATYPE.UINT16,
    "i32": ModbusTcpClient.DATATYPE.INT32,
    "u32": ModbusTcpClient.DATATYPE.UINT32,
    "i64": ModbusTcpClient.DATATYPE.INT64,
    "u64": ModbusTcpClient.DATATYPE.UINT64,
    "f32": ModbusTcpClient.DATATYPE.FLOAT32,
    "f64": ModbusTcpClient.DATATYPE.FLOAT64,
}
ORDERS = {"abcd": "big", "cdab": "little"}


def connect(way, place):
    if way == "rtu":
        # A pseudo-terminal has no parity bit.
        return ModbusSerialClient(
            place, baudrate=115200, parity="N", timeout=TIMEOUT_S, retries=0
        )
    host, port = place.rsplit(":", 1)
    framer = FramerType.RTU if way == "rtu-tcp" else FramerType.SOCKET
    return ModbusTcpClient(
        host, port=int(port), framer=framer, timeout=TIMEOUT_S, retries=0
    )


def ask(client, function, fields):
    address, *numbers = fields
    unit = {"device_id": UNIT}
    if function == 1:
        return client.read_coils(address, count=numbers[0], **unit)
    if function == 2:
        return client.read_discrete_inputs(address, count=numbers[0], **unit)
    if function == 3:
        return client.read_holding_registers(address, count=numbers[0], **unit)
    if function == 4:
        return client.read_input_registers(address, count=numbers[0], **unit)
    if function == 5:
        return client.write_coil(address, numbers[0] == 1, **unit)
    if function == 6:
        return client.write_register(address, numbers[0], **unit)
    if function == 15:
        return client.write_coils(address, [bit == 1 for bit in numbers], **unit)
    if function == 16:
        return client.write_registers(address, numbers, **unit)
    if function == 22:
        return client.mask_write_register(
            address=address, and_mask=numbers[0], or_mask=numbers[1], **unit
        )
    if function == 23:
        count, start, *values = numbers
        return client.readwrite_registers(
            read_address=address,
            read_count=count,
            write_address=start,
            values=values,
            **unit,
        )
    return client.read_device_information(read_code=1, object_id=address, **unit)


def decode(client, data_type, order, address):
    kind = TYPES[data_type]
    reply = client.read_holding_registers(
        address, count=kind.value[1], device_id=UNIT
    )
    return client.convert_from_registers(
        reply.registers, kind, word_order=ORDERS[order]
    )


def answer(client, words):
    if words[0] == "decode":
        return repr(decode(client, words[1], words[2], int(words[3])))
    function, *fields = [int(word) for word in words]
    reply = ask(client, function, fields)
    if reply.isError():
        return f"exception {reply.exception_code}"
    if function in (1, 2):
        return " ".join(str(int(bit)) for bit in reply.bits[: fields[1]])
    if function in (3, 4, 23):
        return " ".join(str(register) for register in reply.registers)
    if function == 43:
        return " ".join(text.decode() for text in reply.information.values())
    return "ok"


def main():
    client = connect(sys.argv[1], sys.argv[2])
    if not client.connect():
        sys.exit("no connection")
    for line in sys.stdin:
        print(answer(client, line.split()), flush=True)
    client.close()


if __name__ == "__main__":
    main()
