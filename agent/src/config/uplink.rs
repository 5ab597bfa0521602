//! `[[uplink]]`: the connection to a cloud core.

mod limits;
mod login;
mod token;
mod verify;
mod wire;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use millrace_uplink::profile::{self, Compression, DeliveryClass, Profile, Rates};
use millrace_uplink::session::{
    INFLIGHT_DEFAULT, INFLIGHT_MAX, KEEP_ALIVE_MIN, MESSAGE_BYTES_DEFAULT,
};
use millrace_uplink::{
    Endpoint, EndpointError, PasswordSource, STRING_BYTES_MAX, SecretSource, SessionSettings,
    TlsFiles,
};

use login::{read_login, read_tls};
use wire::Wire;

use super::complaint::Complaint;
use super::keys::{KeyDoc, Kind, SectionDoc};
use super::names::{self, Taken};
use super::pattern::Pattern;
use super::problem::Problem;
use super::report::Report;
use super::section::Section;
use super::source::{Files, Role};
use super::tree::{Raw, Table};

pub(crate) use limits::Metered;

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
            Kind::Form("the name of a profile"),
            "The kind of core: topics, payload and limits. Built in: `generic`, `mainflux`, `magistrala`, \
             `mainfluxlabs`, `thingsboard`, `influx-line`, `leverege`, `flowbox`, `aws-iot`, `azure-iot-hub`, `nats`, \
             `umh`, `proxus`, `cumulocity`, `sparkplug-b`. The file `profiles/NAME.toml` \
             beside the configuration adds one, or takes the place of a built-in one; see \
             [profiles](profiles.md).",
        )
        .means("`generic`"),
        KeyDoc::new(
            "vars",
            Kind::Form("a table such as { channel = \"…\" }"),
            "What the profile needs to know beside that, `vars = { channel = \"…\" }`; `check` names what is \
             missing.",
        ),
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
        KeyDoc::new(
            "compression",
            Kind::Choice {
                now: &["none", "zstd", "gzip"],
                later: &[],
            },
            "Payloads are compressed, where the profile's receivers can undo it. One that does not get smaller \
             stays as it is; zstd and gzip are known by their first bytes.",
        )
        .default("none"),
        KeyDoc::new(
            "seal",
            Kind::Choice {
                now: &["none", "aes-256-gcm"],
                later: &[],
            },
            "Payloads are encrypted from end to end, whatever the codec: neither broker nor core reads them. See \
             [profiles](profiles.md). Commands to the agent are not sealed.",
        )
        .default("none"),
        KeyDoc::new(
            "seal_key_file",
            Kind::Secret,
            "The key of `seal`: 32 bytes as 64 hexadecimal digits or as base64 (`openssl rand -hex 32`).",
        ),
    ],
};

/// The profile of an uplink that names none.
const DEFAULT_PROFILE: &str = "generic";

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

/// The profile of that name, joined to the gateway and the variables.
fn read_profile(
    section: &Section<'_>,
    gateway: &str,
    sources: &Taken,
    files: &Files,
    route: Option<&[Pattern]>,
) -> Option<Profile> {
    let name = match section.has("profile") {
        true => section.text("profile")?,
        false => DEFAULT_PROFILE,
    };
    let place = section.place();
    // A profile is a person's, never the cloud's.
    let local = section.report().cloud_bounds_at(place).is_none();
    let directory = local.then(|| profiles_beside(&place.file));
    // Through the files of the configuration, of which the last good one keeps a copy.
    let look = |path: &Path| {
        let read = || files.read(path, Role::Profile, None);
        let refused = |problem: Box<Problem>| std::io::Error::other(problem.message);
        files.exists(path).then(|| read().map_err(refused))
    };
    let definition = match profile::find_with(name, directory.as_deref(), look) {
        Ok(definition) => Arc::new(definition),
        Err(error) => {
            for problem in error.0 {
                let (said, fix) = (problem.sentence(), problem.fix);
                section.complain("profile", Complaint::whole(said).hint(fix));
            }
            return None;
        }
    };
    let unproven = !definition.echo || section.choice("verify") == Some("puback");
    if definition.delivery == DeliveryClass::AckedUnverified && unproven {
        section.note(
            "profile",
            format!("an acknowledgement of {name} does not prove that the core took the data"),
            Some("look whether they arrive when the uplink is new".to_owned()),
        );
    }
    let vars = read_vars(section)?;
    let mut names: Vec<&str> = sources
        .names()
        .filter(|name| route.is_some_and(|route| route.iter().any(|to| to.matches(name))))
        .collect();
    names.sort_unstable();
    match Profile::new(definition, gateway, &vars, &names) {
        Ok(profile) => Some(profile),
        Err(error) => {
            let complaint = Complaint::said(&error).hint("write vars = { name = \"…\" }");
            section.complain("vars", complaint);
            None
        }
    }
}

/// What happens to payloads after the codec.
struct Packing {
    compression: Option<Compression>,
    seal_key: Option<SecretSource>,
}

fn read_packing(section: &Section<'_>) -> Option<Packing> {
    let compression = section.choice("compression")?;
    let sealed = section.choice("seal")? != "none";
    if sealed != section.has("seal_key_file") {
        match sealed {
            true => section.complain("seal_key_file", Complaint::new("seal needs its key")),
            false => section.complain(
                "seal",
                Complaint::new("a key alone seals nothing").hint("seal = \"aes-256-gcm\""),
            ),
        }
        return None;
    }
    let seal_key = match sealed {
        true => Some(section.secret("seal_key_file")?),
        false => None,
    };
    let words = Compression::WORDS;
    let compression = words.iter().find(|(word, _)| *word == compression);
    Some(Packing {
        compression: compression.map(|(_, meaning)| *meaning),
        seal_key,
    })
}

/// The profile, where its payloads may be sealed.
fn read_sealed(section: &Section<'_>, profile: Profile, sealed: bool) -> Option<Profile> {
    if sealed && profile.definition().delivery == DeliveryClass::Unacked {
        let complaint = Complaint::new("hosts and brokers read the payloads of Sparkplug");
        section.complain("seal", complaint.hint("remove it, and seal_key_file"));
        return None;
    }
    Some(profile)
}

/// The profile, where its receivers can undo the compression.
fn read_compression(
    section: &Section<'_>,
    profile: Profile,
    compression: Option<Compression>,
) -> Option<Profile> {
    let definition = profile.definition();
    if compression.is_none_or(|compression| definition.compression.contains(&compression)) {
        return Some(profile);
    }
    let complaint = Complaint::new(format!(
        "the receivers of the profile {} cannot undo that",
        definition.name
    ));
    section.complain("compression", complaint.hint("remove it"));
    None
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

/// A metered link is compressed where nobody says otherwise.
fn metered_compression(section: &Section<'_>, profile: &Profile) -> Option<Compression> {
    let metered = ["metered_bytes_per_day", "metered_batch_interval"];
    let wanted = metered.iter().any(|key| section.has(key)) && !section.has("compression");
    let zstd = Compression::Zstd;
    (wanted && profile.definition().compression.contains(&zstd)).then_some(zstd)
}

/// The directory of a person's own profiles: beside the main file, whichever file names the uplink.
fn profiles_beside(file: &Path) -> std::path::PathBuf {
    let mut directory = file.parent().unwrap_or(Path::new("."));
    if directory.ends_with("conf.d") {
        directory = directory.parent().unwrap_or(Path::new("."));
    }
    directory.join("profiles")
}

fn read_vars(section: &Section<'_>) -> Option<BTreeMap<String, String>> {
    let mut vars = BTreeMap::new();
    let Some(node) = section.node("vars") else {
        return Some(vars);
    };
    let Raw::Table(table) = &node.raw else {
        section.complain("vars", Complaint::new("a table of texts is expected"));
        return None;
    };
    for entry in &table.entries {
        let Some(text) = entry.node.as_text() else {
            let key = format!("vars.{}", entry.key);
            let complaint = Complaint::new("a text is expected");
            section.complain_at(&key, &entry.node.place, &entry.node.shown(), complaint);
            return None;
        };
        vars.insert(entry.key.clone(), text.to_owned());
    }
    Some(vars)
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
