//! How an uplink logs in: user name, password, certificates.

use millrace_uplink::profile::{Need, Profile};
use millrace_uplink::{Endpoint, PasswordSource, TlsFiles};

use super::wire;
use crate::config::complaint::Complaint;
use crate::config::files::FileUse;
use crate::config::section::Section;

/// How an uplink logs in.
pub(super) struct Login {
    pub(super) username: Option<String>,
    pub(super) password: Option<PasswordSource>,
}

/// User name and password, or what else the profile wants.
pub(super) fn read_login(
    section: &Section<'_>,
    gateway: &str,
    profile: &Profile,
    made: Option<PasswordSource>,
) -> Option<Login> {
    let definition = profile.definition();
    let written = section
        .text("username")
        .map(|text| text.replace("{gateway}", gateway));
    let username = written.or_else(|| profile.username());
    // A token that is made here is as good as the certificate that a core takes instead.
    let by_token = made.is_some();
    let password = match section.has("password_file") {
        true => Some(PasswordSource::Secret(section.secret("password_file")?)),
        false => made,
    };
    let token = definition.wants_token();
    if token && section.has("username") {
        section.complain(
            "username",
            Complaint::new(format!(
                "the profile {} logs in by a token alone",
                definition.name
            ))
            .hint("remove it; the token is the content of password_file"),
        );
        return None;
    }
    if password.is_some() && username.is_none() && !token {
        section.complain(
            "username",
            Complaint::new("MQTT has no password without a user name")
                .hint("many brokers take any name beside a token: username = \"{gateway}\""),
        );
        return None;
    }
    let missing = definition.needs.iter().find_map(|need| match need {
        Need::Username if username.is_none() => Some(("username", "a user name")),
        Need::Password if password.is_none() => Some(("password_file", "a password")),
        Need::Token if password.is_none() => Some(("password_file", "a token")),
        Need::Certificate if !section.has("cert_file") && !by_token => {
            Some(("cert_file", "a certificate"))
        }
        _ => None,
    });
    if let Some((key, what)) = missing {
        section.complain(
            key,
            Complaint::new(format!("the profile {} logs in by {what}", definition.name)),
        );
        return None;
    }
    Some(Login { username, password })
}

/// What TLS needs beside the endpoint.
pub(super) fn read_tls(section: &Section<'_>, endpoint: Option<&Endpoint>) -> Option<TlsFiles> {
    let plain = endpoint.is_some_and(|endpoint| !endpoint.scheme.is_tls());
    let mut fits = true;
    for key in ["ca_file", "cert_file", "key_file", "pin_sha256"] {
        if plain && section.has(key) {
            section.complain(
                key,
                Complaint::new("certificates mean nothing without TLS")
                    .hint("write mqtts:// or wss:// in url, or remove it"),
            );
            fits = false;
        }
    }
    for (one, other) in [("cert_file", "key_file"), ("key_file", "cert_file")] {
        if section.has(one) && !section.has(other) {
            section.complain(other, Complaint::new(format!("{one} needs it beside it")));
            fits = false;
        }
    }
    let tls = TlsFiles {
        ca_file: section.file("ca_file", FileUse::Certificate),
        cert_file: section.file("cert_file", FileUse::Certificate),
        key_file: section.file("key_file", FileUse::Secret),
        pins: wire::read_pins(section)?,
    };
    let read_all = tls.ca_file.is_some() == section.has("ca_file")
        && tls.cert_file.is_some() == section.has("cert_file")
        && tls.key_file.is_some() == section.has("key_file");
    (fits && read_all).then_some(tls)
}
