//! What a status code means: for a session, and for a sample.

use std::io;
use std::time::Duration;

use millrace_tags::{Quality, Reason};
use opcua::types::{Error, StatusCode};

use crate::SessionError;

/// What was asked of whom: all that an error message needs.
#[derive(Debug, Clone, Copy)]
pub(super) struct Asked<'a> {
    pub(super) device: &'a str,
    pub(super) request: &'a str,
    pub(super) timeout: Duration,
}

impl Asked<'_> {
    /// The session error for a request that failed as a whole.
    pub(super) fn failed(self, error: &Error) -> SessionError {
        self.status(error.status(), &error.to_string())
    }

    /// The session error for a service result; `detail` is what the library or the server adds to it.
    pub(super) fn status(self, status: StatusCode, detail: &str) -> SessionError {
        if let Some((message, hint)) = refusal(status) {
            return SessionError::Refused {
                device: self.device.to_owned(),
                message: format!("{message} ({status} at {})", self.request),
                hint: hint.to_owned(),
            };
        }
        match status {
            StatusCode::BadTimeout | StatusCode::BadRequestTimeout => self.timed_out(),
            StatusCode::BadDecodingError
            | StatusCode::BadEncodingError
            | StatusCode::BadEncodingLimitsExceeded
            | StatusCode::BadUnknownResponse
            | StatusCode::BadResponseTooLarge
            | StatusCode::BadSequenceNumberInvalid
            | StatusCode::BadTcpMessageTypeInvalid
            | StatusCode::BadTcpMessageTooLarge => self.unfit(detail),
            _ => SessionError::Lost {
                device: self.device.to_owned(),
                source: io::Error::other(format!("{} failed: {detail}", self.request)),
            },
        }
    }

    pub(super) fn timed_out(self) -> SessionError {
        SessionError::Timeout {
            device: self.device.to_owned(),
            request: self.request.to_owned(),
            timeout: self.timeout,
        }
    }

    /// The answer is none that the request could have.
    pub(super) fn unfit(self, found: &str) -> SessionError {
        SessionError::Protocol {
            device: self.device.to_owned(),
            found: found.to_owned(),
            expected: format!("a reply to {}", self.request),
        }
    }
}

/// Where a server will go on refusing until somebody changes something: what it means, and what to change.
fn refusal(status: StatusCode) -> Option<(&'static str, &'static str)> {
    Some(match status {
        StatusCode::BadUserAccessDenied
        | StatusCode::BadIdentityTokenRejected
        | StatusCode::BadIdentityTokenInvalid
        | StatusCode::BadUserSignatureInvalid => (
            "it does not let us in",
            "check username and password_file, or user_cert_file, and that the server lets this user in",
        ),
        StatusCode::BadSecurityChecksFailed
        | StatusCode::BadCertificateUntrusted
        | StatusCode::BadNoValidCertificates => (
            "it does not trust the gateway's certificate",
            "trust it at the server, where it often lies among the rejected ones now; millrace trust --own shows file and \
             thumbprint",
        ),
        StatusCode::BadCertificateTimeInvalid | StatusCode::BadCertificateIssuerTimeInvalid => (
            "by its clock the gateway's certificate is not valid now",
            "compare the clocks of gateway and server; millrace trust --own shows the certificate's times, and --renew makes \
             a new one",
        ),
        StatusCode::BadCertificateUriInvalid => (
            "it finds another application URI in the gateway's certificate than the gateway gives",
            "make a new certificate with millrace trust --own --renew and trust that at the server",
        ),
        StatusCode::BadCertificateHostNameInvalid => (
            "it does not find the gateway's host in the gateway's certificate",
            "make a new certificate with millrace trust --own --renew, or switch that check off at the server",
        ),
        StatusCode::BadCertificateUseNotAllowed
        | StatusCode::BadCertificateIssuerUseNotAllowed
        | StatusCode::BadCertificatePolicyCheckFailed
        | StatusCode::BadCertificateInvalid => (
            "it does not accept the gateway's certificate",
            "see the server's log for what it misses; millrace trust --own shows the certificate",
        ),
        StatusCode::BadCertificateRevoked | StatusCode::BadCertificateIssuerRevoked => (
            "it holds the gateway's certificate for revoked",
            "take own and private out of the pki directory, so that a new key and certificate are made, and trust that at the \
             server",
        ),
        StatusCode::BadCertificateRevocationUnknown
        | StatusCode::BadCertificateIssuerRevocationUnknown
        | StatusCode::BadCertificateChainIncomplete => (
            "it cannot check who signed the gateway's certificate",
            "give the server the certificate of that authority and its revocation list",
        ),
        StatusCode::BadApplicationSignatureInvalid => (
            "it does not accept the gateway's signature",
            "own/cert.der and private/private.pem in the pki directory must belong together",
        ),
        StatusCode::BadInvalidTimestamp => (
            "it finds the gateway's clock too far from its own",
            "set the clocks of gateway (timedatectl) and server",
        ),
        StatusCode::BadSecurityPolicyRejected
        | StatusCode::BadSecurityModeRejected
        | StatusCode::BadSecurityModeInsufficient => (
            "it does not take this security",
            "choose a security and mode that the server offers: millrace trust lists them",
        ),
        StatusCode::BadTcpEndpointUrlInvalid => (
            "it does not know this address",
            "check the path of the address after host and port",
        ),
        _ => return None,
    })
}

/// The quality of a value with this status. Bad severity is bad; the two bits that the standard
/// reserves are read as bad, too.
pub(super) fn quality(status: StatusCode) -> Quality {
    if status.is_good() {
        Quality::Good
    } else if status.is_uncertain() {
        Quality::Uncertain(Reason::Status(status.bits()))
    } else {
        Quality::Bad(reason(status))
    }
}

/// The reason of a bad status: the vocabulary's own word where it has one, else the code as it came.
pub(super) fn reason(status: StatusCode) -> Reason {
    match status {
        StatusCode::BadNodeIdUnknown | StatusCode::BadNodeIdInvalid => Reason::IllegalAddress,
        _ => Reason::Status(status.bits()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ASKED: Asked<'_> = Asked {
        device: "press",
        request: "ActivateSession",
        timeout: Duration::from_secs(5),
    };

    fn error_for(status: StatusCode) -> SessionError {
        ASKED.failed(&Error::new(status, "said so"))
    }

    #[test]
    fn refusals_are_told_from_losses() {
        assert!(error_for(StatusCode::BadUserAccessDenied).is_refusal());
        assert!(error_for(StatusCode::BadSecurityChecksFailed).is_refusal());
        assert!(!error_for(StatusCode::BadConnectionClosed).is_refusal());
        assert!(!error_for(StatusCode::BadTooManySessions).is_refusal());
        assert_eq!(error_for(StatusCode::BadTimeout).reason(), Reason::Timeout);
        assert_eq!(
            error_for(StatusCode::BadDecodingError).reason(),
            Reason::InvalidReply
        );
    }

    #[test]
    fn status_becomes_quality() {
        assert_eq!(quality(StatusCode::Good), Quality::Good);
        assert_eq!(quality(StatusCode::GoodClamped), Quality::Good);
        assert_eq!(
            quality(StatusCode::UncertainLastUsableValue),
            Quality::Uncertain(Reason::Status(0x4090_0000))
        );
        assert_eq!(
            quality(StatusCode::BadNodeIdUnknown),
            Quality::Bad(Reason::IllegalAddress)
        );
        assert_eq!(
            quality(StatusCode::BadSensorFailure),
            Quality::Bad(Reason::Status(0x808C_0000))
        );
        assert_eq!(
            quality(StatusCode::from(0xC000_0000)),
            Quality::Bad(Reason::Status(0xC000_0000))
        );
    }
}
