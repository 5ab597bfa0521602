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
    UAString, UserNameIdentityToken, UserTokenPolicy,
};
use std::path::Path;
use std::time::Duration;

use super::channel::Channel;
use super::endpoint::{refused, stronger, token_type, with_cause};
use super::settings::{Auth, Settings};
use super::trust::{self, OwnCertificate};
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
                .map(|own| own.certificate.as_byte_string())
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
    let user_identity_token = identity(channel, settings, &login.server_nonce)?;
    let client_signature = sign(channel, own, &login.server_nonce)?;
    let activated: ActivateSessionResponse = channel
        .request("ActivateSession", |request_header| ActivateSessionRequest {
            request_header,
            client_signature,
            client_software_certificates: None,
            locale_ids: None,
            user_identity_token,
            user_token_signature: SignatureData::null(),
        })
        .await?;
    Ok(Login {
        server_nonce: activated.server_nonce,
        ..login
    })
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
    let server = trust::server_certificate(&created.server_certificate)
        .map_err(|error| asked.unfit(&error.to_string()))?;
    verify_signature_data(
        &created.server_signature,
        policy(channel),
        &server,
        &own.certificate,
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

fn identity(
    channel: &Channel,
    settings: &Settings,
    server_nonce: &ByteString,
) -> Result<ExtensionObject, SessionError> {
    let token = channel
        .endpoint()
        .find_policy(token_type(&settings.auth))
        .ok_or_else(|| {
            channel.asked("ActivateSession").status(
                StatusCode::BadIdentityTokenRejected,
                "the endpoint takes no such login",
            )
        })?;
    match &settings.auth {
        Auth::Anonymous => Ok(ExtensionObject::from_message(AnonymousIdentityToken {
            policy_id: token.policy_id.clone(),
        })),
        Auth::UserName {
            user,
            password_file,
        } => {
            let password = read_password(settings, password_file)?;
            let token = user_name(channel, token, server_nonce, user, &password)?;
            Ok(ExtensionObject::from_message(token))
        }
    }
}

fn user_name(
    channel: &Channel,
    token: &UserTokenPolicy,
    server_nonce: &ByteString,
    user: &str,
    password: &str,
) -> Result<UserNameIdentityToken, SessionError> {
    let asked = channel.asked("ActivateSession");
    let uri = token.security_policy_uri.as_ref();
    if !uri.is_empty() && SecurityPolicy::from_uri(uri) == SecurityPolicy::Unknown {
        return Err(asked.status(
            StatusCode::BadSecurityPolicyRejected,
            "the password would have to be encrypted by an unknown policy",
        ));
    }
    let certificate = trust::server_certificate(&channel.endpoint().server_certificate).ok();
    let secret = legacy_encrypt_secret(
        policy(channel),
        channel.endpoint().security_mode,
        token,
        server_nonce.as_ref(),
        &certificate,
        password.as_bytes(),
    )
    .map_err(|error| asked.failed(&error))?;
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
