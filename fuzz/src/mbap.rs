use millrace_drivers::modbus::Framing;
use millrace_drivers::modbus::frame::mbap::Header;

use crate::link::{Device, UNIT, exchange, request};

/// Frames of Modbus TCP. The first byte chooses a request, the second says in how large pieces the others arrive, of which
/// the first two are told relative to the request's transaction: what the link takes for the reply is a whole frame with the right
/// transaction and unit.
pub fn mbap(data: &[u8]) {
    let [choice, piece, bytes @ ..] = data else {
        return;
    };
    if let Ok(Some(header)) = Header::parse(bytes) {
        assert_eq!(header.encode(), bytes[..7]);
    }
    let request = request(*choice);
    let mut device = Device::new(bytes, *piece, true);
    if let Some(pdu) = exchange(&mut device, Framing::Tcp, &request) {
        let header = Header {
            transaction: u16::from_be_bytes([device.asked[0], device.asked[1]]),
            unit: UNIT,
            pdu_bytes: pdu.len(),
        };
        let frame = [&header.encode()[..], &pdu].concat();
        let sent = device.said().windows(frame.len()).any(|said| said == frame);
        assert!(sent, "{request:?} {pdu:02X?} {:02X?}", device.said());
    }
}
