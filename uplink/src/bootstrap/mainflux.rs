//! Mainflux and Magistrala up to 0.30: one GET with the external key, plain or by `/secure/`.
//!
//! The generations differ in the spelling of the `Authorization` header, in how the key of `/secure/` is read, and
//! in the names of the JSON members; all of them are understood. The operator gives the base URL, the external id
//! is appended.

use async_trait::async_trait;
use hyper::Method;
use serde::Deserialize;

use super::secure::{KeyForm, SecureKey};
use super::{Attempt, BootstrapError, Channel, Contact, Enrolment, Provider, random_bytes};
use crate::http::{Ask, HttpUrl, percent_encoded};
use crate::secret::Secret;

/// A core of this family.
#[derive(Debug)]
pub struct Mainflux {
    contact: Contact,
    base: HttpUrl,
    generation: Option<Generation>,
    secure: Option<Secret>,
}

/// Generations that differ on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum Generation {
    /// Mainflux 0.8 to 0.12: the key alone as header; `/secure/` from 0.10 on, its key in hexadecimal.
    #[serde(rename = "mainflux-0.12")]
    Mainflux012,
    /// Mainflux 0.13: `Thing <key>`, the key of `/secure/` in hexadecimal.
    #[serde(rename = "mainflux-0.13")]
    Mainflux013,
    /// Magistrala 0.14 and 0.15: `Thing <key>`, the key of `/secure/` as text.
    #[serde(rename = "magistrala-0.15")]
    Magistrala015,
    /// Magistrala 0.16 to 0.30: `Client <key>`, the key of `/secure/` as text.
    #[serde(rename = "magistrala-0.30")]
    Magistrala030,
}

impl Generation {
    /// Each, with the name that configurations use.
    pub const NAMES: [(&'static str, Generation); 4] = [
        ("mainflux-0.12", Generation::Mainflux012),
        ("mainflux-0.13", Generation::Mainflux013),
        ("magistrala-0.15", Generation::Magistrala015),
        ("magistrala-0.30", Generation::Magistrala030),
    ];

    /// Those to try, in order. The path of the URL tells the generation, mostly. Without `/secure/` two of them
    /// send the same request.
    fn candidates(known: Option<Self>, url: &HttpUrl, secure: bool) -> Vec<Self> {
        use Generation::{Magistrala015, Magistrala030, Mainflux012, Mainflux013};
        let clients = format!("{}/", url.path()).contains("/clients/");
        let mut candidates = match known {
            Some(known) => return vec![known],
            None if clients => vec![Magistrala030, Magistrala015, Mainflux013, Mainflux012],
            None => vec![Magistrala015, Mainflux013, Mainflux012, Magistrala030],
        };
        if !secure {
            candidates.retain(|generation| *generation != Mainflux013);
        }
        candidates
    }

    fn header(self, key: &str) -> String {
        match self {
            Generation::Mainflux012 => key.to_owned(),
            Generation::Mainflux013 | Generation::Magistrala015 => format!("Thing {key}"),
            Generation::Magistrala030 => format!("Client {key}"),
        }
    }

    fn key_form(self) -> KeyForm {
        match self {
            Generation::Mainflux012 | Generation::Mainflux013 => KeyForm::Hex,
            Generation::Magistrala015 | Generation::Magistrala030 => KeyForm::Ascii,
        }
    }

    /// What its statuses mean.
    fn meanings(self) -> &'static [(u16, &'static str)] {
        match self {
            Generation::Mainflux012 => &[
                (
                    403,
                    "the external key came without the form that it wants; set bootstrap.generation",
                ),
                (
                    404,
                    "this external_id is not enrolled yet, or the external key is wrong",
                ),
            ],
            Generation::Mainflux013 | Generation::Magistrala015 => MEANINGS_013,
            Generation::Magistrala030 => MEANINGS_030,
        }
    }
}

const MEANINGS_013: &[(u16, &str)] = &[
    (
        401,
        "the external key came in a form that it does not read; set bootstrap.generation",
    ),
    (403, "the external key is wrong"),
    (
        404,
        "this external_id is not enrolled yet (up to 0.12 also: the external key is wrong)",
    ),
];

const MEANINGS_030: &[(u16, &str)] = &[
    (
        401,
        "the external key came in a form that it does not read; set bootstrap.generation",
    ),
    (403, "the external key is wrong"),
    (
        404,
        "this external_id is not enrolled yet (up to 0.12 also: the external key is wrong)",
    ),
    (
        500,
        "the service is in trouble, or the enrolment is disabled there",
    ),
];

impl Mainflux {
    /// A core that is asked as `generation`, or as each where that is not known; by `/secure/` where the key of
    /// the service is given.
    ///
    /// # Errors
    /// Where the settings cannot be used.
    pub fn new(
        contact: Contact,
        generation: Option<Generation>,
        secure: Option<Secret>,
    ) -> Result<Self, BootstrapError> {
        let base = contact.base(true)?;
        let provider = Self {
            contact,
            base,
            generation,
            secure,
        };
        let candidates = provider.candidates();
        match &provider.secure {
            Some(key) if !candidates.iter().any(|g| SecureKey::new(key, g.key_form()).is_some()) => {
                Err(BootstrapError::Settings {
                    key: "secure_key_file",
                    problem: "makes no AES key; expected 16, 24 or 32 characters (Magistrala), or twice as many \
                              hexadecimal digits (Mainflux)"
                        .into(),
                })
            }
            _ => Ok(provider),
        }
    }

    fn candidates(&self) -> Vec<Generation> {
        Generation::candidates(self.generation, &self.base, self.secure.is_some())
    }

    async fn ask_as(&self, generation: Generation) -> Result<Enrolment, BootstrapError> {
        let id = percent_encoded(&self.contact.external_id);
        let key = self.contact.key()?;
        let secure = match &self.secure {
            None => None,
            Some(text) => match SecureKey::new(text, generation.key_form()) {
                Some(key) => Some(key),
                // The text makes a key in another generation: this is not the one.
                None => return Err(self.unfit(generation)),
            },
        };
        let (url, value) = match &secure {
            None => (self.base.join(&format!("/{id}")), key.to_owned()),
            Some(secure) => {
                let sealed = secure.seal(random_bytes()?, key.as_bytes());
                let url = self.base.join(&format!("/secure/{id}"));
                (url, super::attempt::hex(&sealed))
            }
        };
        let headers = [
            ("authorization", generation.header(&value)),
            ("accept", "*/*".to_owned()),
        ];
        let answer = self
            .contact
            .exchange(Ask {
                method: Method::GET,
                url: &url,
                headers: &headers,
                body: None,
            })
            .await?;
        if answer.status != 200 {
            return Err(self.contact.refusal(&url, &answer, generation.meanings()));
        }
        match secure {
            None => parse(&url, &answer.body, generation),
            Some(key) => {
                let plain = key.open(&answer.body).unwrap_or_default();
                parse(&url, &plain, generation).map_err(not_by_this_key)
            }
        }
    }

    fn unfit(&self, generation: Generation) -> BootstrapError {
        let form = match generation.key_form() {
            KeyForm::Hex => "32, 48 or 64 hexadecimal digits",
            KeyForm::Ascii => "16, 24 or 32 characters",
        };
        BootstrapError::Settings {
            key: "secure_key_file",
            problem: format!("makes no AES key for this generation; expected {form}"),
        }
    }
}

#[async_trait]
impl Provider for Mainflux {
    async fn ask(&self, _: &Attempt) -> Result<Enrolment, BootstrapError> {
        let mut closest: Option<BootstrapError> = None;
        for generation in self.candidates() {
            let error = match self.ask_as(generation).await {
                Err(error @ (BootstrapError::Denied { .. } | BootstrapError::Settings { .. })) => {
                    error
                }
                other => return other,
            };
            tracing::debug!(%error, ?generation, "bootstrap refused");
            // 401 says only that the spelling is wrong; another status is closer to the cause.
            if closest
                .as_ref()
                .is_none_or(|earlier| rank(&error) > rank(earlier))
            {
                closest = Some(error);
            }
        }
        Err(closest.unwrap_or(BootstrapError::Settings {
            key: "generation",
            problem: "is none that can be asked".into(),
        }))
    }
}

/// How much a refusal says.
fn rank(error: &BootstrapError) -> u8 {
    match error {
        BootstrapError::Denied { status: 401, .. } => 1,
        BootstrapError::Denied { .. } => 2,
        _ => 0,
    }
}

fn not_by_this_key(error: BootstrapError) -> BootstrapError {
    match error {
        BootstrapError::Malformed {
            url,
            place,
            problem,
            ..
        } => BootstrapError::Malformed {
            url,
            place,
            problem,
            hint: "after decryption it is no JSON: secure_key_file is not the key of that service, or this is another \
                   generation (bootstrap.generation)",
        },
        error => error,
    }
}

/// Every generation's members at once.
#[derive(Deserialize)]
struct Reply {
    #[serde(alias = "mainflux_id", alias = "thing_id", alias = "client_id")]
    id: Option<String>,
    #[serde(alias = "mainflux_key", alias = "thing_key", alias = "client_secret")]
    key: Option<String>,
    #[serde(alias = "mainflux_channels")]
    channels: Option<Vec<Channel>>,
    content: Option<serde_json::Value>,
    client_cert: Option<String>,
    client_key: Option<String>,
    ca_cert: Option<String>,
}

fn parse(url: &HttpUrl, body: &[u8], generation: Generation) -> Result<Enrolment, BootstrapError> {
    let malformed = |place: String, problem: String, hint| BootstrapError::Malformed {
        url: url.to_string(),
        place,
        problem,
        hint,
    };
    let reply: Reply = serde_json::from_slice(body).map_err(|error| {
        malformed(
            format!("line {}, column {}", error.line(), error.column()),
            problem_text(&error),
            "expected the JSON of a Mainflux or Magistrala bootstrap service; check bootstrap.url",
        )
    })?;
    let id = text(reply.id).ok_or_else(|| {
        malformed(
            "the member mainflux_id, thing_id, client_id or id".into(),
            "is missing or empty".into(),
            "check bootstrap.url, and that the configuration at the core is bound to a thing or client",
        )
    })?;
    let content = match reply.content {
        None | Some(serde_json::Value::Null) => None,
        Some(serde_json::Value::String(text)) => Some(text),
        // Some proxies unwrap the JSON text; as text again it is the same configuration.
        Some(other) => Some(other.to_string()),
    };
    Ok(Enrolment {
        id,
        key: text(reply.key).map(Secret::new),
        channels: reply.channels.unwrap_or_default(),
        content: content.filter(|text| !text.trim().is_empty()),
        client_cert: text(reply.client_cert),
        client_key: text(reply.client_key).map(Secret::new),
        ca_cert: text(reply.ca_cert),
        generation: Some(generation),
        ..Enrolment::default()
    })
}

/// Absent and empty mean the same in every generation.
fn text(member: Option<String>) -> Option<String> {
    member.filter(|text| !text.is_empty())
}

/// What serde says, without the position that is told beside it, and without quoting values: they may
/// be secrets.
pub(super) fn problem_text(error: &serde_json::Error) -> String {
    match error.classify() {
        serde_json::error::Category::Data => "has a member of another type".into(),
        serde_json::error::Category::Eof => "ends in the middle of the JSON".into(),
        serde_json::error::Category::Syntax | serde_json::error::Category::Io => {
            "is no JSON".into()
        }
    }
}
