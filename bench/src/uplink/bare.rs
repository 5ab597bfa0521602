//! The bare pipelined publisher: what a QoS 1 publisher costs at least.

use std::io::{Read, Write};
use std::net::TcpStream;

use anyhow::{Result, ensure};

use super::{INFLIGHT, Load};

const TOPIC: &str = "bench/bare";
/// Acknowledgements of one read.
const ACK_BYTES: usize = 16 * 1024;
/// Messages go out in writes of up to this much.
const WRITE_BYTES: usize = 128 * 1024;

/// Publishes the messages of a load and waits for all PUBACKs.
pub(super) fn publish(port: u16, load: Load) -> Result<()> {
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.set_nodelay(true)?;
    // Protocol MQTT, level 4, clean session, keep-alive 60 s, client id `bare`.
    stream.write_all(b"\x10\x10\0\x04MQTT\x04\x02\0\x3c\0\x04bare")?;
    let mut connack = [0; 4];
    stream.read_exact(&mut connack)?;
    ensure!(connack == [0x20, 2, 0, 0], "CONNACK {connack:?}");

    let (mut packet, id_at) = packet(load.bytes);
    let mut out = Vec::with_capacity(WRITE_BYTES + packet.len());
    let mut acks = vec![0; ACK_BYTES];
    let (mut sent, mut acked, mut ack_bytes) = (0u64, 0u64, 0usize);
    while acked < load.messages {
        while sent < load.messages && sent - acked < INFLIGHT as u64 && out.len() < WRITE_BYTES {
            let id = (sent % 65_535 + 1) as u16;
            packet[id_at..id_at + 2].copy_from_slice(&id.to_be_bytes());
            out.extend_from_slice(&packet);
            sent += 1;
        }
        if !out.is_empty() {
            stream.write_all(&out)?;
            out.clear();
            if sent < load.messages && sent - acked < INFLIGHT as u64 {
                continue;
            }
        }
        let came = stream.read(&mut acks)?;
        ensure!(came > 0, "the broker closed the connection");
        // Every answer has four bytes: nothing is subscribed.
        ack_bytes += came;
        acked = (ack_bytes / 4) as u64;
    }
    stream.write_all(&[0xE0, 0])?;
    Ok(())
}

/// A PUBLISH at QoS 1, and where its packet id is.
fn packet(payload: usize) -> (Vec<u8>, usize) {
    let mut length = 2 + TOPIC.len() + 2 + payload;
    let mut packet = vec![0x32];
    loop {
        let byte = (length % 128) as u8;
        length /= 128;
        packet.push(if length > 0 { byte | 0x80 } else { byte });
        if length == 0 {
            break;
        }
    }
    packet.extend((TOPIC.len() as u16).to_be_bytes());
    packet.extend(TOPIC.as_bytes());
    let id_at = packet.len();
    packet.extend([0, 0]);
    packet.resize(packet.len() + payload, b'x');
    (packet, id_at)
}
