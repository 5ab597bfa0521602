//! Passwords that are made, not kept: tokens with an end, signed here.
//!
//! The session asks for a password at each connect, is told until when it is good, and connects anew before it
//! ends ([`PasswordSource::load`]). Tokens need the time: while the clock was never set there is none.

use std::time::{Duration, SystemTime};

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use ring::hmac;
use rustls::SignatureScheme;
use rustls_pki_types::PrivateKeyDer;
use rustls_pki_types::pem::PemObject;
use serde_json::{Map, Value, json};
use x509_cert::der::asn1::UintRef;
use x509_cert::der::{Decode, Reader, SliceReader};

use crate::secret::{Secret, SecretError, SecretSource};
use crate::tls;
use crate::tls::unset_clock::wall_clock;

/// A token is given up when this share of its life is left, so that a slow reconnect still comes in time.
const LEFT_SHARE: f64 = 0.15;

/// Where a session's password comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PasswordSource {
    /// It is kept as it is; a file is read again at each connect.
    Secret(SecretSource),
    /// A shared access signature of Azure, over `resource`.
    AzureSas {
        /// The device's key, base64.
        key: SecretSource,
        /// `<hub>/devices/<device>`.
        resource: String,
        /// How long each token is good for.
        life: Duration,
    },
    /// A JSON web token, signed with RS256 or ES256 by what the key is.
    Jwt {
        /// PEM private key: RSA, or elliptic curve P-256.
        key: SecretSource,
        /// Claims beside `iat` and `exp`.
        claims: Map<String, Value>,
        /// How long each token is good for.
        life: Duration,
    },
}

impl From<SecretSource> for PasswordSource {
    fn from(source: SecretSource) -> Self {
        PasswordSource::Secret(source)
    }
}

/// A password, and how long it is good for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Password {
    /// The text.
    pub secret: Secret,
    /// From now; `None`: as long as nobody changes it.
    pub good_for: Option<Duration>,
}

/// Why there is no password.
#[derive(Debug, thiserror::Error)]
pub enum PasswordError {
    /// The secret or the key cannot be loaded.
    #[error(transparent)]
    Secret(#[from] SecretError),
    /// Tokens carry the time. They come when somebody, or NTP, sets the clock.
    #[error("a token needs the time, and the gateway's clock is not set")]
    ClockUnset,
    /// The key of a shared access signature is no base64: use the key that the hub shows.
    #[error("the key of the token is no base64")]
    NotBase64,
    /// The key cannot sign: use an RSA or a P-256 key in PEM form.
    #[error(
        "the key of the token cannot sign RS256 or ES256; expected an RSA or P-256 private key, PEM"
    )]
    Key,
}

impl PasswordSource {
    /// The password as it is now.
    ///
    /// # Errors
    /// Where the secret or key cannot be loaded, or there is no time for a token.
    pub fn load(&self) -> Result<Password, PasswordError> {
        self.load_at(wall_clock())
    }

    fn load_at(&self, now: Option<SystemTime>) -> Result<Password, PasswordError> {
        let now = || now.ok_or(PasswordError::ClockUnset);
        let (secret, life) = match self {
            PasswordSource::Secret(source) => {
                return Ok(Password {
                    secret: source.load()?,
                    good_for: None,
                });
            }
            PasswordSource::AzureSas {
                key,
                resource,
                life,
            } => {
                let token = azure_sas(&key.load()?, resource, None, now()? + *life);
                (token.ok_or(PasswordError::NotBase64)?, *life)
            }
            PasswordSource::Jwt { key, claims, life } => {
                (jwt(&key.load()?, claims, now()?, *life)?, *life)
            }
        };
        Ok(Password {
            secret,
            good_for: Some(life.mul_f64(1.0 - LEFT_SHARE)),
        })
    }
}

/// `SharedAccessSignature sr=…&sig=…&se=…[&skn=…]`; `None` where the key is no base64.
pub(crate) fn azure_sas(
    key: &Secret,
    resource: &str,
    name: Option<&str>,
    ends: SystemTime,
) -> Option<Secret> {
    let key = hmac::Key::new(hmac::HMAC_SHA256, &STANDARD.decode(key.expose()).ok()?);
    let resource = escaped(resource);
    let ends = unix(ends);
    let tag = hmac::sign(&key, format!("{resource}\n{ends}").as_bytes());
    let mut token = format!(
        "SharedAccessSignature sr={resource}&sig={}&se={ends}",
        escaped(&STANDARD.encode(tag))
    );
    if let Some(name) = name {
        token.push_str("&skn=");
        token.push_str(name);
    }
    Some(Secret::new(token))
}

/// Percent-encoding with lower-case digits, as Azure's own clients write it.
fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02x}"));
        }
    }
    out
}

fn unix(at: SystemTime) -> u64 {
    at.duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default()
        .as_secs()
}

fn jwt(
    key: &Secret,
    claims: &Map<String, Value>,
    now: SystemTime,
    life: Duration,
) -> Result<Secret, PasswordError> {
    let der =
        PrivateKeyDer::from_pem_slice(key.expose().as_bytes()).map_err(|_| PasswordError::Key)?;
    let key = tls::provider()
        .key_provider
        .load_private_key(der)
        .map_err(|_| PasswordError::Key)?;
    let schemes = [
        SignatureScheme::RSA_PKCS1_SHA256,
        SignatureScheme::ECDSA_NISTP256_SHA256,
    ];
    let signer = key.choose_scheme(&schemes).ok_or(PasswordError::Key)?;
    let elliptic = signer.scheme() == SignatureScheme::ECDSA_NISTP256_SHA256;
    let head = json!({"alg": if elliptic { "ES256" } else { "RS256" }, "typ": "JWT"});
    let mut claims = claims.clone();
    claims.insert("iat".to_owned(), json!(unix(now)));
    claims.insert("exp".to_owned(), json!(unix(now + life)));
    let signed = format!(
        "{}.{}",
        URL_SAFE_NO_PAD.encode(head.to_string()),
        URL_SAFE_NO_PAD.encode(Value::Object(claims).to_string())
    );
    let signature = signer
        .sign(signed.as_bytes())
        .map_err(|_| PasswordError::Key)?;
    let signature = match elliptic {
        true => fixed(&signature).ok_or(PasswordError::Key)?,
        false => signature,
    };
    Ok(Secret::new(format!(
        "{signed}.{}",
        URL_SAFE_NO_PAD.encode(signature)
    )))
}

/// Both numbers of an ECDSA signature as 32 bytes each, which is how JWT wants them, from their ASN.1.
fn fixed(der: &[u8]) -> Option<Vec<u8>> {
    let mut reader = SliceReader::new(der).ok()?;
    let numbers = reader
        .sequence(|inner| Ok([UintRef::decode(inner)?, UintRef::decode(inner)?]))
        .ok()?;
    let mut out = Vec::with_capacity(64);
    for number in numbers {
        let bytes = number.as_bytes();
        out.resize(out.len() + 32_usize.checked_sub(bytes.len())?, 0);
        out.extend_from_slice(bytes);
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use ring::signature::{ECDSA_P256_SHA256_FIXED, UnparsedPublicKey};

    use super::*;

    fn given(text: &str) -> SecretSource {
        SecretSource::Given(Secret::new(text))
    }

    fn at(seconds: u64) -> Option<SystemTime> {
        Some(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds))
    }

    #[test]
    fn a_shared_access_signature_is_azures() {
        let source = PasswordSource::AzureSas {
            key: given("c2VjcmV0IGtleSBvZiAzMiBieXRlcyBsZW5ndGghIQ=="),
            resource: "my-hub.azure-devices.net/devices/gw 1".to_owned(),
            life: Duration::from_secs(1000),
        };
        let password = source.load_at(at(1_795_000_000)).unwrap();
        // Computed with Python's hmac, base64 and urllib.parse.
        assert_eq!(
            password.secret.expose(),
            include_str!("token/sas.txt").trim_end()
        );
        assert_eq!(password.good_for, Some(Duration::from_secs(850)));
        assert!(matches!(
            source.load_at(None),
            Err(PasswordError::ClockUnset)
        ));
        let named = azure_sas(
            &Secret::new("a2V5"),
            "scope/registrations/gw",
            Some("registration"),
            at(5).unwrap(),
        );
        let named = named.unwrap();
        let named = named.expose();
        assert!(
            named.starts_with("SharedAccessSignature sr=scope%2fregistrations%2fgw&sig="),
            "{named}"
        );
        assert!(named.ends_with("&se=5&skn=registration"), "{named}");
        assert!(azure_sas(&Secret::new("no base64!"), "r", None, at(5).unwrap()).is_none());
    }

    fn parts(token: &str) -> (Value, Value, String, Vec<u8>) {
        let parts: Vec<&str> = token.split('.').collect();
        let [head, claims, signature] = parts[..] else {
            panic!("{token}");
        };
        let read = |text| serde_json::from_slice(&URL_SAFE_NO_PAD.decode(text).unwrap()).unwrap();
        let signature = URL_SAFE_NO_PAD.decode(signature).unwrap();
        (
            read(head),
            read(claims),
            format!("{}.{}", parts[0], parts[1]),
            signature,
        )
    }

    #[test]
    fn a_web_token_carries_its_times_and_a_signature_that_holds() {
        let pair = rcgen::KeyPair::generate().unwrap();
        let source = PasswordSource::Jwt {
            key: given(&pair.serialize_pem()),
            claims: [("aud".to_owned(), json!("my-project"))]
                .into_iter()
                .collect(),
            life: Duration::from_secs(3600),
        };
        // Numbers with leading zeros come up once in some hundred signatures.
        for _ in 0..300 {
            let password = source.load_at(at(1_795_000_000)).unwrap();
            let (head, claims, signed, signature) = parts(password.secret.expose());
            assert_eq!(head["alg"], "ES256");
            assert_eq!(claims["aud"], "my-project");
            assert_eq!(
                (&claims["iat"], &claims["exp"]),
                (&json!(1_795_000_000), &json!(1_795_003_600))
            );
            let public = UnparsedPublicKey::new(
                &ECDSA_P256_SHA256_FIXED,
                rcgen::PublicKeyData::der_bytes(&pair),
            );
            public.verify(signed.as_bytes(), &signature).unwrap();
        }
        let wrong = PasswordSource::Jwt {
            key: given("no key"),
            claims: Map::new(),
            life: Duration::from_secs(3600),
        };
        let failed = wrong.load_at(at(1_795_000_000));
        assert!(matches!(failed, Err(PasswordError::Key)));
    }

    #[test]
    fn rsa_keys_sign_rs256() {
        use ring::signature::{RSA_PKCS1_2048_8192_SHA256, RsaKeyPair};
        let pem = include_str!("token/rsa-test-key.pem");
        let token = jwt(
            &Secret::new(pem),
            &Map::new(),
            at(1_795_000_000).unwrap(),
            Duration::from_secs(60),
        )
        .unwrap();
        let (head, _, signed, signature) = parts(token.expose());
        assert_eq!(head["alg"], "RS256");
        let PrivateKeyDer::Pkcs8(der) = PrivateKeyDer::from_pem_slice(pem.as_bytes()).unwrap()
        else {
            panic!("the test key is PKCS #8");
        };
        let pair = RsaKeyPair::from_pkcs8(der.secret_pkcs8_der()).unwrap();
        let public = ring::signature::KeyPair::public_key(&pair)
            .as_ref()
            .to_vec();
        UnparsedPublicKey::new(&RSA_PKCS1_2048_8192_SHA256, public)
            .verify(signed.as_bytes(), &signature)
            .unwrap();
    }
}
