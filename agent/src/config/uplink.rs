//! `[[uplink]]`: the connection to a cloud core.

use std::time::Duration;

use millrace_uplink::profile::Generic;
use millrace_uplink::session::{
    INFLIGHT_DEFAULT, INFLIGHT_MAX, KEEP_ALIVE_MIN, MESSAGE_BYTES_DEFAULT,
};
use millrace_uplink::{
    Endpoint, EndpointError, STRING_BYTES_MAX, Scheme, SecretSource, SessionSettings, TlsFiles,
};

use super::complaint::Complaint;
use super::files::FileUse;
use super::keys::{KeyDoc, Kind, SectionDoc};
use super::names::{self, Taken};
use super::pattern::Pattern;
use super::report::Report;
use super::section::Section;
use super::tree::Table;

/// How many uplinks there may be: each holds back the store for itself, and takes a connection.
pub(crate) const UPLINKS_MAX: usize = 8;

/// The table of keys.
pub(crate) const UPLINK: SectionDoc = SectionDoc {
    heading: "[[uplink]]",
    keys: &[
        KeyDoc::new("name", Kind::Form("a name of letters, digits, . _ and -"), "The uplink's name. What it has delivered is remembered under this name.")
            .required(),
        KeyDoc::new(
            "profile",
            Kind::Choice {
                now: &["generic"],
                later: &[
                    "mainflux",
                    "magistrala",
                    "sparkplug-b",
                    "thingsboard",
                    "aws-iot",
                    "azure-iot-hub",
                    "nats",
                    "cumulocity",
                    "umh",
                    "proxus",
                    "leverege",
                ],
            },
            "The kind of core: topics, payload and limits.",
        )
        .default("generic"),
        KeyDoc::new(
            "url",
            Kind::Form("a URL such as mqtts://core.example:8883"),
            "Where the broker is: `mqtt://host:port` (port 1883 where none is written) or \
             `mqtts://host:port` (8883), TLS with the server's certificate always verified.",
        )
        .required(),
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
            "The file that holds the password and nothing else, or `env:NAME`, or `credential:NAME` of \
             systemd.",
        ),
        KeyDoc::new(
            "ca_file",
            Kind::File,
            "PEM certificates of the authorities that may vouch for the broker. Only with mqtts.",
        )
        .means("those of the system"),
        KeyDoc::new("cert_file", Kind::File, "Our PEM certificate chain, for login by certificate. Only with mqtts."),
        KeyDoc::new("key_file", Kind::File, "The PEM private key of cert_file."),
        KeyDoc::new(
            "start",
            Kind::Choice {
                now: &["oldest", "now"],
                later: &[],
            },
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
        .default("128KiB"),
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
        KeyDoc::new(
            "linger",
            Kind::Later,
            "How long samples may wait for others to share a message with.",
        ),
        KeyDoc::new("seal", Kind::Later, "Encryption of the payload."),
        KeyDoc::new("seal_key_file", Kind::Later, "Encryption of the payload."),
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
    pub(crate) profile: &'static str,
    /// Where the broker is.
    pub(crate) endpoint: Endpoint,
    /// Our name at the broker.
    pub(crate) client_id: String,
    /// The user to log in as.
    pub(crate) username: Option<String>,
    /// The user's password.
    pub(crate) password: Option<SecretSource>,
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

    /// Whether a broker would take the two for one client.
    pub(crate) fn collides(&self, other: &Self) -> bool {
        self.endpoint == other.endpoint && self.client_id == other.client_id
    }

    /// The settings of its session.
    pub(crate) fn session(&self, profile: &Generic) -> SessionSettings {
        let mut session = SessionSettings::new(self.endpoint.clone(), self.client_id.as_str());
        session.username = self.username.clone();
        session.password = self.password.clone();
        session.tls = self.tls.clone();
        session.keep_alive = self.keep_alive;
        session.max_inflight = self.max_inflight;
        session.max_message = self.max_message;
        session.will = Some(profile.offline());
        session.subscribe = vec![profile.command_topic()];
        session.farewell = vec![profile.offline()];
        session
    }

    /// Reads an uplink. `None` where it has a problem, which is reported then.
    pub(crate) fn read(
        table: &Table,
        nth: usize,
        gateway: &str,
        sources: &Taken,
        report: &Report,
    ) -> Option<Self> {
        let path = match table.text("name") {
            Some(name) => format!("uplink[{name}]"),
            None => format!("uplink[{nth}]"),
        };
        let section = Section::new(table, &UPLINK, path, report);
        section.finish(None);
        let name = names::plain_name(&section, "name");
        let profile = section.choice("profile");
        let endpoint = section.form("url", endpoint);
        let client_id = read_client_id(&section, gateway);
        let username = section
            .text("username")
            .map(|text| text.replace("{gateway}", gateway));
        let password = read_password(&section);
        let tls = read_tls(&section, endpoint.as_ref());
        let start = read_start(&section);
        let route = read_route(&section, sources);
        let max_message = section.size("max_message");
        let max_inflight = section.integer::<i32>("max_inflight");
        let keep_alive = section.duration("keep_alive");
        let poison_after = section.integer::<u32>("poison_after");
        Some(Self {
            name: name?,
            profile: profile?,
            endpoint: endpoint?,
            client_id: client_id?,
            username,
            password: password?,
            tls: tls?,
            start: start?,
            route: route?,
            max_message: usize::try_from(max_message?).ok()?,
            max_inflight: usize::try_from(max_inflight?).ok()?,
            keep_alive: keep_alive?,
            poison_after: poison_after?,
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

/// Outer `None`: a problem, already reported.
fn read_password(section: &Section<'_>) -> Option<Option<SecretSource>> {
    if !section.has("password_file") {
        return Some(None);
    }
    let password = section.secret("password_file")?;
    if !section.has("username") {
        section.complain(
            "username",
            Complaint::new("MQTT has no password without a user name")
                .hint("many brokers take any name beside a token: username = \"{gateway}\""),
        );
        return None;
    }
    Some(Some(password))
}

fn read_tls(section: &Section<'_>, endpoint: Option<&Endpoint>) -> Option<TlsFiles> {
    let plain = endpoint.is_some_and(|endpoint| endpoint.scheme == Scheme::Mqtt);
    let mut fits = true;
    for key in ["ca_file", "cert_file", "key_file"] {
        if plain && section.has(key) {
            section.complain(
                key,
                Complaint::new("certificates mean nothing without TLS")
                    .hint("write mqtts:// in url, or remove it"),
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
    };
    let read_all = tls.ca_file.is_some() == section.has("ca_file")
        && tls.cert_file.is_some() == section.has("cert_file")
        && tls.key_file.is_some() == section.has("key_file");
    (fits && read_all).then_some(tls)
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
