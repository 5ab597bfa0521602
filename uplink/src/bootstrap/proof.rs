//! Challenge and proof: the external key is never sent, and the answer is encrypted for who holds it.
//!
//! The server gives a nonce, the gateway answers with one of its own and an HMAC over both; the answer is
//! AES-256-GCM bound to both. No clock is needed, and nothing can be replayed. This is the form of Magistrala
//! (`magistrala-proof`); `hmac-claim` is the same with other labels and a certificate request.

use async_trait::async_trait;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hyper::Method;
use ring::{aead, hkdf, hmac};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::document::Document;
use super::mainflux::problem_text;
use super::{Attempt, BootstrapError, Contact, Enrolment, Provider, random_bytes};
use crate::http::{Answer, Ask, HttpUrl, percent_encoded};

/// A shorter key is no secret.
const KEY_CHARS_MIN: usize = 10;
/// The version of the answer's envelope.
const VERSION: &str = "v1";

/// What sets one protocol of this kind apart from another.
pub(super) struct Labels {
    pub(super) auth: &'static str,
    pub(super) response: &'static str,
    pub(super) aad: &'static str,
}

const MAGISTRALA: Labels = Labels {
    auth: "magistrala-bootstrap-auth-v1",
    response: "magistrala-bootstrap-response-v1",
    aad: "bootstrap-response-v1",
};

/// What the server asks.
#[derive(Debug, Deserialize)]
pub(super) struct Challenge {
    pub(super) challenge_id: String,
    pub(super) server_nonce: String,
    pub(super) key_version: u32,
}

/// The envelope of the answer.
#[derive(Debug, Deserialize)]
pub(super) struct Envelope {
    version: String,
    key_version: u32,
    challenge_id: String,
    nonce: String,
    ciphertext: String,
}

/// One run of the protocol.
pub(super) struct Session<'a> {
    pub(super) labels: &'a Labels,
    pub(super) key: &'a str,
    pub(super) external_id: &'a str,
    pub(super) challenge: &'a Challenge,
    pub(super) device_nonce: &'a str,
    /// What else the proof covers, at its end.
    pub(super) more: Option<&'a str>,
}

impl Session<'_> {
    /// Everything that proof and answer are bound to.
    fn bound(&self, head: &str) -> String {
        let version = self.challenge.key_version.to_string();
        let mut parts = vec![
            head,
            self.external_id,
            &self.challenge.challenge_id,
            &self.challenge.server_nonce,
            self.device_nonce,
            &version,
        ];
        parts.extend(self.more);
        parts.join("\n")
    }

    pub(super) fn proof(&self) -> String {
        let key = derive(self.key, self.external_id, self.labels.auth);
        sign(&key, &self.bound("v1"))
    }

    /// What the envelope holds; `None` where it was not made for us by who holds the key.
    pub(super) fn open(&self, envelope: &Envelope) -> Option<Vec<u8>> {
        let fits = envelope.version == VERSION
            && envelope.key_version == self.challenge.key_version
            && envelope.challenge_id == self.challenge.challenge_id;
        let nonce = URL_SAFE_NO_PAD
            .decode(&envelope.nonce)
            .ok()
            .filter(|_| fits)?;
        let nonce = aead::Nonce::try_assume_unique_for_key(&nonce).ok()?;
        let mut text = URL_SAFE_NO_PAD.decode(&envelope.ciphertext).ok()?;
        let key = derive(self.key, self.external_id, self.labels.response);
        let key = aead::LessSafeKey::new(aead::UnboundKey::new(&aead::AES_256_GCM, &key).ok()?);
        let aad = aead::Aad::from(self.bound(self.labels.aad));
        let plain = key.open_in_place(nonce, aad, &mut text).ok()?;
        Some(plain.to_vec())
    }
}

/// HKDF-SHA256 of the key's text as it is written, salted with the id.
pub(super) fn derive(key: &str, salt: &str, info: &str) -> [u8; 32] {
    struct Bytes;
    impl hkdf::KeyType for Bytes {
        fn len(&self) -> usize {
            32
        }
    }
    let mut out = [0; 32];
    let root = hkdf::Salt::new(hkdf::HKDF_SHA256, salt.as_bytes()).extract(key.as_bytes());
    // It fails for lengths beyond 255 blocks only.
    if let Ok(okm) = root.expand(&[info.as_bytes()], Bytes) {
        let _ = okm.fill(&mut out);
    }
    out
}

/// HMAC-SHA256 in unpadded base64url.
pub(super) fn sign(key: &[u8; 32], text: &str) -> String {
    let key = hmac::Key::new(hmac::HMAC_SHA256, key);
    URL_SAFE_NO_PAD.encode(hmac::sign(&key, text.as_bytes()))
}

/// A nonce of ours.
pub(super) fn device_nonce() -> Result<String, BootstrapError> {
    Ok(URL_SAFE_NO_PAD.encode(random_bytes::<32>()?))
}

/// Checks what every protocol of this kind needs, and gives the base URL.
pub(super) fn check(contact: &Contact, key_chars_min: usize) -> Result<HttpUrl, BootstrapError> {
    let base = contact.base(true)?;
    match &contact.external_key {
        Some(key) if key.expose().chars().count() < key_chars_min => {
            Err(BootstrapError::Settings {
                key: "external_key_file",
                problem: format!(
                    "holds a key that is too short; expected at least {key_chars_min} characters"
                ),
            })
        }
        _ => Ok(base),
    }
}

/// Sends a JSON body and takes a JSON answer of status 200.
pub(super) async fn post<T: serde::de::DeserializeOwned>(
    contact: &Contact,
    url: &HttpUrl,
    body: Option<&impl Serialize>,
    meanings: &[(u16, &'static str)],
) -> Result<T, BootstrapError> {
    let body = body.and_then(|body| serde_json::to_vec(body).ok());
    let answer = contact
        .exchange(Ask {
            method: Method::POST,
            url,
            headers: &[("accept", "application/json".to_owned())],
            body: body.map(|body| ("application/json", body)),
        })
        .await?;
    match answer.status {
        200 | 201 => json_of(url, &answer),
        _ => Err(contact.refusal(url, &answer, meanings)),
    }
}

pub(super) fn json_of<T: serde::de::DeserializeOwned>(
    url: &HttpUrl,
    answer: &Answer,
) -> Result<T, BootstrapError> {
    serde_json::from_slice(&answer.body).map_err(|error| BootstrapError::Malformed {
        url: url.to_string(),
        place: format!("line {}, column {}", error.line(), error.column()),
        problem: problem_text(&error),
        hint: "check bootstrap.url and bootstrap.provider",
    })
}

/// The answer to what was never proved right.
pub(super) fn unopened(url: &HttpUrl) -> BootstrapError {
    BootstrapError::Malformed {
        url: url.to_string(),
        place: "the ciphertext".into(),
        problem: "cannot be opened".into(),
        hint: "it was not made with our external key, or was changed on the way",
    }
}

/// Magistrala with challenge and proof.
#[derive(Debug)]
pub struct MagistralaProof {
    contact: Contact,
    base: HttpUrl,
}

impl MagistralaProof {
    /// `url` is the part before `/challenges/` and `/configurations/`.
    ///
    /// # Errors
    /// Where the settings cannot be used.
    pub fn new(contact: Contact) -> Result<Self, BootstrapError> {
        let base = check(&contact, KEY_CHARS_MIN)?;
        Ok(Self { contact, base })
    }
}

const MEANINGS: &[(u16, &str)] = &[(
    403,
    "this external_id is not enrolled yet or disabled, or the external key is wrong; it does not say which",
)];

#[async_trait]
impl Provider for MagistralaProof {
    async fn ask(&self, _: &Attempt) -> Result<Enrolment, BootstrapError> {
        let contact = &self.contact;
        let id = percent_encoded(&contact.external_id);
        let url = self.base.join(&format!("/challenges/{id}"));
        let nothing: Option<&()> = None;
        let challenge: Challenge = post(contact, &url, nothing, MEANINGS).await?;
        let device_nonce = device_nonce()?;
        let session = Session {
            labels: &MAGISTRALA,
            key: contact.key()?,
            external_id: &contact.external_id,
            challenge: &challenge,
            device_nonce: &device_nonce,
            more: None,
        };
        let url = self.base.join(&format!("/configurations/{id}"));
        let body = json!({
            "challenge_id": challenge.challenge_id,
            "device_nonce": device_nonce,
            "proof": session.proof(),
        });
        let envelope: Envelope = post(contact, &url, Some(&body), MEANINGS).await?;
        let plain = session.open(&envelope).ok_or_else(|| unopened(&url))?;
        Document::parse(&url.to_string(), &plain)?.enrolment(&url.to_string(), None)
    }
}

#[cfg(test)]
mod tests {
    use super::super::attempt::hex;
    use super::*;

    const ID: &str = "AA:BB:CC:00:11:22";
    const KEY: &str = "test-external-key-0001";

    fn challenge() -> Challenge {
        Challenge {
            challenge_id: "11111111-2222-3333-4444-555555555555".into(),
            server_nonce: "AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE".into(),
            key_version: 1,
        }
    }

    fn session(challenge: &Challenge) -> Session<'_> {
        Session {
            labels: &MAGISTRALA,
            key: KEY,
            external_id: ID,
            challenge,
            device_nonce: "AgICAgICAgICAgICAgICAgICAgICAgICAgICAgICAgI",
            more: None,
        }
    }

    fn envelope() -> Envelope {
        Envelope {
            version: "v1".into(),
            key_version: 1,
            challenge_id: "11111111-2222-3333-4444-555555555555".into(),
            nonce: "AwMDAwMDAwMDAwMD".into(),
            ciphertext: "meHBMtphVQgl09KAFbxe4ZlGVBmIgSwh4-bHiCXSbzZ0RCv54YqpqJuThLZgxoHUI_3OS-G2pOaWO2C6OiEM6Mg9"
                .into(),
        }
    }

    #[test]
    fn the_vectors_of_magistrala() {
        assert_eq!(
            hex(&derive(KEY, ID, MAGISTRALA.auth)),
            "e0450409eed189ee660f61d2a71bca0e49f00f593b272231166401dbe0e875c6"
        );
        assert_eq!(
            hex(&derive(KEY, ID, MAGISTRALA.response)),
            "c3a3e97de05f621d196a848e3833271d57b51de05e0163201028e24fffa0b197"
        );
        let challenge = challenge();
        let session = session(&challenge);
        assert_eq!(
            session.proof(),
            "PpuStzg03930QURrhi4LEdgURezHQKSQKUprlxRHAaA"
        );
        assert_eq!(
            session.open(&envelope()).unwrap(),
            br#"{"content_type":"application/json","content":"{}"}"#
        );
    }

    #[test]
    fn an_answer_to_somebody_else_is_not_opened() {
        let challenge = challenge();
        let other = Session {
            external_id: "AA:BB:CC:00:11:23",
            ..session(&challenge)
        };
        assert!(other.open(&envelope()).is_none());
        let replayed = Session {
            device_nonce: "AwICAgICAgICAgICAgICAgICAgICAgICAgICAgICAgI",
            ..session(&challenge)
        };
        assert!(replayed.open(&envelope()).is_none());
        for spoilt in [
            Envelope {
                version: "v2".into(),
                ..envelope()
            },
            Envelope {
                key_version: 2,
                ..envelope()
            },
            Envelope {
                challenge_id: "1".into(),
                ..envelope()
            },
            Envelope {
                nonce: "AwMD".into(),
                ..envelope()
            },
            Envelope {
                ciphertext: "AAAA".into(),
                ..envelope()
            },
        ] {
            assert!(session(&challenge).open(&spoilt).is_none(), "{spoilt:?}");
        }
    }
}
