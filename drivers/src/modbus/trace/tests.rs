use std::time::Duration;

use super::*;
use crate::modbus::Table;
use crate::modbus::frame::mbap::Header;
use crate::modbus::frame::rtu;
use crate::modbus::request::ReadRequest;
use crate::modbus::tap::Piece;

const THREE: Request = Request::Read(ReadRequest {
    table: Table::Holding,
    start: 107,
    count: 3,
});
const REPLY: [u8; 8] = [0x03, 0x06, 0x02, 0x2B, 0x00, 0x00, 0x00, 0x64];

fn pdu(request: &Request) -> Vec<u8> {
    let mut pdu = Vec::new();
    request.encode(&mut pdu);
    pdu
}

fn tcp(transaction: u16, unit: u8, pdu: &[u8]) -> Vec<u8> {
    let header = Header {
        transaction,
        unit,
        pdu_bytes: pdu.len(),
    };
    [&header.encode()[..], pdu].concat()
}

/// Lets a cutter hear pieces, a millisecond apart.
struct Heard {
    kind: Kind,
    cutter: Cutter,
    now: Moment,
    said: Vec<String>,
}

impl Heard {
    fn new(kind: Kind) -> Self {
        Self {
            kind,
            cutter: Cutter::new(kind),
            now: Moment(0),
            said: Vec::new(),
        }
    }

    fn piece(&mut self, way: Way, bytes: &[u8], missed: u64) -> &mut Self {
        self.now = self.now + Duration::from_millis(1);
        let piece = Piece {
            at: self.now,
            link: 0,
            way,
            bytes: bytes.into(),
            missed,
        };
        let frames = self.cutter.take(&piece);
        self.say(frames)
    }

    fn say(&mut self, frames: Vec<Frame>) -> &mut Self {
        let texts = frames
            .iter()
            .map(|frame| Meaning::of(self.kind, frame).text);
        self.said.extend(texts);
        self
    }

    fn sent(&mut self, bytes: &[u8]) -> &mut Self {
        self.piece(Way::Sent, bytes, 0)
    }

    fn received(&mut self, bytes: &[u8]) -> &mut Self {
        self.piece(Way::Received, bytes, 0)
    }

    fn wait(&mut self) -> &mut Self {
        self.now = self.now + Duration::from_secs(1);
        let frames = self.cutter.take_broken_off(self.now);
        self.say(frames)
    }
}

#[test]
fn an_exchange_on_a_line_byte_by_byte() {
    let mut heard = Heard::new(Kind::Rtu);
    heard.sent(&rtu::encode(17, &pdu(&THREE)));
    for byte in rtu::encode(17, &REPLY) {
        heard.received(&[byte]);
    }
    assert_eq!(
        heard.said,
        [
            "unit 17: read holding:107-109 (3)",
            "unit 17: holding:107-109 (3) = 555 0 100"
        ]
    );
}

#[test]
fn what_is_wrong_on_a_line_is_said() {
    let request = rtu::encode(17, &pdu(&THREE));
    let reply = rtu::encode(17, &REPLY);
    let mut spoilt = reply.clone();
    spoilt[4] ^= 0x40;
    let mut heard = Heard::new(Kind::Rtu);
    heard.sent(&request).received(&spoilt).wait();
    heard.sent(&request).received(&reply[..5]).wait();
    heard.sent(&request).received(&[0x55, 0x00]);
    heard.received(&reply).wait();
    heard.sent(&request).received(&request).received(&reply);
    heard.received(&reply).sent(&request);
    heard.received(&rtu::encode(4, &REPLY)).wait();
    heard.sent(&request).received(&rtu::encode(17, &[0x83, 2]));
    heard.piece(Way::Received, &reply, 7).wait();
    let [right_0, right_1] = rtu::crc(&spoilt[..spoilt.len() - 2]).to_le_bytes();
    let [found_0, found_1] = [reply[9], reply[10]];
    let wrong_crc = format!(
        "unit 17: holding:107-109 (3) = {} 0 100; CRC {found_0:02X} {found_1:02X} is wrong, \
         {right_0:02X} {right_1:02X} would be right",
        555 ^ 0x40
    );
    let asked = "unit 17: read holding:107-109 (3)";
    let answered = "unit 17: holding:107-109 (3) = 555 0 100";
    assert_eq!(
        heard.said,
        [
            asked,
            &wrong_crc,
            asked,
            "unit 17: broken off after 5 of 11 bytes",
            asked,
            "noise: 2 bytes that are no frame",
            answered,
            asked,
            "unit 17: read holding:107-109 (3); the request itself: the adapter hears itself",
            answered,
            "unit 17: holding:107-109 (3) = 555 0 100; late, or doubled",
            asked,
            "unit 4: function 03, 8 bytes; unit 17 was asked",
            asked,
            "unit 17: exception 02 (illegal data address) to holding:107-109 (3)",
            "unit 17: function 03, 8 bytes; nothing was asked",
        ]
    );
}

#[test]
fn several_in_flight_and_stale_ones_over_tcp() {
    let coils = Request::Read(ReadRequest {
        table: Table::Coil,
        start: 0,
        count: 9,
    });
    let mut heard = Heard::new(Kind::Tcp);
    heard
        .sent(&tcp(7, 1, &pdu(&THREE)))
        .sent(&tcp(8, 1, &pdu(&coils)));
    let both = [tcp(8, 1, &[1, 2, 0x05, 0x01]), tcp(7, 1, &REPLY)].concat();
    heard.received(&both[..20]).received(&both[20..]);
    heard.received(&tcp(7, 1, &REPLY));
    heard
        .received(&tcp(9, 1, &REPLY)[..9])
        .piece(Way::Lost, &[], 0);
    assert_eq!(
        heard.said,
        [
            "unit 1: read holding:107-109 (3)",
            "unit 1: read coil:0-8 (9)",
            "unit 1: coil:0-8 (9) = 1 0 1 0 0 0 0 0 1",
            "unit 1: holding:107-109 (3) = 555 0 100",
            "unit 1: function 03, 8 bytes; answers no open request (transaction 7): late, or doubled",
            "unit 1: function 03, 2 bytes; broken off after 9 of 15 bytes",
            "the connection was closed",
        ]
    );
}

#[test]
fn writes_and_exceptions_have_names() {
    let mut heard = Heard::new(Kind::Tcp);
    let writes = [
        Request::WriteCoil {
            address: 3,
            on: true,
        },
        Request::WriteRegisters {
            start: 5,
            values: (0..20).collect(),
        },
        Request::MaskWrite {
            address: 4,
            and: 0xF2,
            or: 0x25,
        },
        Request::ReadWrite {
            read_start: 3,
            read_count: 2,
            write_start: 14,
            values: vec![255],
        },
        Request::Identify {
            access: 1,
            object: 0,
        },
    ];
    for (transaction, write) in (0..).zip(&writes) {
        heard.sent(&tcp(transaction, 0, &pdu(write)));
    }
    heard.received(&tcp(0, 0, &pdu(&writes[0])));
    heard.received(&tcp(1, 0, &[0x90, 11]));
    heard.received(&tcp(3, 0, &[0x17, 4, 0, 1, 0, 2]));
    heard.received(&tcp(
        4,
        0,
        &[0x2B, 0x0E, 1, 1, 0, 0, 1, 0, 3, b'A', b'c', 7],
    ));
    heard.received(b"HTTP/1.1 400");
    heard.wait();
    assert_eq!(
        heard.said,
        [
            "unit 0 (all): write coil:3 = 1",
            "unit 0 (all): write holding:5-24 (20) = 0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 and 4 more",
            "unit 0 (all): change bits by and 00F2, or 0025 in holding:4",
            "unit 0 (all): read holding:3-4 (2) after the write of holding:14 = 255",
            "unit 0 (all): identify, stream 1 from object 0",
            "unit 0 (all): wrote coil:3 = 1",
            "unit 0 (all): exception 11 (gateway target device failed to respond) to holding:5-24 (20)",
            "unit 0 (all): holding:3-4 (2) = 1 2",
            "unit 0 (all): identification \".......Ac.\"",
            "no Modbus TCP frame: protocol id 21584",
        ]
    );
}

#[test]
fn memory_has_an_end() {
    let mut cutter = Cutter::new(Kind::Rtu);
    let mut bytes = 0;
    for link in 0..40 {
        let piece = Piece {
            at: Moment(0),
            link,
            way: Way::Received,
            bytes: vec![0x55; 200].into(),
            missed: 0,
        };
        for _ in 0..20 {
            let frames = cutter.take(&piece);
            bytes += frames.iter().map(|frame| frame.bytes.len()).sum::<usize>();
        }
    }
    // Nothing is lost, and what waits is little.
    assert!(bytes > 40 * 20 * 200 - 17 * 2300, "{bytes}");
}
