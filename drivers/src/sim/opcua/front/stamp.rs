//! Moving the times of replies: what a server with a wrong clock writes into their headers.
//!
//! Only where they go in clear, and only in the first chunk of a message: the time of the response header, and of a
//! notification.

use opcua::types::{BinaryDecodable, ContextOwned, UAString};

/// Type and size of a chunk (Part 6, 7.1.2.2).
const CHUNK_HEADER_BYTES: usize = 8;

/// Where the header of the response begins: behind chunk header, channel, token, sequence number and request, and the
/// four bytes of the response's type.
const RESPONSE_HEADER_AT: usize = 28;

/// Time, request handle, result, and empty diagnostics, string table and additional header.
const RESPONSE_HEADER_BYTES: usize = 24;

/// `PublishResponse_Encoding_DefaultBinary`
const PUBLISH_RESPONSE: u16 = 829;

const NO_SECURITY: &str = "http://opcfoundation.org/UA/SecurityPolicy#None";

/// Follows one connection from the server to the client.
pub(super) struct Stamper {
    ahead_ms: i64,
    /// The bytes of a chunk that is not whole yet.
    held: Vec<u8>,
    in_clear: bool,
    /// The last chunk was not the last of its message.
    amid: bool,
}

impl Stamper {
    pub(super) fn new(ahead_ms: i64) -> Self {
        Self {
            ahead_ms,
            held: Vec::new(),
            in_clear: false,
            amid: false,
        }
    }

    /// The bytes that go on: whole chunks.
    pub(super) fn stamp(&mut self, bytes: &[u8]) -> Vec<u8> {
        self.held.extend_from_slice(bytes);
        let mut begin = 0;
        while let Some(size) = chunk_bytes(&self.held[begin..]) {
            let mut chunk = std::mem::take(&mut self.held);
            self.stamp_chunk(&mut chunk[begin..begin + size]);
            self.held = chunk;
            begin += size;
        }
        self.held.drain(..begin).collect()
    }

    fn stamp_chunk(&mut self, chunk: &mut [u8]) {
        match &chunk[..3] {
            b"OPN" => self.in_clear = policy(chunk).is_some_and(|policy| policy == NO_SECURITY),
            b"MSG" if self.in_clear => {
                if !self.amid {
                    self.move_time(chunk, RESPONSE_HEADER_AT);
                    if let Some(at) = publish_time_at(chunk) {
                        self.move_time(chunk, at);
                    }
                }
                self.amid = chunk[3] == b'C';
            }
            _ => {}
        }
    }

    fn move_time(&self, chunk: &mut [u8], at: usize) {
        let Some(place) = chunk.get_mut(at..at + 8) else {
            return;
        };
        let ticks = i64::from_le_bytes(place.try_into().unwrap_or_default());
        place.copy_from_slice(&moved(ticks, self.ahead_ms).to_le_bytes());
    }
}

/// The null time stays what it is.
fn moved(ticks: i64, ahead_ms: i64) -> i64 {
    match ticks {
        0 => 0,
        ticks => ticks.saturating_add(ahead_ms.saturating_mul(super::super::TICKS_PER_MS)),
    }
}

fn chunk_bytes(bytes: &[u8]) -> Option<usize> {
    let size = u32_at(bytes, 4)? as usize;
    (size >= CHUNK_HEADER_BYTES && bytes.len() >= size).then_some(size)
}

/// The policy that a chunk of OpenSecureChannel names behind the channel's number.
fn policy(chunk: &[u8]) -> Option<String> {
    let mut rest = chunk.get(CHUNK_HEADER_BYTES + 4..)?;
    let context = ContextOwned::default();
    let policy = UAString::decode(&mut rest, &context.context()).ok()?;
    Some(policy.as_ref().to_owned())
}

/// Where the time of a notification stands, if the chunk begins one: behind subscription, available numbers, the mark for
/// more, and its own number.
fn publish_time_at(chunk: &[u8]) -> Option<usize> {
    let kind = chunk.get(RESPONSE_HEADER_AT - 2..RESPONSE_HEADER_AT)?;
    if u16::from_le_bytes(kind.try_into().ok()?) != PUBLISH_RESPONSE {
        return None;
    }
    let available_at = RESPONSE_HEADER_AT + RESPONSE_HEADER_BYTES + 4;
    let available = u32_at(chunk, available_at)? as i32;
    let available = usize::try_from(available).unwrap_or(0);
    Some(available_at + 4 + 4 * available + 1 + 4)
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    let place = bytes.get(at..at + 4)?;
    Some(u32::from_le_bytes(place.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use opcua::types::{
        BinaryEncodable, DateTime, NotificationMessage, PublishResponse, ResponseHeader,
    };

    const HOUR_MS: i64 = 3_600_000;

    fn chunk(kind: &[u8; 4], body: &[u8]) -> Vec<u8> {
        let mut chunk = kind.to_vec();
        chunk.extend(((CHUNK_HEADER_BYTES + body.len()) as u32).to_le_bytes());
        chunk.extend(body);
        chunk
    }

    fn opened(policy: &str) -> Vec<u8> {
        let mut body = 7u32.to_le_bytes().to_vec();
        let context = ContextOwned::default();
        let policy = UAString::from(policy);
        policy.encode(&mut body, &context.context()).unwrap();
        chunk(b"OPNF", &body)
    }

    fn published(time: DateTime) -> Vec<u8> {
        let response = PublishResponse {
            response_header: ResponseHeader {
                timestamp: time,
                ..ResponseHeader::null()
            },
            available_sequence_numbers: Some(vec![4, 5, 6]),
            notification_message: NotificationMessage {
                sequence_number: 6,
                publish_time: time,
                notification_data: None,
            },
            ..PublishResponse::default()
        };
        let mut body = vec![0; 16];
        body.extend([1, 0]);
        body.extend(PUBLISH_RESPONSE.to_le_bytes());
        let context = ContextOwned::default();
        response.encode(&mut body, &context.context()).unwrap();
        chunk(b"MSGF", &body)
    }

    #[test]
    fn times_in_clear_are_moved_wherever_the_bytes_are_cut() {
        let time = DateTime::from(133_000_000_000_000_000);
        let later = DateTime::from(time.ticks() + HOUR_MS * 10_000);
        let sent = [opened(NO_SECURITY), published(time), published(time)].concat();
        let expected = [opened(NO_SECURITY), published(later), published(later)].concat();
        for size in [1, 7, 100, sent.len()] {
            let mut stamper = Stamper::new(HOUR_MS);
            let came: Vec<u8> = sent.chunks(size).flat_map(|c| stamper.stamp(c)).collect();
            assert_eq!(came, expected);
        }
    }

    #[test]
    fn what_is_encrypted_stays_as_it_is() {
        let policy = "http://opcfoundation.org/UA/SecurityPolicy#Basic256Sha256";
        let sent = [
            opened(policy),
            published(DateTime::from(133_000_000_000_000_000)),
        ]
        .concat();
        assert_eq!(Stamper::new(HOUR_MS).stamp(&sent), sent);
    }
}
