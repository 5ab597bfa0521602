//! Enrolment over Secure Transport (RFC 7030, and 8951): a certificate for a key that is made here.
//!
//! First by the external key as HTTP Basic password (a one-time password of the CA), later by the certificate
//! before. The answer 202 means that somebody has to approve; the same request is sent again then.

use std::path::PathBuf;

use async_trait::async_trait;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hyper::Method;

use super::certificate::{of_pkcs7, to_pem};
use super::{Attempt, BootstrapError, Contact, Enrolment, Provider};
use crate::http::{Ask, HttpUrl, Trust};

/// Where RFC 7030 puts it on every server.
const WELL_KNOWN: &str = "/.well-known/est";

const MEANINGS: &[(u16, &str)] = &[
    (
        401,
        "user name (external_id) or one-time password is wrong or spent",
    ),
    (
        403,
        "the CA does not want to give this gateway a certificate",
    ),
    (
        404,
        "there is no EST service at this path, or no such label",
    ),
    (
        400,
        "the CA does not take the certificate request; it may want another name than external_id",
    ),
    (415, "the CA does not take the certificate request"),
];

/// An EST server.
#[derive(Debug)]
pub struct Est {
    contact: Contact,
    base: HttpUrl,
}

impl Est {
    /// `url` is that of the server, or with a path the part before `/simpleenroll`.
    ///
    /// # Errors
    /// Where the settings cannot be used; it is https only.
    pub fn new(contact: Contact) -> Result<Self, BootstrapError> {
        let url = contact.base(false)?;
        let base = match url.path() {
            "" => url.join(WELL_KNOWN),
            _ => url,
        };
        Ok(Self { contact, base })
    }

    /// The CA of what the server signs; `None` where it does not say.
    async fn ca(&self) -> Result<Option<String>, BootstrapError> {
        let url = self.base.join("/cacerts");
        let ask = Ask {
            method: Method::GET,
            url: &url,
            headers: &[],
            body: None,
        };
        let answer = self.contact.exchange(ask).await?;
        match answer.status {
            200 => {
                let certificates = of_pkcs7(&answer.body)
                    .filter(|certificates| !certificates.is_empty())
                    .ok_or_else(|| no_certificates(&url))?;
                Ok(Some(to_pem(&certificates)))
            }
            // Asked for by the RFC, and left out by some servers.
            204 | 404 | 501 => Ok(None),
            _ => Err(self.contact.refusal(&url, &answer, MEANINGS)),
        }
    }

    async fn enroll(
        &self,
        step: &str,
        attempt: &Attempt,
        headers: &[(&'static str, String)],
        trust: &Trust,
    ) -> Result<Enrolment, BootstrapError> {
        let ca_cert = self.ca().await?;
        let url = self.base.join(step);
        let mut headers = headers.to_vec();
        headers.push(("content-transfer-encoding", "base64".to_owned()));
        let ask = Ask {
            method: Method::POST,
            url: &url,
            headers: &headers,
            body: Some((
                "application/pkcs10",
                STANDARD.encode(attempt.csr_der()).into_bytes(),
            )),
        };
        let answer = self.contact.exchange_as(ask, trust).await?;
        if answer.status != 200 {
            return Err(self.contact.refusal(&url, &answer, MEANINGS));
        }
        let mut chain = of_pkcs7(&answer.body).ok_or_else(|| no_certificates(&url))?;
        let ours = chain
            .iter()
            .position(|certificate| attempt.owns(certificate));
        let ours = ours.ok_or_else(|| BootstrapError::Malformed {
            url: url.to_string(),
            place: "the certificate".into(),
            problem: "is not for our key".into(),
            hint: "the CA answered another request; ask its operator",
        })?;
        chain.swap(0, ours);
        Ok(Enrolment {
            client_cert: Some(to_pem(&chain)),
            client_key: Some(attempt.key_pem().clone()),
            ca_cert,
            ..Enrolment::default()
        })
    }
}

fn no_certificates(url: &HttpUrl) -> BootstrapError {
    BootstrapError::Malformed {
        url: url.to_string(),
        place: "the body".into(),
        problem: "is no PKCS #7 with certificates".into(),
        hint: "check bootstrap.url: it must be an EST service",
    }
}

#[async_trait]
impl Provider for Est {
    async fn ask(&self, attempt: &Attempt) -> Result<Enrolment, BootstrapError> {
        let login = format!("{}:{}", self.contact.external_id, self.contact.key()?);
        let headers = [("authorization", format!("Basic {}", STANDARD.encode(login)))];
        self.enroll("/simpleenroll", attempt, &headers, &self.contact.trust)
            .await
    }

    async fn renew(
        &self,
        attempt: &Attempt,
        own: Option<&(PathBuf, PathBuf)>,
    ) -> Result<Enrolment, BootstrapError> {
        let Some(own) = own else {
            return self.ask(attempt).await;
        };
        let trust = Trust {
            client: Some(own.clone()),
            ..self.contact.trust.clone()
        };
        self.enroll("/simplereenroll", attempt, &[], &trust).await
    }

    fn renews_by_certificate(&self) -> bool {
        true
    }
}
