//! From an enrolment to what is kept of it: the configuration of the cloud layer, and files of credentials that it
//! names.

use std::path::Path;

use millrace_uplink::Secret;
use millrace_uplink::bootstrap::{Enrolment, Login};
use serde_json::{Map, Value, json};
use toml_edit::{DocumentMut, Item, Table, value};

use super::store::SecretFile;
use crate::config;

/// The enrolment cannot be used; what was kept before stays.
#[derive(Debug, thiserror::Error)]
pub(super) enum EnrolmentError {
    /// The core knows us but has no configuration for us yet.
    #[error(
        "the core sent no `content` and no uplink; give this gateway a configuration there, or write \
         [bootstrap] uplink = {{ url = \"mqtts://…\" }} here"
    )]
    NoContent,
    /// `content` is no configuration, or does not go together with the local files.
    #[error("`content` is no usable configuration:\n{0}")]
    Content(config::Problems),
    /// `[secrets]` of the content is no table of texts.
    #[error(
        "`content` has [secrets] with {0}; expected NAME = \"text\", the names of letters, digits, . _ and -"
    )]
    Secrets(String),
}

/// What is kept of an enrolment.
#[derive(Debug)]
pub(super) struct Kept {
    /// The configuration, TOML.
    pub(super) layer: String,
    /// The credentials.
    pub(super) files: Vec<SecretFile>,
}

/// The file of the user name that goes with `mqtt.password`.
const USER: &str = "mqtt.user";

/// The name of the uplink that an enrolment makes, where nothing says another.
const UPLINK_NAME: &str = "cloud";

/// Makes both of an enrolment. `template` is what the local configuration says of its uplink; `current` is where the
/// files will be found.
pub(super) fn kept(
    enrolment: &Enrolment,
    template: &Map<String, Value>,
    current: &Path,
) -> Result<Kept, EnrolmentError> {
    let content = enrolment.content.as_deref().unwrap_or_default();
    let text = match content.trim().is_empty() {
        true => String::new(),
        false => config::toml_from_text(content).map_err(EnrolmentError::Content)?,
    };
    let mut files = credentials(enrolment);
    let mut layer: DocumentMut = match text.parse() {
        Ok(layer) => layer,
        // `toml_from_text` made this text; were it no TOML, its own check says so with line and column.
        Err(_) => DocumentMut::new(),
    };
    take_secrets(&mut layer, &mut files)?;
    let own = uplink(enrolment, template);
    if !layer.contains_key("uplink") && own.contains_key("url") {
        let text = toml_edit::ser::to_string_pretty(&json!({"uplink": [own]})).unwrap_or_default();
        if let Ok(more) = text.parse::<DocumentMut>() {
            layer.extend(
                more.iter()
                    .map(|(key, item)| (key.to_owned(), item.clone())),
            );
        }
    }
    let nothing = layer.is_empty() && enrolment.client_cert.is_none();
    if nothing {
        return Err(EnrolmentError::NoContent);
    }
    fill_all(&mut layer, &files, current);
    let layer = match layer.is_empty() {
        true => String::new(),
        false => config::layer_from_text(&layer.to_string()).map_err(EnrolmentError::Content)?,
    };
    Ok(Kept { layer, files })
}

/// A configuration that the core sends later, with the login of the enrolment in force where it names none.
pub(super) fn with_login(layer: &str, files: &[SecretFile], current: &Path) -> String {
    let Ok(mut layer) = layer.parse::<DocumentMut>() else {
        return layer.to_owned();
    };
    fill_all(&mut layer, files, current);
    layer.to_string()
}

fn fill_all(layer: &mut DocumentMut, files: &[SecretFile], current: &Path) {
    let uplinks = layer
        .get_mut("uplink")
        .and_then(|item| item.as_array_of_tables_mut());
    for uplink in uplinks.into_iter().flat_map(|uplinks| uplinks.iter_mut()) {
        fill(uplink, files, current);
    }
}

/// The names of the uplinks in a layer.
pub(super) fn uplink_names(layer: &str) -> Vec<String> {
    let Ok(layer) = layer.parse::<DocumentMut>() else {
        return Vec::new();
    };
    let uplinks = layer.get("uplink").and_then(Item::as_array_of_tables);
    uplinks
        .into_iter()
        .flat_map(|uplinks| uplinks.iter())
        .filter_map(|uplink| Some(uplink.get("name")?.as_str()?.to_owned()))
        .collect()
}

/// The files that came beside the configuration.
pub(super) fn credentials(enrolment: &Enrolment) -> Vec<SecretFile> {
    let text = |text: &Option<String>| text.clone().map(Secret::new);
    let by_name = enrolment.login == Login::Password && !enrolment.id.is_empty();
    let user = by_name.then(|| Secret::new(enrolment.id.as_str()));
    let key = match enrolment.login {
        Login::AzureSas => "sas.key",
        Login::Password | Login::Token => "mqtt.password",
    };
    [
        (USER, user),
        (key, enrolment.key.clone()),
        ("client.pem", text(&enrolment.client_cert)),
        ("client.key", enrolment.client_key.clone()),
        ("ca.pem", text(&enrolment.ca_cert)),
    ]
    .into_iter()
    .filter_map(|(name, text)| Some((name.to_owned(), text?)))
    .collect()
}

/// Secrets that came inside the configuration become files: a core whose answer is nothing but `content` has no other
/// place for them.
fn take_secrets(
    layer: &mut DocumentMut,
    files: &mut Vec<SecretFile>,
) -> Result<(), EnrolmentError> {
    let Some(secrets) = layer.remove("secrets") else {
        return Ok(());
    };
    let table = secrets
        .as_table_like()
        .ok_or_else(|| EnrolmentError::Secrets("no table".to_owned()))?;
    for (name, item) in table.iter() {
        let plain = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
        let fits = !name.is_empty()
            && name.len() <= 64
            && !name.starts_with('.')
            && name.chars().all(plain);
        // Names of our own files beside them.
        let ours = matches!(name, "layer.toml" | "replaced.toml");
        let text = item.as_str().filter(|_| fits && !ours);
        let text = text.ok_or_else(|| EnrolmentError::Secrets(format!("`{name}`")))?;
        files.retain(|(known, _)| known != name);
        files.push((name.to_owned(), Secret::new(text)));
    }
    Ok(())
}

/// What the core says of the uplink, and before it what the local configuration says.
fn uplink(enrolment: &Enrolment, template: &Map<String, Value>) -> Map<String, Value> {
    let mut uplink = enrolment.uplink.clone();
    for (key, local) in template {
        match (uplink.get_mut(key), local) {
            (Some(Value::Object(known)), Value::Object(local)) => known.extend(local.clone()),
            _ => {
                uplink.insert(key.clone(), local.clone());
            }
        }
    }
    uplink.entry("name").or_insert_with(|| json!(UPLINK_NAME));
    let profile = uplink
        .get("profile")
        .and_then(Value::as_str)
        .unwrap_or_default();
    if matches!(profile, "mainflux" | "magistrala")
        && let Some(channel) = enrolment
            .channels
            .iter()
            .find(|channel| channel.name.as_deref() == Some("data"))
            .or(enrolment.channels.first())
    {
        let vars = uplink.entry("vars").or_insert_with(|| json!({}));
        if let Value::Object(vars) = vars {
            vars.entry("channel").or_insert_with(|| json!(channel.id));
        }
    }
    uplink
}

/// Gives an uplink the credentials that came beside it, where it names none of its own; and where it names one that
/// came by its bare name, the place of that file.
fn fill(uplink: &mut Table, files: &[SecretFile], current: &Path) {
    let has = |name: &str| files.iter().any(|(known, _)| known == name);
    let path = |name: &str| current.join(name).to_string_lossy().into_owned();
    for (_, item) in uplink.iter_mut() {
        if let Some(name) = item.as_str().filter(|name| has(name)).map(str::to_owned) {
            *item = value(path(&name));
        }
    }
    let mut set = |key: &str, text: &str| {
        if !uplink.contains_key(key) {
            uplink[key] = value(text);
        }
    };
    if has("mqtt.password") {
        if let Some((_, user)) = files.iter().find(|(name, _)| name == USER) {
            set("username", user.expose());
        }
        set("password_file", &path("mqtt.password"));
    }
    if has("sas.key") {
        set("token", "azure-sas");
        set("token_key_file", &path("sas.key"));
    }
    let secured = |url: &str| url.starts_with("mqtts:") || url.starts_with("wss:");
    let tls = match uplink.get("url") {
        Some(item) => match item.as_array() {
            Some(urls) => urls.iter().filter_map(|url| url.as_str()).any(secured),
            None => item.as_str().is_some_and(secured),
        },
        None => false,
    };
    if !tls {
        return;
    }
    let mut set = |key: &str, name: &str| {
        if has(name) && !uplink.contains_key(key) {
            uplink[key] = value(path(name));
        }
    };
    set("ca_file", "ca.pem");
    if has("client.pem") && has("client.key") {
        set("cert_file", "client.pem");
        set("key_file", "client.key");
    }
}

#[cfg(test)]
mod tests {
    use millrace_uplink::bootstrap::Channel;

    use super::*;

    fn enrolment(content: &str) -> Enrolment {
        Enrolment {
            id: "thing-1".to_owned(),
            key: Some(Secret::new("s3cret")),
            content: Some(content.to_owned()),
            ca_cert: Some("PEM".to_owned()),
            ..Enrolment::default()
        }
    }

    fn layer(enrolment: &Enrolment, template: Value) -> String {
        let template = template.as_object().cloned().unwrap_or_default();
        let kept = kept(enrolment, &template, Path::new("/data/secrets/current")).unwrap();
        assert!(!kept.layer.contains("s3cret"), "{}", kept.layer);
        kept.layer
    }

    fn filled(content: &str) -> String {
        layer(&enrolment(content), Value::Null)
    }

    #[test]
    fn uplink_without_credentials_gets_those_of_the_enrolment() {
        let layer = filled("[[uplink]]\nname = \"cloud\"\nurl = \"mqtts://core\"\n");
        for line in [
            "username = \"thing-1\"",
            "password_file = \"/data/secrets/current/mqtt.password\"",
            "ca_file = \"/data/secrets/current/ca.pem\"",
        ] {
            assert!(layer.contains(line), "{layer}");
        }
    }

    #[test]
    fn own_credentials_stay_and_plain_mqtt_gets_no_certificates() {
        let layer =
            filled("[[uplink]]\nname = \"cloud\"\nurl = \"mqtt://core\"\nusername = \"me\"\n");
        assert!(layer.contains("username = \"me\""), "{layer}");
        assert!(!layer.contains("ca_file"), "{layer}");
    }

    #[test]
    fn a_later_configuration_gets_the_login_of_the_enrolment() {
        let files = [(USER, "thing-1"), ("mqtt.password", "s3cret")]
            .map(|(name, text)| (name.to_owned(), Secret::new(text)));
        let text = "[[uplink]]\nname = \"cloud\"\nurl = \"mqtt://core\"\n";
        let layer = with_login(text, &files, Path::new("/s"));
        assert!(layer.contains("username = \"thing-1\""), "{layer}");
        assert!(
            layer.contains("password_file = \"/s/mqtt.password\""),
            "{layer}"
        );
        assert_eq!(with_login(text, &[], Path::new("/s")), text);
    }

    #[test]
    fn secrets_inside_the_content_become_files() {
        let content = r#"{"secrets": {"mqtt.password": "s3cret", "seal.key": "s3cret 2"},
            "uplink": [{"name": "cloud", "url": "mqtt://core", "username": "me", "seal_key_file": "seal.key"}]}"#;
        let enrolment = Enrolment {
            key: None,
            ..enrolment(content)
        };
        let kept = kept(&enrolment, &Map::new(), Path::new("/s")).unwrap();
        assert!(
            kept.layer.contains("password_file = \"/s/mqtt.password\""),
            "{}",
            kept.layer
        );
        assert!(
            kept.layer.contains("seal_key_file = \"/s/seal.key\""),
            "{}",
            kept.layer
        );
        assert!(!kept.layer.contains("s3cret"), "{}", kept.layer);
        let names: Vec<&str> = kept.files.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["mqtt.user", "ca.pem", "mqtt.password", "seal.key"]);
        for name in ["../evil", ".hidden", "layer.toml", "a/b"] {
            let content = json!({"secrets": {name: "x"}}).to_string();
            let enrolment = Enrolment {
                content: Some(content),
                ..Enrolment::default()
            };
            let error = super::kept(&enrolment, &Map::new(), Path::new("/s")).unwrap_err();
            assert!(
                matches!(error, EnrolmentError::Secrets(_)),
                "{name}: {error}"
            );
        }
    }

    #[test]
    fn where_the_core_sends_credentials_alone_the_uplink_is_made_here() {
        let channel = |id: &str, name: &str| Channel {
            id: id.to_owned(),
            name: Some(name.to_owned()),
            metadata: Value::Null,
        };
        let mainflux = Enrolment {
            channels: vec![channel("c1", "control"), channel("c2", "data")],
            ..enrolment("")
        };
        let made = layer(
            &mainflux,
            json!({"url": "mqtt://core", "profile": "mainflux"}),
        );
        for line in [
            "[[uplink]]",
            "name = \"cloud\"",
            "channel = \"c2\"",
            "username = \"thing-1\"",
        ] {
            assert!(made.contains(line), "{made}");
        }
        assert_eq!(uplink_names(&made), ["cloud"]);
        let azure = Enrolment {
            key: Some(Secret::new("s3cret")),
            login: Login::AzureSas,
            uplink: json!({"profile": "azure-iot-hub", "url": "mqtts://hub", "vars": {"hub": "hub", "device": "d"}})
                .as_object()
                .cloned()
                .unwrap(),
            ..Enrolment::default()
        };
        let made = layer(&azure, json!({"name": "azure", "vars": {"device": "mine"}}));
        for line in [
            "name = \"azure\"",
            "device = \"mine\"",
            "hub = \"hub\"",
            "token = \"azure-sas\"",
            "token_key_file",
        ] {
            assert!(made.contains(line), "{made}");
        }
        let error = kept(&enrolment(""), &Map::new(), Path::new("/s")).unwrap_err();
        assert!(matches!(error, EnrolmentError::NoContent), "{error}");
        // A certificate is worth keeping alone: the local configuration names it.
        let certificate = Enrolment {
            client_cert: Some("PEM".to_owned()),
            client_key: Some(Secret::new("s3cret")),
            ..Enrolment::default()
        };
        assert_eq!(layer(&certificate, Value::Null), "");
    }
}
