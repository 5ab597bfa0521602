//! The cipher of `/secure/`: AES in CFB mode (128 bits of feedback, no padding), a random IV in front, no MAC.
//!
//! It hides the external key and the answer from who listens, and proves nothing: whoever holds the key of the
//! service, which all gateways of a core share, can read and change everything. It belongs inside TLS.

use aes::{Aes128, Aes192, Aes256};
use cfb_mode::cipher::{AsyncStreamCipher, KeyIvInit};
use cfb_mode::{Decryptor, Encryptor};

use crate::secret::Secret;

const IV_BYTES: usize = 16;

/// How the generations make a key of the configured text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum KeyForm {
    /// Hexadecimal digits: Mainflux 0.10 to 0.13.
    Hex,
    /// The text as it is: Magistrala 0.14 to 0.30.
    Ascii,
}

/// The key of the service, as one generation reads it.
pub(super) struct SecureKey(Vec<u8>);

impl SecureKey {
    /// `None` where the text does not make 16, 24 or 32 bytes.
    pub(super) fn new(text: &Secret, form: KeyForm) -> Option<Self> {
        let text = text.expose();
        let bytes = match form {
            KeyForm::Ascii => text.as_bytes().to_vec(),
            KeyForm::Hex => unhex(text)?,
        };
        matches!(bytes.len(), 16 | 24 | 32).then_some(Self(bytes))
    }

    /// IV and ciphertext.
    pub(super) fn seal(&self, iv: [u8; IV_BYTES], plain: &[u8]) -> Vec<u8> {
        let mut text = plain.to_vec();
        // The lengths were checked in `new`.
        match self.0.len() {
            16 => encrypt::<Encryptor<Aes128>>(&self.0, &iv, &mut text),
            24 => encrypt::<Encryptor<Aes192>>(&self.0, &iv, &mut text),
            _ => encrypt::<Encryptor<Aes256>>(&self.0, &iv, &mut text),
        }
        [iv.as_slice(), &text].concat()
    }

    /// What was sealed; `None` where there is not even an IV. A wrong key gives garbage, not an error.
    pub(super) fn open(&self, sealed: &[u8]) -> Option<Vec<u8>> {
        let (iv, text) = sealed.split_at_checked(IV_BYTES)?;
        let mut text = text.to_vec();
        match self.0.len() {
            16 => decrypt::<Decryptor<Aes128>>(&self.0, iv, &mut text),
            24 => decrypt::<Decryptor<Aes192>>(&self.0, iv, &mut text),
            _ => decrypt::<Decryptor<Aes256>>(&self.0, iv, &mut text),
        }
        Some(text)
    }
}

fn encrypt<C: KeyIvInit + AsyncStreamCipher + cfb_mode::cipher::BlockEncryptMut>(
    key: &[u8],
    iv: &[u8],
    text: &mut [u8],
) {
    if let Ok(cipher) = C::new_from_slices(key, iv) {
        cipher.encrypt(text);
    }
}

fn decrypt<C: KeyIvInit + AsyncStreamCipher + cfb_mode::cipher::BlockDecryptMut>(
    key: &[u8],
    iv: &[u8],
    text: &mut [u8],
) {
    if let Ok(cipher) = C::new_from_slices(key, iv) {
        cipher.decrypt(text);
    }
}

/// Bytes of hexadecimal digits.
pub(super) fn unhex(text: &str) -> Option<Vec<u8>> {
    if !text.is_ascii() || !text.len().is_multiple_of(2) {
        return None;
    }
    (0..text.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(&text[at..at + 2], 16).ok())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::super::attempt::hex;
    use super::*;

    const IV: [u8; 16] = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15];

    /// The vectors of both generations for one configured text.
    #[test]
    fn the_same_text_is_another_key_in_each_generation() {
        let configured = Secret::new("12345678910111213141516171819202");
        for (form, sealed) in [
            (
                KeyForm::Hex,
                "000102030405060708090a0b0c0d0e0f38e957d150c3b2a1c298347987",
            ),
            (
                KeyForm::Ascii,
                "000102030405060708090a0b0c0d0e0fb7b63e96a3bfeba224eea8cb03",
            ),
        ] {
            let key = SecureKey::new(&configured, form).unwrap();
            let made = key.seal(IV, b"abcdef-key-01");
            assert_eq!(hex(&made), sealed, "{form:?}");
            assert_eq!(key.open(&made).unwrap(), b"abcdef-key-01");
        }
    }

    #[test]
    fn keys_of_other_lengths_and_short_answers_are_refused() {
        for text in ["", "0123", "zz345678910111213141516171819202"] {
            assert!(SecureKey::new(&Secret::new(text), KeyForm::Hex).is_none());
        }
        let key = SecureKey::new(&Secret::new("0123456789abcdef"), KeyForm::Ascii).unwrap();
        assert!(key.open(&IV[..15]).is_none());
        let long: Vec<u8> = (0..=255).cycle().take(1000).collect();
        assert_eq!(key.open(&key.seal(IV, &long)).unwrap(), long);
        for bytes in [24, 32] {
            let key = SecureKey::new(&Secret::new("k".repeat(bytes)), KeyForm::Ascii).unwrap();
            assert_eq!(key.open(&key.seal(IV, &long)).unwrap(), long);
        }
    }
}
