//! What a simulated device says of itself, function 43/14.

use tokio_modbus::ExceptionCode;

/// The identification objects (Modbus Application Protocol V1.1b3, 6.21), in one reply.
pub(super) fn identify(code: u8, first: u8) -> Result<Vec<u8>, ExceptionCode> {
    const OBJECTS: [(u8, &str); 5] = [
        (0, "Millrace"),
        (1, "sim-modbus"),
        (2, env!("CARGO_PKG_VERSION")),
        (4, "Simulated Modbus device"),
        (5, "sim modbus"),
    ];
    /// Basic and regular objects, as a stream or one by one.
    const CONFORMITY: u8 = 0x82;
    let wanted = |id: u8| match code {
        1 => id >= first && id <= 2,
        2 | 3 => id >= first,
        _ => id == first,
    };
    let objects: Vec<_> = OBJECTS.iter().filter(|(id, _)| wanted(*id)).collect();
    if objects.is_empty() {
        return Err(ExceptionCode::IllegalDataAddress);
    }
    let mut pdu = vec![0x2B, 0x0E, code, CONFORMITY, 0, 0, objects.len() as u8];
    for (id, text) in objects {
        pdu.extend([*id, text.len() as u8]);
        pdu.extend(text.as_bytes());
    }
    Ok(pdu)
}
