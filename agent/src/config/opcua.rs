//! `driver = "opcua"`: how an OPC UA server is reached.

use std::path::Path;

use millrace_drivers::opcua::{Auth, Collect, Security, SecurityError, Settings};
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
    let timeout = section.duration("timeout");
    let server_cert_file = section.file("server_cert_file", FileUse::Certificate);
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
    settings.server_cert_file = server_cert_file;
    if let Some(timeout) = timeout {
        settings.timeout = timeout;
    }
    Some(settings)
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

fn read_auth(section: &Section<'_>) -> Option<Auth> {
    let user = section.text("username");
    let password = section.secret("password_file");
    match (user, section.has("password_file")) {
        (None, false) => Some(Auth::Anonymous),
        (Some(user), true) => match password? {
            SecretSource::File(password_file) => Some(Auth::UserName {
                user: user.to_owned(),
                password_file,
            }),
            SecretSource::Given(_) => {
                section.complain(
                    "password_file",
                    Complaint::new("the path of a file or credential:NAME is expected")
                        .hint("the password is read again at each login; a variable cannot change"),
                );
                None
            }
        },
        (Some(_), false) => {
            section.complain(
                "password_file",
                Complaint::new("the user's password is expected")
                    .hint("write it into a file of mode 0600 and name the file here"),
            );
            None
        }
        (None, true) => {
            section.complain(
                "username",
                Complaint::new("the user that the password is of is expected"),
            );
            None
        }
    }
}
