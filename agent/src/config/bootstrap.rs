//! `[bootstrap]`: the first contact with a cloud core.

mod claim;
mod fleet;
mod identity;
mod provider;

use std::path::PathBuf;
use std::time::Duration;

use millrace_uplink::bootstrap::{DpsKey, Fleet, Generation, parse_sha256};
use millrace_uplink::{Proxy, SecretSource};
use serde_json::{Map, Value};

pub(crate) use claim::Brought;
#[cfg(test)]
pub(super) use claim::CLAIM;
pub(crate) use identity::{ExternalId, ExternalIdError};
pub(crate) use provider::{BootstrapSettingsError, KnownContact};

use super::complaint::Complaint;
use super::files::FileUse;
use super::keys::{KeyDoc, Kind, SectionDoc};
use super::section::Section;
use super::tree::{Node, Raw};
use super::uplink::wire;

/// The longest spread of first requests: a fleet of any size comes in well within an hour.
const SPREAD_MAX: Duration = Duration::from_secs(3600);

/// The table of keys.
pub(crate) const BOOTSTRAP: SectionDoc = SectionDoc {
    heading: "[bootstrap]",
    keys: &[
        KeyDoc::new(
            "provider",
            Kind::Choice(&[
                "mainflux",
                "magistrala-proof",
                "hmac-claim",
                "est",
                "thingsboard",
                "azure-dps",
                "aws-claim",
                "file",
            ]),
            "How the core hands out credentials; see [bootstrap](bootstrap.md).",
        )
        .required(),
        KeyDoc::new(
            "url",
            Kind::Form("a URL such as https://core.example/things/bootstrap"),
            "The base URL; what each provider appends is in [bootstrap](bootstrap.md). `est` and `azure-dps` take \
             https:// only, `aws-claim` mqtts:// only; `thingsboard` takes mqtts:// and mqtt:// of its broker, too, which \
             becomes that of the uplink.",
        )
        .means("that of the claim string; `https://global.azure-devices-provisioning.net` for azure-dps"),
        KeyDoc::new(
            "external_id",
            Kind::Form("a text, machine-id, mac:eth0 or serial"),
            "The name that the operator gave the gateway at the core: written out, or `machine-id` \
             (/etc/machine-id), `mac:eth0` (the address of that interface, lower case with colons) or \
             `serial` (of the board).",
        )
        .means("that of the claim string, else `machine-id`"),
        KeyDoc::new(
            "external_key_file",
            Kind::Secret,
            "The key that goes with the name: a file, `env:NAME` or `credential:NAME`. For thingsboard \
             `KEY:SECRET` of the device profile, for azure-dps the base64 key of the enrolment, for est the one-time \
             password.",
        ),
        KeyDoc::new(
            "claim_file",
            Kind::Secret,
            "A claim string instead of url, ca_sha256 and external_key_file, on one line: \
             `https://core.example/claim#sha256=…&token=…`. A file, `env:NAME` or `credential:NAME`.",
        ),
        KeyDoc::new(
            "one_time",
            Kind::Bool,
            "Whether the external key is good for one enrolment only: then it is destroyed once the enrolment has \
             proved itself. Otherwise it moves to `<data_dir>/secrets`.",
        )
        .means("`true` for hmac-claim and est, else `false`"),
        KeyDoc::new(
            "ca_file",
            Kind::File,
            "PEM certificates of the authorities that may vouch for the core, and for the broker of its enrolment where \
             that brings none and the uplink names none.",
        )
        .means("those of the system"),
        KeyDoc::new(
            "ca_sha256",
            Kind::Form("64 hexadecimal digits"),
            "Trust the one authority with this SHA-256 of its certificate (DER), which the server must send along; \
             instead of ca_file.",
        ),
        KeyDoc::new(
            "proxy",
            Kind::Form("a URL such as http://proxy.example:3128"),
            "The way out for the first contact and renewals: `http://host:port` (`CONNECT`, port 3128 where none is written) or \
             `socks5://host:port` (1080), as at `[[uplink]]`.",
        ),
        wire::PROXY_USERNAME,
        wire::PROXY_PASSWORD_FILE,
        KeyDoc::new(
            "generation",
            Kind::Choice(&[
                "auto",
                "mainflux-0.12",
                "mainflux-0.13",
                "magistrala-0.15",
                "magistrala-0.30",
            ]),
            "Only with mainflux: the newest generation that the core is like. `auto` tries each, and keeps to what \
             worked.",
        )
        .default("auto"),
        KeyDoc::new(
            "secure_key_file",
            Kind::Secret,
            "Only with mainflux: the encryption key of the bootstrap service; it is asked by `/secure/` then.",
        ),
        KeyDoc::new("id_scope", Kind::Text, "Only with azure-dps: the ID scope of the provisioning service."),
        KeyDoc::new(
            "dps_key",
            Kind::Choice(&["device", "group"]),
            "Only with azure-dps: whether the key is this device's, or that of its enrolment group.",
        )
        .default("device"),
        fleet::TEMPLATE,
        fleet::CERT_FILE,
        fleet::KEY_FILE,
        fleet::PARAMETERS,
        KeyDoc::new("file", Kind::File, "Only with file: where the enrolment will lie."),
        KeyDoc::new(
            "spread",
            Kind::Duration {
                min: Duration::ZERO,
                max: SPREAD_MAX,
            },
            "The first request after a start comes at a moment of this span that the external id draws, so that a \
             fleet that was switched on together does not ask at once.",
        )
        .default("10s"),
        KeyDoc::new(
            "uplink",
            Kind::Form("a table such as { url = \"mqtts://core.example\", profile = \"generic\" }"),
            "The uplink to make where the core sends credentials and no `[[uplink]]`: keys of `[[uplink]]`. They go \
             before what the core says.",
        ),
    ],
};

/// Keys that one provider alone knows.
const OWN_KEYS: [(&str, &str); 9] = [
    ("generation", "mainflux"),
    ("secure_key_file", "mainflux"),
    ("id_scope", "azure-dps"),
    ("dps_key", "azure-dps"),
    ("template", "aws-claim"),
    ("cert_file", "aws-claim"),
    ("key_file", "aws-claim"),
    ("parameters", "aws-claim"),
    ("file", "file"),
];

/// The first contact with a core.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Bootstrap {
    /// The provider, as it is written.
    pub(crate) provider: &'static str,
    url: Option<String>,
    /// The gateway's name at the core; `None`: that of the claim string, or the machine's.
    pub(crate) external_id: Option<ExternalId>,
    /// The key that goes with it.
    pub(crate) external_key: Option<SecretSource>,
    /// All in one line.
    pub(crate) claim: Option<SecretSource>,
    /// Whether the key is good for one enrolment only.
    pub(crate) one_time: bool,
    ca_file: Option<PathBuf>,
    ca_sha256: Option<[u8; 32]>,
    proxy: Option<Proxy>,
    generation: Option<Generation>,
    secure_key: Option<SecretSource>,
    id_scope: Option<String>,
    dps_key: DpsKey,
    fleet: Option<Fleet>,
    file: Option<PathBuf>,
    /// What first requests are spread over.
    pub(crate) spread: Duration,
    /// What the uplink of an enrolment is like where the core does not say.
    pub(crate) uplink: Map<String, Value>,
    /// The claim that all this comes from.
    pub(crate) brought: Option<Brought>,
    /// The network interface that should lead to the core.
    pub(crate) interface: Option<String>,
}

impl Bootstrap {
    /// Reads the table. `None` where it has a problem, which is reported then.
    pub(crate) fn read(section: &Section<'_>) -> Option<Self> {
        section.finish(None);
        let provider = section.choice("provider");
        let url = optional(section, "url", || section.form("url", any_url));
        let external_id = external_id(section);
        let secret = |key| {
            optional(section, key, || {
                section.secret_used(key, &FileUse::BootstrapKey)
            })
        };
        let external_key = secret("external_key_file");
        let claim = secret("claim_file");
        let secure_key = optional(section, "secure_key_file", || {
            section.secret("secure_key_file")
        });
        let ca_file = optional(section, "ca_file", || {
            section.file("ca_file", FileUse::Certificate)
        });
        let ca_sha256 = ca_sha256(section);
        let file = optional(section, "file", || {
            section.file("file", FileUse::BootstrapKey)
        });
        let generation = section.choice("generation").map(|name| {
            let known = Generation::NAMES.iter().find(|(known, _)| *known == name);
            known.map(|(_, generation)| *generation)
        });
        let id_scope = optional(section, "id_scope", || section.text("id_scope"));
        let dps_key = section.choice("dps_key").map(|key| match key {
            "group" => DpsKey::Group,
            _ => DpsKey::Device,
        });
        let proxy = wire::read_proxy(section);
        let one_time = optional(section, "one_time", || section.bool("one_time"));
        let spread = section.duration("spread");
        let uplink = read_table(
            section,
            "uplink",
            "a table of keys of [[uplink]] is expected",
        );
        let fleet = fleet::read(section);
        let provider = provider?;
        let fits = fits(section, provider);
        let bootstrap = Self {
            provider,
            url: url?,
            external_id: external_id?,
            external_key: external_key?,
            claim: claim?,
            one_time: one_time?.unwrap_or(is_one_time(provider)),
            ca_file: ca_file?,
            ca_sha256: ca_sha256?,
            proxy: proxy?,
            generation: generation?,
            secure_key: secure_key?,
            id_scope: id_scope?.map(str::to_owned),
            dps_key: dps_key?,
            fleet: fleet?,
            file: file?,
            spread: spread?,
            uplink: uplink?,
            brought: None,
            interface: None,
        };
        fits.then_some(bootstrap)
    }
}

/// Whether the key of this provider is good for one enrolment only, where nobody says.
fn is_one_time(provider: &str) -> bool {
    matches!(provider, "hmac-claim" | "est")
}

fn external_id(section: &Section<'_>) -> Option<Option<ExternalId>> {
    optional(section, "external_id", || {
        section.form("external_id", ExternalId::parse)
    })
}

fn ca_sha256(section: &Section<'_>) -> Option<Option<[u8; 32]>> {
    optional(section, "ca_sha256", || {
        section.form("ca_sha256", |text| {
            parse_sha256(text).ok_or_else(|| {
                Complaint::new("64 hexadecimal digits are expected")
                    .hint("openssl x509 -in ca.pem -outform der | sha256sum")
            })
        })
    })
}

/// Reports keys that are missing, or do not go together.
fn fits(section: &Section<'_>, provider: &str) -> bool {
    let mut fits = true;
    let mut complain = |key: &str, complaint: Complaint| {
        section.complain(key, complaint);
        fits = false;
    };
    for (key, owner) in OWN_KEYS {
        if section.has(key) && owner != provider {
            let said = format!("it is a key of provider = \"{owner}\"");
            complain(key, Complaint::new(said).hint("remove it"));
        }
    }
    if section.has("claim_file") {
        for key in ["url", "external_key_file", "ca_sha256"] {
            if section.has(key) {
                let said = "the claim string says it already";
                complain(key, Complaint::new(said).hint("remove it, or claim_file"));
            }
        }
    }
    if section.has("ca_file") && section.has("ca_sha256") {
        let said = "ca_file says already whom to trust";
        complain("ca_sha256", Complaint::new(said).hint("remove one of them"));
    }
    if provider == "file" {
        if !section.has("file") {
            complain(
                "file",
                Complaint::new("the path of the enrolment is expected"),
            );
        }
        for key in [
            "url",
            "external_key_file",
            "claim_file",
            "ca_file",
            "ca_sha256",
            "proxy",
        ] {
            if section.has(key) {
                let said = "nothing is asked over the network with provider = \"file\"";
                complain(key, Complaint::new(said).hint("remove it"));
            }
        }
        return fits;
    }
    if provider == "aws-claim" {
        for key in ["url", "template", "cert_file", "key_file"] {
            if !section.has(key) {
                let said = "it is expected with provider = \"aws-claim\"";
                complain(key, Complaint::new(said).hint("see docs/bootstrap.md"));
            }
        }
        for key in ["external_key_file", "claim_file", "ca_sha256", "one_time"] {
            if section.has(key) {
                let said = "the claim certificate logs in with provider = \"aws-claim\"";
                complain(key, Complaint::new(said).hint("remove it"));
            }
        }
    } else if !section.has("claim_file") {
        if !section.has("url") && provider != "azure-dps" {
            let said = "a URL that begins with https:// is expected";
            complain(
                "url",
                Complaint::new(said).hint("for example https://core.example/things/bootstrap"),
            );
        }
        if !section.has("external_key_file") {
            let said = "the file that holds the external key is expected";
            let hint = "a file of mode 0600, env:NAME or credential:NAME; or claim_file";
            complain("external_key_file", Complaint::new(said).hint(hint));
        }
    }
    if provider == "azure-dps" && !section.has("id_scope") {
        let said = "the ID scope of the provisioning service is expected";
        complain(
            "id_scope",
            Complaint::new(said).hint("the portal shows it, for example 0ne000A1B2C"),
        );
    }
    let written = section.node("url").and_then(Node::as_text);
    let by_mqtt = written.is_some_and(|url| url.starts_with("mqtt"));
    let plain = written.is_some_and(|url| ["http:", "mqtt:"].iter().any(|it| url.starts_with(it)));
    let asks_over = match provider {
        "aws-claim" => (plain || !by_mqtt).then_some("mqtts:// only"),
        "est" | "azure-dps" => (plain || by_mqtt).then_some("https:// only"),
        "thingsboard" => None,
        _ => by_mqtt.then_some("https://"),
    };
    if by_mqtt && provider == "thingsboard" && section.has("ca_sha256") {
        let said = "it works with https:// only";
        complain("ca_sha256", Complaint::new(said).hint("write ca_file"));
    }
    if let (Some(_), Some(asks_over)) = (written, asks_over) {
        let said = format!("{provider} asks over {asks_over}");
        complain("url", Complaint::new(said));
    } else if plain {
        section.note(
            "url",
            match provider {
                "mainflux" | "thingsboard" => {
                    "the first contact is not encrypted: who listens gets the external key"
                }
                _ => "the first contact is not encrypted: who listens learns which gateway asks, and when",
            }
            .to_owned(),
            Some(match by_mqtt {
                true => "write mqtts:// where the core has it".to_owned(),
                false => "write https:// where the core has it".to_owned(),
            }),
        );
    }
    fits
}

/// Outer `None`: it is written and has a problem, which is reported.
fn optional<T>(
    section: &Section<'_>,
    key: &str,
    read: impl FnOnce() -> Option<T>,
) -> Option<Option<T>> {
    match section.has(key) {
        true => read().map(Some),
        false => Some(None),
    }
}

/// Some cores are asked over MQTT.
fn any_url(text: &str) -> Result<String, Complaint> {
    let schemes = ["mqtts://", "mqtt://"];
    match schemes.iter().find_map(|scheme| text.strip_prefix(scheme)) {
        None => url(text),
        Some(rest) => url(&format!("https://{rest}")).map(|_| text.to_owned()),
    }
}

fn url(text: &str) -> Result<String, Complaint> {
    let rest = text
        .strip_prefix("https://")
        .or_else(|| text.strip_prefix("http://"));
    match rest {
        Some(rest) if rest.contains('@') => Err(Complaint::new(
            "a URL must not carry a user name or a password",
        )
        .hint("the key goes into external_key_file")),
        Some(rest) if rest.contains(['#', '?']) => Err(Complaint::new(
            "host and path only are expected, without query or fragment",
        )
        .hint("a whole claim string goes into claim_file")),
        Some(rest) if !rest.is_empty() && !rest.starts_with('/') => Ok(text.to_owned()),
        _ => Err(
            Complaint::new("a URL that begins with https:// is expected")
                .hint("for example https://core.example/things/bootstrap"),
        ),
    }
}

/// A table, as it is written.
fn read_table(section: &Section<'_>, key: &str, expected: &str) -> Option<Map<String, Value>> {
    let Some(node) = section.node(key) else {
        return Some(Map::new());
    };
    match value(node) {
        Some(Value::Object(map)) => Some(map),
        _ => {
            section.complain(key, Complaint::new(expected));
            None
        }
    }
}

fn value(node: &Node) -> Option<Value> {
    Some(match &node.raw {
        Raw::Text(text) | Raw::Cell(text) => Value::from(text.as_str()),
        Raw::Int(int) => Value::from(*int),
        Raw::Float(float) => Value::from(*float),
        Raw::Bool(bool) => Value::from(*bool),
        Raw::Time(_) => return None,
        Raw::List(nodes) => Value::Array(nodes.iter().map(value).collect::<Option<_>>()?),
        Raw::Table(table) => {
            let member =
                |entry: &super::tree::Entry| Some((entry.key.clone(), value(&entry.node)?));
            Value::Object(table.entries.iter().map(member).collect::<Option<_>>()?)
        }
    })
}
