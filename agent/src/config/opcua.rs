//! `driver = "opcua"`: how an OPC UA server is reached.

use std::path::{Path, PathBuf};

use millrace_drivers::opcua::{
    Auth, Collect, Discard, NodeAddress, Security, SecurityError, Settings, Tolerance,
};
use millrace_uplink::SecretSource;

use super::complaint::Complaint;
use super::files::FileUse;
use super::section::Section;

/// Reads the keys of the driver.
pub(super) fn read(section: &Section<'_>, device: &str, pki_dir: &Path) -> Option<Settings> {
    let url = section.form("address", |text| match text.strip_prefix("opc.tcp://") {
        Some(rest) if rest.contains('@') => Err(Complaint::new(
            "a URL must not carry a user name or a password",
        )
        .hint("use the keys username and password_file")),
        Some(rest) if !rest.is_empty() && !rest.starts_with(['/', ':']) => Ok(text.to_owned()),
        _ => Err(
            Complaint::new("a URL that begins with opc.tcp:// is expected")
                .hint("for example opc.tcp://10.0.0.6:4840"),
        ),
    });
    let security = read_security(section);
    let auth = read_auth(section);
    let collect = section.choice("collect");
    let publish_interval = section.duration("publish_interval");
    let queue_size = section.integer("queue_size");
    let sampling_interval = section.duration("sampling_interval");
    let discard = section.choice("discard");
    let history = section.bool("history");
    let keep_alive = section.duration("keep_alive");
    let events = read_events(section);
    let events_severity = section.integer("events_severity");
    let timeout = section.duration("timeout");
    let server_cert_file = section.file("server_cert_file", FileUse::Certificate);
    let check_host = section.bool("check_host");
    let tolerate = read_tolerance(section);
    let mut settings = Settings::new(device, &url?, pki_dir);
    settings.security = security?;
    settings.auth = auth?;
    settings.collect = match collect? {
        "poll" => Collect::Poll,
        _ => Collect::Subscribe,
    };
    settings.publish_interval = publish_interval?;
    settings.queue_size = queue_size?;
    settings.sampling_interval = sampling_interval;
    settings.events = events?;
    settings.events_severity = events_severity?;
    settings.discard = match discard? {
        "newest" => Discard::Newest,
        _ => Discard::Oldest,
    };
    settings.history = history?;
    settings.keep_alive = keep_alive?;
    settings.server_cert_file = server_cert_file;
    settings.check_host = check_host;
    settings.tolerate = tolerate?;
    if let Some(timeout) = timeout {
        settings.timeout = timeout;
    }
    Some(settings)
}

fn read_events(section: &Section<'_>) -> Option<Vec<NodeAddress>> {
    if !section.has("events") {
        return Some(Vec::new());
    }
    if section.choice("collect") == Some("poll") {
        let complaint = Complaint::new("events come by a subscription, and collect is \"poll\"");
        section.complain("events", complaint.hint("remove one of the two"));
        return None;
    }
    let (mut nodes, mut fine) = (Vec::new(), true);
    for (text, place) in section.texts("events")? {
        match text.parse::<NodeAddress>() {
            Ok(node) => nodes.push(node),
            Err(error) => {
                let complaint = Complaint::said(&error).hint(error.hint());
                section.complain_at("events", &place, &text, complaint);
                fine = false;
            }
        }
    }
    fine.then_some(nodes)
}

fn read_security(section: &Section<'_>) -> Option<Security> {
    let (policy, mode) = (section.text("security"), section.text("mode"));
    match Security::from_keys(policy, mode) {
        Ok(security) => Some(security),
        Err(error) => {
            let key = match error {
                SecurityError::Policy { .. } => "security",
                _ => "mode",
            };
            section.complain(key, Complaint::said(&error).hint(error.hint()));
            None
        }
    }
}

fn read_tolerance(section: &Section<'_>) -> Option<Vec<Tolerance>> {
    if !section.has("tolerate") {
        return Some(Vec::new());
    }
    let mut tolerate = Vec::new();
    let mut is_whole = true;
    for (text, place) in section.texts("tolerate")? {
        let named = Tolerance::NAMED.iter().find(|(name, _)| *name == text);
        match named {
            Some((_, tolerance)) => tolerate.push(*tolerance),
            None => {
                let complaint = Complaint::new("validity, application or usage is expected")
                    .hint("what is not trusted is pinned (millrace trust); the host has a switch of its own, check_host");
                section.complain_at("tolerate", &place, &format!("\"{text}\""), complaint);
                is_whole = false;
            }
        }
    }
    is_whole.then_some(tolerate)
}

fn read_auth(section: &Section<'_>) -> Option<Auth> {
    let by_name = section.has("username") || section.has("password_file");
    let by_certificate = section.has("user_cert_file") || section.has("user_key_file");
    match (by_name, by_certificate) {
        (false, false) => Some(Auth::Anonymous),
        (true, false) => read_user_name(section),
        (false, true) => read_user_certificate(section),
        (true, true) => {
            let key = match section.has("user_cert_file") {
                true => "user_cert_file",
                false => "user_key_file",
            };
            section.complain(
                key,
                Complaint::new("a login by user name or by certificate is expected, not both")
                    .hint("remove username and password_file, or user_cert_file and user_key_file"),
            );
            None
        }
    }
}

fn read_user_name(section: &Section<'_>) -> Option<Auth> {
    let Some(user) = section.text("username") else {
        section.complain(
            "username",
            Complaint::new("the user that the password is of is expected"),
        );
        return None;
    };
    if !section.has("password_file") {
        section.complain(
            "password_file",
            Complaint::new("the user's password is expected")
                .hint("write it into a file of mode 0600 and name the file here"),
        );
        return None;
    }
    Some(Auth::UserName {
        user: user.to_owned(),
        password_file: secret_path(section, "password_file")?,
    })
}

fn read_user_certificate(section: &Section<'_>) -> Option<Auth> {
    for (key, other) in [
        ("user_cert_file", "user_key_file"),
        ("user_key_file", "user_cert_file"),
    ] {
        if !section.has(key) {
            section.complain(
                key,
                Complaint::new(format!("a file is expected, since {other} is set")),
            );
            return None;
        }
    }
    let cert_file = section.file("user_cert_file", FileUse::Certificate);
    let key_file = secret_path(section, "user_key_file");
    Some(Auth::Certificate {
        cert_file: cert_file?,
        key_file: key_file?,
    })
}

/// Secrets of a login are read again at each, so they have to lie in files.
fn secret_path(section: &Section<'_>, key: &str) -> Option<PathBuf> {
    match section.secret(key)? {
        SecretSource::File(path) => Some(path),
        SecretSource::Given(_) => {
            section.complain(
                key,
                Complaint::new("the path of a file or credential:NAME is expected")
                    .hint("it is read again at each login; a variable cannot change"),
            );
            None
        }
    }
}
