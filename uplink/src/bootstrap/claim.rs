//! `hmac-claim`: a one-time token for an identity of one's own. docs/bootstrap.md has the server's side.
//!
//! The gateway makes its key pair itself and proves that it knows the token, over a challenge, both nonces and
//! the certificate request; the token is never sent. The answer is encrypted for who holds the token. Asked again
//! with the same request, the server gives the same identity; with another it refuses. [`Provider::confirm`] burns
//! the token. Later certificates are asked for with the one before.

use std::path::PathBuf;

use async_trait::async_trait;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hyper::Method;
use serde_json::json;

use super::document::Document;
use super::proof::{
    Challenge, Envelope, Labels, Session, check, derive, device_nonce, post, sign, unopened,
};
use super::{Attempt, BootstrapError, Contact, Enrolment, Provider};
use crate::http::{Ask, HttpUrl, Trust, percent_encoded};

/// 128 bits in base64url have 22 characters; fewer than this can be guessed.
const TOKEN_CHARS_MIN: usize = 20;

pub(super) const LABELS: Labels = Labels {
    auth: "millrace-claim-auth-v1",
    response: "millrace-claim-response-v1",
    aad: "millrace-claim-v1",
};

const MEANINGS: &[(u16, &str)] = &[
    (
        403,
        "the token is unknown, expired, used by another key, or not for this external_id; it does not say which",
    ),
    (
        410,
        "the token was withdrawn; ask the operator for a new one",
    ),
];

/// A server that speaks our own protocol.
#[derive(Debug)]
pub struct HmacClaim {
    contact: Contact,
    base: HttpUrl,
}

impl HmacClaim {
    /// `url` is the part before `/challenges/`, `/claims/`, `/confirmations/` and `/renewals/`.
    ///
    /// # Errors
    /// Where the settings cannot be used.
    pub fn new(contact: Contact) -> Result<Self, BootstrapError> {
        let base = check(&contact, TOKEN_CHARS_MIN)?;
        Ok(Self { contact, base })
    }

    fn url(&self, step: &str) -> HttpUrl {
        let id = percent_encoded(&self.contact.external_id);
        self.base.join(&format!("/{step}/{id}"))
    }
}

#[async_trait]
impl Provider for HmacClaim {
    async fn ask(&self, attempt: &Attempt) -> Result<Enrolment, BootstrapError> {
        let contact = &self.contact;
        let key = contact.key()?;
        let nothing: Option<&()> = None;
        let challenge: Challenge =
            post(contact, &self.url("challenges"), nothing, MEANINGS).await?;
        let (device_nonce, csr_sha256) = (device_nonce()?, attempt.csr_sha256());
        let session = Session {
            labels: &LABELS,
            key,
            external_id: &contact.external_id,
            challenge: &challenge,
            device_nonce: &device_nonce,
            more: Some(&csr_sha256),
        };
        let url = self.url("claims");
        let body = json!({
            "challenge_id": challenge.challenge_id,
            "device_nonce": device_nonce,
            "csr": STANDARD.encode(attempt.csr_der()),
            "proof": session.proof(),
        });
        let envelope: Envelope = post(contact, &url, Some(&body), MEANINGS).await?;
        let plain = session.open(&envelope).ok_or_else(|| unopened(&url))?;
        Document::parse(&url.to_string(), &plain)?.enrolment(&url.to_string(), Some(attempt))
    }

    async fn confirm(&self, receipt: &str) -> Result<(), BootstrapError> {
        let contact = &self.contact;
        let key = derive(contact.key()?, &contact.external_id, LABELS.auth);
        let bound = ["confirm-v1", contact.external_id.as_str(), receipt].join("\n");
        let body = json!({"claim_id": receipt, "proof": sign(&key, &bound)});
        let url = self.url("confirmations");
        let answer = contact
            .exchange(Ask {
                method: Method::POST,
                url: &url,
                headers: &[],
                body: Some(("application/json", body.to_string().into_bytes())),
            })
            .await?;
        match answer.status {
            200 | 204 => Ok(()),
            _ => Err(contact.refusal(&url, &answer, MEANINGS)),
        }
    }

    async fn renew(
        &self,
        attempt: &Attempt,
        own: Option<&(PathBuf, PathBuf)>,
    ) -> Result<Enrolment, BootstrapError> {
        let (Some(own), true) = (own, self.base.is_tls()) else {
            return self.ask(attempt).await;
        };
        let url = self.url("renewals");
        let trust = Trust {
            client: Some(own.clone()),
            ..self.contact.trust.clone()
        };
        let body = json!({"csr": STANDARD.encode(attempt.csr_der())});
        let ask = Ask {
            method: Method::POST,
            url: &url,
            headers: &[("accept", "application/json".to_owned())],
            body: Some(("application/json", body.to_string().into_bytes())),
        };
        let answer = self.contact.exchange_as(ask, &trust).await?;
        if answer.status != 200 {
            return Err(self.contact.refusal(&url, &answer, MEANINGS));
        }
        Document::parse(&url.to_string(), &answer.body)?.enrolment(&url.to_string(), Some(attempt))
    }

    fn renews_by_certificate(&self) -> bool {
        self.base.is_tls()
    }
}
