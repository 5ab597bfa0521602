//! What our own server side and a dropped file hand over: an enrolment as TOML, JSON or YAML.

use serde::Deserialize;
use serde_json::{Map, Value};

use super::{Attempt, BootstrapError, Channel, Enrolment, Login};
use crate::secret::Secret;

/// Types of `content` that can be a configuration.
const CONTENT_TYPES: [&str; 7] = [
    "application/json",
    "application/yaml",
    "application/x-yaml",
    "text/yaml",
    "application/toml",
    "text/plain",
    "",
];

/// See docs/bootstrap.md, "The enrolment".
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Document {
    #[serde(default)]
    id: String,
    key: Option<String>,
    #[serde(default)]
    login: WrittenLogin,
    #[serde(default)]
    channels: Vec<Channel>,
    #[serde(default)]
    uplink: Map<String, Value>,
    #[serde(default)]
    content_type: String,
    content: Option<Value>,
    client_cert: Option<String>,
    client_key: Option<String>,
    ca_cert: Option<String>,
    claim_id: Option<String>,
}

#[derive(Debug, Clone, Copy, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum WrittenLogin {
    #[default]
    Password,
    Token,
    AzureSas,
}

impl Document {
    /// Reads JSON, TOML or YAML. What is wrong is told without quoting it: it holds secrets.
    pub(super) fn parse(from: &str, bytes: &[u8]) -> Result<Self, BootstrapError> {
        let malformed = |place: String, problem: String| BootstrapError::Malformed {
            url: from.to_owned(),
            place,
            problem,
            hint: "expected id, key, login, channels, uplink, content_type, content, client_cert, client_key and \
                   ca_cert as JSON, TOML or YAML",
        };
        let text = std::str::from_utf8(bytes)
            .map_err(|_| malformed("the text".into(), "is no UTF-8".into()))?
            .trim_start_matches('\u{feff}');
        if text.trim_start().starts_with('{') {
            return serde_json::from_str(text).map_err(|error| {
                let place = format!("line {}, column {}", error.line(), error.column());
                malformed(place, super::mainflux::problem_text(&error))
            });
        }
        if let Ok(table) = text.parse::<toml::Table>() {
            return table.try_into().map_err(|error: toml::de::Error| {
                malformed("the table".into(), first_line(error.message()))
            });
        }
        serde_yaml_ng::from_str(text).map_err(|error| {
            let line = error.location().map_or(1, |place| place.line());
            malformed(
                format!("line {line}"),
                "is neither JSON nor TOML nor YAML of an enrolment".into(),
            )
        })
    }

    /// As every provider gives it. A certificate without a key must be for the key of the attempt.
    pub(super) fn enrolment(
        self,
        from: &str,
        attempt: Option<&Attempt>,
    ) -> Result<Enrolment, BootstrapError> {
        let malformed = |place: &str, problem: &str, hint| BootstrapError::Malformed {
            url: from.to_owned(),
            place: place.to_owned(),
            problem: problem.to_owned(),
            hint,
        };
        let kind = self
            .content_type
            .split(';')
            .next()
            .unwrap_or_default()
            .trim();
        if !CONTENT_TYPES.contains(&kind) {
            return Err(malformed(
                "content_type",
                "is none of a configuration",
                "expected application/json, application/yaml, application/toml or text/plain",
            ));
        }
        let content = match self.content {
            None | Some(Value::Null) => None,
            Some(Value::String(text)) => Some(text),
            Some(tables) => Some(tables.to_string()),
        };
        let client_key = match (&self.client_cert, present(self.client_key), attempt) {
            (Some(_), Some(key), _) => Some(Secret::new(key)),
            (Some(pem), None, Some(attempt)) if attempt.owns_pem(pem) => {
                Some(attempt.key_pem().clone())
            }
            (Some(_), None, _) => {
                return Err(malformed(
                    "client_cert",
                    "is not for our key",
                    "the core must sign the certificate request that it was sent",
                ));
            }
            (None, _, _) => None,
        };
        Ok(Enrolment {
            id: self.id,
            key: present(self.key).map(Secret::new),
            login: match self.login {
                WrittenLogin::Password => Login::Password,
                WrittenLogin::Token => Login::Token,
                WrittenLogin::AzureSas => Login::AzureSas,
            },
            channels: self.channels,
            uplink: self.uplink,
            content: present(content),
            client_cert: present(self.client_cert),
            client_key,
            ca_cert: present(self.ca_cert),
            generation: None,
            receipt: self.claim_id,
        })
    }
}

fn present(text: Option<String>) -> Option<String> {
    text.filter(|text| !text.trim().is_empty())
}

/// What a reader says, without the lines of the text that it may quote.
fn first_line(text: &str) -> String {
    text.lines().next().unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Enrolment, BootstrapError> {
        Document::parse("here", text.as_bytes())?.enrolment("here", None)
    }

    #[test]
    fn the_three_forms_say_the_same() {
        let json = r#"{"id":"t1","key":"k1","uplink":{"profile":"mainflux","url":"mqtts://core","vars":{"channel":"c"}},
            "content_type":"application/toml; charset=utf-8","content":"a = 1"}"#;
        let toml = "id = \"t1\"\nkey = \"k1\"\ncontent_type = \"application/toml\"\ncontent = \"a = 1\"\n\
            [uplink]\nprofile = \"mainflux\"\nurl = \"mqtts://core\"\nvars = { channel = \"c\" }\n";
        let yaml = "id: t1\nkey: k1\ncontent: 'a = 1'\nuplink:\n  profile: mainflux\n  url: mqtts://core\n  vars: {channel: c}\n";
        let read = |text| read(text).unwrap();
        assert_eq!(read(json), read(toml));
        assert_eq!(read(json), read(yaml));
        assert_eq!(read(json).uplink["profile"], "mainflux");
        let table = "id = \"t\"\n[[content.device]]\nname = \"pump\"\n";
        assert_eq!(
            read(table).content.unwrap(),
            r#"{"device":[{"name":"pump"}]}"#
        );
    }

    #[test]
    fn what_is_wrong_is_named_without_quoting_it() {
        for (text, said) in [
            ("{\"id\": 5, \"key\": \"s3cret\"}", "another type"),
            ("{\"id\"", "in the middle"),
            ("id = 5\nkey = \"s3cret\"\n", "the table"),
            ("s3cret", "neither JSON nor TOML nor YAML"),
            ("{\"content_type\": \"image/png\"}", "content_type"),
            ("{\"client_cert\": \"PEM\"}", "is not for our key"),
        ] {
            let error = read(text).unwrap_err().to_string();
            assert!(error.contains(said), "{text}: {error}");
            assert!(!error.contains("s3cret"), "{error}");
        }
    }
}
