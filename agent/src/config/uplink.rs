//! `[[uplink]]`: the connection to a cloud core.

mod limits;
mod login;
mod packing;
mod profile;
mod token;
mod verify;
pub(super) mod wire;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use millrace_uplink::profile::{DeliveryClass, Profile, Rates};
use millrace_uplink::session::{
    INFLIGHT_DEFAULT, INFLIGHT_MAX, KEEP_ALIVE_MIN, MESSAGE_BYTES_DEFAULT,
};
use millrace_uplink::{
    Endpoint, EndpointError, PasswordSource, STRING_BYTES_MAX, SecretSource, SessionSettings,
    TlsFiles,
};

use login::{read_login, read_tls};
use packing::{metered_compression, read_compression, read_packing, read_sealed};
use profile::read_profile;
use wire::Wire;

use super::complaint::Complaint;
use super::keys::{KeyDoc, Kind, SectionDoc};
use super::names::{self, Taken};
use super::pattern::Pattern;
use super::report::Report;
use super::section::Section;
use super::source::Files;
use super::tree::Table;

pub(crate) use limits::Metered;

/// How many uplinks there may be: each holds back the store for itself, and takes a connection.
pub(crate) const UPLINKS_MAX: usize = 8;

/// The table of keys.
pub(crate) const UPLINK: SectionDoc = SectionDoc {
    heading: "[[uplink]]",
    keys: &[
        KeyDoc::new("name", Kind::Form("a name of letters, digits, . _ and -"), "The uplink's name. What it has delivered is remembered under this name.")
            .required(),
        profile::PROFILE,
        profile::VARS,
        KeyDoc::new(
            "url",
            Kind::Form("a URL such as mqtts://core.example:8883"),
            "Where the broker is: `mqtt://host:port` (port 1883 where none is written) or \
             `mqtts://host:port` (8883), TLS with the server's certificate always verified; over WebSockets \
             `ws://host:port/path` (80) or `wss://host:port/path` (443), with `/mqtt` where there is no path. The name \
             is looked up for each attempt, and all its addresses are tried.",
        )
        .required(),
        wire::FALLBACK_URLS,
        wire::PROXY,
        wire::PROXY_USERNAME,
        wire::PROXY_PASSWORD_FILE,
        wire::PROTOCOL,
        KeyDoc::new(
            "client_id",
            Kind::Text,
            "The MQTT client id; `{gateway}` stands for the gateway's id.",
        )
        .means("`{gateway}`"),
        KeyDoc::new("username", Kind::Text, "The user to log in as; `{gateway}` as above."),
        KeyDoc::new(
            "password_file",
            Kind::Secret,
            "The file that holds the password (or the token, where the profile wants one) and nothing else, or \
             `env:NAME`, or `credential:NAME` of systemd.",
        ),
        token::TOKEN,
        token::TOKEN_KEY,
        token::TOKEN_LIFE,
        token::TOKEN_RESOURCE,
        token::TOKEN_CLAIMS,
        KeyDoc::new(
            "ca_file",
            Kind::File,
            "PEM certificates of the authorities that may vouch for the broker. Only with TLS.",
        )
        .means("those of the system"),
        wire::PIN_SHA256,
        KeyDoc::new("cert_file", Kind::File, "Our PEM certificate chain, for login by certificate. Only with TLS."),
        KeyDoc::new("key_file", Kind::File, "The PEM private key of cert_file."),
        KeyDoc::new(
            "start",
            Kind::Choice(&["oldest", "now"]),
            "Where an uplink begins that the store does not know yet: with the oldest data, or with those \
             of now.",
        )
        .means("`oldest` where the store has no other uplink, `now` beside others"),
        KeyDoc::new(
            "route",
            Kind::Texts,
            "Which devices and models it sends, by name or pattern (`*` is any run of characters).",
        )
        .means("`[\"*\"]`"),
        KeyDoc::new(
            "max_message",
            Kind::Size {
                min: 1024,
                max: 16 << 20,
            },
            "The largest message that the broker takes.",
        )
        .means("`128KiB`, or what the profile knows of the core where that is less"),
        KeyDoc::new(
            "max_inflight",
            Kind::Integer {
                min: 1,
                max: INFLIGHT_MAX as i64,
            },
            "Messages that may wait for their acknowledgement.",
        )
        .default("100"),
        KeyDoc::new(
            "keep_alive",
            Kind::Duration {
                min: KEEP_ALIVE_MIN,
                max: Duration::from_secs(65_535),
            },
            "The longest silence on the connection.",
        )
        .default("30s"),
        KeyDoc::new(
            "poison_after",
            Kind::Integer { min: 2, max: 100 },
            "How often the broker may close the connection over one and the same message, sent alone, before \
             that message is set aside (`millrace buffer poison`).",
        )
        .default("5"),
        verify::VERIFY,
        verify::SETTLE,
        verify::ACK_WAIT,
        limits::MESSAGES,
        limits::BYTES,
        limits::POINTS,
        limits::PER_DAY,
        limits::BATCH,
        KeyDoc::new(
            "settle_after",
            Kind::Duration {
                min: Duration::ZERO,
                max: Duration::from_secs(3600),
            },
            "With `sparkplug-b`: for how long an unbroken connection must have gone on before what was sent counts as \
             delivered; a connection that ends earlier sends it again as historical. With a primary host at least one \
             and a half times its keep-alive.",
        )
        .default("10s"),
        KeyDoc::new(
            "linger",
            Kind::Later,
            "How long samples may wait for others to share a message with.",
        ),
        packing::COMPRESSION,
        packing::SEAL,
        packing::SEAL_KEY,
    ],
};

// The text of the defaults above follows these.
const _: () = assert!(MESSAGE_BYTES_DEFAULT == 128 << 10 && INFLIGHT_DEFAULT == 100);

/// The connection to a cloud core.
#[derive(Debug, Clone)]
pub(crate) struct Uplink {
    /// Its name, which its cursor is kept under.
    pub(crate) name: String,
    /// The kind of core.
    pub(crate) profile: Arc<Profile>,
    /// Where the broker is.
    pub(crate) endpoint: Endpoint,
    /// What lies between.
    pub(crate) wire: Wire,
    /// Our name at the broker.
    pub(crate) client_id: String,
    /// The user to log in as.
    pub(crate) username: Option<String>,
    /// The user's password.
    pub(crate) password: Option<PasswordSource>,
    /// Certificates; none with plain MQTT.
    pub(crate) tls: TlsFiles,
    /// Where it begins when the store does not know it; `None`: with the oldest data where there is no other
    /// uplink, else with those of now.
    pub(crate) start: Option<Start>,
    /// Which devices and models it sends.
    pub(crate) route: Vec<Pattern>,
    /// The largest message in bytes.
    pub(crate) max_message: usize,
    /// Messages that may wait for their acknowledgement.
    pub(crate) max_inflight: usize,
    /// The longest silence on the connection.
    pub(crate) keep_alive: Duration,
    /// How often one message may end the connection before it is set aside.
    pub(crate) poison_after: u32,
    /// How long an edge node holds what the broker has read.
    pub(crate) settle_after: Duration,
    /// What may be sent in a second.
    pub(crate) rates: Rates,
    /// A link that is paid by the byte.
    pub(crate) metered: Option<Metered>,
    /// Whether acknowledgements count by themselves where the profile knows better.
    pub(crate) trusts_acks: bool,
    /// Where the core settles by itself: after so long without its word it gets everything again.
    pub(crate) ack_wait: Option<Duration>,
    /// The key that payloads are sealed with.
    pub(crate) seal_key: Option<SecretSource>,
}

/// Where an uplink begins that is new to the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Start {
    /// With the oldest data.
    Oldest,
    /// With the data of now.
    Now,
}

impl From<Start> for millrace_buffer::Start {
    fn from(start: Start) -> Self {
        match start {
            Start::Oldest => millrace_buffer::Start::Oldest,
            Start::Now => millrace_buffer::Start::Now,
        }
    }
}

impl Uplink {
    /// Whether it sends the samples of a device or model.
    pub(crate) fn routes(&self, source: &str) -> bool {
        self.route.iter().any(|pattern| pattern.matches(source))
    }

    /// Whether it logs in with a file of this directory.
    pub(crate) fn names_file_in(&self, directory: &Path) -> bool {
        let password = match &self.password {
            Some(
                PasswordSource::Secret(SecretSource::File(path))
                | PasswordSource::AzureSas {
                    key: SecretSource::File(path),
                    ..
                }
                | PasswordSource::Jwt {
                    key: SecretSource::File(path),
                    ..
                },
            ) => Some(path),
            _ => None,
        };
        [
            password,
            self.tls.ca_file.as_ref(),
            self.tls.cert_file.as_ref(),
        ]
        .into_iter()
        .flatten()
        .any(|path| path.starts_with(directory))
    }

    /// Whether a broker would take the two for one client.
    pub(crate) fn collides(&self, other: &Self) -> bool {
        let mut ours = std::iter::once(&self.endpoint).chain(&self.wire.fallbacks);
        let shared =
            ours.any(|ours| *ours == other.endpoint || other.wire.fallbacks.contains(ours));
        shared && self.client_id == other.client_id
    }

    /// Whether what is published has to come back before it counts as delivered.
    pub(crate) fn verifies(&self) -> bool {
        let definition = self.profile.definition();
        definition.delivery == DeliveryClass::AckedUnverified
            && definition.echo
            && !self.trusts_acks
            && self.ack_wait.is_none()
    }

    /// The settings of its session.
    pub(crate) fn session(&self) -> SessionSettings {
        let profile = &self.profile;
        let mut session = SessionSettings::new(self.endpoint.clone(), self.client_id.as_str());
        session.protocol = self.wire.protocol;
        session.fallbacks = self.wire.fallbacks.clone();
        session.proxy = self.wire.proxy.clone();
        session.username = self.username.clone();
        session.password = self.password.clone();
        session.token_as_username = profile.definition().wants_token();
        session.tls = self.tls.clone();
        session.keep_alive = self.keep_alive;
        session.max_inflight = self.max_inflight;
        session.max_message = self.max_message;
        session.will = profile.will();
        session.subscribe = profile.subscriptions();
        session.unacked = profile.definition().delivery == DeliveryClass::Unacked;
        session.farewell = profile.offline().into_iter().collect();
        session
    }

    /// Reads an uplink. `None` where it has a problem, which is reported then.
    pub(crate) fn read(
        table: &Table,
        nth: usize,
        gateway: &str,
        sources: &Taken,
        files: &Files,
        report: &Report,
    ) -> Option<Self> {
        let path = match table.text("name") {
            Some(name) => format!("uplink[{name}]"),
            None => format!("uplink[{nth}]"),
        };
        let section = Section::new(table, &UPLINK, path, report);
        section.finish(None);
        let name = names::plain_name(&section, "name");
        let endpoint = section.form("url", endpoint);
        let client_id = read_client_id(&section, gateway);
        let tls = read_tls(&section, endpoint.as_ref());
        let start = read_start(&section);
        let route = read_route(&section, sources);
        let packing = read_packing(&section);
        let compression = packing.as_ref().and_then(|packing| packing.compression);
        let sealed = packing
            .as_ref()
            .is_some_and(|packing| packing.seal_key.is_some());
        let profile = read_profile(&section, gateway, sources, files, route.as_deref())
            .and_then(|profile| read_compression(&section, profile, compression))
            .and_then(|profile| read_sealed(&section, profile, sealed))
            .map(|profile| {
                let compression = compression.or_else(|| metered_compression(&section, &profile));
                Arc::new(profile.packed(compression, sealed))
            });
        let wire = wire::read(&section, profile.as_deref(), endpoint.as_ref());
        let max_message = read_max_message(&section, profile.as_deref());
        let login = profile.as_deref().and_then(|profile| {
            let resource = || {
                Some(format!(
                    "{}/devices/{}",
                    endpoint.as_ref()?.host,
                    client_id.as_ref()?
                ))
            };
            let token = token::read(&section, gateway, resource)?;
            read_login(&section, gateway, profile, token)
        });
        let max_inflight = section.integer::<i32>("max_inflight");
        let keep_alive = section.duration("keep_alive");
        let poison_after = section.integer::<u32>("poison_after");
        let settle_after = read_settle_after(&section, profile.as_deref());
        let verify = section.choice("verify");
        let ack_wait = verify::read_ack_wait(&section, profile.as_deref());
        let rates = limits::rates(&section);
        let metered = limits::metered(&section);
        let rates = profile.as_deref()?.definition().rates.and(rates?);
        Some(Self {
            name: name?,
            profile: profile?,
            endpoint: endpoint?,
            wire: wire?,
            client_id: client_id?,
            username: login.as_ref()?.username.clone(),
            password: login?.password,
            tls: tls?,
            start: start?,
            route: route?,
            max_message: max_message?,
            max_inflight: usize::try_from(max_inflight?).ok()?,
            keep_alive: keep_alive?,
            poison_after: poison_after?,
            settle_after: settle_after?,
            rates,
            metered: metered?,
            trusts_acks: verify? == "puback",
            ack_wait: ack_wait?,
            seal_key: packing?.seal_key,
        })
    }
}

fn endpoint(text: &str) -> Result<Endpoint, Complaint> {
    if text.contains('@') {
        // Before anything else, since other errors show the URL.
        return Err(
            Complaint::said(&EndpointError::Credentials).hint("remove what stands before the @")
        );
    }
    text.parse::<Endpoint>()
        .map_err(|error| Complaint::said(&error).hint("for example mqtts://core.example:8883"))
}

/// Outer `None`: a problem, already reported.
fn read_start(section: &Section<'_>) -> Option<Option<Start>> {
    if !section.has("start") {
        return Some(None);
    }
    Some(Some(match section.choice("start")? {
        "now" => Start::Now,
        _ => Start::Oldest,
    }))
}

fn read_client_id(section: &Section<'_>, gateway: &str) -> Option<String> {
    if !section.has("client_id") {
        return Some(gateway.to_owned());
    }
    section.form("client_id", |text| {
        let id = text.replace("{gateway}", gateway);
        if id.contains(['{', '}']) {
            return Err(Complaint::new(
                "{gateway} is the only template that is known",
            ));
        }
        if id.len() > STRING_BYTES_MAX || id.chars().any(char::is_control) {
            return Err(Complaint::new(
                "a short text without control characters is expected",
            ));
        }
        Ok(id)
    })
}

/// How long an edge node holds what the broker has read; other profiles have acknowledgements.
fn read_settle_after(section: &Section<'_>, profile: Option<&Profile>) -> Option<Duration> {
    let unacked = profile?.definition().delivery == DeliveryClass::Unacked;
    if section.has("settle_after") && !unacked {
        let complaint = Complaint::new("this profile has acknowledgements, which settle");
        section.complain("settle_after", complaint.hint("remove it"));
        return None;
    }
    section.duration("settle_after")
}

fn read_max_message(section: &Section<'_>, profile: Option<&Profile>) -> Option<usize> {
    let most = profile?.definition().max_message.unwrap_or(usize::MAX);
    if !section.has("max_message") {
        return Some(MESSAGE_BYTES_DEFAULT.min(most));
    }
    let written = usize::try_from(section.size("max_message")?).ok()?;
    if written > most {
        let complaint = Complaint::new(format!("the core takes at most {most} bytes"));
        section.complain("max_message", complaint.hint("remove it, or write less"));
        return None;
    }
    Some(written)
}

fn read_route(section: &Section<'_>, sources: &Taken) -> Option<Vec<Pattern>> {
    if !section.has("route") {
        return Some(vec![Pattern::new("*")]);
    }
    let texts = section.texts("route")?;
    let mut route = Vec::with_capacity(texts.len());
    for (text, place) in texts {
        let pattern = Pattern::new(text.as_str());
        if text != "*" && !sources.names().any(|name| pattern.matches(name)) {
            let near = super::keys::nearest(&text, sources.names());
            section.report().note(
                &place,
                &section.path_of("route"),
                format!("route {text} fits no device and no model"),
                near.map(|near| format!("did you mean {near}?")),
            );
        }
        route.push(pattern);
    }
    Some(route)
}
