//! Passwords that are made here: tokens with an end (`token…` of `[[uplink]]`).

use std::time::Duration;

use millrace_uplink::PasswordSource;
use serde_json::{Map, Value};

use crate::config::complaint::Complaint;
use crate::config::keys::{KeyDoc, Kind};
use crate::config::section::Section;
use crate::config::tree::Raw;

/// A shorter life costs more connections than it is worth.
const LIFE_MIN: Duration = Duration::from_secs(5);
/// Cores refuse tokens that are good for longer.
const LIFE_MAX: Duration = Duration::from_secs(24 * 3600);

pub(super) const TOKEN: KeyDoc = KeyDoc::new(
    "token",
    Kind::Choice(&["none", "azure-sas", "jwt"]),
    "The password is a token that is made anew for each connection, instead of password_file: a shared access signature \
     of Azure, or a JSON web token (RS256 with an RSA key, ES256 with one of P-256). Before it ends the uplink connects \
     anew. Tokens need the clock to be set.",
)
.default("none");

pub(super) const TOKEN_KEY: KeyDoc = KeyDoc::new(
    "token_key_file",
    Kind::Secret,
    "What signs the token: the device's key in base64 for azure-sas, a PEM private key for jwt.",
);

pub(super) const TOKEN_LIFE: KeyDoc = KeyDoc::new(
    "token_life",
    Kind::Duration {
        min: LIFE_MIN,
        max: LIFE_MAX,
    },
    "How long each token is good for; the connection is renewed when 15 % of it are left.",
)
.default("1h");

pub(super) const TOKEN_RESOURCE: KeyDoc = KeyDoc::new(
    "token_resource",
    Kind::Text,
    "Only with azure-sas: what the token is for.",
)
.means("`<host of url>/devices/<client_id>`");

pub(super) const TOKEN_CLAIMS: KeyDoc = KeyDoc::new(
    "token_claims",
    Kind::Form("a table such as { aud = \"my-project\" }"),
    "Only with jwt: claims beside `iat` and `exp`, for example `aud`; `{gateway}` stands for the gateway's id.",
);

/// The source of tokens, where one is configured. Outer `None`: a problem, already reported.
pub(super) fn read(
    section: &Section<'_>,
    gateway: &str,
    resource: impl FnOnce() -> Option<String>,
) -> Option<Option<PasswordSource>> {
    let kind = section.choice("token")?;
    let only = [
        ("token_key_file", &["azure-sas", "jwt"][..]),
        ("token_resource", &["azure-sas"]),
        ("token_claims", &["jwt"]),
    ];
    for (key, kinds) in only {
        if section.has(key) && !kinds.contains(&kind) {
            let said = format!(
                "it means something with token = \"{}\" only",
                kinds.join("\" or \"")
            );
            section.complain(key, Complaint::new(said).hint("remove it, or set token"));
            return None;
        }
    }
    let life = section.duration("token_life")?;
    if kind == "none" {
        return Some(None);
    }
    if section.has("password_file") {
        let said = "the token takes its place";
        section.complain(
            "password_file",
            Complaint::new(said).hint("remove it, or token"),
        );
        return None;
    }
    if !section.has("token_key_file") {
        let said = "what signs the token is expected";
        section.complain("token_key_file", Complaint::new(said).hint(TOKEN_KEY.doc));
        return None;
    }
    let key = section.secret("token_key_file")?;
    Some(Some(match kind {
        "jwt" => PasswordSource::Jwt {
            key,
            claims: claims(section, gateway)?,
            life,
        },
        _ => PasswordSource::AzureSas {
            key,
            resource: match section.has("token_resource") {
                true => section.text("token_resource")?.to_owned(),
                false => resource()?,
            },
            life,
        },
    }))
}

fn claims(section: &Section<'_>, gateway: &str) -> Option<Map<String, Value>> {
    let Some(node) = section.node("token_claims") else {
        return Some(Map::new());
    };
    let Raw::Table(table) = &node.raw else {
        section.complain("token_claims", Complaint::new("a table is expected"));
        return None;
    };
    let mut claims = Map::new();
    for entry in &table.entries {
        let value = match &entry.node.raw {
            Raw::Text(text) => Value::from(text.replace("{gateway}", gateway)),
            Raw::Int(int) => Value::from(*int),
            Raw::Bool(bool) => Value::from(*bool),
            _ => {
                let key = format!("token_claims.{}", entry.key);
                let complaint = Complaint::new("a text, a whole number or a bool is expected");
                section.complain_at(&key, &entry.node.place, &entry.node.shown(), complaint);
                return None;
            }
        };
        if ["iat", "exp"].contains(&entry.key.as_str()) {
            let complaint = Complaint::new("it is set for each token")
                .hint("remove it; token_life says how long");
            section.complain_at("token_claims", &entry.key_place, &entry.key, complaint);
            return None;
        }
        claims.insert(entry.key.clone(), value);
    }
    Some(claims)
}
