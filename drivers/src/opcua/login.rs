//! CreateSession and ActivateSession: proving to each other who we are.
//!
//! A session outlives its connection for a while. [`log_in_again`] takes it up on a new channel, so that
//! its subscriptions and what they have queued are not lost, and the server never has two sessions of ours.

use opcua::crypto::{
    SecurityPolicy, create_signature_data, legacy_encrypt_secret, random, verify_signature_data,
};
use opcua::types::{
    ActivateSessionRequest, ActivateSessionResponse, AnonymousIdentityToken,
    ApplicationDescription, ApplicationType, ByteString, CreateSessionRequest,
    CreateSessionResponse, EndpointDescription, ExtensionObject, NodeId, SignatureData, StatusCode,
    UAString, UserNameIdentityToken, UserTokenPolicy, X509IdentityToken,
};
use std::path::Path;
use std::time::Duration;

use super::certificate::Certificate;
use super::channel::Channel;
use super::endpoint::{login_policy, login_security, refused, stronger, with_cause};
use super::own::OwnCertificate;
use super::settings::{Auth, Settings};
use super::trust;
use super::user::UserCertificate;
use crate::SessionError;

/// The length that Part 4, 5.6.2 asks for.
const NONCE_BYTES: usize = 32;

/// How long a server keeps a session without a word from us; several publishing intervals at least.
const SESSION_TIMEOUT_MIN: Duration = Duration::from_secs(60);

/// Without a certificate of our own there is nothing that the name could be checked against.
const ANONYMOUS_APPLICATION_URI: &str = "urn:millrace";

/// What is needed to take a session up on another channel.
#[derive(Debug, Clone)]
pub(super) struct Login {
    token: NodeId,
    /// What the next activation has to sign.
    server_nonce: ByteString,
    /// It may be older than what the server has: then it is forgotten, whatever the server says of it.
    of_another_run: bool,
}

impl Login {
    /// For the agent that runs after this one. Whoever reads it can speak as this session: it is a secret.
    pub(super) fn to_text(&self) -> String {
        let nonce = self.server_nonce.as_ref().iter();
        let nonce: String = nonce.map(|byte| format!("{byte:02x}")).collect();
        format!("{nonce} {}", self.token)
    }

    /// `None` where it is no text of [`Login::to_text`].
    pub(super) fn from_text(text: &str) -> Option<Self> {
        let (nonce, token) = text.split_once(' ')?;
        let pairs = nonce.as_bytes().chunks(2);
        let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok();
        let nonce: Vec<u8> = pairs.map(byte).collect::<Option<_>>()?;
        Some(Self {
            token: token.parse().ok()?,
            server_nonce: nonce.into(),
            of_another_run: true,
        })
    }

    pub(super) fn is_of_another_run(&self) -> bool {
        self.of_another_run
    }
}

/// Creates and activates a session on the channel. `own` is ours where the channel is secured.
pub(super) async fn log_in(
    channel: &Channel,
    settings: &Settings,
    own: Option<&OwnCertificate>,
    silence_max: Duration,
) -> Result<Login, SessionError> {
    let nonce = random::byte_string(NONCE_BYTES);
    channel.set_token(NodeId::null());
    let created: CreateSessionResponse = channel
        .request("CreateSession", |request_header| CreateSessionRequest {
            request_header,
            client_description: description(own),
            server_uri: UAString::null(),
            endpoint_url: channel.endpoint().endpoint_url.clone(),
            session_name: format!("millrace {}", settings.device).into(),
            client_nonce: nonce.clone(),
            client_certificate: own
                .map(|own| ByteString::from(own.certificate.der()))
                .unwrap_or_default(),
            requested_session_timeout: silence_max.max(SESSION_TIMEOUT_MIN).as_secs_f64() * 1000.0,
            max_response_message_size: 0,
        })
        .await?;
    check_server(channel, own, &nonce, &created)?;
    if own.is_some() {
        check_offers(
            channel,
            settings,
            created.server_endpoints.unwrap_or_default(),
        )?;
    }
    let login = Login {
        token: created.authentication_token,
        server_nonce: created.server_nonce,
        of_another_run: false,
    };
    activate(channel, settings, own, login).await
}

/// Takes up a session that was created on another channel.
pub(super) async fn log_in_again(
    channel: &Channel,
    settings: &Settings,
    own: Option<&OwnCertificate>,
    login: &Login,
) -> Result<Login, SessionError> {
    activate(channel, settings, own, login.clone()).await
}

async fn activate(
    channel: &Channel,
    settings: &Settings,
    own: Option<&OwnCertificate>,
    login: Login,
) -> Result<Login, SessionError> {
    channel.set_token(login.token.clone());
    let identity = identity(channel, settings, &login.server_nonce)?;
    let client_signature = sign(channel, own, &login.server_nonce)?;
    let request = ActivateSessionRequest {
        request_header: channel.header(channel.timeout()),
        client_signature,
        client_software_certificates: None,
        locale_ids: None,
        user_identity_token: identity.token,
        user_token_signature: identity.signature,
    };
    let activated = channel.send::<ActivateSessionResponse>(request, channel.timeout());
    let activated = activated.await.map_err(|error| {
        login_refused(settings, error.status())
            .unwrap_or_else(|| channel.asked("ActivateSession").failed(&error))
    })?;
    Ok(Login {
        server_nonce: activated.server_nonce,
        ..login
    })
}

/// What is to be done depends on how we logged in.
fn login_refused(settings: &Settings, status: StatusCode) -> Option<SessionError> {
    if !matches!(
        status,
        StatusCode::BadUserAccessDenied
            | StatusCode::BadIdentityTokenRejected
            | StatusCode::BadIdentityTokenInvalid
            | StatusCode::BadUserSignatureInvalid
    ) {
        return None;
    }
    let (who, hint) = match &settings.auth {
        Auth::Anonymous => (
            "anybody without a login".to_owned(),
            "set username and password_file, or user_cert_file and user_key_file",
        ),
        Auth::UserName { user, .. } => (
            format!("user {user} with this password"),
            "check username and password_file, and that the server lets this user in",
        ),
        Auth::Certificate { cert_file, .. } => (
            format!("the user of the certificate {}", cert_file.display()),
            "trust user_cert_file at the server among the certificates of users, and give that user its rights",
        ),
    };
    Some(refused(
        settings,
        format!("it does not let {who} in ({status} at ActivateSession)"),
        hint,
    ))
}

fn description(own: Option<&OwnCertificate>) -> ApplicationDescription {
    let uri = own.map_or(ANONYMOUS_APPLICATION_URI, |own| &own.application_uri);
    ApplicationDescription {
        application_uri: uri.into(),
        product_uri: ANONYMOUS_APPLICATION_URI.into(),
        application_name: "Millrace".into(),
        application_type: ApplicationType::Client,
        ..ApplicationDescription::default()
    }
}

fn policy(channel: &Channel) -> SecurityPolicy {
    SecurityPolicy::from_uri(channel.endpoint().security_policy_uri.as_ref())
}

/// The server must show the certificate that we trust, and prove that it holds the key.
fn check_server(
    channel: &Channel,
    own: Option<&OwnCertificate>,
    nonce: &ByteString,
    created: &CreateSessionResponse,
) -> Result<(), SessionError> {
    let Some(own) = own else { return Ok(()) };
    let asked = channel.asked("CreateSession");
    if trust::leaf(&created.server_certificate) != channel.endpoint().server_certificate {
        return Err(asked.status(
            StatusCode::BadCertificateInvalid,
            "the session shows another certificate than the endpoint",
        ));
    }
    let server = Certificate::from_der(created.server_certificate.as_ref())
        .ok_or_else(|| asked.unfit("no certificate"))?;
    verify_signature_data(
        &created.server_signature,
        policy(channel),
        &server.x509,
        &own.certificate.x509,
        nonce.as_ref(),
    )
    .map_err(|_| asked.unfit("a signature that its certificate did not make"))
}

/// The list of endpoints came in clear; this one did not.
fn check_offers(
    channel: &Channel,
    settings: &Settings,
    offered: Vec<EndpointDescription>,
) -> Result<(), SessionError> {
    match stronger(settings, channel.endpoint(), offered) {
        None => Ok(()),
        Some(best) => Err(refused(
            settings,
            format!(
                "it offers {best}, but its list of endpoints did not say so: somebody may have changed it on the way"
            ),
            "look at what lies between gateway and server; or set security and mode",
        )),
    }
}

fn sign(
    channel: &Channel,
    own: Option<&OwnCertificate>,
    server_nonce: &ByteString,
) -> Result<SignatureData, SessionError> {
    let Some(own) = own else {
        return Ok(SignatureData::null());
    };
    let certificate = &channel.endpoint().server_certificate;
    create_signature_data(&own.key, policy(channel), certificate, server_nonce)
        .map_err(|error| channel.asked("ActivateSession").failed(&error))
}

/// Who we are, and the proof of it.
struct Identity {
    token: ExtensionObject,
    signature: SignatureData,
}

impl Identity {
    fn unproved(token: ExtensionObject) -> Self {
        Self {
            token,
            signature: SignatureData::null(),
        }
    }
}

fn identity(
    channel: &Channel,
    settings: &Settings,
    server_nonce: &ByteString,
) -> Result<Identity, SessionError> {
    let endpoint = channel.endpoint();
    let way = login_policy(endpoint, &settings.auth).ok_or_else(|| {
        channel.asked("ActivateSession").status(
            StatusCode::BadIdentityTokenRejected,
            "the endpoint takes no such login",
        )
    })?;
    check_protection(settings, endpoint, login_security(endpoint, way))?;
    match &settings.auth {
        Auth::Anonymous => Ok(Identity::unproved(ExtensionObject::from_message(
            AnonymousIdentityToken {
                policy_id: way.policy_id.clone(),
            },
        ))),
        Auth::UserName {
            user,
            password_file,
        } => {
            let password = read_password(settings, password_file)?;
            let token = user_name(channel, way, server_nonce, user, &password)?;
            Ok(Identity::unproved(ExtensionObject::from_message(token)))
        }
        Auth::Certificate {
            cert_file,
            key_file,
        } => {
            let user = UserCertificate::read(settings, cert_file, key_file)?;
            let token = X509IdentityToken {
                policy_id: way.policy_id.clone(),
                certificate_data: ByteString::from(user.certificate.der()),
            };
            // Where the way names no policy it is the channel's. Without any there is nothing to sign with.
            let signature = create_signature_data(
                &user.key,
                login_security(endpoint, way),
                &endpoint.server_certificate,
                server_nonce,
            )
            .map_err(|error| channel.asked("ActivateSession").failed(&error))?;
            Ok(Identity {
                token: ExtensionObject::from_message(token),
                signature,
            })
        }
    }
}

/// An endpoint in clear may ask for a protected login: then its certificate was not looked at before.
fn check_protection(
    settings: &Settings,
    endpoint: &EndpointDescription,
    policy: SecurityPolicy,
) -> Result<(), SessionError> {
    if policy == SecurityPolicy::None || settings.auth == Auth::Anonymous {
        return Ok(());
    }
    let certificate = Certificate::from_der(endpoint.server_certificate.as_ref());
    let bits = certificate.and_then(|certificate| certificate.rsa_bits());
    if bits.is_some_and(|bits| policy.is_valid_keylength(bits)) {
        return Ok(());
    }
    Err(refused(
        settings,
        format!(
            "it wants the login protected by {}, and shows no certificate with a key for that",
            policy.to_str()
        ),
        "give the server a certificate with an RSA key of 2048 bits or more",
    ))
}

fn user_name(
    channel: &Channel,
    way: &UserTokenPolicy,
    server_nonce: &ByteString,
    user: &str,
    password: &str,
) -> Result<UserNameIdentityToken, SessionError> {
    let certificate = Certificate::from_der(channel.endpoint().server_certificate.as_ref());
    let certificate = certificate.map(|certificate| certificate.x509);
    let secret = legacy_encrypt_secret(
        policy(channel),
        channel.endpoint().security_mode,
        way,
        server_nonce.as_ref(),
        &certificate,
        password.as_bytes(),
    )
    .map_err(|error| channel.asked("ActivateSession").failed(&error))?;
    Ok(UserNameIdentityToken {
        policy_id: secret.policy,
        user_name: user.into(),
        password: secret.secret,
        encryption_algorithm: secret.encryption_algorithm,
    })
}

fn read_password(settings: &Settings, path: &Path) -> Result<String, SessionError> {
    let text = std::fs::read_to_string(path).map_err(|error| {
        refused(
            settings,
            format!(
                "password_file {} cannot be read: {}",
                path.display(),
                with_cause(&error)
            ),
            "make the file readable for the user that runs millrace",
        )
    })?;
    Ok(text.trim_end_matches(['\r', '\n']).to_owned())
}
