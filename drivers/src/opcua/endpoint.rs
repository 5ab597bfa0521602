//! What a server offers, and which of it we take.

use std::path::Path;
use std::time::Duration;

use opcua::crypto::SecurityPolicy;
use opcua::types::{
    DateTime, EndpointDescription, GetEndpointsRequest, GetEndpointsResponse, MessageSecurityMode,
    UserTokenPolicy, UserTokenType,
};

use super::certificate::CertificateTime;
use super::channel::{Channel, authority};
use super::judge::judge;
use super::settings::{Auth, Mode, Policy, Security, Settings};
use super::trust;
use crate::SessionError;

const BINARY_OVER_TCP: &str = "http://opcfoundation.org/UA-Profile/Transport/uatcp-uasc-uabinary";

/// The policy of an endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Offered {
    /// None.
    Clear,
    /// One that this driver speaks.
    Spoken(Policy),
    /// A deprecated or unknown one.
    Other,
}

pub(super) fn policy_of(endpoint: &EndpointDescription) -> Offered {
    match SecurityPolicy::from_uri(endpoint.security_policy_uri.as_ref()) {
        SecurityPolicy::None => Offered::Clear,
        SecurityPolicy::Basic256Sha256 => Offered::Spoken(Policy::Basic256Sha256),
        SecurityPolicy::Aes128Sha256RsaOaep => Offered::Spoken(Policy::Aes128Sha256RsaOaep),
        SecurityPolicy::Aes256Sha256RsaPss => Offered::Spoken(Policy::Aes256Sha256RsaPss),
        _ => Offered::Other,
    }
}

/// What a server offers, as it says itself.
pub(super) struct Offer {
    pub(super) endpoints: Vec<EndpointDescription>,
    /// By the server's clock.
    pub(super) answered_at: DateTime,
}

/// Asks a server what it offers. The channel for this is in clear, so that the answer is only a proposal:
/// what is chosen is checked against what we trust before anything secret is sent.
pub(super) async fn get_endpoints(
    device: &str,
    url: &str,
    timeout: Duration,
) -> Result<Offer, SessionError> {
    let asked = EndpointDescription {
        endpoint_url: url.into(),
        security_policy_uri: SecurityPolicy::None.to_uri().into(),
        security_mode: MessageSecurityMode::None,
        ..EndpointDescription::from(url)
    };
    let channel = Channel::open(device, url, asked, Path::new(""), timeout).await?;
    let response: GetEndpointsResponse = channel
        .request("GetEndpoints", |request_header| GetEndpointsRequest {
            request_header,
            endpoint_url: url.into(),
            locale_ids: None,
            profile_uris: None,
        })
        .await?;
    channel.close().await;
    Ok(Offer {
        endpoints: response.endpoints.unwrap_or_default(),
        answered_at: response.response_header.timestamp,
    })
}

/// What we take of an offer.
pub(super) struct Choice {
    pub(super) endpoint: EndpointDescription,
    /// What is worth knowing of its certificate.
    pub(super) remarks: Vec<String>,
}

/// The endpoint of the device's server that the settings ask for, trusted where it protects anything.
pub(super) async fn choose(
    settings: &Settings,
    now: Option<CertificateTime>,
) -> Result<Choice, SessionError> {
    let offer = get_endpoints(&settings.device, &settings.url, settings.timeout).await?;
    let mut endpoint = select(settings, offer.endpoints)?;
    let remarks = match endpoint.security_mode {
        MessageSecurityMode::None => Vec::new(),
        _ => check_certificate(settings, &endpoint, now)?,
    };
    endpoint.endpoint_url = reachable_url(&settings.url, endpoint.endpoint_url.as_ref()).into();
    endpoint.server_certificate = trust::leaf(&endpoint.server_certificate);
    Ok(Choice { endpoint, remarks })
}

fn select(
    settings: &Settings,
    offered: Vec<EndpointDescription>,
) -> Result<EndpointDescription, SessionError> {
    let over_tcp = |endpoint: &EndpointDescription| {
        let profile = endpoint.transport_profile_uri.as_ref();
        profile.is_empty() || profile == BINARY_OVER_TCP
    };
    let names: Vec<String> = offered.iter().map(endpoint_name).collect();
    let secure_enough: Vec<EndpointDescription> = offered
        .into_iter()
        .filter(over_tcp)
        .filter(|endpoint| fits(settings.security, endpoint))
        .collect();
    if secure_enough.is_empty() {
        return Err(refused(
            settings,
            format!(
                "it offers {}, which does not include {}",
                list(names),
                wanted(settings.security)
            ),
            match settings.security {
                Security::BestOffered => {
                    "turn on Basic256Sha256 at the server, or accept an open connection with security = \"None\""
                }
                _ => "choose a security and mode from this list",
            },
        ));
    }
    secure_enough
        .into_iter()
        .filter(|endpoint| login_policy(endpoint, &settings.auth).is_some())
        .max_by_key(strength)
        .ok_or_else(|| {
            refused(
                settings,
                format!(
                    "its endpoint for {} takes no {} login",
                    wanted(settings.security),
                    token_label(&settings.auth)
                ),
                "set username and password_file, or user_cert_file and user_key_file, or neither; millrace trust lists \
                 what the server takes",
            )
        })
}

fn fits(security: Security, endpoint: &EndpointDescription) -> bool {
    match (security, policy_of(endpoint)) {
        (Security::BestOffered, Offered::Spoken(_)) => {
            endpoint.security_mode != MessageSecurityMode::None
        }
        (Security::None, Offered::Clear) => true,
        (Security::Policy { policy, mode }, Offered::Spoken(offered)) => {
            policy == offered && endpoint.security_mode == mode.to_library()
        }
        _ => false,
    }
}

/// Encrypted before signed; then by policy; then as the server ranks them.
fn strength(endpoint: &EndpointDescription) -> (bool, u8, u8) {
    let policy = match policy_of(endpoint) {
        Offered::Spoken(Policy::Aes256Sha256RsaPss) => 3,
        Offered::Spoken(Policy::Basic256Sha256) => 2,
        Offered::Spoken(Policy::Aes128Sha256RsaOaep) => 1,
        Offered::Clear | Offered::Other => 0,
    };
    (
        endpoint.security_mode == MessageSecurityMode::SignAndEncrypt,
        policy,
        endpoint.security_level,
    )
}

/// Refuses a certificate that has a fault; what is only worth knowing comes back.
fn check_certificate(
    settings: &Settings,
    endpoint: &EndpointDescription,
    now: Option<CertificateTime>,
) -> Result<Vec<String>, SessionError> {
    let found = judge(settings, endpoint, now)
        .map_err(|error| refused(settings, with_cause(&error), "see to the file"))?;
    let Some(first) = found.faults.first() else {
        return Ok(found.remarks);
    };
    let all: Vec<String> = found.faults.iter().map(ToString::to_string).collect();
    Err(refused(
        settings,
        all.join("; besides, "),
        &first.hint(&settings.url),
    ))
}

/// The error and what caused it, in one line: for messages that have no room for a source.
pub(super) fn with_cause(error: &dyn std::error::Error) -> String {
    match error.source() {
        Some(cause) => format!("{error}: {cause}"),
        None => error.to_string(),
    }
}

pub(super) fn refused(settings: &Settings, message: String, hint: &str) -> SessionError {
    SessionError::Refused {
        device: settings.device.clone(),
        message,
        hint: hint.to_owned(),
    }
}

/// Servers often give a host name that means something only to them: host and port are ours, the path is theirs.
fn reachable_url(configured: &str, advertised: &str) -> String {
    let rest = advertised.strip_prefix("opc.tcp://").unwrap_or_default();
    let path = rest.find('/').map_or("", |at| &rest[at..]);
    format!("opc.tcp://{}{path}", authority(configured))
}

/// How the endpoint takes this login: where it has several ways, the one that protects best.
pub(super) fn login_policy<'a>(
    endpoint: &'a EndpointDescription,
    auth: &Auth,
) -> Option<&'a UserTokenPolicy> {
    let wanted = match auth {
        Auth::Anonymous => UserTokenType::Anonymous,
        Auth::UserName { .. } => UserTokenType::UserName,
        Auth::Certificate { .. } => UserTokenType::Certificate,
    };
    let ways = endpoint.user_identity_tokens.iter().flatten();
    ways.filter(|way| way.token_type == wanted)
        .filter_map(|way| Some((protection(login_security(endpoint, way))?, way)))
        // The last of equal ones would win, and servers list what they like best first.
        .rev()
        .max_by_key(|(protection, _)| *protection)
        .map(|(_, way)| way)
}

/// The policy that protects a login: its own, or where it names none, the endpoint's.
pub(super) fn login_security(
    endpoint: &EndpointDescription,
    way: &UserTokenPolicy,
) -> SecurityPolicy {
    let own = way.security_policy_uri.as_ref();
    SecurityPolicy::from_uri(match own.is_empty() {
        true => endpoint.security_policy_uri.as_ref(),
        false => own,
    })
}

/// Higher is better; nothing for a policy that we do not speak.
fn protection(policy: SecurityPolicy) -> Option<u8> {
    Some(match policy {
        SecurityPolicy::None => 0,
        SecurityPolicy::Aes128Sha256RsaOaep => 1,
        SecurityPolicy::Basic256Sha256 => 2,
        SecurityPolicy::Aes256Sha256RsaPss => 3,
        _ => return None,
    })
}

fn token_label(auth: &Auth) -> &'static str {
    match auth {
        Auth::Anonymous => "anonymous",
        Auth::UserName { .. } => "user name",
        Auth::Certificate { .. } => "certificate",
    }
}

fn wanted(security: Security) -> String {
    match security {
        Security::BestOffered => "a current security policy".to_owned(),
        Security::None => "None".to_owned(),
        Security::Policy { policy, mode } => format!("{} {}", policy.name(), mode.name()),
    }
}

/// For messages: policy and mode of an endpoint.
pub(super) fn endpoint_name(endpoint: &EndpointDescription) -> String {
    match policy_of(endpoint) {
        Offered::Clear => "None".to_owned(),
        Offered::Spoken(policy) => format!("{} {}", policy.name(), mode_name(endpoint)),
        Offered::Other => format!("{} {}", endpoint.security_policy_uri, mode_name(endpoint)),
    }
}

/// The mode of an endpoint, as the configuration writes it.
pub(super) fn mode_name(endpoint: &EndpointDescription) -> &'static str {
    match endpoint.security_mode {
        MessageSecurityMode::Sign => Mode::Sign.name(),
        MessageSecurityMode::SignAndEncrypt => Mode::SignAndEncrypt.name(),
        _ => "none",
    }
}

/// Where the server, now that nobody can change its words, offers a stronger endpoint than the one that we
/// were told to be its best: the name of that.
pub(super) fn stronger(
    settings: &Settings,
    chosen: &EndpointDescription,
    offered: Vec<EndpointDescription>,
) -> Option<String> {
    if settings.security != Security::BestOffered {
        return None;
    }
    let best = select(settings, offered).ok()?;
    let (best_encrypts, best_policy, _) = strength(&best);
    let (encrypts, policy, _) = strength(chosen);
    ((best_encrypts, best_policy) > (encrypts, policy)).then(|| endpoint_name(&best))
}

fn list(mut names: Vec<String>) -> String {
    names.dedup();
    if names.is_empty() {
        "no endpoint".to_owned()
    } else {
        names.join(", ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoint(policy: SecurityPolicy, mode: MessageSecurityMode) -> EndpointDescription {
        EndpointDescription {
            security_policy_uri: policy.to_uri().into(),
            security_mode: mode,
            user_identity_tokens: Some(vec![UserTokenPolicy::anonymous()]),
            ..EndpointDescription::from("opc.tcp://plc:4840/UA")
        }
    }

    fn offered() -> Vec<EndpointDescription> {
        vec![
            endpoint(SecurityPolicy::None, MessageSecurityMode::None),
            endpoint(
                SecurityPolicy::Basic256,
                MessageSecurityMode::SignAndEncrypt,
            ),
            endpoint(
                SecurityPolicy::Aes256Sha256RsaPss,
                MessageSecurityMode::Sign,
            ),
            endpoint(
                SecurityPolicy::Basic256Sha256,
                MessageSecurityMode::SignAndEncrypt,
            ),
        ]
    }

    fn settings(security: Security) -> Settings {
        Settings {
            security,
            ..Settings::new("press", "opc.tcp://10.0.0.5:4840", "pki")
        }
    }

    #[test]
    fn best_is_encrypted_and_current() {
        let best = select(&settings(Security::BestOffered), offered()).expect("one");
        assert_eq!(endpoint_name(&best), "Basic256Sha256 sign-and-encrypt");
    }

    #[test]
    fn none_is_never_chosen_by_itself() {
        let only_clear = vec![endpoint(SecurityPolicy::None, MessageSecurityMode::None)];
        let error = select(&settings(Security::BestOffered), only_clear.clone()).expect_err("no");
        assert!(error.is_refusal());
        assert!(error.to_string().contains("security = \"None\""), "{error}");
        assert!(select(&settings(Security::None), only_clear).is_ok());
    }

    #[test]
    fn what_is_not_offered_is_named_with_what_is() {
        let wanted = Security::Policy {
            policy: Policy::Aes128Sha256RsaOaep,
            mode: Mode::Sign,
        };
        let error = select(&settings(wanted), offered()).expect_err("not offered");
        let text = error.to_string();
        assert!(text.contains("Aes128Sha256RsaOaep sign"), "{text}");
        assert!(text.contains("Basic256Sha256 sign-and-encrypt"), "{text}");
    }

    #[test]
    fn a_login_is_protected_as_well_as_the_endpoint_lets_it() {
        let way = |id: &str, policy: Option<SecurityPolicy>| UserTokenPolicy {
            policy_id: id.into(),
            token_type: UserTokenType::Certificate,
            security_policy_uri: policy
                .map(|policy| policy.to_uri().into())
                .unwrap_or_default(),
            ..UserTokenPolicy::anonymous()
        };
        let auth = Auth::Certificate {
            cert_file: "user.der".into(),
            key_file: "user.pem".into(),
        };
        let mut clear = endpoint(SecurityPolicy::None, MessageSecurityMode::None);
        clear.user_identity_tokens = Some(vec![
            way("open", None),
            way("old", Some(SecurityPolicy::Basic128Rsa15)),
            way("good", Some(SecurityPolicy::Basic256Sha256)),
            way("as good", Some(SecurityPolicy::Basic256Sha256)),
        ]);
        let chosen = login_policy(&clear, &auth).expect("a way");
        assert_eq!(chosen.policy_id.as_ref(), "good");
        assert!(login_policy(&clear, &Auth::Anonymous).is_none());

        // A way without a policy has the endpoint's: signed with None, every server would refuse it.
        let mut secured = endpoint(
            SecurityPolicy::Aes256Sha256RsaPss,
            MessageSecurityMode::Sign,
        );
        secured.user_identity_tokens = Some(vec![way("plain", None)]);
        let chosen = login_policy(&secured, &auth).expect("a way");
        let policy = login_security(&secured, chosen);
        assert_eq!(policy, SecurityPolicy::Aes256Sha256RsaPss);
    }

    #[test]
    fn a_login_that_is_not_taken_is_named() {
        let mut settings = settings(Security::BestOffered);
        settings.auth = Auth::UserName {
            user: "gateway".to_owned(),
            password_file: "password".into(),
        };
        let error = select(&settings, offered()).expect_err("anonymous only");
        assert!(error.to_string().contains("user name"), "{error}");
    }

    #[test]
    fn a_stronger_endpoint_that_was_kept_back_is_noticed() {
        let best = settings(Security::BestOffered);
        let chosen = endpoint(
            SecurityPolicy::Aes256Sha256RsaPss,
            MessageSecurityMode::Sign,
        );
        let kept_back = stronger(&best, &chosen, offered());
        assert_eq!(
            kept_back.as_deref(),
            Some("Basic256Sha256 sign-and-encrypt")
        );
        let strongest = select(&best, offered()).expect("one");
        assert_eq!(stronger(&best, &strongest, offered()), None);
        assert_eq!(stronger(&best, &strongest, Vec::new()), None);
    }

    #[test]
    fn host_is_ours_and_path_is_theirs() {
        let url = reachable_url("opc.tcp://10.0.0.5:4841/", "opc.tcp://PLC-7:4840/UA/Server");
        assert_eq!(url, "opc.tcp://10.0.0.5:4841/UA/Server");
    }
}
