//! Whether a server's certificate is good enough to speak to it.
//!
//! Trusted is what is pinned, byte for byte, and what a trusted authority signed. That settles who it is; what the
//! certificate says of itself (times, use, application, key) has to hold besides. The host is checked where
//! only an authority vouches for the certificate: a pinned one cannot stand on another host by mistake.
//! Name constraints of authorities are not read: whoever trusts an authority trusts it with every name.

use opcua::crypto::SecurityPolicy;
use opcua::types::EndpointDescription;

use super::certificate::{Certificate, CertificateTime, SignatureFault, chain};
use super::channel::host;
use super::fault::Fault;
use super::settings::Settings;
use super::trust::{Authorities, TrustError};

/// A certificate that ends within this many days is remarked.
const ENDS_SOON_DAYS: u64 = 30;

/// Certificates from a server's up to one that is trusted.
const CHAIN_DEPTH_MAX: usize = 8;

/// What was found.
pub(super) struct Judgement {
    /// The certificate, where the endpoint shows one.
    pub(super) certificate: Option<Certificate>,
    /// Why it is trusted, for people; `None` where it is not.
    pub(super) trusted_by: Option<String>,
    /// What forbids a session.
    pub(super) faults: Vec<Fault>,
    /// What is worth knowing and forbids nothing.
    pub(super) remarks: Vec<String>,
}

/// Looks at the certificate of an endpoint. `now` is `None` where the gateway does not know the time.
pub(super) fn judge(
    settings: &Settings,
    endpoint: &EndpointDescription,
    now: Option<CertificateTime>,
) -> Result<Judgement, TrustError> {
    let sent: Vec<Certificate> = chain(endpoint.server_certificate.as_ref())
        .filter_map(Certificate::from_der)
        .collect();
    let mut found = Judgement {
        certificate: sent.first().cloned(),
        trusted_by: None,
        faults: Vec::new(),
        remarks: Vec::new(),
    };
    let Some((certificate, others)) = sent.split_first() else {
        found.faults.push(Fault::Missing);
        return Ok(found);
    };
    let authorities = Authorities::read(&settings.pki_dir, settings.server_cert_file.as_deref())?;
    let judge = Judge {
        settings,
        authorities: &authorities,
        others,
        now,
    };
    let pinned = authorities.is_trusted(certificate);
    if pinned {
        found.trusted_by = Some("pinned here".to_owned());
        judge.follow_pinned(certificate, &mut found);
    } else {
        judge.follow(certificate, &mut found);
    }
    judge.time(certificate, &mut found);
    if settings
        .check_host
        .unwrap_or(!pinned && found.trusted_by.is_some())
    {
        judge.host(certificate, &mut found);
    }
    judge.application(certificate, endpoint, &mut found);
    judge.usage(certificate, &mut found);
    judge.key(certificate, endpoint, &mut found);
    found.remarks.extend(authorities.remarks());
    tolerate(settings, &mut found);
    Ok(found)
}

/// What the configuration accepts is a remark and no fault.
fn tolerate(settings: &Settings, found: &mut Judgement) {
    let accepted = |fault: &Fault| {
        let word = fault.tolerance();
        word.is_some_and(|word| settings.tolerate.contains(&word))
    };
    let (tolerated, faults) = found.faults.drain(..).partition(accepted);
    found.faults = faults;
    let tolerated: Vec<Fault> = tolerated;
    let remarks = tolerated.iter().map(|fault| format!("{fault} (tolerated)"));
    found.remarks.extend(remarks);
}

struct Judge<'a> {
    settings: &'a Settings,
    authorities: &'a Authorities,
    /// The other certificates that the server sent: links, which prove nothing by themselves.
    others: &'a [Certificate],
    now: Option<CertificateTime>,
}

impl Judge<'_> {
    /// A pinned certificate needs no authority; it may be revoked all the same.
    fn follow_pinned(&self, certificate: &Certificate, found: &mut Judgement) {
        let issuers = self.authorities.all();
        let issuer = issuers
            .filter(|issuer| certificate.names_issuer(issuer))
            .find(|issuer| certificate.check_signed_by(issuer).is_ok());
        if let Some(issuer) = issuer {
            found.faults.extend(self.revoked(certificate, issuer));
        }
    }

    /// From the certificate up to an authority that is trusted.
    fn follow(&self, certificate: &Certificate, found: &mut Judgement) {
        let mut link = certificate.clone();
        for between in 0..CHAIN_DEPTH_MAX {
            if link.is_self_signed() {
                break;
            }
            let issuer = match self.issuer_of(&link, between) {
                Ok(Some(issuer)) => issuer,
                Ok(None) => break,
                Err(fault) => {
                    found.faults.push(fault);
                    return;
                }
            };
            found.faults.extend(self.revoked(&link, &issuer));
            found.remarks.extend(self.list_remark(&issuer));
            self.time(&issuer, found);
            if self.authorities.is_trusted(&issuer) {
                found.trusted_by = Some(format!("signed by {}", issuer.subject()));
                return;
            }
            link = issuer;
        }
        let (thumbprint, subject) = (certificate.thumbprint(), certificate.subject());
        found.faults.push(if certificate.is_self_signed() {
            Fault::Untrusted {
                thumbprint,
                subject,
                pinned: self.authorities.pinned_instead(certificate),
            }
        } else {
            Fault::UnknownAuthority {
                thumbprint,
                subject,
                issuer: link.issuer(),
            }
        });
    }

    /// The authority that signed this certificate, if it is known.
    fn issuer_of(
        &self,
        certificate: &Certificate,
        between: usize,
    ) -> Result<Option<Certificate>, Fault> {
        let candidates = self.authorities.all().chain(self.others);
        let mut fault = None;
        for issuer in candidates.filter(|issuer| issuer.is_authority(between)) {
            if !certificate.names_issuer(issuer) {
                continue;
            }
            let (subject, issuer_name) = (certificate.subject(), issuer.subject());
            match certificate.check_signed_by(issuer) {
                Ok(()) => return Ok(Some(issuer.clone())),
                Err(SignatureFault::Wrong) => {
                    fault = Some(Fault::WrongSignature {
                        subject,
                        issuer: issuer_name,
                    });
                }
                Err(SignatureFault::Weak) => {
                    fault = Some(Fault::WeakSignature {
                        subject,
                        issuer: issuer_name,
                    });
                }
            }
        }
        fault.map_or(Ok(None), Err)
    }

    fn revoked(&self, certificate: &Certificate, issuer: &Certificate) -> Option<Fault> {
        let since = self.authorities.revoked(certificate, issuer)?;
        Some(Fault::Revoked {
            subject: certificate.subject(),
            issuer: issuer.subject(),
            serial: certificate.serial_number(),
            since,
        })
    }

    /// Where nobody would notice what the authority takes back.
    fn list_remark(&self, issuer: &Certificate) -> Option<String> {
        let subject = issuer.subject();
        let Some(list) = self.authorities.list_of(issuer) else {
            return Some(format!(
                "{subject} has no revocation list in pki/trusted/crl or pki/issuers/crl: what it revokes is not noticed"
            ));
        };
        let (due, now) = (list.next_update()?, self.now?);
        (due < now).then(|| {
            format!("the revocation list of {subject} was to be renewed by {due}: what it revoked since is not noticed")
        })
    }

    fn time(&self, certificate: &Certificate, found: &mut Judgement) {
        let Some(now) = self.now else {
            found.remarks.push(
                "the gateway's clock is not set: whether certificates are still valid is not checked".to_owned(),
            );
            return;
        };
        let (from, until) = (certificate.not_before(), certificate.not_after());
        let subject = certificate.subject();
        if now < from {
            found.faults.push(Fault::NotYetValid { subject, from, now });
        } else if now > until {
            found.faults.push(Fault::Expired {
                subject,
                until,
                now,
            });
        } else if until.days_since(now) < ENDS_SOON_DAYS {
            found.remarks.push(format!(
                "the certificate of {subject} ends on {until}: make a new one at the server before"
            ));
        }
    }

    fn host(&self, certificate: &Certificate, found: &mut Judgement) {
        let host = host(&self.settings.url);
        if !certificate.is_for_host(&host) {
            found.faults.push(Fault::WrongHost {
                host,
                names: certificate.hosts(),
            });
        }
    }

    fn application(
        &self,
        certificate: &Certificate,
        endpoint: &EndpointDescription,
        found: &mut Judgement,
    ) {
        let application = endpoint.server.application_uri.to_string();
        let names = certificate.uris();
        if !names.contains(&application) {
            found
                .faults
                .push(Fault::WrongApplication { application, names });
        }
    }

    fn usage(&self, certificate: &Certificate, found: &mut Judgement) {
        let lacking = certificate.lacking_uses();
        if !lacking.is_empty() {
            found.faults.push(Fault::WrongUsage { lacking });
        }
    }

    fn key(
        &self,
        certificate: &Certificate,
        endpoint: &EndpointDescription,
        found: &mut Judgement,
    ) {
        let policy = SecurityPolicy::from_uri(endpoint.security_policy_uri.as_ref());
        if matches!(policy, SecurityPolicy::None | SecurityPolicy::Unknown) {
            return;
        }
        let name = policy.to_str();
        match certificate.rsa_bits() {
            None => found.faults.push(Fault::KeyKind { policy: name }),
            Some(bits) if !policy.is_valid_keylength(bits) => {
                found.faults.push(Fault::KeySize { bits, policy: name });
            }
            Some(_) => {}
        }
    }
}

#[cfg(test)]
mod tests;
