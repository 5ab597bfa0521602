//! What happens to a payload after the codec: compression, then sealing.
//!
//! Compressed payloads are whole zstd frames (RFC 8878) or gzip members (RFC 1952), known by their first bytes; one that does not get
//! smaller stays as it is.
//!
//! A sealed payload, big-endian:
//!
//! | bytes | what |
//! |---|---|
//! | 4 | `MRS1`: magic and version |
//! | 16 | salt, random at each start of the program |
//! | 8 | counter: never the same twice with one salt |
//! | 16 | stream of the records, zero where there are none |
//! | 8, 8 | first and last number of the records, zero where there are none |
//! | rest | AES-256-GCM of the payload, with its tag of 16 bytes at the end |
//!
//! key = HKDF-SHA256(key of the file, salt, `millrace-seal-v1`), nonce = 4 zero bytes and the counter, additional data =
//! topic, a zero byte, and the 60 bytes above. So a payload cannot be moved to another topic, stream or range, and
//! no nonce comes twice whatever the clock does. What comes from the core (commands) is not sealed.

use std::io::Write;
use std::sync::atomic::{AtomicU64, Ordering};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use millrace_tags::StreamId;
use ring::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use ring::hkdf::{HKDF_SHA256, Salt};
use ring::rand::{SecureRandom, SystemRandom};

use super::definition::Compression;
use crate::secret::Secret;

const MAGIC: &[u8; 4] = b"MRS1";
const INFO: &[u8] = b"millrace-seal-v1";
const SALT_BYTES: usize = 16;
const HEADER_BYTES: usize = 4 + SALT_BYTES + 8 + 16 + 8 + 8;
const TAG_BYTES: usize = 16;
const KEY_BYTES: usize = 32;

/// What sealing adds to a payload.
pub(crate) const SEAL_BYTES: usize = HEADER_BYTES + TAG_BYTES;

/// Little for the processor of a gateway, and most of what there is to gain.
const ZSTD_LEVEL: i32 = 3;

/// The payload, smaller where that works.
pub(crate) fn compress(compression: Compression, payload: Vec<u8>) -> Vec<u8> {
    let smaller = match compression {
        Compression::Zstd => zstd::bulk::compress(&payload, ZSTD_LEVEL),
        Compression::Gzip => {
            let level = flate2::Compression::default();
            let mut encoder = flate2::write::GzEncoder::new(Vec::new(), level);
            encoder.write_all(&payload).and_then(|()| encoder.finish())
        }
    };
    match smaller {
        Ok(smaller) if smaller.len() < payload.len() => smaller,
        // Into memory it cannot fail; and if it does, the payload is good as it is.
        _ => payload,
    }
}

/// Why payloads cannot be sealed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SealError {
    /// Make a new key: `openssl rand -hex 32`.
    #[error(
        "the sealing key is not 32 bytes as 64 hexadecimal digits or as base64; `openssl rand -hex 32` makes one"
    )]
    Key,
    /// The system gives no random numbers. Try again.
    #[error("the system gives no random numbers")]
    Random,
}

/// Seals payloads with one key.
pub(crate) struct Sealer {
    salt: [u8; SALT_BYTES],
    key: LessSafeKey,
    counter: AtomicU64,
}

impl std::fmt::Debug for Sealer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Sealer(…)")
    }
}

struct OkmBytes;

impl ring::hkdf::KeyType for OkmBytes {
    fn len(&self) -> usize {
        KEY_BYTES
    }
}

impl Sealer {
    pub(crate) fn new(key: &Secret) -> Result<Self, SealError> {
        let mut salt = [0; SALT_BYTES];
        SystemRandom::new()
            .fill(&mut salt)
            .map_err(|_| SealError::Random)?;
        Self::with_salt(key, salt)
    }

    fn with_salt(key: &Secret, salt: [u8; SALT_BYTES]) -> Result<Self, SealError> {
        let key = key_bytes(key.expose()).ok_or(SealError::Key)?;
        let derived = Salt::new(HKDF_SHA256, &salt).extract(&key);
        let mut bytes = [0; KEY_BYTES];
        let filled = derived
            .expand(&[INFO], OkmBytes)
            .and_then(|okm| okm.fill(&mut bytes));
        filled.map_err(|_| SealError::Key)?;
        let key = UnboundKey::new(&AES_256_GCM, &bytes).map_err(|_| SealError::Key)?;
        Ok(Self {
            salt,
            key: LessSafeKey::new(key),
            counter: AtomicU64::new(0),
        })
    }

    /// The payload, sealed. `None`: the cipher refuses, which it does only for payloads of many gigabytes.
    pub(crate) fn seal(
        &self,
        topic: &str,
        stream: Option<StreamId>,
        range: (u64, u64),
        mut payload: Vec<u8>,
    ) -> Option<Vec<u8>> {
        let counter = self.counter.fetch_add(1, Ordering::Relaxed);
        let mut out = Vec::with_capacity(SEAL_BYTES + payload.len());
        out.extend_from_slice(MAGIC);
        out.extend_from_slice(&self.salt);
        out.extend_from_slice(&counter.to_be_bytes());
        out.extend_from_slice(&stream.map_or([0; 16], |stream| *stream.0.as_bytes()));
        out.extend_from_slice(&range.0.to_be_bytes());
        out.extend_from_slice(&range.1.to_be_bytes());
        let additional = [topic.as_bytes(), &[0], &out[..]].concat();
        let mut nonce = [0; 12];
        nonce[4..].copy_from_slice(&counter.to_be_bytes());
        self.key
            .seal_in_place_append_tag(
                Nonce::assume_unique_for_key(nonce),
                Aad::from(additional),
                &mut payload,
            )
            .ok()?;
        out.extend_from_slice(&payload);
        Some(out)
    }
}

/// The key out of its text.
fn key_bytes(text: &str) -> Option<[u8; KEY_BYTES]> {
    let text = text.trim();
    if text.len() == 2 * KEY_BYTES && text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        let mut key = [0; KEY_BYTES];
        for (byte, digits) in key.iter_mut().zip(text.as_bytes().chunks(2)) {
            let digits = std::str::from_utf8(digits).ok()?;
            *byte = u8::from_str_radix(digits, 16).ok()?;
        }
        return Some(key);
    }
    STANDARD.decode(text).ok()?.try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEX: &str = "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f";

    #[test]
    fn keys_in_both_forms() {
        let of_hex = key_bytes(HEX).unwrap();
        assert_eq!(of_hex[31], 31);
        assert_eq!(key_bytes(&STANDARD.encode(of_hex)), Some(of_hex));
        for bad in ["", "00", &HEX[1..], &format!("{}zz", &HEX[2..])] {
            assert_eq!(key_bytes(bad), None, "{bad}");
            assert!(Sealer::new(&Secret::new(bad)).is_err());
        }
    }

    #[test]
    fn the_same_payload_never_looks_the_same() {
        let sealer = Sealer::new(&Secret::new(HEX)).unwrap();
        let seal = |sealer: &Sealer| sealer.seal("a", None, (0, 0), b"x".to_vec()).unwrap();
        let (one, other) = (seal(&sealer), seal(&sealer));
        assert_eq!(one.len(), SEAL_BYTES + 1);
        assert_ne!(one[HEADER_BYTES..], other[HEADER_BYTES..]);
        let restarted = Sealer::new(&Secret::new(HEX)).unwrap();
        assert_ne!(seal(&restarted)[4..20], one[4..20]);
        assert!(!format!("{sealer:?}").contains("00"));
    }

    #[test]
    fn what_does_not_get_smaller_stays() {
        for compression in [Compression::Zstd, Compression::Gzip] {
            assert_eq!(compress(compression, b"x".to_vec()), b"x");
            assert!(compress(compression, vec![b'x'; 1000]).len() < 100);
        }
    }
}
