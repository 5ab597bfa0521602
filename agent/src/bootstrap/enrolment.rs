//! Keeping an enrolment: credentials into `<data_dir>/secrets`, configuration into
//! `<data_dir>/config/cloud.toml`.

use std::path::{Path, PathBuf};

use millrace_uplink::bootstrap::Enrolment;
use toml_edit::{DocumentMut, Table, value};

use crate::config;
use crate::durable;

/// The enrolment cannot be used; what was kept before stays.
#[derive(Debug, thiserror::Error)]
pub(super) enum EnrolmentError {
    /// The core knows us but has no configuration for us yet.
    #[error("the core sent no `content`; give this gateway a configuration there")]
    NoContent,
    /// `content` is no configuration, or does not go together with the local files.
    #[error("`content` is no usable configuration:\n{0}")]
    Content(config::Problems),
    /// It could not be written.
    #[error("cannot keep {}", .path.display())]
    Keep {
        /// Which file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// The attempt did not come to its end.
    #[error("the attempt was interrupted")]
    Interrupted(#[source] tokio::task::JoinError),
}

/// Secrets are for the service alone.
const SECRET_MODE: u32 = 0o600;

/// The core's configuration is not secret, and not for everybody either.
const CONFIG_MODE: u32 = 0o640;

/// Checks the enrolment and keeps it.
pub(super) fn keep(
    enrolment: &Enrolment,
    data_dir: &Path,
    local: Option<&Path>,
) -> Result<(), EnrolmentError> {
    let content = enrolment
        .content
        .as_deref()
        .filter(|content| !content.trim().is_empty());
    let text = config::layer_from_text(content.ok_or(EnrolmentError::NoContent)?)
        .map_err(EnrolmentError::Content)?;
    let secrets = Secrets::of(enrolment, &data_dir.join("secrets"));
    let layer = with_credentials(&text, enrolment, &secrets)?;
    secrets.write()?;
    config::check_cloud_layer(local, data_dir, &layer).map_err(EnrolmentError::Content)?;
    write(&config::cloud_file(data_dir), layer.as_bytes(), CONFIG_MODE)
}

fn write(path: &Path, bytes: &[u8], mode: u32) -> Result<(), EnrolmentError> {
    durable::write(path, bytes, mode).map_err(|source| EnrolmentError::Keep {
        path: path.to_owned(),
        source,
    })
}

/// The files of an enrolment, where it brought them.
struct Secrets<'a> {
    password: Option<(PathBuf, &'a str)>,
    certificate: Option<(PathBuf, &'a str)>,
    key: Option<(PathBuf, &'a str)>,
    ca: Option<(PathBuf, &'a str)>,
}

impl<'a> Secrets<'a> {
    fn of(enrolment: &'a Enrolment, dir: &Path) -> Self {
        let file = |name: &str, text: Option<&'a str>| text.map(|text| (dir.join(name), text));
        Self {
            password: file(
                "mqtt.password",
                enrolment.key.as_ref().map(|key| key.expose()),
            ),
            certificate: file("client.pem", enrolment.client_cert.as_deref()),
            key: file(
                "client.key",
                enrolment.client_key.as_ref().map(|key| key.expose()),
            ),
            ca: file("ca.pem", enrolment.ca_cert.as_deref()),
        }
    }

    fn write(&self) -> Result<(), EnrolmentError> {
        for (path, text) in [&self.password, &self.certificate, &self.key, &self.ca]
            .into_iter()
            .flatten()
        {
            write(path, text.as_bytes(), SECRET_MODE)?;
        }
        Ok(())
    }
}

/// Gives the core's uplinks the credentials that came beside them, where they name none of their own.
fn with_credentials(
    text: &str,
    enrolment: &Enrolment,
    secrets: &Secrets<'_>,
) -> Result<String, EnrolmentError> {
    let mut layer: DocumentMut = match text.parse() {
        Ok(layer) => layer,
        // `layer_from_text` made this text; were it no TOML, its own check says so with line and column.
        Err(_) => return Ok(text.to_owned()),
    };
    let uplinks = layer
        .get_mut("uplink")
        .and_then(|item| item.as_array_of_tables_mut());
    for uplink in uplinks.into_iter().flat_map(|uplinks| uplinks.iter_mut()) {
        let tls = uplink
            .get("url")
            .and_then(|url| url.as_str())
            .is_some_and(|url| url.starts_with("mqtts:"));
        if !enrolment.id.is_empty() && secrets.password.is_some() {
            fill(uplink, "username", Some(enrolment.id.as_str()));
            fill_path(uplink, "password_file", secrets.password.as_ref());
        }
        if tls {
            fill_path(uplink, "ca_file", secrets.ca.as_ref());
            if secrets.key.is_some() {
                fill_path(uplink, "cert_file", secrets.certificate.as_ref());
                fill_path(uplink, "key_file", secrets.key.as_ref());
            }
        }
    }
    Ok(layer.to_string())
}

fn fill(uplink: &mut Table, key: &str, text: Option<&str>) {
    if let Some(text) = text.filter(|_| !uplink.contains_key(key)) {
        uplink[key] = value(text);
    }
}

fn fill_path(uplink: &mut Table, key: &str, file: Option<&(PathBuf, &str)>) {
    fill(uplink, key, file.and_then(|(path, _)| path.to_str()));
}

#[cfg(test)]
mod tests {
    use millrace_uplink::Secret;
    use millrace_uplink::bootstrap::Authorization;

    use super::*;

    fn enrolment(content: &str) -> Enrolment {
        Enrolment {
            id: "thing-1".to_owned(),
            key: Some(Secret::new("s3cret")),
            channels: Vec::new(),
            content: Some(content.to_owned()),
            client_cert: None,
            client_key: None,
            ca_cert: Some("PEM".to_owned()),
            authorization: Authorization::Thing,
        }
    }

    fn filled(content: &str) -> String {
        let enrolment = enrolment(content);
        let secrets = Secrets::of(&enrolment, Path::new("/data/secrets"));
        with_credentials(content, &enrolment, &secrets).unwrap()
    }

    #[test]
    fn uplink_without_credentials_gets_those_of_the_enrolment() {
        let layer = filled("[[uplink]]\nname = \"cloud\"\nurl = \"mqtts://core\"\n");
        assert!(layer.contains("username = \"thing-1\""), "{layer}");
        assert!(
            layer.contains("password_file = \"/data/secrets/mqtt.password\""),
            "{layer}"
        );
        assert!(
            layer.contains("ca_file = \"/data/secrets/ca.pem\""),
            "{layer}"
        );
        assert!(!layer.contains("s3cret"), "{layer}");
    }

    #[test]
    fn own_credentials_stay_and_plain_mqtt_gets_no_certificates() {
        let layer =
            filled("[[uplink]]\nname = \"cloud\"\nurl = \"mqtt://core\"\nusername = \"me\"\n");
        assert!(layer.contains("username = \"me\""), "{layer}");
        assert!(!layer.contains("ca_file"), "{layer}");
    }
}
