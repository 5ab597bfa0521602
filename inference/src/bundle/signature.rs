//! Signatures of bundles: Ed25519 over the exact bytes of model.toml, which holds the digest of every other file.
//!
//! What is signed is [`CONTEXT`], a zero byte, and model.toml as it lies there; `model.sig` holds the 64 bytes of
//! the signature and nothing else. Decision 13 says why a prefix and not Ed25519ctx.

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ring::signature::{ED25519, Ed25519KeyPair, KeyPair, UnparsedPublicKey};
use sha2::{Digest, Sha256};

/// Name of the signature in a bundle.
pub const SIGNATURE_FILE: &str = "model.sig";

/// What tells a signature of a bundle from one of anything else that the same key may sign.
pub const CONTEXT: &str = "millrace-model-v1";

/// Bytes of a signature.
const SIGNATURE_BYTES: usize = 64;

/// What stands before the 32 bytes of a public key in a SubjectPublicKeyInfo (RFC 8410).
const SPKI_PREFIX: [u8; 12] = [
    0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00,
];

/// What stands before the 32 bytes of a private key in PKCS #8 (RFC 8410).
const PKCS8_PREFIX: [u8; 16] = [
    0x30, 0x2e, 0x02, 0x01, 0x00, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x04, 0x22, 0x04, 0x20,
];

/// Who may have made a bundle.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct PublicKey([u8; 32]);

/// Why a text is no key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// Write the key as it is described.
    #[error(
        "this is no Ed25519 public key; expected its 32 bytes in base64 (44 characters), or the PEM of `openssl pkey -pubout`"
    )]
    Public,
    /// Make a key as it is described.
    #[error(
        "this is no Ed25519 private key in PEM; `openssl genpkey -algorithm ed25519` makes one"
    )]
    Private,
    /// The system has no random numbers: try again.
    #[error("the system gives no random numbers")]
    Random,
}

impl PublicKey {
    /// Reads a key: its bytes in base64, those of its SubjectPublicKeyInfo, or PEM.
    ///
    /// # Errors
    /// Where the text is none of these.
    pub fn parse(text: &str) -> Result<Self, KeyError> {
        let bytes = match pem(text, "PUBLIC KEY") {
            Some(bytes) => bytes,
            None => STANDARD.decode(text.trim()).map_err(|_| KeyError::Public)?,
        };
        let bytes = bytes.strip_prefix(&SPKI_PREFIX).unwrap_or(&bytes);
        let key = <[u8; 32]>::try_from(bytes).map_err(|_| KeyError::Public)?;
        Ok(Self(key))
    }

    /// The key as `[local] model_keys` takes it.
    pub fn to_base64(self) -> String {
        STANDARD.encode(self.0)
    }

    /// A short name for people: the first half of the key's SHA-256.
    pub fn fingerprint(self) -> String {
        let digest = Sha256::digest(self.0);
        let digits: String = digest[..8]
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        format!("ed25519:{digits}")
    }

    fn fits(self, signed: &[u8], signature: &[u8]) -> bool {
        let key = UnparsedPublicKey::new(&ED25519, self.0);
        key.verify(signed, signature).is_ok()
    }
}

/// Signs bundles. Shows nothing of itself.
pub struct SigningKey(Ed25519KeyPair);

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SigningKey({})", self.public().fingerprint())
    }
}

impl SigningKey {
    /// Reads a private key in PEM.
    ///
    /// # Errors
    /// Where it is none of Ed25519, or encrypted.
    pub fn parse(text: &str) -> Result<Self, KeyError> {
        let bytes = pem(text, "PRIVATE KEY").ok_or(KeyError::Private)?;
        let pair = Ed25519KeyPair::from_pkcs8_maybe_unchecked(&bytes);
        pair.map(Self).map_err(|_| KeyError::Private)
    }

    /// Makes a key: its PEM, as openssl writes it.
    ///
    /// # Errors
    /// Where the system has no random numbers.
    pub fn generate() -> Result<String, KeyError> {
        let mut seed = [0; 32];
        ring::rand::SecureRandom::fill(&ring::rand::SystemRandom::new(), &mut seed)
            .map_err(|_| KeyError::Random)?;
        let key = STANDARD.encode([PKCS8_PREFIX.as_slice(), &seed].concat());
        Ok(format!(
            "-----BEGIN PRIVATE KEY-----\n{key}\n-----END PRIVATE KEY-----\n"
        ))
    }

    /// Its public half.
    pub fn public(&self) -> PublicKey {
        let mut key = [0; 32];
        key.copy_from_slice(self.0.public_key().as_ref());
        PublicKey(key)
    }

    /// The content of `model.sig` for a bundle with this model.toml.
    pub fn sign(&self, manifest: &[u8]) -> Vec<u8> {
        self.0.sign(&signed(manifest)).as_ref().to_vec()
    }
}

fn signed(manifest: &[u8]) -> Vec<u8> {
    [CONTEXT.as_bytes(), &[0], manifest].concat()
}

/// The bytes between the lines of PEM.
fn pem(text: &str, label: &str) -> Option<Vec<u8>> {
    let (_, rest) = text.split_once(&format!("-----BEGIN {label}-----"))?;
    let (body, _) = rest.split_once(&format!("-----END {label}-----"))?;
    let body: String = body.split_whitespace().collect();
    STANDARD.decode(body).ok()
}

/// Whose bundles are taken.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Trust {
    /// Keys that may sign. Where there are none, signatures are not compared with anything.
    pub keys: Vec<PublicKey>,
    /// Keys whose bundles are refused, whatever else is said.
    pub revoked: Vec<PublicKey>,
    /// Whether only what one of `keys` signed is taken.
    pub required: bool,
}

/// What is known of who made a bundle.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signed {
    /// It has no signature.
    No,
    /// It has one, and there is no key to compare it with.
    Unverified,
    /// One of the keys signed it.
    By(PublicKey),
}

/// Why a bundle is not taken from whoever made it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SignatureError {
    /// Have it signed, or let the gateway's own files take unsigned ones.
    #[error("it is not signed (model.sig is missing), and only signed bundles are taken here")]
    Missing,
    /// Name the key of its maker on the gateway.
    #[error(
        "it is signed, and [local] model_keys has no key to compare that with; only signed bundles are taken here"
    )]
    NoKeys,
    /// Sign it anew.
    #[error("model.sig has {actual} bytes; a signature has {SIGNATURE_BYTES}")]
    Size {
        /// What there is.
        actual: usize,
    },
    /// The key is not to be trusted any more: have it signed by another one.
    #[error("it is signed by the revoked key {}", key.fingerprint())]
    Revoked {
        /// Which.
        key: PublicKey,
    },
    /// Another key signed it, or model.toml was changed after it was signed.
    #[error(
        "model.sig fits none of the {keys} key(s) of [local] model_keys: another key signed it, or model.toml was changed afterwards"
    )]
    Unknown {
        /// How many there are.
        keys: usize,
    },
}

impl Trust {
    /// Compares a signature with the keys.
    ///
    /// # Errors
    /// Says why the bundle is not taken.
    pub fn check(
        &self,
        manifest: &[u8],
        signature: Option<&[u8]>,
    ) -> Result<Signed, SignatureError> {
        let Some(signature) = signature else {
            return match self.required {
                true => Err(SignatureError::Missing),
                false => Ok(Signed::No),
            };
        };
        if signature.len() != SIGNATURE_BYTES {
            return Err(SignatureError::Size {
                actual: signature.len(),
            });
        }
        let message = signed(manifest);
        let fits = |key: &&PublicKey| key.fits(&message, signature);
        if let Some(key) = self.revoked.iter().find(fits) {
            return Err(SignatureError::Revoked { key: *key });
        }
        match self.keys.iter().find(fits) {
            Some(key) => Ok(Signed::By(*key)),
            None if !self.keys.is_empty() => Err(SignatureError::Unknown {
                keys: self.keys.len(),
            }),
            None if self.required => Err(SignatureError::NoKeys),
            None => Ok(Signed::Unverified),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // Made by OpenSSL 3.0.19:
    //   openssl genpkey -algorithm ed25519 -out key.pem; openssl pkey -in key.pem -pubout
    //   printf 'millrace-model-v1\0name = "pump"\n' > message
    //   openssl pkeyutl -sign -inkey key.pem -rawin -in message | base64
    const PRIVATE: &str = "-----BEGIN PRIVATE KEY-----
MC4CAQAwBQYDK2VwBCIEIPPlL6jjK8PzzHkTo9CixLOGmUklXGsyVYIGWr4ofO9E
-----END PRIVATE KEY-----
";
    const PUBLIC: &str = "-----BEGIN PUBLIC KEY-----
MCowBQYDK2VwAyEAqA7yUbBKSRdBCXcr09BVMqN5paPIqhF0jlzs5ZfDn3g=
-----END PUBLIC KEY-----
";
    const MANIFEST: &[u8] = b"name = \"pump\"\n";
    const SIGNATURE: &str =
        "feFk0RUIwiEfT6CphRm3uhvmQbyHWEkXeWPjHTRj1hOXcbjgCxsbf4stHZ7v9lFKgcFJHwiwQa0Kw1VmUPApBA==";

    fn trust(keys: &[PublicKey]) -> Trust {
        Trust {
            keys: keys.to_vec(),
            ..Trust::default()
        }
    }

    fn other() -> SigningKey {
        SigningKey::parse(&SigningKey::generate().unwrap()).unwrap()
    }

    #[test]
    fn openssl_and_we_sign_alike() {
        let key = SigningKey::parse(PRIVATE).unwrap();
        let public = PublicKey::parse(PUBLIC).unwrap();
        assert_eq!(key.public(), public);
        // Ed25519 has one signature for a message.
        assert_eq!(STANDARD.encode(key.sign(MANIFEST)), SIGNATURE);
        let signature = STANDARD.decode(SIGNATURE).unwrap();
        let checked = trust(&[public]).check(MANIFEST, Some(&signature));
        assert_eq!(checked, Ok(Signed::By(public)));
        let text = public.to_base64();
        assert_eq!((text.len(), PublicKey::parse(&text)), (44, Ok(public)));
        assert!(!format!("{key:?}").contains(PRIVATE.lines().nth(1).unwrap()));
    }

    #[test]
    fn each_way_of_not_being_signed_is_named() {
        let (maker, stranger) = (other(), other());
        let signature = maker.sign(MANIFEST);
        let trusted = trust(&[stranger.public(), maker.public()]);
        let check = |trust: &Trust, signature: &[u8]| trust.check(MANIFEST, Some(signature));
        assert_eq!(check(&trusted, &signature), Ok(Signed::By(maker.public())));
        for bit in 0..signature.len() * 8 {
            let mut flipped = signature.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(
                check(&trusted, &flipped),
                Err(SignatureError::Unknown { keys: 2 }),
                "bit {bit}"
            );
        }
        assert_eq!(
            trusted.check(b"name = \"pumq\"\n", Some(&signature)),
            Err(SignatureError::Unknown { keys: 2 })
        );
        assert_eq!(
            check(&trusted, &signature[1..]),
            Err(SignatureError::Size { actual: 63 })
        );
        // Without the context it is a signature of something else.
        let bare = maker.0.sign(MANIFEST).as_ref().to_vec();
        assert!(check(&trusted, &bare).is_err());
        let revoked = Trust {
            revoked: vec![maker.public()],
            ..trusted.clone()
        };
        assert_eq!(
            check(&revoked, &signature),
            Err(SignatureError::Revoked {
                key: maker.public()
            })
        );
        let open = Trust::default();
        assert_eq!(check(&open, &signature), Ok(Signed::Unverified));
        assert_eq!(open.check(MANIFEST, None), Ok(Signed::No));
        let strict = Trust {
            required: true,
            ..open
        };
        assert_eq!(strict.check(MANIFEST, None), Err(SignatureError::Missing));
        assert_eq!(check(&strict, &signature), Err(SignatureError::NoKeys));
    }

    #[test]
    fn what_is_no_key_is_refused() {
        for text in ["", "abc", "MCowBQYDK2VwAyEA", PRIVATE] {
            assert_eq!(PublicKey::parse(text), Err(KeyError::Public), "{text}");
        }
        for text in ["", PUBLIC, &PRIVATE.replace("MC4C", "MC8C")] {
            assert!(SigningKey::parse(text).is_err(), "{text}");
        }
    }
}
