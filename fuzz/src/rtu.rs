use std::time::Duration;

use millrace_drivers::modbus::frame::rtu::{self, RequestLength};
use millrace_drivers::modbus::{Framing, Pace};

use crate::link::{Device, UNIT, exchange, request};

/// Frames of a serial line. The first byte chooses a request, the second says in how large pieces the others arrive: what
/// the link takes for the reply stands among them as a whole frame with its checksum.
pub fn rtu(data: &[u8]) {
    let [choice, piece, bytes @ ..] = data else {
        return;
    };
    if let Some((unit, pdu)) = rtu::decode(bytes) {
        assert_eq!(rtu::encode(unit, pdu), bytes);
    }
    // More bytes never change how long a request is.
    let lengths =
        (0..=bytes.len().min(rtu::FRAME_BYTES_MAX)).map(|n| rtu::request_bytes(&bytes[..n]));
    let mut known = lengths.skip_while(|length| *length == RequestLength::Unknown);
    let first = known.next();
    assert!(known.all(|length| Some(length) == first));
    let pace = Pace {
        byte: Duration::ZERO,
        silence: Duration::ZERO,
        fence: Duration::ZERO,
        pause_in_frame: Duration::from_secs(3600),
        turnaround: Duration::ZERO,
    };
    let request = request(*choice);
    let mut device = Device::new(bytes, *piece, false);
    if let Some(pdu) = exchange(&mut device, Framing::Rtu(pace), &request) {
        let frame = rtu::encode(UNIT, &pdu);
        let sent = device.said().windows(frame.len()).any(|said| said == frame);
        assert!(sent, "{request:?} {pdu:02X?} {:02X?}", device.said());
    }
}
